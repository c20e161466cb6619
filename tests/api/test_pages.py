from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from api.dashboard.formats import ago, duration, num, percent, rate, size
from tests.api.conftest import Server
from tests.api.loops import submitted, train
from tuner import service
from tuner.protocol import WorkerHello
from tuner.service import StudyView

Spec = dict[str, Any]
EVIL = """<script>alert(1)</script>'"><img src=x onerror=alert(2)>"""
PAGES = ("/", "/studies/1", "/trials/1", "/workers", "/new?clone=1", "/docs")


class Reader(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.styled: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.handlers += [name for name in found if name.startswith("on")]
        self.styled += [tag] if "style" in found or tag == "style" else []
        self.images += tag == "img"
        if tag == "script":
            self.scripts.append(found)
        self.links += [str(found[name]) for name in ("src", "href") if found.get(name)]


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


@pytest.fixture
def evil_study(server: Server, spec: Spec) -> StudyView:
    """A study whose every text is an attack, with trials that ran."""
    study = submitted(
        server.context,
        spec,
        name=EVIL,
        tags=[EVIL],
        description=EVIL,
        space={
            **spec["space"],
            "schedule": {"type": "categorical", "choices": ["cosine", "linear"]},
        },
    )
    train(server.context, study.id, 3)
    (asked,) = service.ask(server.context, study.id, 1)
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason=EVIL)
    hello = WorkerHello(name=EVIL, tasks=[EVIL], device={"kind": EVIL, "name": EVIL})
    service.register_worker(server.context, hello)
    return study


