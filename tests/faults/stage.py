"""Where a fault is played: a database, servers, workers, the ledger, and studies to tear at."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.children import TASK, know_task
from tests.faults.hands import Hand
from tests.faults.invariants import Audit, audit
from tests.faults.ledger import Ledger
from tests.faults.processes import Process, Server, Worker
from tests.faults.proxy import Faults, Proxy
from tests.installation import until
from tuner import service
from tuner.errors import Unavailable
from tuner.service import Context, StudyView
from tuner.spec import StudySpec
from tuner.storage import trials

T = TypeVar("T")
BATCH_SIZES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Outcome:
    """What came of one fault."""

    fault: str
    database: str
    injected: int
    audit: Audit
    seconds: float


class Stage:
    """Everything that a scene needs; ends with the block.

    Args:
        folder: For the processes' files.
        database_url: With all tables and no rows.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, database_url: str, seed: int) -> None:
        self.folder = folder
        self.database_url = database_url
        self.rng = random.Random(seed)
        self.seed = seed
        self.ledger = Ledger()
        self.studies: list[int] = []
        self.processes: list[Process] = []
        self.hands: list[Hand] = []
        self._stack = ExitStack()
        know_task()
        self._context = Context.open(database_url)
        self._stack.callback(self._context.close)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self.hands:
            hand.stop()
        for process in self.processes:
            process.close()
        self._stack.close()

    # Who is there.

    def server(self, **settings: float) -> Server:
        """A server in a process of its own, once it answers."""
        made = Server(self.folder, self.database_url, len(self.processes), **settings)
        self.processes.append(made)
        return made

    def proxy(self, server: Server, **faults: float) -> Proxy:
        """A network between the server and those who are given its address."""
        made = Proxy(server.port, Faults(**faults), self.seed, self.ledger)
        self._stack.callback(made.close)
        return made

    def worker(self, url: str) -> Worker:
        """A worker that trains for real; behind a proxy, which keeps the ledger for it."""
        made = Worker(self.folder, url, len(self.processes))
        self.processes.append(made)
        return made

    def hand(self, url: str, *, slots: int = 3, pace_seconds: float = 0.02) -> Hand:
        """A worker whose training is a formula."""
        name = f"hand-{len(self.hands)}"
        made = Hand(url, self.ledger, slots=slots, pace_seconds=pace_seconds, name=name)
        self.hands.append(made)
        return made

    # Studies.

    def submit(self, trials: int, epochs: int, task: str = TASK, **changes: Any) -> int:
        """A study of a grid, of which every trial is trained to its end; its id."""
        spec = StudySpec.parse(
            {
                "name": f"study-{len(self.studies)}",
                "task": {"name": task},
                "objective": {"metric": "val_loss", "direction": "minimize"},
                "space": {
                    "optimizer": "adamw",
                    "lr": {
                        "type": "categorical",
                        "choices": [1e-3 * (1 + i) for i in range(trials // len(BATCH_SIZES))],
                    },
                    "batch_size": {"type": "categorical", "choices": list(BATCH_SIZES)},
                },
                "sampler": {"name": "grid"},
                "pruner": {"name": "none"},
                "budget": {"trials": trials, "epochs": epochs},
                **changes,
            }
        )
        view = self.read(lambda: service.submit(self._context, spec, key=spec.name))
        self.studies.append(view.id)
        return view.id

    def study(self, study_id: int) -> StudyView:
        """The study now."""
        return self.read(lambda: service.show_study(self._context, study_id))

    def under_way(self, study_id: int) -> bool:
        """Whether somebody holds a trial of it."""
        return self.read(lambda: self._leased(study_id)) > 0

    def _leased(self, study_id: int) -> int:
        with self._context.db.session() as session:
            return len(trials.leased_ids(session, study_id))

    def trials(self, study_id: int) -> list[service.TrialView]:
        """All its trials."""
        return self.read(lambda: service.list_trials(self._context, study_id, limit=1000)).items

    def held_by(self, worker: str) -> int:
        """How many trials the worker of this name holds."""
        everyone = self.read(lambda: service.list_workers(self._context))
        return sum(w.held for w in everyone if w.name == worker)

    def read(self, question: Callable[[], T]) -> T:
        """Asks the database until it answers: it may be what breaks."""
        answers: list[T] = []

        def asked() -> bool:
            try:
                answers.append(question())
            except Unavailable:
                return False
            return True

        until(asked, "the database to answer")
        return answers[0]

    # The play.

    def play(
        self,
        rounds: int,
        inject: Callable[[int], Any],
        *,
        trials: int = 48,
        epochs: int = 8,
        task: str = TASK,
        pause: tuple[float, float] = (0.05, 0.4),
    ) -> None:
        """Injects a fault again and again while studies are trained, and lets all of them end.

        Args:
            rounds: How often.
            inject: Does it; given the round.
            trials: Of each study; another one is submitted when one is over.
            epochs: Of each trial.
            task: What is trained.
            pause: The shortest and the longest wait between two, in seconds.
        """
        study = self.submit(trials, epochs, task)
        for i in range(rounds):
            time.sleep(self.rng.uniform(*pause))
            if self.study(study).state == "completed":
                study = self.submit(trials, epochs, task)
            until(
                lambda s=study: self.under_way(s) or self.study(s).state == "completed",  # type: ignore[misc]  # bound now
                "a trial under way",
            )
            inject(i)
        for one in self.studies:
            until(lambda s=one: self.study(s).state == "completed", f"study {one} to end")  # type: ignore[misc]  # bound now

    def audit(self) -> Audit:
        """What is wrong with the studies."""
        return audit(self._context.db, self.studies, self.ledger)
