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
    """All tracks of a study, and for each lane and step a ranking that grows with the reports.

    Args:
        by_best: Rank by the best value up to a step instead of the value there.
    """

    def __init__(self, *, by_best: bool = False) -> None:
        self.by_best = by_best
        self.tracks: dict[int, Track] = {}
        self._columns: dict[tuple[int, int], list[Entry]] = {}
        self._entries: dict[int, dict[int, float]] = {}  # trial -> step -> the value it ranks by

    def add(self, track: Track) -> None:
        """Takes a track in, or replaces the one of the same number."""
        old = self.tracks.get(track.number)
        if old is not None:
            self._clear(old)
        self.tracks[track.number] = track
        self._enter(track)

    def report(self, number: int, step: int, value: float) -> None:
        """One finite value at one step; a second report of the same step replaces the first."""
        track = self.tracks[number]
        again = step <= track.step and bool(track.curve)
        if again:
            self._clear(track)
        track.curve[step] = value
        track.step = max(track.step, step)
        if again:
            self._enter(track)
        else:
            entries = self._entries[number]
            if self.by_best and entries:
                value = min(value, *entries.values())
            self._insert(track, step, value)

    def lose(self, number: int) -> None:
        """The trial diverged: it ranks last at the step that it was to reach."""
        track = self.tracks[number]
        if not track.diverged:
            track.diverged = True
            self._insert_lost(track)

    def ranking(self, step: int, lane: int = 0) -> list[Entry]:
        """Who reported at ``step``, best first. Not to be changed."""
        return self._columns.get((lane, step), [])

    def rank(self, number: int, step: int) -> int:
        """How many trials of the lane were better at ``step``."""
        track = self.tracks[number]
        return bisect_left(self.ranking(step, track.lane), (self._entries[number][step], number))

    def _enter(self, track: Track) -> None:
        self._entries[track.number] = {}
        best = math.inf
        for step in sorted(track.curve):
            best = min(best, track.curve[step])
            self._insert(track, step, best if self.by_best else track.curve[step])
        if track.diverged:
            self._insert_lost(track)

    def _clear(self, track: Track) -> None:
        for step, value in self._entries.pop(track.number).items():
            column = self._columns[track.lane, step]
            del column[bisect_left(column, (value, track.number))]

    def _insert(self, track: Track, step: int, value: float) -> None:
        self._entries[track.number][step] = value
        insort(self._columns.setdefault((track.lane, step), []), (value, track.number))

    def _insert_lost(self, track: Track) -> None:
        if track.until not in track.curve:
            self._insert(track, track.until, math.inf)
