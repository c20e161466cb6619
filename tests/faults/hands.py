"""Workers whose training is a formula: they speak to a real server over HTTP as real ones do.

They cost little, so that many of them report often while something else breaks.
"""

from __future__ import annotations

import math
import threading
import time

from tests.faults.children import TASK
from tests.faults.ledger import Ledger
from tuner.errors import Unavailable
from tuner.protocol import Leased, LeaseRequest, Measured, Report, SlotReport, WorkerHello
from tuner.transport import Transport
from tuner.worker.http import HttpGateway


class Hand:
    """One worker in a thread, until it is told to stop.

    Args:
        url: The server.
        ledger: Where it writes down what was acknowledged.
        slots: Trials at once.
        pace_seconds: How long it trains for a step.
        name: What it is called.
    """

    def __init__(
        self, url: str, ledger: Ledger, *, slots: int, pace_seconds: float, name: str
    ) -> None:
        self._gateway = HttpGateway(Transport(url, timeout_seconds=10.0, attempts=2))
        self._ledger = ledger
        self._slots = slots
        self._pace_seconds = pace_seconds
        self._name = name
        self._held: dict[int, tuple[Leased, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and raises what it died of."""
        self._stop.set()
        self._thread.join(60)
        self._gateway.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def _work(self) -> None:
        hello = WorkerHello(name=self._name, tasks=[TASK], slots=self._slots)
        registration = self._said(lambda: self._gateway.register(hello))
        while registration is not None and not self._stop.is_set():
            worker = registration.worker_id
            if not self._held:
                request = LeaseRequest(k=self._slots)
                answer = self._said(lambda w=worker, r=request: self._gateway.lease(w, r))
                if answer is not None and not answer.leased:
                    time.sleep(self._pace_seconds)
                self._take([] if answer is None else answer.leased)
                continue
            time.sleep(self._pace_seconds)
            report = self._report()
            verdicts = self._said(lambda w=worker, r=report: self._gateway.report(w, r))
            if verdicts is None:
                return
            self._ledger.answered(report, verdicts)
            for verdict in verdicts.verdicts:
                if verdict.action != "continue":
                    self._held.pop(verdict.trial_id, None)
            self._take(verdicts.leased)

    def _said(self, call):  # type: ignore[no-untyped-def]  # the answer's type is the call's
        """Says the same again until it is answered; None when told to stop."""
        while not self._stop.is_set():
            try:
                return call()
            except Unavailable:
                time.sleep(0.02)
        return None

    def _take(self, leased: list[Leased]) -> None:
        self._ledger.given(leased)
        for trial in leased:
            # A resumed trial has no state to resume: what it measures depends on nothing else.
            self._held[trial.trial_id] = (trial, trial.start)

    def _report(self) -> Report:
        slots = []
        for trial_id, (leased, step) in self._held.items():
            self._held[trial_id] = (leased, step + 1)
            slots.append(
                SlotReport(
                    trial_id=trial_id,
                    token=leased.token,
                    measurements=[
                        Measured(
                            step=step + 1,
                            # No two attempts measure the same, as on no two devices.
                            metrics={"val_loss": loss(leased, step + 1) + 1e-9 * leased.attempt},
                            seconds=0.01 * (step + 1),
                        )
                    ],
                )
            )
        return Report(slots=slots, refill=self._slots - len(self._held))


def loss(leased: Leased, step: int) -> float:
    """Lowest at a learning rate of 1e-3; falls with every step."""
    return 1.0 / step + 0.1 * (math.log10(float(str(leased.config["lr"]))) + 3.0) ** 2
