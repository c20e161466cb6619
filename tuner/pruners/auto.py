"""The default pruner: halving with pause and resume, from the first fiftieth of a training on.

As :mod:`tuner.pruners.asha` with a factor of 2, ranked by the best value so far. Together with the
sampler ``auto``, half of the epochs are given by a model instead (:mod:`tuner.search.race`).

A quota, by which no more than half of those that reached a rung ever leave it, was tried and was
worse: new trials of a sampler that learns are better than old ones, and had to wait behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from tuner.pruners import Board, register
from tuner.pruners.asha import AshaPruner, first_rung, rungs
from tuner.spaces import Option, Space


@register("auto")
class AutoPruner(AshaPruner):
    """ASHA that starts early and cuts gently."""

    summary = "The default: pauses at doubling steps, resumes the better half; kills nothing."
    ranks_by_best = True
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__({"reduction_factor": 2.0, "min_resource": None}, max_step, space, seed)
        self.rungs = {0: rungs(first_rung(space, max_step, 50), 2.0, max_step)}

    def earned(self, board: Board) -> dict[int, int]:
        """The step that halving alone would have brought each trial to by now."""
        steps = self.rungs[0]
        out = dict.fromkeys(board.tracks, steps[0])
        through = set(board.tracks)
        for rung, above in pairwise(steps):
            column = board.ranking(rung)
            through &= {number for _, number in column[: len(column) // 2]}
            for number in through:
                out[number] = above
        return out
