"""What a search was told: tracks, the rows of the sampler's history, and the budget used up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from tuner import pruners, samplers
from tuner.errors import InvalidInput
from tuner.pruners import Board, Track
from tuner.samplers import COMPLETE, DIVERGED, PARTIAL, PENDING, VOID, History
from tuner.search.records import Budget, Objective, Record, State
from tuner.spaces import Space

DIVERGED_REASON = "diverged"

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound="Memory")


def locked(method: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """One caller at a time: a fit may be prepared from another thread than the one that drives."""

    def wrapper(self: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = method.__doc__, method.__name__
    return wrapper


class Memory:
    """Everything a search was told; :class:`tuner.search.Search` says what follows from it."""

    def __init__(
        self,
        space: Space,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        objectives: Sequence[Objective],
        *,
        max_step: int,
        budget: Budget,
        seed: int = 0,
        constraint: object = None,
        warm_start: Iterable[Record] = (),
    ) -> None:
        if not objectives:
            raise InvalidInput("objective", "names no metric")
        if max_step < 1:
            raise InvalidInput("budget.epochs", f"{max_step} is not above 0")
        if len(objectives) > 1 and pruner.get("name") not in ("none", "auto"):
            raise InvalidInput("pruner.name", "several objectives have no order; use none")
        if seed < 0:
            raise InvalidInput("sampler.seed", f"{seed} is below 0")
        self.space = space
        self.objectives = tuple(objectives)
        self.max_step = max_step
        self.budget = budget
        self.seed = seed
        self.constraint = constraint
        self.sampler = samplers.create(
            sampler, space=space, objectives=len(objectives), seed=seed, max_step=max_step
        )
        if len(objectives) > 1:
            pruner = {"name": "none"}
        self._lock = threading.RLock()
        self._sign = objectives[0].sign
        self.pruner = pruners.create(
            pruner, max_step=max_step, space=space, seed=seed, sign=self._sign
        )
        self._board = Board(by_best=self.pruner.ranks_by_best)
        self._history = History(space, len(objectives))
        self._records: dict[int, Record] = {}
        self._params: dict[int, Mapping[str, Any]] = {}
        self._loose: set[int] = set()  # waiting or orphaned: to be handed out before anything else
        self._busy: set[int] = set()
        self._offered: dict[int, int] = {}  # draw -> until, of new trials that no record shows yet
        self._draws = 0
        self._spent = 0
        self._elapsed = 0.0
        self._hit = False
        self._warm = 0
        for record in warm_start:
            self._learn(self._warm, record)
            self._history.curves[self._warm] = {
                s: self._sign * v for s, v in record.curve.items() if math.isfinite(v)
            }
            self._warm += 1

    # --- what happened --------------------------------------------------------------------------

    @locked
    def sync(self, records: Iterable[Record]) -> None:
        """Takes in new or changed trials, in any order; the same record twice changes nothing."""
        for record in sorted(records, key=lambda r: r.number):
            if self._records.get(record.number) != record:
                self._records[record.number] = record
                self._take(record)

    def _take(self, record: Record) -> None:
        number = record.number
        draw = record.note.get("draw")
        if isinstance(draw, int):
            self._draws = max(self._draws, draw + 1)  # a copy's is below 0
            self._offered.pop(draw, None)
            self._history.offered.pop(draw, None)
        old = self._board.tracks.get(number)
        if old is not None:
            self._spent -= old.step - started(old.note)
        ended = record.state in ("complete", "pruned", "fail")
        curve = {s: self._sign * v for s, v in record.curve.items() if math.isfinite(v)}
        lane = self.pruner.lane(record.note)
        step = max(curve, default=started(record.note))
        until = record.until if record.until is not None else self.pruner.next_stop(step, lane)
        self._board.add(
            Track(
                number,
                curve,
                step,
                until,
                busy=record.busy and not ended,
                paused=record.paused and not ended,
                ended=ended,
                diverged=record.state == "fail" and record.reason == DIVERGED_REASON,
                lane=lane,
                note=record.note,
            )
        )
        self._spent += step - started(record.note)
        self._params[number] = record.params
        self._busy.discard(number)
        self._loose.discard(number)
        if record.busy and not ended:
            self._busy.add(number)
        elif not ended and not record.paused:
            self._loose.add(number)
        self._learn(self._warm + number, record)
        self._history.curves[self._warm + number] = curve
        self._aim(number, record.state, record.values, record.constraint)

    def _learn(self, row: int, record: Record) -> None:
        """Writes a record into the sampler's history."""
        curve = record.curve
        step = max((s for s, v in curve.items() if math.isfinite(v)), default=0)
        self._history.add(row, record.params, record.note, tried=row >= self._warm)
        self._put(
            row,
            record.state,
            step,
            self._sign * curve[step] if step else math.nan,
            record.values,
            record.reason,
            record.constraint,
            record.paused,
        )

    def _put(
        self,
        row: int,
        state: State,
        step: int,
        last: float,
        values: tuple[float, ...] | None,
        reason: str | None,
        violation: float | None,
        paused: bool,
    ) -> None:
        status = PENDING
        lower: tuple[float, ...] | None = None
        if state == "complete":
            status = COMPLETE
            if values is None:
                lower = (last,) if len(self.objectives) == 1 else (math.nan,) * len(self.objectives)
            else:
                lower = tuple(o.sign * v for o, v in zip(self.objectives, values, strict=True))
            if not all(map(math.isfinite, lower)):
                status, lower = DIVERGED, None
        elif state == "fail":
            status = DIVERGED if reason == DIVERGED_REASON else VOID
        elif state == "pruned" or paused:
            status = PARTIAL
        self._history.put(row, status, step=step, last=last, values=lower, violation=violation)

    def _progress(self, track: Track) -> None:
        """Shows the sampler how far a trial has come."""
        known = self._records.get(track.number)
        self._put(
            self._warm + track.number,
            "running",
            track.step,
            track.curve[track.step],
            None,
            None,
            None if known is None else known.constraint,
            track.paused,
        )

    @locked
    def finish(
        self,
        number: int,
        state: State,
        values: tuple[float, ...] | None,
        reason: str | None = None,
        constraint: float | None = None,
    ) -> None:
        """A trial ended; a later record of it may say so again.

        Args:
            number: The trial.
            state: ``complete``, ``pruned`` or ``fail``.
            values: Of a complete trial, in the user's own sense.
            reason: ``diverged`` makes the sampler count it as the worst there is.
            constraint: By how much the study's constraint is broken.
        """
        track = self._board.tracks[number]
        track.ended, track.busy, track.paused = True, False, False
        self._busy.discard(number)
        self._loose.discard(number)
        if state == "fail" and reason == DIVERGED_REASON:
            self._board.lose(number)
        last = track.curve.get(track.step, math.nan)
        self._put(
            self._warm + number, state, track.step, last, values, reason, constraint, paused=False
        )
        self._aim(number, state, values, constraint)

    def _reaches(self, lower: float) -> bool:
        target = self.budget.target
        return target is not None and lower <= self._sign * target

    def _aim(
        self,
        number: int,
        state: State,
        values: tuple[float, ...] | None,
        constraint: float | None,
    ) -> None:
        """Notes whether a trial meets the target; one that breaks the constraint does not."""
        if self.budget.target is None or (constraint or 0.0) > 0 or state == "fail":
            return
        seen = list(self._board.tracks[number].curve.values())
        if values is not None:
            seen.append(self._sign * values[0])
        if any(self._reaches(v) for v in seen):
            self._hit = True

    def _granted(self, start: int, until: int) -> int:
        """``until``, or as much of it as the epochs left allow."""
        total = self.budget.total_epochs
        if total is None:
            return until
        tracks = self._board.tracks
        promised = sum(tracks[n].until - tracks[n].step for n in self._busy)
        promised += sum(self._offered.values())
        return min(until, start + max(total - self._spent - promised, 0))

    @property
    def _count(self) -> int:
        return len(self._board.tracks) + len(self._offered)


def started(note: Mapping[str, Any]) -> int:
    """The step that a trial was copied at; 0: it began from scratch."""
    start = note.get("start", 0)
    return start if isinstance(start, int) else 0
