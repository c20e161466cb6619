"""Independent uniform draws from the space."""

from __future__ import annotations

from tuner.samplers import History, Proposal, Sampler, register, untaken


@register("random")
class RandomSampler(Sampler):
    """Uniform in the unit cube: log-uniform on log ranges, equal odds for choices."""

    summary = "Independent uniform draws; the baseline every other sampler has to beat."

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """``k`` draws, each from its own generator."""
        return [Proposal(untaken(history, self.rng(draw + i))) for i in range(k)]
