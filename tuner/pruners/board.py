"""The learning curves of a study as pruners see them: ranked at equal steps, lower is better."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Entry = tuple[float, int]
"""Value and trial number; ties go to the earlier trial."""


@dataclass
class Track:
    """One trial's course.

    Args:
        number: The trial's number.
        curve: Step (completed periods, from 1) to the primary objective, lower is better, finite
            only.
        step: The last step reported; 0 before the first report.
        until: The step of its next decision, as last told to whoever runs it.
        busy: A worker has it, or it waits for one.
        paused: Set aside, to be resumed perhaps.
        ended: Complete, pruned or failed: it never moves again.
        diverged: It ended because its loss did not stay finite.
        lane: Trials are compared within a lane only (Hyperband's bracket).
        note: What the suggestion said, such as Hyperband's bracket.
    """

    number: int
    curve: dict[int, float] = field(default_factory=dict)
    step: int = 0
    until: int = 0
    busy: bool = False
    paused: bool = False
    ended: bool = False
    diverged: bool = False
    lane: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reach(self) -> int:
        """The step that it has come to or, while somebody has it, will."""
        return self.until if self.busy else self.step

    def best(self, step: int) -> float:
        """The lowest value up to ``step``; inf when there is none."""
        return min((v for s, v in self.curve.items() if s <= step), default=math.inf)


class Board:
    """All tracks of a study, and a ranking for each lane and step that somebody has asked for.

    From then on a ranking grows with the reports. A pruner that compares at rungs has rankings at
    rungs only, and one that compares nothing has none.

    Args:
        by_best: Rank by the best value up to a step instead of the value there.
    """

    def __init__(self, *, by_best: bool = False) -> None:
        self.by_best = by_best
        self.tracks: dict[int, Track] = {}
        self._columns: dict[int, dict[int, list[Entry]]] = {}  # lane -> step -> ranking

    def add(self, track: Track) -> None:
        """Takes a track in, or replaces the one of the same number."""
        old = self.tracks.get(track.number)
        if old is not None:
            self._leave(old)
        self.tracks[track.number] = track
        self._enter(track)

    def report(self, number: int, step: int, value: float) -> None:
        """One finite value at one step; a second report of the same step replaces the first."""
        track = self.tracks[number]
        again = track.diverged or (step <= track.step and bool(track.curve))
        if again:
            self._leave(track)
        track.curve[step] = value
        track.step = max(track.step, step)
        if again:
            self._enter(track)
        elif (column := self._columns.get(track.lane, {}).get(step)) is not None:
            insort(column, (self._value(track, step), number))

    def lose(self, number: int) -> None:
        """The trial diverged: it ranks last at the step that it was to reach."""
        track = self.tracks[number]
        if not track.diverged:
            self._leave(track)
            track.diverged = True
            self._enter(track)

    def ranking(self, step: int, lane: int = 0) -> list[Entry]:
        """Who reported at ``step``, best first. Not to be changed."""
        columns = self._columns.setdefault(lane, {})
        if step not in columns:
            of_lane = (track for track in self.tracks.values() if track.lane == lane)
            columns[step] = sorted(
                (self._value(track, step), track.number)
                for track in of_lane
                if _stands(track, step)
            )
        return columns[step]

    def rank(self, number: int, step: int) -> int:
        """How many trials of the lane were better at ``step``."""
        track = self.tracks[number]
        return bisect_left(self.ranking(step, track.lane), (self._value(track, step), number))

    def _value(self, track: Track, step: int) -> float:
        """What the track ranks by at ``step``."""
        if step not in track.curve:
            return math.inf
        return track.best(step) if self.by_best else track.curve[step]

    def _enter(self, track: Track) -> None:
        for step, column in self._columns.get(track.lane, {}).items():
            if _stands(track, step):
                insort(column, (self._value(track, step), track.number))

    def _leave(self, track: Track) -> None:
        for step, column in self._columns.get(track.lane, {}).items():
            if _stands(track, step):
                del column[bisect_left(column, (self._value(track, step), track.number))]


def _stands(track: Track, step: int) -> bool:
    """Whether a track has a place in the ranking at ``step``."""
    return step in track.curve or (track.diverged and step == track.until)
