"""A quasi-random sequence: scrambled Sobol points cover the space more evenly than random draws.

Sobol, 1967; Owen's scrambling; Bergstra and Bengio, "Random Search for Hyper-Parameter
Optimization", 2012, section 5, for its use here. The points are SciPy's.
"""

from __future__ import annotations

from tuner.samplers import History, Proposal, Sampler, register
from tuner.samplers.priors import at, sobol


@register("qmc")
class QmcSampler(Sampler):
    """The next points of one sequence, whatever the results; best in powers of two."""

    summary = "A scrambled Sobol sequence; covers a space evenly, best with 2^n trials."

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """Points ``draw`` to ``draw + k - 1`` of the sequence."""
        dimensions = len(self.space.searched)
        points = [sobol(dimensions, i, self.seed) for i in range(draw, draw + k)]
        return [Proposal(at(self.space, u, informed=False)) for u in points]
