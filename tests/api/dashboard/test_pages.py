from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from api.dashboard import assets
from api.dashboard.formats import ago, duration, num, percent, rate, size, telling
from api.security import COOKIE
from tests.api.conftest import Server
from tests.api.loops import submitted, train
from tuner import service
from tuner.protocol import Heartbeat, Measured, WorkerHello
from tuner.service import StudyView

Spec = dict[str, Any]
EVIL = """<script>alert(1)</script>'"><img src=x onerror=alert(2)>"""
OWN = {
    "name": "mine",
    "objective": {"metric": "loss", "direction": "minimize"},
    "space": {"depth": {"type": "int", "low": 1, "high": 4}},
    "sampler": "random",
    "budget": {"trials": 3, "epochs": 2},
}
PAGES = ("/", "/studies/1", "/trials/1", "/workers", "/new?clone=1", "/catalogue", "/docs")


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


def test_what_happens_while_a_trials_page_is_made_is_told_again(
    client: httpx.Client, server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    known = service.newest_event(server.context)
    show = service.show_trial

    def late(*args: Any) -> Any:
        shown = show(*args)
        service.tell(server.context, asked.trial_id, asked.token, values=[0.5])
        return shown

    monkeypatch.setattr(service, "show_trial", late)
    assert f'data-event="{known}"' in client.get(f"/trials/{asked.trial_id}").text


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
    asset = re.search(r"/assets/[0-9a-f]{16}/css/design\.css", html)
    assert asset
    answer = client.get(asset[0])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    plain = client.get(asset[0], headers={"accept-encoding": "identity"})
    assert plain.text == answer.text
    for module in (path for path in assets.files() if path.endswith(".js")):
        found = client.get(asset[0].replace("css/design.css", module))
        assert found.headers["content-type"].startswith("text/javascript")
    for wrong in ("..%2f..%2fviews.py", "css/none.css"):
        assert client.get(asset[0].replace("css/design.css", wrong)).status_code == 404
    other = re.sub("[0-9a-f]{16}", "0" * 16, asset[0])
    assert client.get(other).status_code == 404


def test_a_page_names_every_module_it_will_need(
    client: httpx.Client, evil_study: StudyView
) -> None:
    for path in PAGES:
        named = {link.partition("/js/")[2] for link in read(client.get(path).text).links}
        for module in named - {""}:
            needed = {name.removeprefix("js/") for name in assets.imported([f"js/{module}"])}
            assert needed <= named, (path, module)


def test_a_piece_is_the_same_as_in_its_page(client: httpx.Client, evil_study: StudyView) -> None:
    client.post("/api/v1/studies/1/cancel")  # a study that runs changes between two requests

    def timeless(html: str) -> str:
        return re.sub(r"<time[^>]*>[^<]*</time>", "", html)

    whole = timeless(client.get("/studies/1").text)
    pieces = timeless(client.get("/studies/1", params={"fragment": "head,table"}).text)
    assert "<html" not in pieces
    found = re.findall(r'<div data-live="(\w+)">(.*?)</div>\n?(?=<div data-live|\Z)', pieces, re.S)
    assert [name for name, _ in found] == ["head", "table"]
    for _, piece in found:
        assert piece.strip() in whole
    assert client.get("/studies/1", params={"fragment": "head,none"}).status_code == 422


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


def test_the_catalogue_draws_every_schedule(client: httpx.Client) -> None:
    html = client.get("/catalogue").text
    entries = client.get("/api/v1/schedules").json()
    drawn = dict(
        re.findall(r'id="schedule-(\w+)">.*?(?:<polyline points="([^"]*)"|</article>)', html, re.S)
    )
    assert set(drawn) == {entry["name"] for entry in entries}
    for entry in entries:
        points = [tuple(map(float, pair.split(","))) for pair in drawn[entry["name"]].split()]
        assert len(points) == len(entry["points"])
        assert all(0 <= x <= 100 and 0 <= y <= 40 for x, y in points)
    cosine = next(entry for entry in entries if entry["name"] == "cosine")
    assert cosine["points"][0] == [0.0, 1.0]
    assert cosine["points"][30][1] == pytest.approx(0.5, abs=0.02)
    for kind in ("optimizers", "samplers", "pruners", "tasks"):
        for entry in client.get(f"/api/v1/{kind}").json():
            assert f"<code>{entry['name']}</code>" in html


def test_columns_are_chosen_by_the_address(server: Server, spec: Spec) -> None:
    submitted(server.context, spec)
    train(server.context, 1, 2)

    def heads(client: httpx.Client, query: str) -> list[str]:
        html = client.get(f"/studies/1?fragment=table{query}").text
        cells = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', html, re.S)
        return [re.sub(r"<[^>]*>|\s+", " ", cell).strip() for cell in cells]

    with server.client() as client:
        usual = ["Compare", "Trial", "State", "val_loss", "Step", "lr", "batch_size"]
        assert heads(client, "") == [*usual, "Device time", "Why it ended"]
        chosen = "&columns=params.lr,metrics.train_loss,worker,created,nonsense"
        assert heads(client, chosen) == [
            "Compare",
            "Trial",
            "lr",
            "last train_loss",
            "Worker",
            "Created",
        ]
        assert heads(client, "&columns=") == ["Compare", "Trial"]
        html = client.get(f"/studies/1?fragment=table{chosen}").text
        # Sorting and paging keep the choice.
        assert "columns=params.lr%2Cmetrics.train_loss" in html.replace("&amp;", "&")


def test_filters_add_up_and_can_be_taken_back(server: Server, spec: Spec) -> None:
    submitted(server.context, spec, budget={"trials": 30, "epochs": 3})
    train(server.context, 1, 30)
    with server.client() as client:
        query = {"where": "lr", "low": "1e-4", "filter": "batch_size:16|32", "fragment": "table"}
        html = client.get("/studies/1", params=query).text
        assert "lr ≥ 1e−4" in html
        assert "batch_size: 16, 32" in html
        ids = [int(i) for i in re.findall(r'data-key="trial-(\d+)"', html)]
        shown = [service.show_trial(server.context, i).params for i in ids]
        assert 0 < len(shown) < 30
        assert all(p["lr"] >= 1e-4 and p["batch_size"] in (16, 32) for p in shown)
        fewer = re.findall(r'<a href="([^"]*)"[^>]*aria-label="Remove the filter lr', html)
        more = client.get(fewer[0].replace("&amp;", "&").partition("#")[0]).text
        assert len(re.findall(r'data-key="trial-(\d+)"', more)) > len(ids)
        assert "lr ≥" not in more
        exact = client.get("/studies/1?where=batch_size&exactly=64&fragment=table").text
        assert "batch_size: 64" in exact
        assert client.get("/studies/1?state=lost").status_code == 422
        nothing = client.get("/studies/1?where=lr&low=0.09&high=0.0900001&fragment=table").text
        assert "No trial matches" in nothing


def test_the_list_draws_how_the_best_fell(server: Server, spec: Spec) -> None:
    submitted(server.context, spec, budget={"trials": 30, "epochs": 3}, tags=["a b"])
    submitted(server.context, spec, name="empty")
    train(server.context, 1, 30)
    with server.client() as client:
        html = client.get("/").text
        (line,) = re.findall(r'<polyline points="([^"]*)"', html)
        points = [tuple(map(float, pair.split(","))) for pair in line.split()]
        assert points[-1][0] == 100
        assert all(0 <= y <= 24 for _, y in points)
        assert [y for _, y in points] == sorted(y for _, y in points)  # it falls: y grows downward
        assert "empty" not in client.get("/?tag=a+b").text


def test_a_trial_shows_who_had_it_and_why_it_ended(server: Server, spec: Spec) -> None:
    submitted(server.context, spec)
    for state, reason in (("fail", "oom"), ("pruned", "budget: trials"), ("fail", "my words")):
        (asked,) = service.ask(server.context, 1)
        service.tell(server.context, asked.trial_id, asked.token, state=state, reason=reason)
    with server.client() as client:
        pages = [client.get(f"/trials/{i}").text for i in (1, 2, 3)]
    assert "Out of memory" in pages[0]
    assert "budget of trials was used up" in pages[1]
    assert "my words" in pages[2]
    for html in pages:
        assert "own loop" in html
        assert 'class="chip leased"' in html


def test_workers_say_what_their_devices_do(server: Server) -> None:
    hello = WorkerHello(
        name="gpu-0",
        tasks=["digits"],
        slots=8,
        device={"kind": "cuda", "name": "H100", "host": "node17", "memory": 80 * 2**30},
    )
    me = service.register_worker(server.context, hello)
    status = {"memory_total": 80 * 2**30, "memory_free": 50 * 2**30, "samples_per_second": 5.0}
    service.heartbeat(server.context, me.worker_id, Heartbeat(status=status))
    with server.client() as client:
        html = " ".join(client.get("/workers").text.split())
        assert "30 GiB of 80 GiB" in html
        assert "cuda H100" in html
        assert "0 of 8" in html
        service.leave(server.context, me.worker_id)
        assert "No worker is present" in client.get("/workers").text


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


def test_a_study_without_a_best_trial_says_why(server: Server, client: httpx.Client) -> None:
    def head(study: StudyView) -> str:
        return client.get(f"/studies/{study.id}").text

    asking = submitted(server.context, OWN)
    assert "No trial is complete yet." in head(asking)
    service.cancel_study(server.context, asking.id)
    assert "The study was cancelled without a complete trial." in head(asking)
    assert "The study ended before one began." in head(asking)
    failing = submitted(server.context, {**OWN, "name": "failing", "pruner": "none"})
    pruned = submitted(server.context, {**OWN, "name": "pruned", "pruner": "none"})
    for study, state in ((failing, "fail"), (pruned, "pruned")):
        while asked := service.ask(server.context, study.id):
            (one,) = asked
            measured = Measured(step=1, metrics={"loss": 0.5})
            service.report_trial(server.context, one.trial_id, one.token, measured)
            service.tell(server.context, one.trial_id, one.token, state=state, reason="mine")
    assert "The study failed without a complete trial." in head(failing)
    assert "The study ended without a complete trial." in head(pruned)
    bound = {"metric": "size", "max": 1.0}
    large = submitted(
        server.context, {**OWN, "name": "large", "pruner": "none", "constraint": bound}
    )
    for one in service.ask(server.context, large.id, 3):
        measured = Measured(step=2, metrics={"loss": 0.5, "size": 2.0})
        service.report_trial(server.context, one.trial_id, one.token, measured)
    assert "No complete trial keeps the constraint." in head(large)


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
    broken = {"origin": ours, "referer": "http://["}
    assert client.post("/studies/1/pause", headers=broken).headers["location"] == "/studies/1"
    nobody = {**headers, "authorization": "", "accept": "text/html"}
    logged_out = client.post("/studies/1/pause", headers=nobody)
    assert logged_out.status_code == 303
    assert logged_out.headers["location"] == "/login?next=%2Fstudies%2F1%3Fsort%3Dvalue"
    assert client.post("/studies/1/cancel", headers=headers).status_code == 303
    gone = client.post("/studies/1/delete", headers=headers)
    assert gone.headers["location"] == "/"
    assert client.get("/studies/1").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies/1/delete", 200),
        ("/studies/1/pause", 405),
        ("/studies/9/delete", 404),
        ("/trials/1/stop", 200),
        ("/workers/1/drain", 200),
        ("/workers/9/drain", 404),
    ],
)
def test_what_asks_changes_nothing(
    client: httpx.Client, server: Server, evil_study: StudyView, path: str, status: int
) -> None:
    before = service.show_study(server.context, evil_study.id)
    answer = client.get(path)
    assert answer.status_code == status
    assert service.show_study(server.context, evil_study.id).counts == before.counts
    assert service.list_workers(server.context)[0].state == "active"
    if status == 200:
        assert EVIL not in answer.text
        with server.client(server.token("read")) as reader:
            assert reader.get(path).status_code == 403


