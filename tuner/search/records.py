"""What goes into a search and what comes out: plain values, as storage holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "running", "complete", "pruned", "fail"]


@dataclass(frozen=True)
class Objective:
    """One metric and the direction in which it gets better; the first of several is the primary."""

    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"

    @property
    def sign(self) -> float:
        """Times a value: lower is better."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Budget:
    """What ends a study. None: no bound of that kind. Each bound is exact, never one more.

    Args:
        trials: How many trials, whatever becomes of them.
        total_epochs: Steps summed over all trials.
        seconds: Wall time, as told to ``suggest``.
        target: The study ends as soon as a trial's primary objective is this good.
    """

    trials: int | None = None
    total_epochs: int | None = None
    seconds: float | None = None
    target: float | None = None


@dataclass(frozen=True)
class Record:
    """A trial as storage knows it.

    Args:
        number: Counted from 0 within the study, without gaps.
        params: The suggested values (without the space's constants).
        state: As Optuna names it.
        values: Of a complete trial, one for each objective, in the user's own sense.
        curve: Step (completed periods, from 1) to the primary objective; finite ones only.
        paused: Set aside by a pruner; such a trial is ``running`` and nobody has it.
        busy: Leased, or handed out and waiting for a worker.
        note: What ``Suggestion.note`` said when the trial was made.
        reason: Why it ended so; ``diverged`` has a meaning here.
        constraint: By how much the study's constraint is broken; 0 or below: it holds.
        until: The step of its next decision as last told to its worker; None: as the pruner says.
        step: How far it has come; beyond its curve, where a point was not finite.
    """

    number: int
    params: Mapping[str, Any]
    state: State = "waiting"
    values: tuple[float, ...] | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    paused: bool = False
    busy: bool = False
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    constraint: float | None = None
    until: int | None = None
    step: int = 0


@dataclass(frozen=True)
class Suggestion:
    """What to run next.

    Args:
        number: None: a new trial, which the service numbers; else a trial that waits or is paused.
        params: Its suggested values (without the space's constants).
        start: Steps that it has behind it; 0: from scratch.
        until: Run to this step, then ask again.
        note: To be stored with a new trial and given back in its record (JSON). Of a trial that
            exists: as it was stored.
        copy_of: Begin from the checkpoint of this trial at ``start`` (population-based training).
    """

    number: int | None
    params: dict[str, Any]
    start: int
    until: int
    note: dict[str, Any]
    copy_of: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a running trial.

    Args:
        action: ``continue`` to ``until``; ``pause``: set it aside with its checkpoint; ``stop``: it
            is pruned (with reason ``diverged``: it fails); ``finish``: it is complete.
        until: The step of its next decision.
        reason: Why, for people.
    """

    action: Literal["continue", "pause", "stop", "finish"]
    until: int
    reason: str = ""
