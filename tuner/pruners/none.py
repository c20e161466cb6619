"""No early stopping: every trial runs to its end."""

from __future__ import annotations

from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register


@register("none")
class NoPruner(Pruner):
    """Never stops a trial."""

    summary = "Every trial runs to its end."

    def next_stop(self, step: int, lane: int) -> int:
        """The end."""
        return self.max_step

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Goes on."""
        return CONTINUE
