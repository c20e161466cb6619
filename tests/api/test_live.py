from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.live import Feed
from tests.api.conftest import Server
from tests.api.loops import measure, submitted, train
from tests.installation import PATIENCE_SECONDS
from tuner import service
from tuner.service import EventView, tokens

Spec = dict[str, Any]


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def test_a_listener_hears_every_event_and_the_end(server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    start = service.newest_event(server.context, study_id=study.id)
    path = f"/api/v1/studies/{study.id}/events"
    with server.client(timeout=30.0) as client, client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(line for line in lines if line).startswith(":")  # it is open
        loop = threading.Thread(target=train, args=(server.context, study.id))
        loop.start()
        heard = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
        loop.join()
    stored = service.events(server.context, study_id=study.id, after=start)
    assert [event["id"] for event in heard] == [event.id for event in stored]
    assert heard[-1]["kind"] == "study.state"
    assert heard[-1]["data"]["state"] == "completed"


def test_a_listener_that_comes_back_misses_nothing(server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    stored = [event.id for event in service.events(server.context, study_id=study.id)]
    path = f"/api/v1/studies/{study.id}/events"
    with server.client() as client:
        for seen in (stored[0], stored[4]):
            headers = {"last-event-id": str(seen)}
            with client.stream("GET", path, headers=headers) as answer:
                assert [m["id"] for m in messages(answer)] == [i for i in stored if i > seen]
        with client.stream("GET", path, params={"after": 0}) as answer:
            assert [m["id"] for m in messages(answer)] == stored
        for params in ({}, {"after": stored[-1]}):  # over, and nothing was missed
            assert client.get(path, params=params).status_code == 204
        wrong = client.get(path, headers={"last-event-id": "x"})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "Last-Event-ID")


def revoked(server: Server, name: str) -> None:
    tokens.revoke_token(server.context, name)


def expired(server: Server, name: str) -> None:
    now = server.context.now
    server.context.now = lambda: now() + timedelta(hours=2)


@pytest.mark.parametrize("end", [revoked, expired])
def test_a_stream_ends_with_its_token(
    server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch, end: Callable[[Server, str], None]
) -> None:
    """Also while nothing happens; streams of other tokens go on."""
    monkeypatch.setattr("api.routers.events.RECHECK_SECONDS", 0.05)
    context = server.context
    study = submitted(context, spec)
    path = f"/api/v1/studies/{study.id}/events"
    hour = context.now() + timedelta(hours=1)
    short = tokens.create_token(context, "short", ["read"], expires_at=hour).secret
    with (
        server.client(short) as client,
        server.client() as other,
        client.stream("GET", path) as ending,
        other.stream("GET", path) as going,
    ):
        lines, others = ending.iter_lines(), going.iter_lines()
        assert next(line for line in lines if line).startswith(":")
        assert next(line for line in others if line).startswith(":")
        service.pause_study(context, study.id)
        assert next(line for line in lines if line.startswith("data:"))
        end(server, "short")
        assert not [line for line in lines if line.startswith("data:")]
        service.resume_study(context, study.id)
        heard = (json.loads(line[5:]) for line in others if line.startswith("data:"))
        assert next(event for event in heard if event["data"].get("state") == "queued")


def test_from_now_on_is_from_before_the_stream_is_open(
    server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has heard that it is open misses nothing that it then does itself."""
    study = submitted(server.context, spec)
    opened = threading.Event()
    listen = Feed.listen

    async def late(feed: Feed, *asked: Any) -> AsyncGenerator[list[EventView]]:
        await asyncio.to_thread(opened.wait, PATIENCE_SECONDS)
        async for batch in listen(feed, *asked):
            yield batch

    monkeypatch.setattr(Feed, "listen", late)
    path = f"/api/v1/studies/{study.id}/events"
    with server.client() as client, client.stream("GET", path) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line).startswith(":")
        service.pause_study(server.context, study.id)
        opened.set()
        ticker = threading.Timer(1.0, service.resume_study, (server.context, study.id))
        ticker.start()  # where the pause was missed, this is heard first
        first = json.loads(next(line[5:] for line in lines if line.startswith("data:")))
        ticker.join()
    assert first["data"]["state"] == "paused"


async def gathered(stream: AsyncGenerator[list[EventView]], count: int) -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        heard += [event.id for event in await asyncio.wait_for(anext(stream), 20)]
    return heard


def test_many_listeners_are_one_reader(
    server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = submitted(server.context, spec)
    other = submitted(server.context, spec, name="other")
    first = service.newest_event(server.context)
    reads = 0
    read: Callable[..., list[EventView]] = service.events

    def counted(*args: Any, **kwargs: Any) -> list[EventView]:
        nonlocal reads
        reads += "study_id" not in kwargs
        return read(*args, **kwargs)

    monkeypatch.setattr(service, "events", counted)

    async def scene() -> tuple[list[list[int]], int]:
        feed = Feed(server.context, poll_seconds=0.2)
        streams = [feed.listen(study.id, first, quiet_seconds=0.05) for _ in range(20)]
        waiting = [asyncio.create_task(gathered(stream, 3)) for stream in streams]
        await asyncio.sleep(0.5)
        before = reads

        def change() -> None:
            (asked,) = service.ask(server.context, study.id, 1)
            service.ask(server.context, other.id, 1)
            measure(server.context, asked, 1)

        await asyncio.to_thread(change)
        heard = await asyncio.gather(*waiting)
        rounds = reads - before
        for stream in streams:
            await stream.aclose()
        await feed.close()
        return heard, rounds

    heard, rounds = asyncio.run(scene())
    stored = [event.id for event in read(server.context, study_id=study.id, after=first)]
    assert all(one == stored[: len(one)] for one in heard)
    # Twenty listeners that each read for themselves would have needed twenty reads a round.
    assert 1 <= rounds < 20


def test_a_reader_without_listeners_rests(server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)

    async def scene() -> None:
        feed = Feed(server.context, poll_seconds=0.01)
        stream = feed.listen(study.id, 0)
        await anext(stream)
        await stream.aclose()
        assert feed._reader is not None
        await asyncio.wait_for(feed._reader, PATIENCE_SECONDS)

    asyncio.run(scene())
