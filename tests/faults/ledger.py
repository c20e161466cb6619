"""What was promised: every point whose report was answered, written down where it was heard.

Kept by simulated workers, and by the proxy for real ones; the database is compared with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from tuner.protocol import Leased, Report, ReportAnswer


@dataclass(frozen=True)
class Promise:
    """One acknowledged point."""

    trial_id: int
    attempt: int
    step: int
    metrics: tuple[tuple[str, float | None], ...]


@dataclass
class Ledger:
    """Acknowledged points, and what else workers were told. Threads may share it."""

    turned_away: int = 0
    """How often a worker was told that it has lost a trial."""
    _promises: set[Promise] = field(default_factory=set)
    _attempts: dict[tuple[int, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def promises(self) -> frozenset[Promise]:
        """What was acknowledged until now; a worker may still be hearing its last answer."""
        with self._lock:
            return frozenset(self._promises)

    def given(self, leased: Iterable[Leased]) -> None:
        """A worker heard that these trials are its own."""
        with self._lock:
            for trial in leased:
                self._attempts[trial.trial_id, trial.token] = trial.attempt

    def answered(self, report: Report, answer: ReportAnswer) -> None:
        """A worker heard the answer to its report."""
        with self._lock:
            for slot, verdict in zip(report.slots, answer.verdicts, strict=True):
                if verdict.action == "lost":
                    self.turned_away += 1
                    continue
                attempt = self._attempts[slot.trial_id, slot.token]
                for point in slot.measurements:
                    metrics = tuple(sorted(point.metrics.items()))
                    self._promises.add(Promise(slot.trial_id, attempt, point.step, metrics))
        self.given(answer.leased)

    def dropped(self, trials: int) -> None:
        """A worker heard, as answer to a sign of life, that it has lost so many trials."""
        with self._lock:
            self.turned_away += trials
