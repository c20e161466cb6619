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

    def best(self, step: int) -> float:
        """The lowest value up to ``step``; inf when there is none."""
        return min((v for s, v in self.curve.items() if s <= step), default=math.inf)


class Board:
    """All tracks of a study, and for each lane and step a ranking that grows with the reports."""

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._columns: dict[tuple[int, int], list[Entry]] = {}

    def add(self, track: Track) -> None:
        """Takes a track in, or replaces the one of the same number."""
        old = self.tracks.get(track.number)
        if old is not None:
            for step, value in old.curve.items():
                self._remove(old, step, value)
            self._remove(old, old.until, math.inf)
        self.tracks[track.number] = track
        for step, value in track.curve.items():
            insort(self._column(track.lane, step), (value, track.number))
        if track.diverged:
            self._insert_lost(track)

    def report(self, number: int, step: int, value: float) -> None:
        """One finite value at one step; a second report of the same step replaces the first."""
        track = self.tracks[number]
        if step in track.curve:
            self._remove(track, step, track.curve[step])
        track.curve[step] = value
        track.step = max(track.step, step)
        insort(self._column(track.lane, step), (value, number))

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
        return bisect_left(self.ranking(step, track.lane), (track.curve[step], number))

    def _column(self, lane: int, step: int) -> list[Entry]:
        return self._columns.setdefault((lane, step), [])

    def _insert_lost(self, track: Track) -> None:
        if track.until not in track.curve:
            insort(self._column(track.lane, track.until), (math.inf, track.number))

    def _remove(self, track: Track, step: int, value: float) -> None:
        column = self._columns.get((track.lane, step), [])
        at = bisect_left(column, (value, track.number))
        if at < len(column) and column[at] == (value, track.number):
            del column[at]
