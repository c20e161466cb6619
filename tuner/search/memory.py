"""What a search was told: tracks, the rows of the sampler's history, and the epochs used up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuner.pruners import Board, Pruner, Track
from tuner.samplers import COMPLETE, DIVERGED, PARTIAL, PENDING, VOID, History
from tuner.samplers.history import Floats
from tuner.search.records import Objective, Record, State
from tuner.spaces import Space

DIVERGED_REASON = "diverged"
ENDED: tuple[State, ...] = ("complete", "pruned", "fail")


class Memory:
    """Everything a search was told; :class:`tuner.search.Search` says what follows from it.

    Args:
        space: What is searched.
        objectives: Curves are of the first. Within, lower is better.
        pruner: Says which trials are compared, and where a trial stops next.
        warm_start: Finished trials of earlier studies, for the sampler only.
        target: How good a trial is that ends the study, in the user's own sense.

    Attributes:
        board: The curves, as pruners see them.
        history: The points and their results, as samplers see them.
        warm: Rows of ``history`` before the study's own.
        params: Each trial's point.
        busy: Trials that somebody has.
        loose: Waiting or orphaned trials: to be handed out before anything else.
        offered: Draw to the steps promised, of new trials handed out that no record shows yet.
        draws: New trials sampled so far.
        spent: Steps run, of all trials; those too at which one diverged.
        met: Trials that have reached the target and keep the constraint.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        pruner: Pruner,
        warm_start: Iterable[Record] = (),
        target: float | None = None,
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.sign = self.objectives[0].sign
        self.pruner = pruner
        self.board = Board(by_best=pruner.ranks_by_best)
        self.history = History(space, len(self.objectives))
        self.warm = 0
        self.params: dict[int, Mapping[str, Any]] = {}
        self.busy: set[int] = set()
        self.loose: set[int] = set()
        self.offered: dict[int, int] = {}
        self.draws = 0
        self.spent = 0
        self.met: set[int] = set()
        self._target = -math.inf if target is None else self.sign * target
        self._records: dict[int, Record] = {}
        self._steps: dict[int, int] = {}
        for record in warm_start:
            self._learn(self.warm, record, own=False)
            self.history.curves[self.warm] = self._lowered(record.curve)
            self.warm += 1

    @property
    def count(self) -> int:
        """Trials there are, those included that were handed out and no record shows yet."""
        return len(self.board.tracks) + len(self.offered)

    @property
    def promised(self) -> int:
        """Steps that those who are under way were told to run."""
        tracks = self.board.tracks
        return sum(tracks[n].until - tracks[n].step for n in self.busy) + sum(self.offered.values())

    def track(self, number: int) -> Track:
        """A trial's course."""
        return self.board.tracks[number]

    # --- records --------------------------------------------------------------------------------

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
            self.draws = max(self.draws, draw + 1)  # a copy's is below 0
            self.offered.pop(draw, None)
            self.history.offered.pop(draw, None)
        ended = record.state in ENDED
        curve = self._lowered(record.curve)
        lane = self.pruner.lane(record.note)
        step = max(curve, default=started(record.note))
        until = record.until if record.until is not None else self.pruner.next_stop(step, lane)
        self.board.add(
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
        self._ran(number, max(step, record.step) - started(record.note))
        self.params[number] = record.params
        self.busy.discard(number)
        self.loose.discard(number)
        if record.busy and not ended:
            self.busy.add(number)
        elif not ended and not record.paused:
            self.loose.add(number)
        self._learn(self.warm + number, record, own=True)
        self.history.curves[self.warm + number] = curve
        self._aim(number, record.state, record.values, record.constraint)

    def _ran(self, number: int, steps: int) -> None:
        """A trial has run so many steps in all."""
        self.spent += steps - self._steps.get(number, 0)
        self._steps[number] = steps

    def _lowered(self, curve: Mapping[int, float]) -> dict[int, float]:
        """The finite points, lower better."""
        return {s: self.sign * v for s, v in curve.items() if math.isfinite(v)}

    def _learn(self, row: int, record: Record, *, own: bool) -> None:
        """Writes a record into the sampler's history."""
        curve = self._lowered(record.curve)
        step = max(curve, default=0)
        # What a sampler noted on another study's trial names trials and generations of that one.
        self.history.add(row, record.params, record.note if own else {}, tried=own)
        self._put(
            row,
            record.state,
            step,
            curve.get(step, math.nan),
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
        self.history.put(row, status, step=step, last=last, values=lower, violation=violation)

    def _aim(
        self,
        number: int,
        state: State,
        values: tuple[float, ...] | None,
        violation: float | None,
    ) -> None:
        """Notes whether a trial has reached the target.

        How far it broke the constraint is known of its last step only: a better value before that
        may have broken it.
        """
        track = self.track(number)
        seen = [] if values is None else [self.sign * values[0]]
        if violation is None:
            seen += track.curve.values()
        elif track.step in track.curve:
            seen.append(track.curve[track.step])
        good = state != "fail" and not track.diverged and (violation or 0.0) <= 0
        if good and min(seen, default=math.inf) <= self._target:
            self.met.add(number)
        else:
            self.met.discard(number)

    # --- what happens in between ----------------------------------------------------------------

    def report(self, number: int, step: int, value: float, violation: float | None) -> None:
        """A point of a running trial's curve, in the user's own sense; not finite: it diverged."""
        track = self.track(number)
        self._ran(number, max(step - started(track.note), self._steps[number]))
        if not math.isfinite(value):
            self.board.lose(number)
            self.met.discard(number)
            return
        self.board.report(number, step, self.sign * value)
        self._aim(number, "running", None, violation)
        self._progress(track, violation)

    def finish(
        self,
        number: int,
        state: State,
        values: tuple[float, ...] | None,
        reason: str | None,
        constraint: float | None,
    ) -> None:
        """A trial ended; a later record of it may say so again."""
        track = self.track(number)
        track.ended, track.busy, track.paused = True, False, False
        self.busy.discard(number)
        self.loose.discard(number)
        if state == "fail" and reason == DIVERGED_REASON:
            self.board.lose(number)
        last = track.curve.get(track.step, math.nan)
        row = self.warm + number
        self._put(row, state, track.step, last, values, reason, constraint, paused=False)
        self._aim(number, state, values, constraint)

    def set_aside(self, track: Track) -> None:
        """The trial is paused: nobody has it."""
        track.paused, track.busy = True, False
        self.busy.discard(track.number)
        self._progress(track, float(self.history.violation[self.warm + track.number]))

    def hand_out(self, track: Track, until: int) -> None:
        """The trial is somebody's, up to ``until``."""
        track.busy, track.paused, track.until = True, False, until
        self.busy.add(track.number)
        self.loose.discard(track.number)
        last = track.curve.get(track.step, math.nan)
        row = self.warm + track.number
        violation = float(self.history.violation[row])
        self.history.put(row, PENDING, step=track.step, last=last, violation=violation)

    def offer(self, draw: int, steps: int, unit: Floats | None = None) -> None:
        """A new trial was handed out; ``unit``: its point, where the sampler is to know of it."""
        self.offered[draw] = steps
        if unit is not None:
            self.history.offered[draw] = unit

    def _progress(self, track: Track, violation: float | None) -> None:
        """Shows the sampler how far a trial has come."""
        row, last = self.warm + track.number, track.curve[track.step]
        self._put(row, "running", track.step, last, None, None, violation, track.paused)


def started(note: Mapping[str, Any]) -> int:
    """The step that a trial was copied at; 0: it began from scratch."""
    start = note.get("start", 0)
    return start if isinstance(start, int) else 0
