"""What those who run the service ask, while its database is away or of another version."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from api.app import create_app
from tests.api.conftest import Server, Start, listening
from tests.installation import until
from tuner.service import Context, housekeeping
from tuner.service.background import Repeated
from tuner.settings import Settings
from tuner.storage import migrate


@pytest.fixture
def away() -> Iterator[httpx.Client]:
    """An application whose database cannot be reached; nothing listens at port 1."""
    context = Context.open("postgresql://nobody@127.0.0.1:1/nowhere")
    with (
        listening(create_app(context, Settings.read(), auth=False)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client
    context.close()


def test_it_is_alive_but_not_ready_without_its_database(away: httpx.Client) -> None:
    assert away.get("/healthz").status_code == 200
    answer = away.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


def test_a_database_that_is_away_is_one_line_now_and_then(
    away: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        assert away.get("/api/v1/studies").status_code == 503
    (record,) = [r for r in caplog.records if r.name == "api.problems"]
    line = record.getMessage()
    assert line.startswith("GET /api/v1/studies: the database cannot be reached now: ")
    assert "refused" in line, "why"
    assert "\n" not in line
    assert record.exc_info is None


def test_it_is_alive_while_every_thread_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, release = threading.Semaphore(0), threading.Event()

    def check(_database: object) -> None:
        waiting.release()
        release.wait()

    monkeypatch.setattr(migrate, "check", check)
    with server.client(timeout=20.0) as client, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(httpx.get, f"{server.url}/readyz", timeout=60.0) for _ in range(50)]
        for _ in range(40):  # as many as there are threads
            assert waiting.acquire(timeout=30)
        try:
            assert client.get("/healthz").status_code == 200
        finally:
            release.set()
    assert {each.result().status_code for each in asked} == {200}


def test_it_is_not_ready_while_upkeep_hangs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, looked = threading.Event(), threading.Event()

    def tick(_ctx: Context) -> None:
        if not looked.is_set():
            looked.set()
            return
        gate.wait()

    def answer() -> tuple[int, str]:
        got = client.get("/readyz")
        return got.status_code, got.json().get("facts", {}).get("chore", "")

    monkeypatch.setattr(housekeeping, "tick", tick)
    usual = functools.partial(Repeated, limit_seconds=0.5)
    monkeypatch.setattr(housekeeping, "Repeated", lambda *a, **_: usual(*a))
    server = start()
    with server.client() as client:
        try:
            until(lambda: answer() == (503, "housekeeping"), "it to be stuck")
            told = client.get("/metrics").text
            assert client.get("/healthz").status_code == 200
        finally:
            gate.set()
        until(lambda: answer()[0] == 200, "it to go on")
    (last,) = re.findall(
        r'tuner_chore_last_turn_timestamp_seconds\{chore="housekeeping"\} (\S+)', told
    )
    assert 0 < time.time() - float(last) < 300


def test_metrics_say_that_the_database_is_away(away: httpx.Client) -> None:
    told = away.get("/metrics")
    assert told.status_code == 200
    assert "tuner_up 0.0" in told.text
    assert "tuner_studies" not in told.text


def test_the_page_names_every_metric(client: httpx.Client) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    told = client.get("/metrics").text
    found = set(re.findall(r"^# TYPE (tuner_\w+) (?:gauge|histogram)", told, re.MULTILINE))
    assert set(re.findall(r"`(tuner_\w+)", page)) == found - {"tuner_http_request_seconds_created"}


def test_it_is_not_ready_on_tables_of_another_version(server: Server) -> None:
    with server.context.db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with server.client(token="") as client:
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "schema_outdated")


def test_requests_on_tables_of_another_version_are_refused(
    server: Server, spec: dict[str, object], client: httpx.Client
) -> None:
    assert client.get("/api/v1/studies").status_code == 200
    migrate.downgrade(server.context.db, "0001")
    for answer in (client.get("/api/v1/studies"), client.post("/api/v1/studies", json=spec)):
        assert (answer.status_code, answer.json()["code"]) == (503, "schema_outdated")
    assert "tuner_up 0.0" in client.get("/metrics").text
