"""Proposes nothing: only the configurations that a user enqueues are run."""

from __future__ import annotations

from tuner.samplers import History, Proposal, Sampler, register


@register("manual")
class ManualSampler(Sampler):
    """For sweeps that are written by hand or by another program."""

    summary = "Runs only the configurations that are enqueued."

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """Nothing."""
        return []