def test_who_waits_is_told_for_whom(client: httpx.Client, server: Server, spec: Spec) -> None:
    """No worker ever trains what a program of the user's own does."""
    submitted(server.context, spec, name="theirs")
    own = submitted(server.context, OWN)
    html = client.get("/studies/1").text
    assert "<code>tuner worker</code>" in html
    html = client.get(f"/studies/{own.id}").text
    assert f"client.ask({own.id})" in html
    assert "<code>tuner worker</code>" not in html


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
    for lr in ("7", "1" + 400 * "0", 200_000 * "["):
        wrong = client.post("/trials/1/vary", data={**form, "lr": lr}, headers=headers)
        assert wrong.status_code == 422
        assert "lr" in wrong.text
        assert f'value="{lr}"' in wrong.text


def test_a_long_front_says_how_long(
    client: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = [
        {"metric": "loss", "direction": "minimize"},
        {"metric": "size", "direction": "minimize"},
    ]
    study = submitted(server.context, {**OWN, "objective": objective})
    for values in ([1.0, 3.0], [2.0, 2.0], [3.0, 1.0]):
        (asked,) = service.ask(server.context, study.id)
        service.tell(server.context, asked.trial_id, asked.token, values=values)
    page = f"/studies/{study.id}"
    assert "<p>3 trials that no other beats" in client.get(page).text
    monkeypatch.setattr("api.dashboard.study.MOST_ON_FRONT", 2)
    assert "<p>The first 2 of 3 trials that no other beats" in client.get(page).text


def test_a_variation_keeps_texts_that_look_like_something_else(
    client: httpx.Client, server: Server
) -> None:
    choices = ["1", "true", "", " a"]
    study = submitted(
        server.context, {**OWN, "space": {"kind": {"type": "categorical", "choices": choices}}}
    )
    (first,) = service.enqueue(server.context, study.id, [{"kind": "1"}])
    headers = {"origin": str(client.base_url).rstrip("/")}
    page = f"/trials/{first.id}/vary"
    for choice in ("true", ""):
        assert client.post(page, data={"kind": choice}, headers=headers).status_code == 303
    trials = service.list_trials(server.context, study.id).items
    assert [trial.params["kind"] for trial in trials] == ["1", "true", ""]


def test_who_may_only_look_sees_no_buttons(server: Server, evil_study: StudyView) -> None:
    with server.client(server.token("read")) as reader:
        assert '<form method="post"' not in reader.get("/studies/1").text
        assert reader.get("/new").status_code == 403
        assert reader.get("/trials/1/vary").status_code == 403


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.00123456, "0.00123"),
        (1e-5, "1e−5"),
        (-12.56, "−12.6"),
        (99999.4, "99999"),
        (999.7, "1000"),
        (-1234.5, "−1234"),
        (0.99999, "0.99999"),
        (0.9997234, "0.99972"),
        (0.98765, "0.988"),
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


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([0.100012, 0.100045, None], ["0.100012", "0.100045", "–"]),
        ([0.1 + 1 / 3, 0.25], ["0.4333", "0.25"]),
        ([1234567.25, 1234569.5, 1234568.0], ["1234567.25", "1234569.5", "1234568"]),
        ([0.100012, 0.100012], ["0.1", "0.1"]),
        ([0.123456, *[0.2 + i / 100 for i in range(9)], -1e12], ["0.1235", "0.2"]),
        ([True, "adamw", 3], ["true", "adamw", "3"]),
    ],
)
def test_as_many_digits_as_tell_values_apart(column: list[object], texts: list[str]) -> None:
    digits = telling(column, 4)
    assert [num(value, digits) for value in column[: len(texts)]] == texts


