"""A study's progress while somebody waits: a bar in a terminal, and one in a notebook."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tuner.service import StudyView

Draw = Callable[[StudyView], None]


@contextmanager
def drawing(wanted: bool) -> Iterator[Draw]:
    """What draws a study as it is now, each time in place of the last.

    Args:
        wanted: Whether to draw at all.
    """
    if not wanted:
        yield lambda view: None
    elif in_notebook():
        yield _in_notebook()
    else:
        with _in_terminal() as draw:
            yield draw


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


def _in_notebook() -> Draw:
    ipython: Any = import_module("IPython.display")  # there, since this is its kernel
    handle = ipython.display(ipython.HTML(""), display_id=True)

    def draw(view: StudyView) -> None:
        name, done, total, best = _facts(view)
        scale = f' value="{done}" max="{total}"' if total else ""
        counted = f"{done} of {total}" if total else str(done)
        handle.update(
            ipython.HTML(
                f'<progress style="width: 20em"{scale}></progress> '
                f"{html.escape(name)}: {counted} trials, best {best}"
            )
        )

    return draw


@contextmanager
def _in_terminal() -> Iterator[Draw]:
    from rich.progress import (  # noqa: PLC0415  (only here)
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("best {task.fields[best]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("study", total=None, best="–")

        def draw(view: StudyView) -> None:
            name, done, total, best = _facts(view)
            bar.update(task, description=name, completed=done, total=total, best=best)

        yield draw


def _facts(view: StudyView) -> tuple[str, int, int | None, str]:
    """What it is and how it is, trials that have ended, trials there may be, and the best value."""
    best: Any = view.best.value if view.best else None
    shown = "–" if best is None else f"{best:.6g}"
    return f"{view.name}: {view.state}", view.counts.finished, view.budget.get("trials"), shown
