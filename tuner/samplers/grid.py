"""Every point of a finite space, once.

Which points are left is read from the history, so a grid that several workers share, or that is
resumed, runs no point twice, whatever order trials end in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tuner.samplers import History, Proposal, Sampler, register
from tuner.spaces import Space
from tuner.spaces.space import Key


@register("grid")
class GridSampler(Sampler):
    """Walks the grid, the first parameter slowest.

    Raises:
        InvalidInput: A parameter of the space is a continuum; names it.
    """

    summary = "Every point of a finite space once; the study ends when the grid does."

    def __init__(
        self, settings: Mapping[str, Any], space: Space, objectives: int, seed: int
    ) -> None:
        super().__init__(settings, space, objectives, seed)
        self._points = space.grid()
        self._seen: list[dict[str, Any]] = []

    def _first(self, taken: Collection[Key], k: int) -> list[dict[str, Any]]:
        """The first ``k`` points not taken; they stay the first until they are."""
        self._seen = [point for point in self._seen if self.space.key(point) not in taken]
        while len(self._seen) < k and (point := next(self._points, None)) is not None:
            if self.space.key(point) not in taken:
                self._seen.append(point)
        return self._seen[:k]

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """The next ``k`` points in order; fewer at the end."""
        return [Proposal(dict(point)) for point in self._first(history.taken, k)]

    def exhausted(self, history: History) -> bool:
        """Whether every point was tried or is being tried."""
        return not self._first(history.taken, 1)
