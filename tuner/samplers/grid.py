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
        self._next: dict[str, Any] | None = next(self._points, None)

    def _advance(self, taken: Collection[Key]) -> dict[str, Any] | None:
        """The first point not taken; those before it are taken for good."""
        while self._next is not None and self.space.key(self._next) in taken:
            self._next = next(self._points, None)
        return self._next

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """The next ``k`` points in order; fewer at the end."""
        out: list[Proposal] = []
        while len(out) < k and (point := self._advance(history.taken)) is not None:
            out.append(Proposal(point))
            self._next = next(self._points, None)
        return out

    def exhausted(self, history: History) -> bool:
        """Whether every point was tried or is being tried."""
        return self._advance(history.taken) is None