def test_close_values_look_different_in_tables(server: Server, client: httpx.Client) -> None:
    study = submitted(server.context, OWN, pruner="none")
    for value in (0.100012, 0.100045):
        (asked,) = service.ask(server.context, study.id)
        measured = Measured(step=1, metrics={"loss": value, "other": 7.0 + value})
        service.report_trial(server.context, asked.trial_id, asked.token, measured)
        service.tell(server.context, asked.trial_id, asked.token)
    table = client.get(f"/studies/{study.id}?columns=value.0,metrics.other").text
    head = client.get(f"/studies/{study.id}?fragment=head,table").text
    second = client.get("/trials/2").text
    compared = client.get(f"/studies/{study.id}/compare?trials=1,2").text
    for html in (table, compared):
        for text in ("0.100012", "0.100045", "7.100012", "7.100045"):
            assert f'<td class="number">{text}</td>' in html
    # Alone it has as many digits as beside the others.
    assert '<dd title="0.100012">0.100012</dd>' in table
    assert '<dd title="0.100012">0.100012</dd>' in head
    assert "<dd>0.100045</dd>" in second


def test_the_list_tells_the_best_from_those_before_it(server: Server, client: httpx.Client) -> None:
    study = submitted(server.context, OWN, pruner="none")
    for value in (1234569.5, 1234567.25):
        (asked,) = service.ask(server.context, study.id)
        service.tell(server.context, asked.trial_id, asked.token, values=[value])
    listed = client.get("/").text
    assert '<span class="num nowrap">1234567.25</span>' in listed
    assert 'aria-label="best loss from 1234569.5 to 1234567.25"' in listed


