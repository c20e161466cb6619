"""The registry described: for the API, the dashboard, and ``docs/schedules.md``.

``python -m tuner.schedules.catalogue > docs/schedules.md`` writes the page anew; a test compares.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

from tuner import schedules
from tuner.schedules import warmup
from tuner.schedules.plan import Plan
from tuner.schedules.schedule import Schedule

STEPS = 1000
"""Steps of the curves drawn."""
COLUMNS, ROWS = 64, 8

INTRODUCTION = """\
# Schedules

<!-- Generated: python -m tuner.schedules.catalogue > docs/schedules.md -->

A schedule multiplies the learning rate at every optimizer step. Name it in a study as `schedule`,
with its settings as `schedule.<setting>`; each may be a range. Settings of other schedules than the
one named are inactive, so a study may choose among several ([studies.md](studies.md)).

`warmup_fraction` of all steps come first (W steps, rounded): step t of them runs at
`f((t + 1) / W)` of the rate that it leads to, with `warmup` one of {shapes}.
`linear` is the default; `exponential` starts at a hundredth, `constant` is a tenth throughout.

In the formulas t counts from 0 after the warm-up, T is the number of steps after it, p = t / T
within [0, 1], and r is `final`. Lengths are fractions of T (`schedule.unit: budget`), so that they
mean the same at every batch size; `epoch` and `step` are there for those who count so. A length
that the budget never reaches is refused before a study begins.

In an ordinary training loop the same is a `torch.optim.lr_scheduler.LRScheduler`:

```python
from tuner.schedules import LRScheduler

scheduler = LRScheduler(optimizer, "wsd", total_steps=10_000, warmup_steps=500, decay=0.3)
for x, y in batches:
    ...
    optimizer.step()
    scheduler.step()
```

What a study would refuse is refused here too. Settings in epochs (`unit="epoch"`, a formula that
names `epoch`) need `steps_per_epoch=len(loader)`. `plateau` hears of its metric through `observe`:

```python
scheduler = LRScheduler(optimizer, "plateau", total_steps=10_000, patience=5)
for epoch in range(epochs):
    for x, y in loader:
        ...
        optimizer.step()
        scheduler.step()
    scheduler.observe(validation_loss)
```

After `total_steps` the rate stays where it is.

"""


@dataclass(frozen=True)
class SettingFacts:
    """One setting of a schedule. ``config`` is its name in a study, such as ``schedule.final``."""

    name: str
    config: str
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    search: tuple[float, float] | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class ScheduleFacts:
    """One schedule. ``points`` are (fraction of the budget, multiplier), none where stateful."""

    name: str
    summary: str
    formula: str
    reference: str
    settings: tuple[SettingFacts, ...]
    stateful: bool
    default_warmup_fraction: float
    points: tuple[tuple[float, float], ...]
    notes: str


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _settings(kind: type[Schedule]) -> tuple[SettingFacts, ...]:
    numbers = [
        SettingFacts(
            name,
            f"schedule.{name}",
            hyper.default,
            hyper.doc,
            _finite(hyper.low),
            _finite(hyper.high),
            hyper.search,
            hyper.log,
        )
        for name, hyper in kind.hyper.items()
    ]
    options = [
        SettingFacts(name, f"schedule.{name}", option.default, option.doc, choices=option.choices)
        for name, option in kind.options.items()
    ]
    return (*numbers, *options)


def _points(name: str, count: int) -> tuple[tuple[float, float], ...]:
    lr, _ = Plan.of({"schedule": name}, STEPS, epochs=20).table(0, STEPS)
    at = [round(i * (STEPS - 1) / (count - 1)) for i in range(count)]
    return tuple((round(i / STEPS, 4), round(float(lr[i]), 6)) for i in at)


def describe(name: str, *, count: int = 101) -> ScheduleFacts:
    """The facts of one schedule, with ``count`` points of its default curve."""
    kind = schedules.registry.get(name)
    doc = "\n".join(line.strip() for line in (kind.__doc__ or "").strip().splitlines())
    return ScheduleFacts(
        name=name,
        summary=kind.summary,
        formula=kind.formula,
        reference=kind.reference,
        settings=_settings(kind),
        stateful=kind.stateful,
        default_warmup_fraction=kind.default_warmup_fraction,
        points=() if kind.stateful else _points(name, count),
        notes=doc,
    )


def catalogue() -> list[ScheduleFacts]:
    """The facts of every schedule, by name."""
    return [describe(name) for name in schedules.names()]


def _plot(points: tuple[tuple[float, float], ...]) -> list[str]:
    """A curve in text: a column per point, a row per eighth of the full rate."""
    bars = " ▁▂▃▄▅▆▇█"
    rows = []
    for row in reversed(range(ROWS)):
        filled = [round(min(max(m * ROWS - row, 0.0), 1.0) * 8) for _, m in points]
        label = "1 " if row == ROWS - 1 else "0 " if row == 0 else "  "
        rows.append((label + "".join(bars[eighths] for eighths in filled)).rstrip())
    return rows


def _range(setting: SettingFacts) -> str:
    if setting.choices:
        return ", ".join(f"`{_value(choice)}`" for choice in setting.choices)
    if setting.low is None and setting.high is None:
        return ""
    return f"{setting.low:g} to {setting.high:g}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _section(facts: ScheduleFacts) -> list[str]:
    lines = [f"## `{facts.name}`", "", facts.summary, "", f"    {facts.formula}", ""]
    if facts.points:
        lines += ["```text", *_plot(_points(facts.name, COLUMNS)), "```", ""]
    lines += [facts.notes.replace("``", "`"), ""]
    if facts.settings:
        lines += ["| setting | default | legal | search | what |", "|-|-|-|-|-|"]
        for s in facts.settings:
            search = f"{s.search[0]:g} to {s.search[1]:g}{', log' * s.log}" if s.search else ""
            lines.append(
                f"| `{s.config}` | `{_value(s.default)}` | {_range(s)} | {search} | {s.doc} |"
            )
        lines.append("")
    return lines


def page() -> str:
    """``docs/schedules.md``."""
    shapes = ", ".join(f"`{name}`" for name in warmup.SHAPES)
    lines = INTRODUCTION.format(shapes=shapes).splitlines()
    for facts in catalogue():
        lines += _section(facts)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
