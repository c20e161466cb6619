"""The scripts of a worker: one run at a time, since a script has its device for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tuner.errors import TunerError
from tuner.protocol import Leased, Printed, SlotReport
from tuner.worker.device import visible
from tuner.worker.held import failed
from tuner.worker.scripts.config import Scripts
from tuner.worker.scripts.place import Place
from tuner.worker.scripts.run import Run

ROUND_SECONDS = 0.5
LOOK_SECONDS = 0.05
"""How often a round looks whether it was interrupted."""
LOG_SECONDS = 2.0
"""How often what is printed is sent, as long as there is no other news."""


class ScriptCrew:
    """Runs scripts for the trials that are leased.

    Args:
        scripts: What may be run, by name.
        device: What they run on.
        root: Where their checkpoints go.
    """

    def __init__(self, scripts: Scripts, device: torch.device, root: Path) -> None:
        self.scripts = scripts
        self.device = device
        self.root = root
        self.held: dict[int, Run] = {}
        self._ending: dict[Run, bool] = {}
        """Runs that were decided about, and whether nobody will go on from there."""
        self._sent_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether a script runs, or is not quite gone yet."""
        return bool(self.held or self._ending)

    def take(self, leased: Leased) -> SlotReport | None:
        """Begins a trial; where it cannot be, a report of failure."""
        script = self.scripts.get(leased.task)
        if script is None:
            return failed(leased, f"this worker has no script {leased.task}")
        try:
            self.held[leased.trial_id] = Run(
                leased=leased,
                until=leased.until,
                step=leased.start,
                script=script,
                place=Place(self.root, leased),
                devices=visible(self.device),
            )
        except (OSError, TunerError) as error:
            return failed(leased, f"cannot be started: {error}")
        return None

    def round(self, interrupted: Callable[[], bool]) -> None:
        """Attends to the scripts until the service must hear of one, or for a while."""
        deadline = time.monotonic() + ROUND_SECONDS
        while self.busy:
            for run in [*self.held.values(), *self._ending]:
                run.attend(LOOK_SECONDS)
            self._clear()
            due = any(run.due for run in self.held.values())
            if due or interrupted() or time.monotonic() >= deadline:
                return

    def go_on(self, trial_id: int, until: int) -> None:
        """The service wants more of a trial."""
        self.held[trial_id].go_on(until)

    def heard(self, trial_id: int) -> None:
        """The service has taken in a trial's news."""
        self.held[trial_id].news.clear()

    def drop(self, trial_id: int, *, forget: bool = False) -> None:
        """Lets a trial go: its script is told to stop, and made to if need be."""
        run = self.held.pop(trial_id, None)
        if run is not None:
            run.decided()
            self._ending[run] = forget

    def stop(self) -> None:
        """Stops every script, and waits until nothing of any is left; what is held can go on."""
        runs = [*self.held.values(), *self._ending]
        for run in runs:
            run.leave()
        for run in runs:
            run.wait()

    def close(self) -> None:
        """Stops what is left and removes what belongs to this worker alone."""
        for trial_id in list(self.held):
            self.drop(trial_id)
        self.stop()
        for run, forget in self._ending.items():
            run.clear(forget=forget)
        self._ending.clear()

    def _clear(self) -> None:
        for run, forget in list(self._ending.items()):
            if run.gone and not run.output.news(final=True):
                run.clear(forget=forget)
                del self._ending[run]

    # What there is to say.

    def reports(self) -> Iterator[SlotReport]:
        """News of every trial that has some, or must be decided about."""
        for run in self.held.values():
            if run.news or run.due:
                yield run.report()

    @property
    def talkative(self) -> bool:
        """Whether there is anything to say now."""
        if any(run.news or run.due for run in self.held.values()):
            return True
        late = time.monotonic() - self._sent_at >= LOG_SECONDS
        runs = [*self.held.values(), *self._ending]
        return any(run.output.news() for run in runs if late or run.gone)

    def printed(self) -> list[Printed]:
        """What the scripts have printed that nobody was sent."""
        return [piece for run in [*self.held.values(), *self._ending] for piece in run.printed()]

    def told(self, printed: Sequence[Printed]) -> None:
        """These pieces have arrived."""
        for run in [*self.held.values(), *self._ending]:
            mine = (run.leased.trial_id, run.leased.token)
            for piece in printed:
                if (piece.trial_id, piece.token) == mine:
                    run.output.told(piece.start + piece.size)
        self._sent_at = time.monotonic()

    def status(self) -> dict[str, Any]:
        """What runs."""
        names = sorted({run.leased.task for run in self.held.values()})
        return {"slots_in_use": len(self.held), "engine": f"script {', '.join(names)}"}
