"""The outbox: one message for each end and listener, however sending and servers fail."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.receiver import Receiver, receiving
from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import Unavailable
from tuner.service import Context, ServiceSettings, StudyPatch, outbox, webhooks
from tuner.service.outbox import CLAIM, PAUSES, Courier, deliver
from tuner.service.webhooks import CreatedWebhook, DeliveryView
from tuner.spec import BudgetSpec
from tuner.webhooks import Outcome, Outgoing, Sender

LOOPBACK = ("127.0.0.1",)


@pytest.fixture
def ctx(database_url: str, clock: Clock) -> Iterator[Context]:
    opened = opened_at(database_url, clock)
    yield opened
    opened.close()


def opened_at(url: str, clock: Clock) -> Context:
    return Context.open(url, now=clock, settings=ServiceSettings(webhook_hosts=LOOPBACK))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def hook(ctx: Context, receiver: Receiver, name: str = "chat", **options: Any) -> CreatedWebhook:
    return webhooks.create_webhook(ctx, name, receiver.url, actor="root", **options)


def log(ctx: Context, name: str = "chat") -> list[DeliveryView]:
    return webhooks.deliveries(ctx, name).items


def refusing(message: Outgoing) -> Outcome:
    return Outcome(503, "answered 503")


def test_an_end_is_told_with_what_came_out(ctx: Context, receiver: Receiver) -> None:
    hook(ctx, receiver)
    study = submit(ctx, tags=["a"], budget={"trials": 3, "epochs": 2})
    Trainer(ctx).work()
    assert log(ctx)[0].state == "waiting"
    assert deliver(ctx, Sender(LOOPBACK)) == 1
    assert deliver(ctx, Sender(LOOPBACK)) == 0
    (delivery,) = log(ctx)
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 200, 1)
    (got,) = receiver.received
    assert got.headers["webhook-id"] == delivery.message
    told = delivery.body["data"]
    best = service.best(ctx, study.id)[0]
    assert delivery.body["type"] == "study.completed"
    assert (told["study"], told["name"], told["owner"]) == (study.id, "study", "anna")
    assert told["counts"] == {"complete": 3, "pruned": 0, "fail": 0}
    assert told["best"]["number"] == best.number
    assert told["best"]["values"] == best.values
    assert told["best"]["params"] == best.params
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    example = json.loads(shown)
    assert example.keys() == delivery.body.keys()
    assert example["data"].keys() == told.keys()
    assert example["data"]["best"].keys() == told["best"].keys()


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (service.cancel_study, "study.cancelled"),
        (service.stop_study, "study.completed"),
    ],
)
def test_ends_by_hand_are_told_too(
    ctx: Context, receiver: Receiver, end: Callable[[Context, int], object], kind: str
) -> None:
    hook(ctx, receiver)
    end(ctx, submit(ctx).id)
    assert [d.kind for d in log(ctx)] == [kind]


def test_a_study_of_failures_is_told_as_one(ctx: Context, receiver: Receiver) -> None:
    hook(ctx, receiver, kinds=["study.failed"])
    hook(ctx, receiver, "other", kinds=["study.completed"])
    submit(ctx, budget={"trials": 2, "epochs": 2})
    Trainer(ctx, loss=lambda config, step: float("nan")).work()
    assert [(d.kind, d.body["data"]["best"]) for d in log(ctx)] == [("study.failed", None)]
    assert log(ctx, "other") == []


def test_a_tag_chooses_the_studies(ctx: Context, receiver: Receiver) -> None:
    hook(ctx, receiver, "all")
    hook(ctx, receiver, "mine", tag="mine")
    for name, tags in (("a", []), ("b", ["mine"]), ("c", ["mine too"])):
        service.cancel_study(ctx, submit(ctx, name, tags=tags).id)
    assert [d.body["data"]["name"] for d in log(ctx, "all")] == ["c", "b", "a"]
    assert [d.body["data"]["name"] for d in log(ctx, "mine")] == ["b"]


def test_a_deleted_study_has_no_end_and_a_second_end_is_told_again(
    ctx: Context, receiver: Receiver
) -> None:
    hook(ctx, receiver)
    service.delete_study(ctx, submit(ctx, "gone").id)
    assert log(ctx) == []
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    trainer = Trainer(ctx)
    trainer.work()
    patch = StudyPatch(budget=BudgetSpec(trials=4, epochs=2))
    service.update_study(ctx, study.id, patch)
    trainer.work()
    assert [d.body["data"]["counts"]["complete"] for d in log(ctx)] == [4, 2]
    assert len({d.message for d in log(ctx)}) == 2


def test_message_and_end_are_one_transaction(
    ctx: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the message was written takes both back."""
    hook(ctx, receiver)
    study = submit(ctx)

    def broken(*_: object, **__: object) -> None:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr("tuner.storage.writing.write", broken)
        with pytest.raises(Unavailable):
            service.cancel_study(ctx, study.id)
    assert log(ctx) == []
    assert service.show_study(ctx, study.id).state == "queued"