@pytest.fixture
def pages(client: httpx.Client, evil_study: StudyView) -> list[str]:
    paths = [*PAGES, "/trials/4", "/studies/1/compare?trials=1,2,4"]
    answers = [client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return [answer.text for answer in answers]


def test_whatever_users_write_is_text(pages: list[str]) -> None:
    for html in pages:
        reader = read(html)
        assert reader.handlers == []
        assert reader.images == 0
        for script in reader.scripts:
            assert script.get("type") == "application/json" or str(script["src"]).startswith("/")
    assert sum("&lt;script&gt;" in html for html in pages) >= 5


def test_pages_run_nothing_inline_and_load_nothing_from_afar(pages: list[str]) -> None:
    for html in pages:
        reader = read(html)
        assert reader.styled == []
        assert all(link.startswith(("/", "#")) for link in reader.links)
        for script in reader.scripts:
            assert "src" in script or script.get("type") == "application/json"


def test_every_link_of_a_page_leads_somewhere(client: httpx.Client, evil_study: StudyView) -> None:
    for path in PAGES:
        for link in set(read(client.get(path).text).links):
            if not link.startswith("#"):
                assert client.get(link).status_code == 200, link


def test_scripts_and_styles_are_kept_for_a_year_under_their_digest(client: httpx.Client) -> None:
    html = client.get("/").text
    asset = re.search(r"/assets/[0-9a-f]{16}/css/tuner\.css", html)
    assert asset
    answer = client.get(asset[0])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    for module in ("chart", "form", "page", "parallel", "pieces", "study", "trial"):
        found = client.get(asset[0].replace("css/tuner.css", f"js/{module}.js"))
        assert found.headers["content-type"].startswith("text/javascript")
    outside = asset[0].replace("css/tuner.css", "..%2f..%2fviews.py")
    assert client.get(outside).status_code == 404


def test_a_piece_is_the_same_as_in_its_page(client: httpx.Client, evil_study: StudyView) -> None:
    client.post("/api/v1/studies/1/cancel")  # a study that runs changes between two requests

    def timeless(html: str) -> str:
        return re.sub(r"<time[^>]*>[^<]*</time>", "", html)

    whole = timeless(client.get("/studies/1").text)
    for name in ("head", "table"):
        piece = timeless(client.get("/studies/1", params={"fragment": name}).text)
        assert "<html" not in piece
        assert piece.strip() in whole


def test_the_table_sorts_filters_and_pages(server: Server, spec: Spec) -> None:
    submitted(server.context, spec, budget={"trials": 60, "epochs": 3})
    train(server.context, 1, 55)

    def numbers(client: httpx.Client, query: str) -> list[int]:
        html = client.get(f"/studies/1?fragment=table{query}").text
        return [int(n) for n in re.findall(r'href="/trials/\d+">(\d+)</a>', html)]

    with server.client() as client:
        assert numbers(client, "&sort=number&order=asc") == list(range(50))
        best = service.best(server.context, 1, k=3)
        ranked = numbers(client, "&sort=value&order=asc")
        assert ranked[:3] == [trial.number for trial in best]
        html = client.get("/studies/1?sort=number&order=asc").text
        following = re.search(r'href="([^"]*cursor=[^"]*)"', html)
        assert following
        page = client.get(following[1].replace("&amp;", "&")).text
        assert [int(n) for n in re.findall(r'href="/trials/\d+">(\d+)</a>', page)][-5:] == list(
            range(50, 55)
        )
        assert numbers(client, "&filter=batch_size:16")
        assert len(numbers(client, "&filter=batch_size:16")) < 50
        assert numbers(client, "&state=fail") == []


def test_comparing_marks_what_differs(client: httpx.Client, evil_study: StudyView) -> None:
    html = client.get("/studies/1/compare?trials=1,2").text
    rows = dict(re.findall(r'<th scope="row">(\w+)</th>\s*<td class="number\s*(\w*)', html))
    assert rows["lr"] == "differs"
    assert rows["optimizer"] == ""
    assert client.get("/studies/1/compare?trials=1,x").status_code == 422
    assert client.get("/studies/1/compare?trials=1,99").status_code == 404


def test_empty_pages_say_what_to_do(client: httpx.Client) -> None:
    assert "tuner submit" in client.get("/").text
    assert "tuner worker" in client.get("/workers").text
    assert "Nothing matches" in client.get("/?text=none").text


def test_buttons_change_the_study_and_come_back(
    client: httpx.Client, evil_study: StudyView
) -> None:
    ours = str(client.base_url).rstrip("/")
    headers = {"origin": ours, "referer": f"{ours}/studies/1?sort=value"}
    answer = client.post("/studies/1/pause", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/1?sort=value")
    assert "Resume" in client.get("/studies/1").text
    elsewhere = {"origin": ours, "referer": "http://evil.example//evil"}
    assert client.post("/studies/1/resume", headers=elsewhere).headers["location"] == "/studies/1"
    assert client.post("/studies/1/cancel", headers=headers).status_code == 303
    gone = client.post("/studies/1/delete", headers=headers)
    assert gone.headers["location"] == "/"
    assert client.get("/studies/1").status_code == 404


def test_a_variation_starts_from_the_trial_and_is_enqueued(
    client: httpx.Client, spec: Spec, server: Server
) -> None:
    submitted(server.context, spec)
    train(server.context, 1, 1)
    before = service.show_trial(server.context, 1)
    html = client.get("/trials/1/vary").text
    assert f'name="lr" value="{before.params["lr"]!r}"' in html
    headers = {"origin": str(client.base_url).rstrip("/")}
    form = {"lr": "0.01", "batch_size": "64"}
    answer = client.post("/trials/1/vary", data=form, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/trials/2")
    assert service.show_trial(server.context, 2).params == {"lr": 0.01, "batch_size": 64}
    wrong = client.post("/trials/1/vary", data={**form, "lr": "7"}, headers=headers)
    assert wrong.status_code == 422
    assert "lr" in wrong.text
    assert 'value="7"' in wrong.text


def test_who_may_only_look_sees_no_buttons(server: Server, evil_study: StudyView) -> None:
    with server.client(server.token("read")) as reader:
        assert '<form method="post"' not in reader.get("/studies/1").text
        assert reader.get("/new").status_code == 403


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.00123456, "0.001235"),
        (1e-5, "1e−5"),
        (-12.5, "−12.5"),
        (99999.4, "99999"),
        (123456.0, "1.23e5"),
        (float("nan"), "NaN"),
        (float("-inf"), "−∞"),
        (7, "7"),
        (True, "true"),
        ("adamw", "adamw"),
    ],
)
def test_numbers_as_a_person_writes_them(value: object, text: str) -> None:
    assert num(value) == text


def test_times_shares_and_sizes() -> None:
    assert [duration(s) for s in (1.25, 59.0, 61.0, 7260.0, 200_000.0, None)] == [
        "1.2 s",
        "59 s",
        "1 min 1 s",
        "2 h 1 min",
        "2 d 7 h",
        "–",
    ]
    assert [percent(s) for s in (0.0, 0.5, 0.9999, 1.0)] == ["0 %", "50 %", "99 %", "100 %"]
    assert [rate(v) for v in (0.5, 1234.0, 2.5e6, None)] == ["0.5", "1.23 k", "2.5 M", "–"]
    assert [size(v) for v in (512.0, 2048.0, 3 * 2.0**30)] == ["512 B", "2 KiB", "3 GiB"]

    now = datetime(2026, 1, 1, tzinfo=UTC)
    gaps = (1, 30, 90, 7200, 200_000)
    assert [ago(now - timedelta(seconds=s), now) for s in gaps] == [
        "just now",
        "30 s ago",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]
