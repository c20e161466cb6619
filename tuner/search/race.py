"""The race: half of the epochs go to the trials that a model expects to end best.

Halving promotes what leads now; a slow starter never leads. So beside it a model of all curves
picks what to take to the end: a trial that is set aside, or a new one, whichever promises most per
epoch. A trial that the race has started, or taken beyond what halving would have given it, goes on,
rung by rung, until it falls behind the median of those that reached the same rung.

The race remembers nothing. What it has spent is what trials have run beyond their due, so a
restarted search continues the same race.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tuner.pruners import Board, Track
from tuner.pruners.auto import AutoPruner
from tuner.samplers import Proposal
from tuner.samplers.auto import AutoSampler
from tuner.search.memory import Memory

SHARE = 0.5
"""Of all epochs after the opening."""
OPENING = 2.0
"""Full trainings that halving has to itself."""
FEWEST = 3
"""Trials at a rung before one of them can be behind."""


class Race:
    """Decides whether the next free slot is the race's, and for which trial."""

    def __init__(self, sampler: AutoSampler, pruner: AutoPruner, max_step: int) -> None:
        self.sampler = sampler
        self.pruner = pruner
        self.max_step = max_step

    def choose(self, memory: Memory, *, may_start: bool) -> Track | Proposal | None:
        """A paused trial to resume, a new one to start, or None: it is halving's turn.

        Args:
            memory: What the search was told.
            may_start: Whether there may be new trials.
        """
        board = memory.board
        reach = {n: t.reach for n, t in board.tracks.items()}
        spent = sum(reach.values()) - OPENING * self.max_step
        if spent <= 0:
            return None
        earned = self.pruner.earned(board)
        ahead = {n: reach[n] - earned[n] for n in reach}
        first = self.pruner.rungs[0][0]
        raced = sum(a for a in ahead.values() if a > 0)
        raced += sum(min(reach[n], first) for n, t in board.tracks.items() if _entered(t))
        if raced >= SHARE * spent:
            return None
        idle = [t for t in board.tracks.values() if t.paused and not t.busy and not t.ended]
        racing = [
            t for t in idle if (ahead[t.number] > 0 or _entered(t)) and not self._behind(board, t)
        ]
        if racing:
            return min(racing, key=lambda t: t.number)
        if not may_start:  # a bound on trials is no leave to train them all to the end
            return None
        return self._pick(idle, memory)

    def _behind(self, board: Board, track: Track) -> bool:
        column = board.ranking(track.step)
        return len(column) >= FEWEST and board.rank(track.number, track.step) > len(column) // 2

    def _pick(self, idle: list[Track], memory: Memory) -> Track | Proposal | None:
        history, draw = memory.history, memory.draws
        posterior = self.sampler.posterior(history)
        if posterior is None:
            return None
        best: Track | Proposal | None = None
        top = -math.inf
        if idle:
            numbers = np.array([t.number for t in idle]) + memory.warm
            left = np.array([self.max_step - t.step for t in idle])
            gain = self.sampler.gain(posterior, history.unit[numbers], numbers) - np.log(left)
            i = int(np.argmax(gain))
            best, top = idle[i], float(gain[i])
        unit, new = self.sampler.best_new(history, posterior, draw)
        if new - math.log(self.max_step) > top:
            if self.sampler.blind(draw):
                return Proposal(self.sampler.draw(draw))
            best = Proposal(self.sampler.space.from_unit(unit), {"race": True})
        return best


def _entered(track: Track) -> bool:
    """Whether the race started it."""
    memory = track.note.get("sampler")
    return isinstance(memory, Mapping) and bool(memory.get("race"))
