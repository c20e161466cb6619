"""What a report means: points stored, verdicts asked for, trials moved; all within one turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tuner.errors import LONGEST_REASON, InvalidInput
from tuner.protocol import Checkpoint, Measured, SlotReport, SlotVerdict
from tuner.queue import leases
from tuner.service.context import Context
from tuner.service.turn import Turn
from tuner.spec import ConstraintSpec
from tuner.storage import measurements
from tuner.storage.measurements import Point
from tuner.storage.trials import TrialRow

DIVERGED = "diverged"
OUT_OF_MEMORY = "oom"
WORST_VIOLATION = 1e30
"""None is worse; finite in single precision too, in which a sampler may compute."""
Action = Literal["continue", "pause", "stop", "finish", "lost"]


def take_in(
    ctx: Context,
    turn: Turn,
    slots: Sequence[SlotReport],
    order: Sequence[int],
    seconds: float | None = None,
) -> dict[int, SlotVerdict]:
    """Everything that one request says of one study's trials.

    Args:
        ctx: The service.
        turn: The study's.
        slots: The slots of this study.
        order: The ids of all slots of the request, to name one that is wrong.
        seconds: The life that leases get from here; a worker's unless given.

    Returns:
        A verdict for each slot.
    """
    if not turn.study.over:
        turn.join()
    rows = turn.rows([slot.trial_id for slot in slots])
    lease_end = ctx.lease_end(turn.now, seconds)
    out: dict[int, SlotVerdict] = {}
    held: list[tuple[SlotReport, TrialRow, bool]] = []
    for slot in slots:
        row = rows.get(slot.trial_id)
        if row is None or not leases.owns(row, slot.token):
            out[slot.trial_id] = _repeated(turn, row, slot)
            continue
        at = f"slots[{order.index(slot.trial_id)}]"
        turn.went_on(row)
        held.append((slot, row, _take_slot(turn, row, slot, at)))
    # Every point is taken in before anything is decided: no verdict hangs on the slots' order.
    for slot, row, news in held:
        out[row.id] = _judge(turn, row, slot, news)
        if row.lease_token is not None:
            # A heartbeat may have come since this turn began. Who says how long is believed.
            later = max(row.lease_expires_at or lease_end, lease_end)
            row.lease_expires_at = later if seconds is None else lease_end
    measured = [row.id for slot, row, _ in held if slot.measurements]
    if measured:
        turn.note("trial.measured", trials=measured, points=len(turn.points))
    if held:
        turn.settle()
    if any(slot.outcome == "returned" for slot, _, _ in held):
        turn.rest()
    return out


def _repeated(turn: Turn, row: TrialRow | None, slot: SlotReport) -> SlotVerdict:
    """The verdict on a trial that is not held under this lease.

    Where the trial ended under it and all that is reported is stored, the answer to the last report
    was lost: it is given again. Whoever else speaks has lost the trial, and nothing is stored.
    """
    if row is not None and leases.ended(row, slot.token):
        stored = measurements.steps(turn.session, row.id, row.attempt)
        if all(measured.step in stored for measured in slot.measurements):
            action: Action = "finish" if row.state == "complete" else "stop"
            return SlotVerdict(trial_id=row.id, action=action, until=row.until, reason=row.reason)
    return SlotVerdict(trial_id=slot.trial_id, action="lost")


def _take_slot(turn: Turn, row: TrialRow, slot: SlotReport, at: str) -> bool:
    """One trial's news; whether a point was among them that nobody had told of."""
    if slot.checkpoint is not None:
        _take_checkpoint(row, slot.checkpoint)
    news = False
    for i, measured in enumerate(sorted(slot.measurements, key=lambda m: m.step)):
        news |= _take_point(turn, row, measured, f"{at}.measurements[{i}]")
        if row.values is not None and not all_finite(row.values):
            break  # it diverged: nothing after that counts
    # The counter goes on from what the trial was leased with.
    latest = max((m.seconds for m in slot.measurements if m.seconds is not None), default=0.0)
    spent = max(latest - row.device_seconds, 0.0)
    row.device_seconds += spent
    turn.study.device_seconds += spent
    return news


def _take_checkpoint(row: TrialRow, saved: Checkpoint) -> None:
    """Notes the last checkpoint; an older report that arrives late does not take it back."""
    known = row.checkpoint
    if known is None or known.get("attempt") != row.attempt or saved.step >= known["step"]:
        row.checkpoint = {**saved.model_dump(), "attempt": row.attempt}


