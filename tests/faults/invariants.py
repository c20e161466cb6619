"""What must hold after any fault, read from the database: nothing lost, nothing twice.

The only such checks of the fault tests; ``test_invariants`` shows that each of them can fail.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.faults.ledger import Ledger, Promise
from tuner.spec import StudySpec
from tuner.storage.engine import Database
from tuner.storage.measurements import numbers
from tuner.storage.models import FINISHED_TRIAL_STATES, Event, Measurement, Study, Trial


@dataclass
class Audit:
    """What is wrong, in words; empty lists mean that nothing is.

    Attributes:
        trials: How many trials were looked at.
        promises: How many acknowledged points were looked for.
        lost: Trials without the one end that each must have.
        duplicated: Trials too many, held twice, or ended twice.
        missing: Acknowledged points that are not stored as they were acknowledged.
    """

    trials: int = 0
    promises: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.duplicated or self.missing)

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.trials + other.trials,
            self.promises + other.promises,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.missing + other.missing,
        )


def audit(database: Database, studies: Collection[int], ledger: Ledger) -> Audit:
    """Looks at studies that are over, whose every trial was to train to its end.

    Args:
        database: The truth.
        studies: Their ids; each searched a grid, so no two trials may be alike.
        ledger: What workers were told.
    """
    found = Audit()
    promises = ledger.promises  # before the session's view of the database, which must hold them
    with database.session() as session:
        for study_id in studies:
            _count(session, study_id, found)
            _history(session, study_id, found)
        _promises(session, promises, found)
    return found


def _count(session: Session, study_id: int, found: Audit) -> None:
    """Budgets are exact; every trial has ended once, complete, and nobody holds it."""
    study = session.get_one(Study, study_id)
    spec = StudySpec.parse(study.spec)
    assert spec.budget is not None
    wanted, steps = spec.budget.trials, int(spec.budget.epochs or 0)
    if study.state != "completed":
        found.lost.append(f"study {study_id} is {study.state}")
    trials = list(session.scalars(select(Trial).where(Trial.study_id == study_id)))
    found.trials += len(trials)
    assert wanted is not None
    numbers_ = Counter(trial.number for trial in trials)
    found.lost += [f"study {study_id}: no trial {n}" for n in range(wanted) if n not in numbers_]
    found.duplicated += [
        f"study {study_id}: trial {n} beyond the budget" for n in numbers_ if n >= wanted
    ]
    alike = Counter(json.dumps(trial.params, sort_keys=True) for trial in trials)
    found.duplicated += [f"study {study_id}: {p} {n} times" for p, n in alike.items() if n > 1]
    for trial in trials:
        name = f"study {study_id}: trial {trial.number}"
        if trial.state != "complete":
            found.lost.append(f"{name} is {trial.state} ({trial.reason})")
        elif trial.step != steps:
            kind = found.lost if trial.step < steps else found.duplicated
            kind.append(f"{name} ended at step {trial.step} of {steps}")
        if trial.lease_token is not None:
            found.duplicated.append(f"{name} is held although the study is over")
        if trial.finished_at is None:
            found.lost.append(f"{name} has no end")


def _history(session: Session, study_id: int, found: Audit) -> None:
    """By the audit trail no trial was ever given to two holders at once, and each ended once."""
    held: set[int] = set()
    ended: set[int] = set()
    query = select(Event).where(Event.study_id == study_id).order_by(Event.id)
    for event in session.scalars(query):
        if event.kind == "trial.leased":
            for trial_id in event.data["trials"]:
                if trial_id in held:
                    found.duplicated.append(f"trial {trial_id} was held by two at event {event.id}")
                if trial_id in ended:
                    found.duplicated.append(f"trial {trial_id} was held after its end")
                held.add(trial_id)
        elif event.kind == "trial.state" and event.trial_id is not None:
            held.discard(event.trial_id)
            if event.data["state"] in FINISHED_TRIAL_STATES:
                if event.trial_id in ended:
                    found.duplicated.append(f"trial {event.trial_id} ended twice")
                ended.add(event.trial_id)


def _promises(session: Session, promises: Collection[Promise], found: Audit) -> None:
    """Every acknowledged point is stored, with the numbers that were acknowledged."""
    stored = {
        (row.trial_id, row.attempt, row.step): numbers(row.metrics)
        for row in session.scalars(select(Measurement))
    }
    found.promises += len(promises)
    for promise in promises:
        key = (promise.trial_id, promise.attempt, promise.step)
        if not _same(stored.get(key), dict(promise.metrics)):
            found.missing.append(
                f"trial {key[0]}, attempt {key[1]}, step {key[2]}: acknowledged "
                f"{dict(promise.metrics)}, stored {stored.get(key)}"
            )


def _same(stored: Mapping[str, float | None] | None, promised: Mapping[str, float | None]) -> bool:
    """Whether these are the same numbers; a worker says null where it has none."""
    if stored is None or stored.keys() != promised.keys():
        return False
    return all(
        stored[name] == value or (_none(stored[name]) and _none(value))
        for name, value in promised.items()
    )


def _none(value: float | None) -> bool:
    return value is None or math.isnan(value)
