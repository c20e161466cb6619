"""Webhooks through a real server, from a study's end to what a receiver verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.api.conftest import Server
from tests.api.loops import submitted, train
from tests.installation import until
from tests.receiver import Receiver, receiving

LOOPBACK = ("127.0.0.1",)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start(webhook_hosts=LOOPBACK)


def made(client: httpx.Client, url: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/webhooks", json={"name": "chat", "url": url, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def log(client: httpx.Client, webhook: int) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/webhooks/{webhook}/deliveries")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def tried(client: httpx.Client, webhook: int) -> list[dict[str, Any]]:
    """The log once no message in it waits for its first attempt."""

    def all_tried() -> list[dict[str, Any]]:
        found = log(client, webhook)
        return found if all(d["state"] != "waiting" or d["error"] for d in found) else []

    items: list[dict[str, Any]] = until(all_tried, "a message to be sent")
    return items


def test_a_receiver_is_told_of_an_end(
    server: Server, client: httpx.Client, receiver: Receiver, spec: dict[str, Any]
) -> None:
    hook = made(client, receiver.url)
    study = submitted(server.context, spec)
    train(server.context, study.id)
    (delivery,) = tried(client, hook["id"])
    assert (delivery["state"], delivery["status"]) == ("delivered", 200)
    (got,) = receiver.received
    said = Webhook(hook["secret"]).verify(got.body.decode(), dict(got.headers))
    assert said["type"] == "study.completed"
    assert (said["data"]["study"], said["data"]["counts"]["complete"]) == (study.id, 6)


def test_a_test_message_is_logged_with_the_answer(client: httpx.Client, receiver: Receiver) -> None:
    receiver.answers = [302] * 20
    hook = made(client, receiver.url)
    answer = client.post(f"/api/v1/webhooks/{hook['id']}/test")
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    (delivery,) = tried(client, hook["id"])
    assert (delivery["state"], delivery["status"]) == ("waiting", 302)
    assert delivery["attempts"] >= 1
    assert "redirects" in delivery["error"]
    assert client.delete(f"/api/v1/webhooks/{hook['id']}").status_code == 204
    assert client.get(f"/api/v1/webhooks/{hook['id']}").status_code == 404


def test_a_private_address_is_refused_by_name(
    start: Callable[..., Server], receiver: Receiver
) -> None:
    server = start()
    with server.client() as client:
        for url in (receiver.url, receiver.url.replace("http:", "https:"), "https://10.0.0.1/x"):
            answer = client.post("/api/v1/webhooks", json={"name": "chat", "url": url})
            assert (answer.status_code, answer.json()["field"]) == (422, "url")
        assert client.get("/api/v1/webhooks").json() == []


def test_only_an_admin_sees_and_changes_them(server: Server, receiver: Receiver) -> None:
    with server.client() as admin, server.client(server.token("read", "submit", "work")) as other:
        hook = made(admin, receiver.url)
        path = f"/api/v1/webhooks/{hook['id']}"
        body = {"name": "mine", "url": receiver.url}
        for method, where in (
            ("GET", "/api/v1/webhooks"),
            ("POST", "/api/v1/webhooks"),
            ("GET", path),
            ("DELETE", path),
            ("POST", f"{path}/test"),
            ("GET", f"{path}/deliveries"),
        ):
            assert other.request(method, where, json=body).status_code == 403, where
        shown = admin.get(path).text
        assert hook["secret"] not in shown + admin.get("/api/v1/webhooks").text


def test_a_receiver_that_hangs_does_not_hold_up_the_upkeep(
    start: Callable[..., Server], receiver: Receiver
) -> None:
    server = start(webhook_hosts=LOOPBACK, lease_seconds=0.2)
    receiver.silent.set()
    with server.client() as client:
        hook = made(client, receiver.url)
        client.post(f"/api/v1/webhooks/{hook['id']}/test")
        until(lambda: receiver.received, "the test to arrive")
        hello = {"name": "silent", "tasks": ["digits"]}
        client.post("/api/v1/workers", json=hello).raise_for_status()
        until(
            lambda: client.get("/api/v1/workers").json()["items"][0]["state"] == "gone",
            "housekeeping, which waits for a receiver",
        )
        assert log(client, hook["id"])[0]["error"] is None, "the attempt is still under way"
        receiver.ended.set()


def test_a_page_shows_admins_what_became_of_the_last_messages(
    server: Server, client: httpx.Client, receiver: Receiver
) -> None:
    assert "tuner webhook create" in client.get("/webhooks").text
    hook = made(client, receiver.url + "secret-path", tag="nightly")
    assert "Nothing was sent yet" in client.get("/webhooks").text
    receiver.answers = [500] * 20
    client.post(f"/api/v1/webhooks/{hook['id']}/test")
    (delivery,) = tried(client, hook["id"])
    html = client.get("/webhooks").text
    for shown in ("chat", "127.0.0.1", "tag nightly", "webhook.test", delivery["error"]):
        assert shown in html
    assert "secret-path" not in html
    assert '<a href="/webhooks"' in html
    with server.client(server.token("submit")) as user:
        assert '<a href="/webhooks"' not in user.get("/").text
        assert user.get("/webhooks").status_code == 403
