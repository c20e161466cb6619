"""Requests said again: at once, later, by two threads, to another server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.tuner.service.simulation import Clock, Trainer, spec, submit
from tuner import service
from tuner.errors import Conflict, InvalidInput
from tuner.protocol import LeaseRequest, WorkerHello
from tuner.service import Context
from tuner.service.receipts import KEPT
from tuner.storage import receipts
from tuner.storage.prepared import Executing

CONFIG = {"lr": 0.002, "batch_size": 32}


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls answer when they are made at the same moment."""
    barrier = threading.Barrier(len(calls))
    answers: list[Any] = [None] * len(calls)

    def make(i: int) -> None:
        barrier.wait()
        try:
            answers[i] = calls[i]()
        except Exception as error:
            answers[i] = error

    threads = [threading.Thread(target=make, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return answers


def test_a_study_submitted_twice_is_one(ctx: Context) -> None:
    first = service.submit(ctx, spec(), actor="anna", key="k")
    assert service.submit(ctx, spec(), actor="anna", key="k") == first
    with pytest.raises(InvalidInput, match="names another request") as caught:
        service.submit(ctx, spec("other"), actor="anna", key="k")
    assert caught.value.field == "Idempotency-Key"
    with pytest.raises(Conflict):  # the names of one sender mean nothing to another
        service.submit(ctx, spec(), actor="ben", key="k")
    with pytest.raises(Conflict):
        service.submit(ctx, spec(), actor="anna")
    assert len(service.list_studies(ctx).items) == 1


def test_a_refused_request_may_be_mended_under_its_name(ctx: Context) -> None:
    submit(ctx, "taken")
    with pytest.raises(Conflict):
        service.submit(ctx, spec("taken"), actor="anna", key="k")
    assert service.submit(ctx, spec("free"), actor="anna", key="k").name == "free"


def test_the_same_request_at_the_same_moment(ctx: Context, database_url: str) -> None:
    """Two servers are told at once; one acts, and both answer the same."""
    other = Context.open(database_url, now=ctx.now)
    servers = [ctx, other] * 3
    studies = together(
        [lambda s=s: service.submit(s, spec(), actor="anna", key="k") for s in servers]
    )
    assert {study.id for study in studies} == {1}
    asked = together([lambda s=s: service.ask(s, 1, 3, actor="anna", key="k") for s in servers])
    assert len({frozenset((t.trial_id, t.token) for t in answer) for answer in asked}) == 1
    assert len(asked[0]) == 3
    trainer = Trainer(ctx)
    request = LeaseRequest(k=2)
    given = together([lambda s=s: service.lease(s, trainer.id, request) for s in servers])
    assert len({frozenset(t.trial_id for t in answer.leased) for answer in given}) == 1
    assert len(given[0].leased) == 2
    assert service.show_study(ctx, 1).counts.running == 5
    other.close()


@pytest.mark.parametrize("held", [True, False])
def test_a_name_of_a_request_for_trials_is_for_no_other(ctx: Context, held: bool) -> None:
    study = submit(ctx)
    (asked,) = service.ask(ctx, study.id, 1, actor="anna", key="k")
    if not held:
        service.tell(ctx, asked.trial_id, asked.token, values=0.5)
    with pytest.raises(InvalidInput, match="names another request") as caught:
        service.ask(ctx, study.id, 3, actor="anna", key="k")
    assert caught.value.field == "Idempotency-Key"
    assert len(service.ask(ctx, study.id, 3, actor="anna", key="other")) == 3
    again = service.ask(ctx, study.id, 1, actor="anna", key="k")
    assert again == ([asked] if held else [])


def test_trials_enqueued_or_retried_twice_are_there_once(ctx: Context) -> None:
    study = submit(ctx)
    first = service.enqueue(ctx, study.id, [CONFIG, CONFIG], key="k")
    assert service.enqueue(ctx, study.id, [CONFIG, CONFIG], key="k") == first
    with pytest.raises(InvalidInput):
        service.enqueue(ctx, study.id, [CONFIG], key="k")
    service.stop_trial(ctx, first[0].id)
    retried = service.retry_trial(ctx, first[0].id, key="k")
    assert service.retry_trial(ctx, first[0].id, key="k") == retried
    assert service.retry_trial(ctx, first[0].id).id != retried.id
    assert service.show_study(ctx, study.id).counts.total == 4


def test_a_worker_that_says_hello_twice_is_one(ctx: Context) -> None:
    hello = WorkerHello(name="w", tasks=["digits"])
    first = service.register_worker(ctx, hello)
    assert service.register_worker(ctx, hello) == first
    other = service.register_worker(ctx, WorkerHello(name="w", tasks=["digits"]))
    assert other.worker_id != first.worker_id
    assert len(service.list_workers(ctx)) == 2


def test_a_request_for_work_said_again_gives_the_same(ctx: Context) -> None:
    submit(ctx, "first", budget={"trials": 3, "epochs": 2}, max_concurrent=2)
    submit(ctx, "second", budget={"trials": 9, "epochs": 2})
    trainer = Trainer(ctx, slots=6)
    request = LeaseRequest(k=4)
    given = service.lease(ctx, trainer.id, request)
    assert {t.study_id for t in given.leased} == {1, 2}
    assert len({t.token for t in given.leased}) == 1
    again = service.lease(ctx, trainer.id, request)
    assert sorted(again.leased, key=lambda t: t.trial_id) == sorted(
        given.leased, key=lambda t: t.trial_id
    )
    trainer.take(again.leased)
    trainer.work()
    # It arrives once more when all of it is over: nobody is given anything.
    assert service.lease(ctx, trainer.id, request).leased == []
    assert [s.state for s in service.list_studies(ctx).items] == ["completed"] * 2


def test_a_request_answered_meanwhile_by_another_server_gives_the_same(
    ctx: Context, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(ctx, budget={"trials": 9, "epochs": 2})
    trainer = Trainer(ctx, slots=4)
    request = LeaseRequest(k=2)
    looked: list[list[int]] = []
    look = receipts.find

    def find(connection: Executing, key: str) -> dict[str, Any] | None:
        made = look(connection, key)
        if not looked:  # the other one is quicker than this one's next step
            looked.append([])
            answer = service.lease(other, trainer.id, request)
            looked[0] = [trial.trial_id for trial in answer.leased]
        return made

    other = Context.open(database_url, now=ctx.now)
    try:
        monkeypatch.setattr(receipts, "find", find)
        given = service.lease(ctx, trainer.id, request)
    finally:
        other.close()
    assert [trial.trial_id for trial in given.leased] == looked[0]
    assert service.show_study(ctx, 1).counts.total == 2
    trainer.take(given.leased)
    trainer.work()
    assert service.show_study(ctx, 1).counts.complete == 9


def test_a_report_said_again_gives_the_same_refills(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 6, "epochs": 1})
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    report = trainer.next_report()
    unheard = service.report(ctx, trainer.id, report)
    assert [v.action for v in unheard.verdicts] == ["finish", "finish"]
    assert len(unheard.leased) == 2
    again = trainer.deliver(report)
    assert [v.action for v in again.verdicts] == ["finish", "finish"]
    assert again.leased == unheard.leased
    trainer.round()
    assert service.report(ctx, trainer.id, report).leased == []
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert (done.counts.complete, done.counts.total) == (6, 6)
    assert {t.attempt for t in service.list_trials(ctx, study.id).items} == {1}


def test_receipts_are_kept_for_a_while(ctx: Context, clock: Clock) -> None:
    study = submit(ctx)
    asked = service.ask(ctx, study.id, 1, key="k")
    clock.advance(KEPT.total_seconds() / 2)
    service.tick(ctx)
    assert service.ask(ctx, study.id, 1, key="k") == asked
    clock.advance((KEPT / 2 + timedelta(minutes=1)).total_seconds())
    service.tick(ctx)
    assert service.ask(ctx, study.id, 1, key="k") != asked
