"""What happened is logged once it is true, with the ids of what it happened to."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import Conflict
from tuner.service import Context

FIELDS = ("event", "study", "trial", "worker", "actor")


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of every line of the trail."""
    return [
        {"level": record.levelname} | {f: getattr(record, f) for f in FIELDS if hasattr(record, f)}
        for record in caplog.records
        if record.name == "tuner.storage.events"
    ]


def test_changes_are_logged_with_ids_and_actor(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    study = submit(ctx)
    trainer = Trainer(ctx, slots=1)
    trainer.round()
    service.cancel_study(ctx, study.id, actor="bob")
    assert logged(caplog) == [
        {"level": "INFO", "event": "study.created", "study": study.id, "actor": "anna"},
        {"level": "INFO", "event": "worker.registered", "worker": trainer.id},
        {"level": "INFO", "event": "study.state", "study": study.id},
        {"level": "INFO", "event": "study.state", "study": study.id, "actor": "bob"},
    ]
    assert "state=cancelled" in caplog.text
    assert "name=study" in caplog.text


def test_a_lost_lease_and_a_failed_study_are_warnings(
    ctx: Context, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 1})
    trainer = Trainer(ctx, loss=lambda config, step: float("nan"))
    (leased,) = trainer.lease()
    caplog.set_level(logging.WARNING)
    clock.run(31, ctx)
    (line,) = logged(caplog)
    assert (line["event"], line["study"], line["trial"]) == (
        "trial.state",
        study.id,
        leased.trial_id,
    )
    caplog.clear()
    Trainer(ctx, loss=trainer.loss).work()
    assert [(line["event"], line["study"]) for line in logged(caplog)] == [
        ("study.state", study.id)
    ]


def test_what_was_taken_back_is_not_logged(ctx: Context, caplog: pytest.LogCaptureFixture) -> None:
    submit(ctx)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Conflict):
        submit(ctx)
    assert logged(caplog) == []
