"""The crews of one worker on its one device: populations, or a script, never both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner import tasks
from tuner.protocol import Leased, Printed, SlotReport
from tuner.tasks import TaskForm
from tuner.worker.crew import Crew
from tuner.worker.held import Held
from tuner.worker.scripts.crew import ScriptCrew


class Team:
    """Hands each trial to the crew that can train it.

    Args:
        populations: Trains the tasks that are installed here.
        scripts: Runs the scripts of the worker's own config file, if it has any.
    """

    def __init__(self, populations: Crew, scripts: ScriptCrew) -> None:
        self.populations = populations
        self.scripts = scripts

    # What it can do.

    @property
    def tasks(self) -> list[str]:
        """The names of all that it can train."""
        return sorted({*tasks.registry.names(), *self.scripts.scripts})

    @property
    def forms(self) -> list[TaskForm]:
        """Of what a server may not have: scripts, and tasks of other packages."""
        foreign = [
            TaskForm.of(task)
            for _, task in tasks.registry.items()
            if not task.__module__.startswith(f"{tasks.__name__}.")
        ]
        return foreign + [script.form(name) for name, script in self.scripts.scripts.items()]

    @property
    def fitting(self) -> list[str] | None:
        """The tasks of which it could take a trial beside what it holds; None: any."""
        if self.populations.held and self.scripts.scripts:
            return tasks.registry.names()
        return None

    def room(self, wanted: int) -> int:
        """How many trials more it takes, of ``wanted`` that a population may have.

        One at first where it has scripts: only then it is known what fits beside it.
        """
        if self.scripts.busy:
            return 0
        if self.scripts.scripts and not self.populations.held:
            return 1
        return min(wanted, self.populations.room) - len(self.populations.held)

    # Trials in and out.

    @property
    def held(self) -> dict[int, Held]:
        """The trials it holds."""
        return {**self.populations.held, **self.scripts.held}

    @property
    def busy(self) -> bool:
        """Whether the device is in use."""
        return bool(self.populations.held) or self.scripts.busy

    def take(self, leased: Leased) -> SlotReport | None:
        """Begins a trial; where it cannot be, a report of failure or no room."""
        script = leased.task in self.scripts.scripts
        full = self.scripts.busy or (script and self.populations.held)
        if full or self.populations.lost:
            return Held(leased=leased, until=leased.until, step=0).report(returned=True)
        if not script:
            return self.populations.take(leased)
        self.populations.rest()
        return self.scripts.take(leased)

    def heard(self, trial_id: int) -> None:
        """The service has taken in a trial's news."""
        self._crew(trial_id).heard(trial_id)

    def go_on(self, trial_id: int, until: int) -> None:
        """The service wants more of a trial."""
        self._crew(trial_id).go_on(trial_id, until)

    def drop(self, trial_id: int, *, forget: bool = False) -> None:
        """Lets a trial go; ``forget`` also removes its checkpoint."""
        self._crew(trial_id).drop(trial_id, forget=forget)

    def _crew(self, trial_id: int) -> Crew | ScriptCrew:
        return self.scripts if trial_id in self.scripts.held else self.populations

    def save(self) -> None:
        """Makes all that is held fit to be gone on with elsewhere."""
        for held in self.populations.held.values():
            if not held.outcome:
                self.populations.save(held)
        self.scripts.stop()

    # Training, and what there is to say.

    def round(self, interrupted: Callable[[], bool]) -> None:
        """Trains for a while, or until the service must hear of something."""
        if self.scripts.busy:
            self.scripts.round(interrupted)
        else:
            self.populations.round(interrupted)

    @property
    def talkative(self) -> bool:
        """Whether a report is worth its while, though nobody waits for an answer."""
        return bool(self.populations.held) or self.scripts.talkative

    def reports(self) -> list[SlotReport]:
        """News of every trial that has some, or must be decided about."""
        return [*self.populations.reports(), *self.scripts.reports()]

    def printed(self) -> list[Printed]:
        """What scripts have printed since the last time."""
        return self.scripts.printed()

    def told(self, printed: Sequence[Printed]) -> None:
        """The report with these has arrived."""
        self.scripts.told(printed)

    def status(self) -> dict[str, Any]:
        """Slots in use, speed, and what runs and why."""
        return self.scripts.status() if self.scripts.held else self.populations.status()