def test_a_metric_has_as_many_digits_wherever_it_stands(
    server: Server, client: httpx.Client
) -> None:
    study = submitted(server.context, OWN, pruner="none")
    (asked,) = service.ask(server.context, study.id)
    measured = Measured(step=1, metrics={"loss": 0.123456})
    service.report_trial(server.context, asked.trial_id, asked.token, measured)
    service.tell(server.context, asked.trial_id, asked.token)
    for path in (
        f"/studies/{study.id}?columns=value.0,metrics.loss",
        f"/studies/{study.id}/compare?trials={asked.trial_id}",
        f"/trials/{asked.trial_id}",
    ):
        assert set(re.findall(r">(0\.12\d*)<", client.get(path).text)) == {"0.1235"}, path


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
    assert [rate(v) for v in (999.7, 999_499.0, 999_999.0)] == ["1 k", "999 k", "1 M"]
    assert [size(v) for v in (512.0, 2048.0, 3 * 2.0**30)] == ["512 B", "2 KiB", "3 GiB"]
    assert [size(v) for v in (1000, 1010 * 2.0**20, 2.0**51)] == ["1000 B", "1010 MiB", "2048 TiB"]

    now = datetime(2026, 1, 1, tzinfo=UTC)
    gaps = (1, 30, 90, 7200, 200_000)
    assert [ago(now - timedelta(seconds=s), now) for s in gaps] == [
        "just now",
        "30 s ago",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]


