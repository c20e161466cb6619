"""The studies at hand in this process, each behind a lock: search and rows, copies of the truth.

The database is the truth. A live study has been told everything up to ``revision``; before it is
used it is told what changed since, so that several servers on one database agree. Whenever a
transaction fails, what took part in it is dropped, and read anew when next needed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from tuner.errors import InvalidInput, SearchFailed, Uninstalled, UnknownName
from tuner.search import Record, Search
from tuner.spec import Checked, StudySpec, resolve
from tuner.storage import measurements, studies, trials
from tuner.storage.studies import StudyRow
from tuner.storage.trials import TrialRow

MOST_REMEMBERED = 200_000
"""Trials whose study is kept in memory."""
GUARDED_TURNS = 100
"""Turns that lock a study from their start once another process has changed it."""


MOST_REFUSED = 10
"""A row that was locked so often in a row, or for as long as is waited for one, is stuck."""


@contextmanager
def searching(study_id: int) -> Iterator[None]:
    """Around whatever runs a sampler or a pruner of the study: both may be somebody else's code.

    Raises:
        SearchFailed: For what one of them raised.
        Uninstalled: There is none of that name, as there was when the study was accepted.
    """
    try:
        yield
    except (SearchFailed, MemoryError):
        raise
    except UnknownName as error:
        raise Uninstalled(study_id, error) from error
    except Exception as error:
        raise SearchFailed(study_id, error) from error


class Plans:
    """The study files of the studies looked at last, read and resolved once each."""

    def __init__(self, size: int = 1000) -> None:
        self._lock = threading.Lock()
        self._size = size
        self._known: dict[int, tuple[dict[str, Any], dict[str, Any] | None, Checked]] = {}

    def of(self, study: StudyRow) -> Checked:
        """The study as submitted, with the range of lr that its range test ended with.

        Raises:
            InvalidInput: It names what is not installed here, such as another package's task.
        """
        with self._lock:
            known = self._known.get(study.id)
        if known is not None and known[0] == study.spec and known[1] == study.lr_range:
            return known[2]
        checked = resolve(StudySpec.parse(study.spec))
        if study.lr_range:
            checked = checked.ranged(study.lr_range["low"], study.lr_range["high"])
        with self._lock:
            if len(self._known) >= self._size:
                self._known.pop(next(iter(self._known)))
            self._known[study.id] = (study.spec, study.lr_range, checked)
        return checked


@dataclass
class Live:
    """One study, as far as this process knows it.

    Attributes:
        plans: What studies were submitted as.
        lock: Held by whoever uses or changes the rest.
        study: Its row; it holds as long as its revision is the database's.
        search: None until it is needed, and after a transaction with it has failed.
        searched: What the search was built for; a space that was changed since needs another one.
        rows: The trials that may still change, by id.
        revision: Search and rows were told everything up to here.
        idle_at: The revision at which it had nothing to suggest; -1: it has not been asked.
        settled_at: The revision at which upkeep last looked whether the study is over.
        guarded: Turns still to be locked from their start, as another process changes the study.
        refused: How often in a row somebody else had its row locked.
    """

    plans: Plans
    lock: threading.RLock = field(default_factory=threading.RLock)
    study: StudyRow | None = None
    search: Search | None = None
    searched: Checked | None = None
    rows: dict[int, TrialRow] = field(default_factory=dict)
    revision: int = -1
    idle_at: int = -1
    settled_at: int = -1
    guarded: int = 0
    refused: int = 0

    @property
    def stuck(self) -> bool:
        """Whether somebody keeps its row locked.

        Until it is free nobody waits for it again: that would hold up whoever comes behind, with
        other studies too.
        """
        return self.refused >= MOST_REFUSED

    def meet(self, study: StudyRow | None) -> None:
        """Takes the study's row as it is, under its lock."""
        if self.study is not None and study is not self.study:
            self.guard()
        elif self.guarded:
            self.guarded -= 1
        self.study = study

    def guard(self) -> None:
        """Notes that another process has changed the study."""
        self.guarded = GUARDED_TURNS

    def drop(self) -> None:
        """Forgets what the database knows; the next use reads it."""
        self.study = self.search = self.searched = None
        self.rows = {}
        self.revision = self.idle_at = self.settled_at = -1

    def plan(self, study: StudyRow) -> Checked:
        """The study as submitted.

        Raises:
            Uninstalled: It names what is not here, such as another package's sampler.
        """
        try:
            return self.plans.of(study)
        except InvalidInput as error:
            raise Uninstalled(study.id, error) from error

    def holds(self, study: StudyRow) -> bool:
        """Whether search and rows are those of this revision of the study."""
        return self.search is not None and self.revision == study.revision

    def synced(self, session: Session, study: StudyRow) -> Search:
        """The search, told everything that the database holds, and so are ``rows``.

        Raises:
            InvalidInput: Optuna made the study, and searches by itself.
            Uninstalled: It names what is not here.
            SearchFailed: It cannot be built, or not be told.
        """
        if not study.spec:
            raise InvalidInput("study", "was made through Optuna, which searches by itself")
        checked = self.plan(study)
        if self.search is None or self.searched != checked:
            known = warm_start(session, checked, study.created_at)
            with searching(study.id):
                self.search = checked.search(known)
            self.searched = checked
            self.revision = -1
        if self.revision < study.revision:
            changed = trials.changed(session, study.id, self.revision)
            curves = measurements.curves(session, study.id, self.revision) if changed else {}
            with searching(study.id):
                self.search.sync(record(row, curves.get(row.id, {})) for row in changed)
            for row in changed:
                self.rows.pop(row.id, None)
                if not row.finished:
                    self.rows[row.id] = row
            self.revision = study.revision
        return self.search


