"""The registry described, as ``docs/tasks.md``.

``python -m tuner.tasks.catalogue > docs/tasks.md`` writes the page anew; a test compares.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from tuner import tasks
from tuner.tasks.task import Setting, Task

INTRODUCTION = """\
# Built-in tasks

<!-- Generated: python -m tuner.tasks.catalogue > docs/tasks.md -->

A study names a task, with its parameters: `task: {name: text, params: {path: input.txt}}`; a path
may be an uploaded dataset, `path: dataset:iris`. A parameter belongs to the study; a setting
(`model.*`) may be searched. Every task also understands `optimizer`, `lr`, `batch_size`, `epochs`,
`schedule`, `dropout`, `clip_norm`, `precision` (`fp32`, or `bf16` for the forward pass on a GPU)
and, where there are classes, `label_smoothing`; [studies.md](studies.md) has all of these, and the
rest of a study. `val_loss` is the loss without label smoothing.

Validation and test parts are cut with a fixed seed, each class in proportion; a text in order.
Whatever is learned from the data (scaling, categories, means) is learned from the training part
alone. Nothing here looks at the test part: it is kept for who judges what a study found, and is
`task.data().test` in Python.

`checkpoint` starts every trial from the weights in a safetensors file, which may hold a part of the
model; with `lr_scale.<prefix>` that part can learn more slowly than the rest.

"""


def page() -> str:
    """``docs/tasks.md``."""
    lines = INTRODUCTION.splitlines()
    for name, task in tasks.registry.items():
        lines += _section(name, task)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, task: type[Task]) -> list[str]:
    metrics = ", ".join(f"`val_{metric}`" for metric in task.extra_metrics)
    lines = [f"## `{name}`", "", task.summary, ""]
    lines += [inspect.cleandoc(task.__doc__ or "").partition("\n\nArgs:")[0].replace("``", "`"), ""]
    lines += [f"Metrics: `val_loss`, `train_loss`{', ' * bool(metrics)}{metrics}.", ""]
    documented = _documented(task)
    lines += ["| parameter | default | what |", "|-|-|-|"]
    for key, parameter in inspect.signature(task).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else f"`{_value(parameter.default)}`"
        lines.append(f"| `{key}` | {default} | {documented.get(key, '')} |")
    lines += ["", "| setting | default | legal | search | what |", "|-|-|-|-|-|"]
    for key, setting in task.settings.items():
        lines.append(
            f"| `{key}` | `{_value(setting.default)}` | {_legal(setting)} | {_search(setting)} "
            f"| {setting.doc} |"
        )
    return [*lines, ""]


def _documented(task: type[Task]) -> dict[str, str]:
    """The parameters' descriptions, from the docstring."""
    text = inspect.cleandoc(task.__doc__ or "").partition("\n\nArgs:\n")[2]
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        name, colon, rest = line.strip().partition(": ")
        if colon and line.startswith("    ") and not line.startswith("     "):
            key, found[name] = name, rest
        elif key:
            found[key] += f" {line.strip()}"
    return {key: doc.replace("``", "`").strip() for key, doc in found.items()}


def _legal(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{_value(choice)}`" for choice in setting.choices)
    low = "" if setting.low is None else f"{setting.low:g}"
    high = "" if setting.high is None else f"{setting.high:g}"
    return f"{low} to {high}".strip()


def _search(setting: Setting) -> str:
    if setting.search is None:
        return ""
    if "choices" in setting.search:
        return ", ".join(map(_value, setting.search["choices"]))
    log = ", log" * bool(setting.search.get("log"))
    return f"{setting.search['low']} to {setting.search['high']}{log}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