def test_it_is_tried_again_later_and_later_and_then_given_up(
    ctx: Context, receiver: Receiver, clock: Clock
) -> None:
    hook(ctx, receiver)
    study = submit(ctx)
    service.cancel_study(ctx, study.id)
    for i, pause in enumerate(PAUSES, 1):
        assert deliver(ctx, refusing) == 1
        (delivery,) = log(ctx)
        assert (delivery.state, delivery.attempts, delivery.status) == ("waiting", i, 503)
        assert delivery.due_at == clock() + pause
        clock.advance(pause.total_seconds() - 1)
        assert deliver(ctx, refusing) == 0
        clock.advance(1)
    assert deliver(ctx, refusing) == 1
    (delivery,) = log(ctx)
    assert (delivery.state, delivery.error) == ("failed", "answered 503")
    clock.advance(10 * 86_400)
    assert deliver(ctx, refusing) == 0
    failed = [e for e in service.events(ctx, study_id=study.id) if e.kind == "webhook.failed"]
    assert [(e.data["name"], e.actor) for e in failed] == [("chat", None)]


def test_every_attempt_carries_the_same_id(ctx: Context, receiver: Receiver, clock: Clock) -> None:
    receiver.answers = [500, 404]
    hook(ctx, receiver)
    service.cancel_study(ctx, submit(ctx).id)
    for _ in range(3):
        deliver(ctx, Sender(LOOPBACK))
        clock.advance(3600)
    assert log(ctx)[0].state == "delivered"
    assert len(receiver.received) == 3
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    assert len({got.body for got in receiver.received}) == 1


def test_what_a_dead_server_had_in_hand_is_sent_by_the_next(
    ctx: Context, receiver: Receiver, clock: Clock
) -> None:
    hook(ctx, receiver)
    service.cancel_study(ctx, submit(ctx).id)

    def dying(message: Outgoing) -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(ctx, dying)
    assert deliver(ctx, Sender(LOOPBACK)) == 0, "it may still be under way"
    clock.advance(CLAIM.total_seconds())
    assert deliver(ctx, Sender(LOOPBACK)) == 1
    assert log(ctx)[0].state == "delivered"


def test_a_late_no_does_not_undo_anothers_yes(
    ctx: Context, receiver: Receiver, clock: Clock
) -> None:
    hook(ctx, receiver)
    service.cancel_study(ctx, submit(ctx).id)

    def slow(message: Outgoing) -> Outcome:
        clock.advance(CLAIM.total_seconds())
        deliver(ctx, Sender(LOOPBACK))
        return refusing(message)

    deliver(ctx, slow)
    (delivery,) = log(ctx)
    assert (delivery.state, delivery.status, delivery.error) == ("delivered", 200, None)


def test_a_receiver_that_hangs_holds_up_no_other(
    ctx: Context, receiver: Receiver, clock: Clock
) -> None:
    """However many messages wait for it; what has arrived is noted at once."""
    with receiving() as hanging:
        hook(ctx, hanging, "hanging")
        for number in range(outbox.MOST + 1):
            service.cancel_study(ctx, submit(ctx, f"early {number}").id)
        hook(ctx, receiver)
        released = threading.Event()
        real = Sender(LOOPBACK)

        def send(message: Outgoing) -> Outcome:
            if message.url == hanging.url:
                assert released.wait(60)
                return Outcome(error="no answer")
            return real(message)

        courier = Courier(ctx, send)
        try:
            stuck = courier.deliver()
            assert len(stuck) == outbox.EACH
            for number in range(3):
                service.cancel_study(ctx, submit(ctx, f"late {number}").id)
                (begun,) = courier.deliver()
                begun.result(60)
                assert [d.state for d in log(ctx)] == ["delivered"] * (number + 1)
            assert courier.deliver() == []
            assert not any(attempt.done() for attempt in stuck)
            released.set()
            for attempt in stuck:
                attempt.result(60)
            tried = [d for d in webhooks.deliveries(ctx, "hanging", limit=100).items if d.attempts]
            assert [d.error for d in tried] == ["no answer"] * outbox.EACH
            assert len(courier.deliver()) == outbox.EACH
        finally:
            released.set()
            courier.close()


def test_several_servers_send_each_message_once(
    database_url: str, clock: Clock, receiver: Receiver
) -> None:
    """Each with connections of its own, as processes have, all at the same time."""
    servers = [opened_at(database_url, clock) for _ in range(4)]
    hook(servers[0], receiver)
    studies = 3 * outbox.MOST
    for number in range(studies):
        service.cancel_study(servers[0], submit(servers[0], f"study {number}").id)
    together = threading.Barrier(len(servers))
    failures: list[BaseException] = []

    def work(server: Context) -> None:
        try:
            together.wait(30)
            send = Sender(LOOPBACK)
            for _ in range(2 * studies):
                if not deliver(server, send):
                    return
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    counted = Counter(got.headers["webhook-id"] for got in receiver.received)
    assert len(counted) == studies
    assert set(counted.values()) == {1}
    assert not deliver(servers[0], refusing)
    for server in servers:
        server.close()


def test_a_webhook_deleted_meanwhile_is_not_told(
    ctx: Context, receiver: Receiver, clock: Clock
) -> None:
    hook(ctx, receiver)
    service.cancel_study(ctx, submit(ctx).id)
    webhooks.delete_webhook(ctx, "chat")
    assert deliver(ctx, Sender(LOOPBACK)) == 0
    assert receiver.received == []
    clock.advance(timedelta(days=2).total_seconds())
    assert deliver(ctx, Sender(LOOPBACK)) == 0
