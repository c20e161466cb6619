"""A trial that a worker holds, whatever trains it: how far it is, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.protocol import Checkpoint, Leased, Measured, SlotReport


@dataclass(kw_only=True, eq=False)
class Held:
    """A leased trial.

    Args:
        leased: What the service said of it.
        until: The step at which the service decides next.
        step: Evaluation periods completed.
    """

    leased: Leased
    until: int
    step: int
    news: list[Measured] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    outcome: str = ""
    reason: str | None = None

    @property
    def due(self) -> bool:
        """Whether the service must hear of it before it can go on."""
        return bool(self.outcome) or self.step >= self.until

    def fail(self, reason: str) -> None:
        """It ends here, and why."""
        self.outcome, self.reason = "fail", reason

    def report(self, *, returned: bool = False) -> SlotReport:
        """Its news; ``returned`` hands it back unless it has ended."""
        return SlotReport(
            trial_id=self.leased.trial_id,
            token=self.leased.token,
            measurements=self.news,
            outcome=self.outcome or ("returned" if returned else ""),
            reason=self.reason,
            checkpoint=self.checkpoint,
        )


def failed(leased: Leased, reason: str) -> SlotReport:
    """The report of a trial that could not start."""
    return SlotReport(trial_id=leased.trial_id, token=leased.token, outcome="fail", reason=reason)
