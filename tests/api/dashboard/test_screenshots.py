"""Every page fits its window; `make screenshots` keeps the pictures, for people to look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import SCHEMES, SIZES, enter, inked, look, until, window
from tests.api.dashboard.test_advisor import scaling
from tests.api.loops import submitted
from tests.tuner.service import probing
from tests.tuner.service.simulation import Trainer
from tuner import service
from tuner.protocol import Measured, PoolBeat, WorkerHello
from tuner.service import StudyView, pools, webhooks

Spec = dict[str, Any]
FOLDER = os.environ.get("TUNER_SCREENSHOTS")
LOOKS = [
    (size, scheme)
    for size in ("mobile", "desktop")  # a telephone's first: there a page must fit from the start
    for scheme in SCHEMES
    if FOLDER or (size, scheme) in (("mobile", "dark"), ("desktop", "light"))
]

CUT = """
    window.cut = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const width = this.measureText(text).width;
        const left = { right: x - width, center: x - width / 2 }[this.textAlign] ?? x;
        const whole = this.canvas.width / this.getTransform().a;
        if (left < -1 || left + width > whole + 1) window.cut.push(text);
        write.call(this, text, x, y);
    };
"""
"""Keeps what charts write beyond their edges."""


def settled(page: Page) -> None:
    """All charts have come near once and are drawn, so far as they have anything to show."""
    for place in page.evaluate(
        "[...document.querySelectorAll('figure.chart[id]:not(.scaling)')].map((one) => one.id)"
    ):
        page.locator(f"#{place}").scroll_into_view_if_needed()
        until(page, lambda place=place: inked(page, f"#{place}") > 50, f"{place} is drawn")  # type: ignore[misc]  # place is bound
    page.evaluate("window.scrollTo(0, 0)")


def test_pages_fit_and_screenshots(
    browser: Browser, server: Server, spec: Spec, trained: Callable[..., StudyView]
) -> None:
    several = [
        {"metric": "val_loss", "direction": "minimize"},
        {"metric": "train_loss", "direction": "maximize"},
    ]
    first = trained(name="two-goals", objective=several, tags=["baseline"], description="A look.")
    long = "a-study-whose-name-somebody-made-as-long-as-names-can-be-without-a-single-space-in-it"
    second = trained(30, name=long, budget={"trials": 60, "epochs": 10})
    (asked,) = service.ask(server.context, second.id)
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason="oom")
    empty = submitted(server.context, spec, name="queued")
    evidence = scaling(server.context, spec)
    searched = {"name": "auto", "task": "digits", "space": "auto", "priority": 10}
    auto = submitted(server.context, searched)
    beat = PoolBeat(name="ray", driver="a", first=True, running=2, fits=8)
    pools.show_life(server.context, beat)
    worker = Trainer(server.context)
    probing.measure(server.context, worker, probing.given(server.context, worker))
    pages = {
        "studies": "/",
        "study": f"/studies/{second.id}",
        "study-front": f"/studies/{first.id}",
        "study-empty": f"/studies/{empty.id}",
        "trial": f"/trials/{service.best(server.context, second.id)[0].id}",
        "trial-failed": f"/trials/{asked.trial_id}",
        "vary": f"/trials/{asked.trial_id}/vary",
        "compare": f"/studies/{first.id}/compare?trials=1,2,3",
        "study-range": f"/studies/{auto.id}",
        "advisor": f"/advisor?study={evidence.id}&to=512",
        "advisor-rule": "/advisor",
        "workers": "/workers",
        "webhooks": "/webhooks",
        "new": "/new",
        "catalogue": "/catalogue",
        "docs": "/docs",
        "nothing": "/?text=nothing",
    }
    with window(browser) as page:
        page.goto(f"{server.url}/login")
        for size, scheme in LOOKS:
            look(page, size, scheme)
            kept(page, f"login-{size}-{scheme}")
        enter(page, server)
        for name, path in pages.items():
            for number, (size, scheme) in enumerate(LOOKS):
                look(page, size, scheme)
                if FOLDER or not number:  # a picture is of a page that was drawn for its window
                    page.goto(server.url + path)
                expect(page.locator("main h1")).to_be_visible()
                settled(page)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= SIZES[size][0], f"{name} is {wide} wide"
                kept(page, f"{name}-{size}-{scheme}")


def test_pages_fit_a_telephone_whatever_things_are_called(browser: Browser, server: Server) -> None:
    """As long as names may be, and nowhere to break a line."""

    def long(text: str, most: int = 255) -> str:
        return (text * most)[:most]

    metric, parameter = long("metric_", 60), long("parameter_", 60)
    depth = long("depth_", 60)
    study = submitted(
        server.context,
        {
            "name": long("study_"),
            "tags": [long("tag_", 60)],
            "description": long("description_"),
            "objective": {"metric": metric, "direction": "minimize"},
            "space": {
                parameter: {"type": "categorical", "choices": [long("choice_", 60), "b"]},
                depth: {"type": "int", "low": 1, "high": 4},
            },
            "sampler": "random",
            "pruner": "none",
            "budget": {"trials": 9, "epochs": 2},
        },
    )
    first, second, *others = service.ask(server.context, study.id, 8)
    for asked in (first, second, *others):
        measured = Measured(step=1, metrics={metric: 0.5, long("other_", 60): 1.0})
        service.report_trial(server.context, asked.trial_id, asked.token, measured)
    for asked in (first, *others):
        value = float(asked.config[depth]) + asked.number / 10
        service.tell(server.context, asked.trial_id, asked.token, values=[value])
    service.tell(
        server.context, second.trial_id, second.token, state="fail", reason=long("reason_")
    )
    queued = submitted(server.context, {**study.spec, "name": long("queued_")})
    device = {"kind": "cuda", "name": long("device_", 60), "host": long("host_", 60)}
    hello = WorkerHello(name=long("worker_"), tasks=[long("task_", 60)], device=device)
    service.register_worker(server.context, hello)
    beat = PoolBeat(name=long("pool_"), driver="a", first=True, running=2, fits=8)
    pools.show_life(server.context, beat)
    paths = [
        "/",
        f"/studies/{study.id}",
        f"/studies/{queued.id}",
        f"/studies/{study.id}/compare?trials=1,2",
        f"/studies/{queued.id}/delete",
        f"/trials/{first.trial_id}",
        f"/trials/{second.trial_id}",
        f"/trials/{first.trial_id}/vary",
        f"/advisor?study={study.id}",
        "/workers",
        "/workers/1/drain",
        f"/new?clone={study.id}",
        f"/?text={long('text_', 200)}",
        f"/{long('nowhere_')}",
    ]
    wide = {}
    with window(browser, "mobile", forgive="status of 404") as page:
        page.add_init_script(CUT)
        enter(page, server)
        for path in paths:
            page.goto(server.url + path)
            expect(page.locator("main h1, main h2").first).to_be_visible()
            if path == f"/studies/{study.id}":
                settled(page)
                expect(page.locator("#importance .bars")).to_be_visible()
                page.locator("#slices figure").first.scroll_into_view_if_needed()
                until(page, lambda: inked(page, "#slices figure") > 50, "slices are drawn")
                assert page.evaluate("window.cut") == []
            wide[path] = page.evaluate("document.documentElement.scrollWidth")
    assert {path: width for path, width in wide.items() if width > SIZES["mobile"][0]} == {}


def test_webhooks_fit_a_telephone_and_quote_their_names(
    browser: Browser, start: Callable[..., Server]
) -> None:
    server = start(webhook_hosts=("127.0.0.1",))
    for name in ("idle_" * 12, "told_" * 12, "two words"):
        webhooks.create_webhook(
            server.context, name, "http://127.0.0.1:9/", tag="tag_" * 12, actor="anna"
        )
    webhooks.try_webhook(server.context, "told_" * 12)
    with window(browser, "mobile") as page:
        enter(page, server, "/webhooks")
        expect(page.get_by_text("tuner webhook test 'two words'")).to_be_visible()
        expect(page.get_by_text("The last 10 messages")).to_be_visible()
        expect(page.get_by_text(f"tuner webhook log {'told_' * 12}")).to_be_visible()
        expect(page.get_by_text("made by anna, just now")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["mobile"][0]
        kept(page, "webhooks-long")


def test_the_navigation_fits_every_window(browser: Browser, server: Server) -> None:
    """It would scroll sideways rather than widen the page, with nothing to show that it does."""
    with window(browser) as page:
        enter(page, server)
        nav = page.get_by_role("navigation", name="Main")
        expect(nav.get_by_role("link")).to_have_count(6)
        for width in (320, 390, 768, 901):
            page.set_viewport_size({"width": width, "height": 800})
            assert nav.evaluate("nav => nav.scrollWidth - nav.clientWidth") <= 0, width
            kept(page, f"navigation-{width}")


def kept(page: Page, name: str) -> None:
    """Writes the picture where somebody asked for pictures."""
    if FOLDER:
        page.screenshot(path=Path(FOLDER) / f"{name}.png", full_page=True)


def test_a_printed_study_is_light_and_bare(
    browser: Browser, server: Server, trained: Callable[..., StudyView]
) -> None:
    study = trained()
    with window(browser, scheme="dark") as page:
        enter(page, server, f"/studies/{study.id}")
        settled(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark, light) == ("rgb(15, 18, 22)", "rgb(255, 255, 255)")
        for hidden in ("header.top", ".page-head .buttons", ".filters"):
            expect(page.locator(hidden).first).to_be_hidden()
        expect(page.locator("#trials tbody tr").first).to_be_visible()
        # The pictures are drawn again, in the colours of paper.
        ink = page.evaluate(
            """() => {
                const canvas = document.querySelector("#history canvas");
                const data = canvas.getContext("2d")
                    .getImageData(0, 0, canvas.width, canvas.height).data;
                const greens = [];
                for (let i = 0; i < data.length; i += 4) {
                    if (data[i + 3] === 255) greens.push(data.slice(i, i + 3).join());
                }
                return greens.includes("0,158,115");
            }"""
        )
        assert ink
        if FOLDER:
            page.pdf(path=Path(FOLDER) / "study.pdf", format="A4")