class Searches:
    """The live studies by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, Live] = {}
        self.plans = Plans()
        self._study_of: dict[int, int] = {}

    def of(self, study_id: int) -> Live:
        """The study's entry; take its ``lock`` before using the rest."""
        with self._lock:
            return self._live.setdefault(study_id, Live(self.plans))

    def forget(self, study_id: int) -> None:
        """The study is over: frees what was kept for it. The caller holds its lock."""
        with self._lock:
            live = self._live.pop(study_id, None)
        if live is not None:
            live.drop()

    def remember(self, study_of: Mapping[int, int]) -> None:
        """Notes which study trials belong to; that never changes."""
        with self._lock:
            if len(self._study_of) > MOST_REMEMBERED:
                self._study_of.clear()
            self._study_of.update(study_of)

    def recall(self, trial_ids: Collection[int]) -> dict[int, int]:
        """The study of those trials of which it was noted."""
        with self._lock:
            return {i: self._study_of[i] for i in trial_ids if i in self._study_of}

    @contextmanager
    def hold(self, study_ids: Collection[int]) -> Iterator[dict[int, Live]]:
        """Takes the locks of several studies, always in the order of their ids."""
        with ExitStack() as stack:
            held: dict[int, Live] = {}
            for study_id in sorted(set(study_ids)):
                held[study_id] = self.of(study_id)
                stack.enter_context(held[study_id].lock)
            yield held

    def entries(self) -> list[tuple[int, Live]]:
        """All entries, for upkeep."""
        with self._lock:
            return sorted(self._live.items())


def record(row: TrialRow, curve: dict[int, float]) -> Record:
    """A stored trial as the search knows it."""
    values = None
    if row.values is not None and row.state == "complete":
        values = tuple(measurements.number(v) or 0.0 for v in row.values)
    return Record(
        number=row.number,
        params=row.params,
        state=row.state,  # type: ignore[arg-type]  # the database checks that it is one of them
        values=values,
        curve=curve,
        paused=row.paused,
        busy=row.busy,
        note=row.note,
        reason=row.reason,
        constraint=row.constraint,
        until=row.until or None,
        step=row.step,
    )


def warm_start(session: Session, checked: Checked, created_at: datetime) -> list[Record]:
    """Finished trials of the studies named to start from, where they are points of this space.

    Those that finished by ``created_at``, when this study was submitted: so a server that starts
    later, or beside the first one, reads the same.

    Steps of another length, or of a training of another length, are not this study's: then only
    what trials came to in the end counts. A violation of another constraint says nothing.
    """
    out: list[Record] = []
    mine = checked.spec.to_dict()
    for study_id in checked.spec.warm_start:
        study = studies.find(session, study_id)
        if study is None:
            continue
        states, curves = ["complete", "fail"], dict[int, dict[int, float]]()
        if _steps(study.spec) == _steps(mine):
            states.append("pruned")
            curves = measurements.curves(session, study_id)
        bound = study.spec.get("constraint") == mine.get("constraint")
        for row in trials.of_study(session, study_id, states=states):
            early = row.finished_at is not None and row.finished_at <= created_at
            if early and checked.space.contains(row.params):
                known = record(row, curves.get(row.id, {}))
                out.append(known if bound else replace(known, constraint=None))
    return out


def _steps(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the steps of a study's trials are, as its study file says it."""
    space, budget = spec.get("space", {}), spec.get("budget", {})
    return spec.get("eval_every"), budget.get("epochs"), space.get("epochs")
