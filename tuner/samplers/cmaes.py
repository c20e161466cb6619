"""CMA-ES: an evolution strategy that learns the scales and directions of the landscape.

Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, https://arxiv.org/abs/1604.00772; the
``cmaes`` package does the mathematics. The strategy runs in the unit cube; choices and whole
numbers are cells of it. It uses ranks alone, and so learns from paused, pruned and diverged trials
too.

Its state is never stored. Every trial remembers its generation, and the first of a generation which
trials closed the one before, so the whole course is played again from the history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuner.samplers import PENDING, VOID, History, Proposal, Sampler, register, untaken
from tuner.samplers.history import Floats
from tuner.spaces import Option


@register("cmaes")
class CmaEsSampler(Sampler):
    """Starts at the middle of the cube with a fourth of its width."""

    summary = "Evolution strategy that adapts to scale and rotation; numbers more than choices."
    most_objectives = 1
    options: ClassVar[Mapping[str, Option]] = {
        "population_size": Option(
            None, "int", low=3, high=10_000, doc="Trials a generation; by default 4 + 3 ln D."
        ),
        "sigma0": Option(
            0.25, "float", low=1e-3, high=1.0, doc="The first spread, in widths of the range."
        ),
    }

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """Draws from the present generation; more than a generation's worth are extra samples."""
        dimensions = len(self.space.searched)
        if dimensions < 2:  # nothing to adapt to
            return [Proposal(untaken(history, self.rng(draw + i))) for i in range(k)]
        generation, told, strategy = self._play(history)
        out: list[Proposal] = []
        first = not any(_memory(n).get("generation") == generation for n in history.notes.values())
        for i in range(k):
            # what is drawn belongs to the draw, not to how often the course was played again
            strategy._rng = np.random.RandomState(int(self.rng(draw + i).integers(2**31)))
            unit = np.clip(strategy.ask(), 0.0, 1.0)
            note: dict[str, Any] = {"generation": generation}
            if first and generation and i == 0:
                note["closed"] = told
            out.append(Proposal(self.space.from_unit(unit), note))
        return out

    def _play(self, history: History) -> tuple[int, list[int], Any]:
        """The present generation, which trials closed the one before, and the strategy in it."""
        dimensions = len(self.space.searched)
        size = self.settings["population_size"] or 4 + math.floor(3 * math.log(dimensions))
        from cmaes import CMA  # noqa: PLC0415  (loads half a second of scipy.stats)

        strategy = CMA(
            mean=np.full(dimensions, 0.5),
            sigma=self.settings["sigma0"],
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            population_size=size,
            seed=self.seed % 2**32,
        )
        place = np.full(history.count, np.inf)
        order = history.order()
        place[order] = np.arange(len(order))
        members: dict[int, list[int]] = {}
        closed: dict[int, list[int]] = {}
        for number in sorted(history.notes):
            memory = _memory(history.notes[number])
            generation = memory.get("generation")
            if isinstance(generation, int):
                members.setdefault(generation, []).append(number)
                if memory.get("closed"):
                    closed.setdefault(generation - 1, memory["closed"])
        generation, told = 0, []
        for _ in range(len(members) + 1):
            known = closed.get(generation)
            if known is None:
                done = [
                    n
                    for n in members.get(generation, [])
                    if history.status[n] not in (PENDING, VOID)
                ]
                if len(done) < size:
                    break
                known = done[:size]
            told = known
            strategy.tell([(self._point(history, n), float(place[n])) for n in told])
            generation += 1
        return generation, told, strategy

    def _point(self, history: History, number: int) -> Floats:
        # an inactive axis tells nothing: its middle
        point: Floats = np.nan_to_num(history.unit[number], nan=0.5).clip(0.0, 1.0)
        return point


def _memory(note: Mapping[str, Any]) -> Mapping[str, Any]:
    memory = note.get("sampler", {})
    return memory if isinstance(memory, Mapping) else {}
