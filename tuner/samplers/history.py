"""The trials of a study as samplers see them: one row a trial in the unit cube, lower is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.spaces import Space
from tuner.spaces.space import Key

PENDING, PARTIAL, COMPLETE, DIVERGED, VOID = range(5)
"""Of a row: without a result yet; set aside or pruned part-way; complete; ended by divergence (the
worst there is); failed for a reason that says nothing about its configuration."""

Floats = NDArray[np.float64]


class History:
    """Rows by trial number. Rows may arrive in any order and change; equal contents, equal history.

    Attributes:
        unit: ``[n, D]`` in the unit cube, NaN where inactive.
        values: ``[n, M]`` objectives of complete rows, lower is better; NaN elsewhere.
        status: ``[n]``, one of the constants above; VOID where no trial has that number.
        step: ``[n]`` the last step reported.
        last: ``[n]`` the primary objective there, lower is better; NaN before the first.
        violation: ``[n]`` by how much the constraint is broken; 0 or below: it holds; NaN: unknown.
        taken: The points tried or being tried.
        curves: By row, step to the primary objective, lower is better.
        offered: By draw, the points handed out that no row shows yet.
        version: Grows with every change.
    """

    def __init__(self, space: Space, objectives: int = 1) -> None:
        self.space = space
        self.objectives = objectives
        self.count = 0
        self._size = 64
        self._unit = np.full((64, len(space.searched)), np.nan)
        self._values = np.full((64, objectives), np.nan)
        self._status = np.full(64, VOID, dtype=np.int8)
        self._step = np.zeros(64, dtype=np.int64)
        self._last = np.full(64, np.nan)
        self._violation = np.full(64, np.nan)
        self.version = 0
        self.curves: dict[int, Mapping[int, float]] = {}
        self.offered: dict[int, Floats] = {}
        self.notes: dict[int, Mapping[str, Any]] = {}
        self.taken: set[Key] = set()

    unit = property(lambda self: self._unit[: self.count])
    values = property(lambda self: self._values[: self.count])
    status = property(lambda self: self._status[: self.count])
    step = property(lambda self: self._step[: self.count])
    last = property(lambda self: self._last[: self.count])
    violation = property(lambda self: self._violation[: self.count])

    def _grow(self, number: int) -> None:
        while number >= self._size:
            n = self._size
            self._unit = np.vstack([self._unit, np.full_like(self._unit, np.nan)])
            self._values = np.vstack([self._values, np.full_like(self._values, np.nan)])
            self._status = np.append(self._status, np.full(n, VOID, dtype=np.int8))
            self._step = np.append(self._step, np.zeros(n, dtype=np.int64))
            self._last = np.append(self._last, np.full(n, np.nan))
            self._violation = np.append(self._violation, np.full(n, np.nan))
            self._size *= 2
        self.count = max(self.count, number + 1)

    def add(
        self,
        number: int,
        params: Mapping[str, Any],
        note: Mapping[str, Any],
        *,
        tried: bool = True,
    ) -> None:
        """A trial with its point; its result comes with :meth:`put`.

        A point that was not ``tried`` in this study (a warm start's) may be proposed again.
        """
        self._grow(number)
        self.version += 1
        self._unit[number] = self.space.to_unit(params)
        self._status[number] = PENDING
        self.notes[number] = note
        if tried:
            self.taken.add(self.space.key(params))

    def put(
        self,
        number: int,
        status: int,
        *,
        step: int = 0,
        last: float = np.nan,
        values: tuple[float, ...] | None = None,
        violation: float | None = None,
    ) -> None:
        """The result of a row so far; ``values`` and ``last`` with lower better."""
        self.version += 1
        self._status[number] = status
        self._step[number] = step
        self._last[number] = last
        self._values[number] = np.nan if values is None else values
        self._violation[number] = np.nan if violation is None else violation

    @property
    def standing(self) -> NDArray[np.int8]:
        """The status, but a trial under way that has reported counts as one that stands there.

        Trials taken up again are among the best: to be without a result is for new ones.
        """
        begun = (self.status == PENDING) & np.isfinite(self.last)
        return np.where(begun, PARTIAL, self.status)

    def order(self) -> NDArray[np.int64]:
        """Rows that teach something, best first.

        Feasible before infeasible; complete before partial; of several objectives by front, then by
        crowding; partial ones by how far they came, then by their last value; diverged ones last.
        Infeasible rows go by how little they break the constraint.
        """
        status, violation = self.standing, np.nan_to_num(self.violation, nan=0.0).clip(0.0)
        rows = np.flatnonzero((status != VOID) & (status != PENDING))
        if rows.size == 0:
            return rows
        kind = status[rows]
        tier = np.select([kind == COMPLETE, kind == PARTIAL], [0, 1], 3)
        tier = np.where((violation[rows] > 0) & (tier < 3), 2, tier)
        first = np.zeros(rows.size)
        second = np.zeros(rows.size)
        complete = tier == 0
        if self.objectives == 1:
            first[complete] = self.values[rows[complete], 0]
        elif complete.any():
            front, crowding = fronts(self.values[rows[complete]])
            first[complete], second[complete] = front, -crowding
        partial = tier == 1
        first[partial] = -self.step[rows[partial]]
        second[partial] = np.nan_to_num(self.last[rows[partial]], nan=np.inf)
        broken = tier == 2
        first[broken] = violation[rows[broken]]
        return rows[np.lexsort((rows, second, first, tier))]


def fronts(values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Each row's front (0: nobody dominates it) and its crowding distance.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, sections
    III.A-B.

    Args:
        values: ``[n, M]``, lower is better.
    """
    n, m = values.shape
    front = np.full(n, -1, dtype=np.int64)
    left = np.arange(n)
    level = 0
    while left.size:
        here = values[left]
        # a row can only be dominated by one that comes before it in lexicographic order
        lexical = np.lexsort(here.T[::-1])
        kept: list[int] = []
        for i in lexical:
            others = here[kept]
            if not ((others <= here[i]).all(1) & (others < here[i]).any(1)).any():
                kept.append(int(i))
        front[left[kept]] = level
        left = np.delete(left, kept)
        level += 1
    crowding = np.zeros(n)
    for f in range(level):
        rows = np.flatnonzero(front == f)
        for j in range(m):
            column: Floats = values[rows, j]
            by = np.argsort(column, kind="stable")
            span = column[by[-1]] - column[by[0]]
            crowding[rows[by[[0, -1]]]] = np.inf
            if span > 0 and rows.size > 2:
                crowding[rows[by[1:-1]]] += (column[by[2:]] - column[by[:-2]]) / span
    return front, crowding
