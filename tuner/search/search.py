"""What to try, what to pause, what to stop: a pure object over a sampler and a pruner.

No database, no clock, no global random state: everything a search knows came in through
:meth:`Search.sync`, :meth:`Search.observe` and :meth:`Search.finish`, and a fresh search told the
same records answers the same. The service drives it with stored trials, a benchmark with recorded
curves.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from tuner import pruners, samplers
from tuner.errors import InvalidInput
from tuner.pruners import Board, Track
from tuner.pruners.auto import AutoPruner
from tuner.samplers import (
    COMPLETE,
    DIVERGED,
    PARTIAL,
    PENDING,
    VOID,
    History,
    Proposal,
    untaken,
)
from tuner.samplers.auto import AutoSampler
from tuner.search.race import Race
from tuner.search.records import Budget, Objective, Record, State, Suggestion, Verdict
from tuner.spaces import Space

DIVERGED_REASON = "diverged"

P = ParamSpec("P")
R = TypeVar("R")


def locked(method: Callable[Concatenate[Search, P], R]) -> Callable[Concatenate[Search, P], R]:
    """One caller at a time: a fit may be prepared from another thread than the one that drives."""

    @wraps(method)
    def wrapper(self: Search, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return wrapper


class Search:
    """One study's search. Calls from several threads follow one another; a fit runs beside them.

    Args:
        space: What is searched.
        sampler: ``name`` and settings, as in a study file.
        pruner: ``name`` and settings.
        objectives: What is optimised; pruners and curves go by the first.
        max_step: The step at which a trial is complete.
        budget: What ends the study.
        seed: Of all random draws.
        constraint: The study's, if it has one; records carry by how much it is broken.
        warm_start: Finished trials of earlier studies, for the sampler only.

    Raises:
        InvalidInput: A name, a setting or a combination is wrong; names the field.
    """

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
        self._race = None
        if isinstance(self.sampler, AutoSampler) and isinstance(self.pruner, AutoPruner):
            self._race = Race(self.sampler, self.pruner, max_step)
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
            self._spent -= old.step - _started(old.note)
        ended = record.state in ("complete", "pruned", "fail")
        curve = {s: self._sign * v for s, v in record.curve.items() if math.isfinite(v)}
        lane = self.pruner.lane(record.note)
        step = max(curve, default=_started(record.note))
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
        self._spent += step - _started(record.note)
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

    @locked
    def observe(self, number: int, step: int, value: float) -> Verdict:
        """One report of a running trial; what it is to do next.

        Args:
            number: The trial.
            step: Completed periods, 1..max_step.
            value: The primary objective there, in the user's own sense; NaN or inf: it diverged.
        """
        track = self._board.tracks[number]
        if not math.isfinite(value):
            return Verdict("stop", track.until, DIVERGED_REASON)
        self._spent += max(step - track.step, 0)
        self._board.report(number, step, self._sign * value)
        self._put(
            self._warm + number,
            "running",
            track.step,
            track.curve[track.step],
            None,
            None,
            self._records[number].constraint if number in self._records else None,
            paused=False,
        )
        if self._reaches(self._sign * value):
            self._hit = True
            return Verdict("finish", step, "target")
        if step >= self.max_step:
            return Verdict("finish", self.max_step, "complete")
        return self._decide(track, step)

    def _decide(self, track: Track, step: int) -> Verdict:
        """Below the last step, and not there yet."""
        if self._hit:
            return Verdict("stop", step, "target")
        if step < track.until:
            return Verdict("continue", track.until)
        decision = self.pruner.decide(self._board, track, not self._may_start)
        if decision.action == "pause":
            self._set_aside(track)
        if decision.action != "continue":
            return Verdict(decision.action, step, decision.reason)
        self._busy.discard(track.number)  # its own promise is spent: what is left for the others?
        until = self._granted(step, self.pruner.next_stop(step, track.lane))
        self._busy.add(track.number)
        if until <= step:
            return Verdict("stop", step, "total_epochs")
        track.until = until
        return Verdict("continue", until)

    def _set_aside(self, track: Track) -> None:
        track.paused, track.busy = True, False
        self._busy.discard(track.number)
        self._put(
            self._warm + track.number,
            "running",
            track.step,
            track.curve[track.step],
            None,
            None,
            self._records[track.number].constraint if track.number in self._records else None,
            paused=True,
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

    # --- what is left ---------------------------------------------------------------------------

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

    @property
    def _may_start(self) -> bool:
        """Whether a new trial may still start, now or later."""
        trials = self.budget.trials
        if trials is not None and self._count >= trials:
            return False
        return not self.sampler.exhausted(self._history)

    @property
    @locked
    def exhausted(self) -> str | None:
        """Which budget is met, or ``grid`` when its points are used up; None: more may come.

        Trials still set aside then are the service's to prune.
        """
        bound = self._bound_met()
        if bound is not None:
            return bound
        if self._busy or self._offered or self._loose or self._may_start:
            return None
        if next(self.pruner.promotable(self._board, True), None) is not None:
            return None
        trials = self.budget.trials
        return "trials" if trials is not None and self._count >= trials else "grid"

    def _bound_met(self) -> str | None:
        """The bound that ends the study whatever is still set aside."""
        budget = self.budget
        if self._hit:
            return "target"
        if budget.seconds is not None and self._elapsed >= budget.seconds:
            return "seconds"
        if budget.total_epochs is not None:
            moving = bool(self._busy or self._offered)
            if self._spent >= budget.total_epochs or (not moving and self._granted(0, 1) < 1):
                return "total_epochs"
        return None

    # --- what to do -----------------------------------------------------------------------------

    @locked
    def suggest(self, k: int, *, elapsed_seconds: float = 0.0) -> list[Suggestion]:
        """At most ``k`` trials to run now; none when there is nothing to do at present.

        Waiting trials come first (enqueued, retried, or lost by their worker), then paused trials
        that deserve another stretch, then new ones. What is suggested counts as busy from here on.
        """
        self._elapsed = max(self._elapsed, elapsed_seconds)
        if self._hit or (self.budget.seconds is not None and self._elapsed >= self.budget.seconds):
            return []
        out: list[Suggestion] = []
        for number in sorted(self._loose):
            if len(out) >= k or not self._resume(self._board.tracks[number], out):
                break
        if self._race is not None:
            self._run_race(self._race, k, out)
            return out
        last_call = not self._may_start
        if len(out) < k:
            for track in self.pruner.promotable(self._board, last_call):
                if not self._resume(track, out) or len(out) >= k:
                    break
        if len(out) < k and not last_call:
            self._copy(k, out)
        if len(out) < k and self._may_start:
            self._start(k - len(out), out)
        return out

    def _copy(self, k: int, out: list[Suggestion]) -> None:
        """New trials that begin where another stands."""
        for spawn in list(self.pruner.spawn(self._board, self._params)):
            draw = -1 - spawn.note["replaces"]  # no draw of the sampler's
            until = self._granted(spawn.start, self.pruner.next_stop(spawn.start, 0))
            if draw in self._offered:
                continue
            if len(out) >= k or until <= spawn.start or not self._may_start:
                return
            self._offered[draw] = until - spawn.start
            note = {"draw": draw, **spawn.note}
            out.append(
                Suggestion(None, spawn.params, spawn.start, until, note, copy_of=spawn.copy_of)
            )

    def _resume(self, track: Track, out: list[Suggestion]) -> bool:
        """Hands out a trial that exists; False: the epochs left do not allow it."""
        until = self._granted(track.step, self.pruner.next_stop(track.step, track.lane))
        if until <= track.step:
            return False
        track.busy, track.paused, track.until = True, False, until
        self._busy.add(track.number)
        self._loose.discard(track.number)
        self._history.put(
            self._warm + track.number,
            PENDING,
            step=track.step,
            last=track.curve.get(track.step, math.nan),
        )
        params = dict(self._params[track.number])
        out.append(Suggestion(track.number, params, track.step, until, dict(track.note)))
        return True

    def _run_race(self, race: Race, k: int, out: list[Suggestion]) -> None:
        """Fills the slots one by one: the race's turn, a promotion, or a new trial."""
        going = True
        while going and len(out) < k:
            may_start = self._may_start
            choice = race.choose(
                self._board, self._history, self._warm, self._draws, may_start=may_start
            )
            if choice is None:
                choice = next(self.pruner.promotable(self._board, not may_start), None)
            if isinstance(choice, Track):
                going = self._resume(choice, out)
            elif choice is not None:
                going = self._add(choice, out)
            else:
                going = may_start and self._start(1, out)

    def _start(self, k: int, out: list[Suggestion]) -> bool:
        """New trials, as many as the budget allows; one call of the sampler for all of them."""
        if self.budget.trials is not None:
            k = min(k, self.budget.trials - self._count)
        room = self.pruner.room(self._board, sum(d >= 0 for d in self._offered))
        if room is not None:
            k = min(k, room)
        proposals = self.sampler.suggest(self._history, k, self._draws) if k else []
        return bool(proposals) and all(self._add(p, out) for p in proposals)

    def _add(self, proposal: Proposal, out: list[Suggestion]) -> bool:
        """One new trial; False: the epochs left do not allow it."""
        draw = self._draws
        note: dict[str, Any] = {"draw": draw, **self.pruner.enter(draw)}
        if proposal.note:
            note["sampler"] = proposal.note
        until = self._granted(0, self.pruner.next_stop(0, self.pruner.lane(note)))
        if until < 1:
            return False
        params = proposal.params
        if self.space.key(params) in self._history.taken:
            # the sampler met a point of this very batch, or knows no other
            params = untaken(self._history, np.random.default_rng([self.seed, draw, 1]))
        self._history.taken.add(self.space.key(params))
        self._history.offered[draw] = self.space.to_unit(params)
        self._draws += 1
        self._offered[draw] = until
        out.append(Suggestion(None, params, 0, until, note))
        return True

    # --- what is slow ---------------------------------------------------------------------------

    @property
    @locked
    def stale(self) -> bool:
        """Whether :meth:`refit` would improve what :meth:`suggest` goes by."""
        return self.sampler.stale(self._history)

    def refit(self) -> None:
        """Fits the sampler's model anew in the caller's thread, beside other calls."""
        self.prepare_refit()()

    @locked
    def prepare_refit(self) -> Callable[[], None]:
        """The same in two halves: this one is quick and belongs to whoever holds the search.

        Returns:
            The slow half, for another thread. It works on a copy and swaps the result in at once,
            so the search may be used meanwhile; suggestions go by the last fit.
        """
        return self.sampler.refit(self._history)


def _started(note: Mapping[str, Any]) -> int:
    """The step that a trial was copied at; 0: it began from scratch."""
    start = note.get("start", 0)
    return start if isinstance(start, int) else 0
