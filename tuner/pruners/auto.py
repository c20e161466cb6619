"""The default pruner: halving with pause and resume, from the first fiftieth of a training on.

As :mod:`tuner.pruners.asha` with a factor of 2, ranked by the best value so far, but the promoted
share is a quota: no more than half of those that reached a rung ever leave it. ASHA's rule, to be
among the best half now, promotes nearly all when new trials are better than old ones, as those of a
sampler that learns are, and every error of the first comparisons comes on top.

Together with the sampler ``auto``, half of the epochs are given by a model instead
(:mod:`tuner.search.race`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

from tuner.pruners import CONTINUE, Board, Decision, Track, register
from tuner.pruners.asha import SCHEDULED, AshaPruner, rungs
from tuner.spaces import Constant, Option, Space


@register("auto")
class AutoPruner(AshaPruner):
    """ASHA that starts early, cuts gently, and keeps to its quota."""

    summary = "The default: pauses at doubling steps, resumes the better half; kills nothing."
    ranks_by_best = True
    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__({"reduction_factor": 2.0, "min_resource": None}, max_step, space, seed)
        # the early epochs of a long schedule say less about its end than those of a constant one
        searched = any(
            n in space.parameters and not isinstance(space.parameters[n], Constant)
            for n in SCHEDULED
        )
        first = max(1, round(max_step / (10 if searched else 50)))
        self.rungs = {0: rungs(first, 2.0, max_step)}

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Goes on when it is among the best of those that wait, as far as the quota allows."""
        column = board.ranking(track.step)
        if track in self._next(board, track.step, last_call, arrived=track):
            return CONTINUE
        rank = board.rank(track.number, track.step)
        return Decision("pause", f"rank {rank + 1} of {len(column)} at step {track.step}")

    def promotable(self, board: Board, last_call: bool) -> Iterator[Track]:
        """The best that wait at each rung, as far as its quota allows, highest rung first."""
        for rung in reversed(self.rungs[0][:-1]):
            yield from self._next(board, rung, last_call)

    def _next(
        self, board: Board, rung: int, last_call: bool, arrived: Track | None = None
    ) -> list[Track]:
        """Who leaves a rung now, best first; ``arrived`` waits there though a worker has it."""
        column = board.ranking(rung)
        waiting: list[Track] = []
        left = self._share(len(column), last_call)
        for _, number in column:
            track = board.tracks[number]
            if track is arrived or (track.paused and track.step == rung):
                waiting.append(track)
            elif track.reach > rung:
                left -= 1
        return waiting[: max(left, 0)]

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