def _take_point(turn: Turn, row: TrialRow, measured: Measured, at: str) -> bool:
    """Stores one point and tells the search; False: it was said before."""
    checked = turn.checked
    for metric in checked.metrics:
        if metric not in measured.metrics:
            raise InvalidInput(f"{at}.metrics", f"lacks {metric}, which the study goes by")
    if measured.step > checked.max_step:
        raise InvalidInput(
            f"{at}.step", f"{measured.step} is beyond the training's {checked.max_step} steps"
        )
    numbers = {k: math.nan if v is None else float(v) for k, v in measured.metrics.items()}
    value = numbers[checked.objectives[0].metric]
    turn.measured(
        row,
        Point(
            trial_id=row.id,
            attempt=row.attempt,
            step=measured.step,
            value=measurements.finite(value),
            samples=measured.samples,
            seconds=measured.seconds,
            metrics=numbers,
            created_at=turn.now,
        ),
    )
    if measured.step <= row.step:
        return False  # what was decided then stays decided
    row.step = measured.step
    row.values = [numbers[o.metric] for o in checked.objectives]
    if checked.spec.constraint is not None:
        row.constraint = violation(checked.spec.constraint, numbers)
    reported = value if all_finite(row.values) else math.nan
    with turn.searching() as search:
        search.report(row.number, row.step, reported, row.constraint)
    return True


def violation(constraint: ConstraintSpec, metrics: Mapping[str, float]) -> float:
    """By how much a constraint is broken; a metric that is missing or no number breaks it.

    Always finite, as JSON has no infinity.
    """
    over = metrics.get(constraint.metric, math.nan) - constraint.max
    return (
        WORST_VIOLATION if math.isnan(over) else min(max(over, -WORST_VIOLATION), WORST_VIOLATION)
    )


def all_finite(values: Iterable[Any]) -> bool:
    """Whether these are numbers; stored ones that are not finite are texts, like ``nan``."""
    return all(map(math.isfinite, map(float, values)))


def _judge(turn: Turn, row: TrialRow, slot: SlotReport, news: bool) -> SlotVerdict:
    """What becomes of a trial."""
    action: Action = "continue"
    reason: str | None = None
    if news:
        with turn.searching() as search:
            verdict = search.decide(row.number, turn.checked.last_step(row.params))
        action, reason = verdict.action, verdict.reason or None
        if action == "continue":
            row.until = verdict.until
    outcome = slot.outcome
    if outcome == "fail" and slot.reason == OUT_OF_MEMORY and action != "continue":
        outcome = ""  # it has come as far as it was to, so there is nothing to try once more
    if outcome:
        action, reason = _outcome(row, slot, action, reason)
    return _carry_out(turn, row, action, reason, outcome)


def _outcome(
    row: TrialRow, slot: SlotReport, action: Action, reason: str | None
) -> tuple[Action, str | None]:
    """What the worker itself says became of the trial; it wins over ``continue``."""
    said = (slot.reason or "")[:LONGEST_REASON] or None
    if slot.outcome == "complete":
        if row.values is None:
            return "stop", "it ended without a measurement"
        return ("finish", None) if action in ("continue", "pause") else (action, reason)
    if slot.outcome == "fail":
        return "stop", said or "error"
    return action, reason


def _carry_out(
    turn: Turn, row: TrialRow, action: Action, reason: str | None, outcome: str
) -> SlotVerdict:
    """Moves the trial as decided."""
    failed = outcome == "fail" or reason == DIVERGED or (outcome == "complete" and not row.values)
    if action == "finish":
        turn.end(row, "complete", None if reason == "complete" else reason, told=True)
    elif action == "stop" and failed and reason == OUT_OF_MEMORY and row.reason != OUT_OF_MEMORY:
        # Once more: what stood beside it may have taken the room. The mark stays on the trial.
        leases.next_attempt(row)
        row.reason = OUT_OF_MEMORY
        turn.moved(row)
        action = "pause"  # who hears "stop" removes the checkpoint
    elif action == "stop":
        turn.end(row, "fail" if failed else "pruned", reason, told=True)
    elif action == "pause":
        row.set_aside()
        turn.moved(row)
    elif outcome == "returned" or turn.study.state == "paused":
        # The search still counts it as busy: it goes on as soon as somebody takes it.
        turn.hand_back(row)
        action = "pause"
    elif _late(turn):
        turn.end(row, "pruned", "budget: seconds", told=True)
        action, reason = "stop", "budget: seconds"
    return SlotVerdict(trial_id=row.id, action=action, until=row.until, reason=reason)


def _late(turn: Turn) -> bool:
    """Whether the study has had its wall time: then running trials stop at their next report."""
    seconds = turn.checked.budget.seconds
    return seconds is not None and turn.elapsed >= seconds