@pytest.mark.parametrize(
    ("scale", "why"),
    [
        ({"noise_scale": 100.0, "noise_scale_low": 60.0}, ""),
        ({"noise_scale": None, "noise_scale_low": 50.0}, "noise drowns the gradient"),
        ({"noise_scale": None, "noise_scale_low": None}, "a model without BatchNorm"),
        ({}, ""),
    ],
)
def test_a_noise_scale_without_a_value_says_why(
    server: Server, spec: Spec, client: httpx.Client, scale: dict[str, float | None], why: str
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    measured = Measured(step=1, metrics={"val_loss": 1.0, **scale})
    service.report_trial(server.context, asked.trial_id, asked.token, measured)
    page = client.get(f"/trials/{asked.trial_id}").text
    assert "Last measured" in page
    assert why in page
    assert ("The noise scale" in page) is bool(why)


def test_an_error_has_the_menu_and_says_who_meets_it(
    server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(server.context, spec)

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(service, "sketches", broken)
    token = server.token("read")
    headers = {"accept": "text/html", "cookie": f"{COOKIE}={token}"}
    with server.client("") as visitor:
        for path, status in (("/studies/7", 404), ("/no/such", 404), ("/new", 403), ("/", 500)):
            answer = visitor.get(path, headers=headers)
            assert answer.status_code == status
            assert '<a href="/advisor"' in answer.text, path
            assert '<span class="muted small who">read</span>' in answer.text, path
            assert answer.text.count("Log out") == 1
            assert 'href="/webhooks"' not in answer.text  # for an admin only
        stranger = visitor.get("/no/such", headers={"accept": "text/html"})
        assert '<a href="/advisor"' in stranger.text
        assert "Log out" not in stranger.text
        assert '<a href="/advisor"' not in visitor.get("/login").text
