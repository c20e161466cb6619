"""A study as it runs, in the terminal: trials by state, best so far, throughput, time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.cli.output import duration, err, shown

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from tuner.service import StudyView, TrialView

LOOK_SECONDS = 0.5


def watch(
    look: Callable[[], StudyView],
    *,
    stop: threading.Event | None = None,
    quiet: bool = False,
    look_seconds: float = LOOK_SECONDS,
) -> StudyView:
    """Draws a study until it ends or ``stop`` is set; without a terminal, prints a line at times.

    Args:
        look: Fetches the study's present state.
        stop: Ends the watching early.
        quiet: Draws nothing.
        look_seconds: How often to look.

    Returns:
        The study as it was last seen.
    """
    view = look()
    if quiet or not err.is_terminal:
        return _watch_plainly(look, view, stop, quiet, look_seconds)
    with Live(draw(view), console=err, refresh_per_second=8, transient=False) as live:
        while not view.over and not _wait(stop, look_seconds):
            view = look()
            live.update(draw(view))
    return view


def draw(view: StudyView) -> Table:
    """The picture of one moment."""
    counts = view.counts
    facts = Table.grid(padding=(0, 3))
    facts.add_row(
        Text(f"{counts.complete} complete", style="green"),
        Text(f"{counts.pruned} pruned", style="yellow"),
        Text(f"{counts.running} running", style="cyan"),
        Text(f"{counts.waiting} waiting"),
        Text(f"{counts.fail} failed", style="red" if counts.fail else ""),
    )
    best = Text("best so far: ")
    if measuring(view):
        best = Text("first, a worker measures which learning rates are worth searching")
    elif view.best is None:
        best.append("none yet")
    else:
        best.append(shown(view.best.value), style="bold")
        best.append(f"  trial {view.best.number}  {shown(validation(view.best))}")
    rate = f"{view.throughput:,.0f} samples/s" if view.throughput else "– samples/s"
    left = Text(f"{rate}   time left {duration(view.eta_seconds)}")
    title = Text(f"{view.name}: {view.state}", style="bold")
    bar = ProgressBar(total=1.0, completed=min(1.0, view.progress), width=60)
    picture = Table.grid()  # rows of their own: a bar ends no line by itself
    for part in (title, bar, facts, best, left):
        picture.add_row(part)
    return picture


def measuring(view: StudyView) -> bool:
    """Whether trials wait for the study's range test."""
    return view.range_test is not None and view.range_test.low is None


def validation(trial: TrialView) -> dict[str, float | None]:
    """What was last measured on data that a trial did not train on."""
    return {n: v for n, v in trial.last_metrics.items() if n.startswith("val_")}


def line(view: StudyView) -> str:
    """The same in one line."""
    counts = view.counts
    best = "none" if view.best is None else shown(view.best.value)
    if measuring(view):
        return f"{view.name}: {view.state}, measuring which learning rates are worth searching"
    return (
        f"{view.name}: {view.state}, {counts.complete} complete, {counts.pruned} pruned, "
        f"{counts.fail} failed, {counts.running} running, best {best}, "
        f"time left {duration(view.eta_seconds)}"
    )


def _watch_plainly(
    look: Callable[[], StudyView],
    view: StudyView,
    stop: threading.Event | None,
    quiet: bool,
    look_seconds: float,
) -> StudyView:
    said = 0.0
    while not view.over:
        if not quiet and time.monotonic() - said > 5.0:
            err.print(Text(line(view)), soft_wrap=True)
            said = time.monotonic()
        if _wait(stop, look_seconds):
            return view
        view = look()
    if not quiet:
        err.print(Text(line(view)), soft_wrap=True)
    return view


def _wait(stop: threading.Event | None, seconds: float) -> bool:
    if stop is not None:
        return stop.wait(seconds)
    time.sleep(seconds)
    return False
