"""The dashboard in a real browser, against a real server whose studies really progress."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.browsers import SIZES, chromium, window
from tests.api.conftest import Server
from tests.api.loops import submitted, train
from tuner import service

Spec = dict[str, Any]
EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
FOLDER = os.environ.get("TUNER_SCREENSHOTS")
LOOKS = [
    (size, scheme)
    for size in SIZES
    for scheme in ("light", "dark")
    if FOLDER or (size, scheme) in (("desktop", "light"), ("mobile", "dark"))
]


expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def log_in(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    expect(page).to_have_url(re.compile(r"/login\?next="))
    page.get_by_label("Token").fill(str(server.admin))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Studies", exact=True)).to_be_visible()


def inked(page: Page, figure: str) -> int:
    """How many pixels of a chart's canvas are drawn on."""
    return int(
        page.evaluate(
            """(id) => {
                const canvas = document.querySelector(`#${id} canvas`);
                const data = canvas.getContext("2d")
                    .getImageData(0, 0, canvas.width, canvas.height).data;
                let inked = 0;
                for (let i = 3; i < data.length; i += 4) inked += data[i] > 0;
                return inked;
            }""",
            figure,
        )
    )


def test_a_study_from_the_form_to_its_end_live(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        log_in(page, server)
        page.get_by_role("link", name="New study").first.click()
        expect(page.locator("#cost")).to_contain_text("64 trials")
        page.get_by_label("Name", exact=True).fill("from the form")
        page.get_by_label("Sampler").select_option("random")
        page.get_by_label("Pruner").select_option("none")
        page.get_by_label("Trials", exact=True).fill("5")
        page.get_by_label("Epochs of one training").fill("3")
        expect(page.locator("#cost")).to_contain_text("5 trials, at most 15 epochs in all")
        expect(page.locator("#samples tbody tr")).to_have_count(10)

        low = page.get_by_role("group", name="lr").get_by_label("Low")
        low.fill("0")
        expect(page.locator("#space-error")).to_contain_text("a log range must lie above 0")
        expect(low).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("button", name="Submit the study")).to_be_disabled()
        low.fill("0.00001")
        expect(page.locator("#space-error")).to_be_empty()
        page.get_by_role("button", name="Submit the study").click()

        expect(page.get_by_role("heading", name="from the form")).to_be_visible()
        (study,) = service.list_studies(server.context).items
        assert study.owner == "admin"
        page.evaluate("window.mark = 1")
        loop = threading.Thread(target=train, args=(server.context, study.id))
        loop.start()
        expect(page.locator(".page-head .chip.completed")).to_be_visible()
        loop.join()
        expect(page.locator("tr.best")).to_have_count(1)
        expect(page.locator("#trials tbody tr")).to_have_count(5)
        expect(page.locator("#curves figcaption")).to_contain_text("5 curves")
        expect(page.locator("#history figcaption")).to_contain_text("5 finished trials")
        assert page.evaluate("window.mark") == 1  # live: the page was never loaded again
        assert inked(page, "curves") > 500
        assert inked(page, "history") > 200
        page.get_by_role("button", name="Log out").click()
        page.goto(f"{server.url}/studies/{study.id}")
        expect(page).to_have_url(re.compile("/login"))


def test_sorting_brushing_and_comparing(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    with window(browser) as page:
        log_in(page, server)
        page.goto(f"{server.url}/studies/{study.id}")
        rows = page.locator("#trials tbody tr")
        page.locator("#trials").get_by_role("link", name="val_loss").click()
        expect(page).to_have_url(re.compile("sort=value"))
        expect(rows.first).to_have_class("best")

        # Drag over the best half of the last axis: what stays is what the server filters.
        expect(page.locator("#history figcaption")).to_contain_text("6 finished trials")
        page.locator("#parallel .top-layer").scroll_into_view_if_needed()
        box = page.locator("#parallel .top-layer").bounding_box()
        assert box is not None
        x = box["x"] + box["width"] - 46
        page.mouse.move(x, box["y"] + box["height"] - 16)
        page.mouse.down()
        page.mouse.move(x, box["y"] + box["height"] * 0.5, steps=4)
        page.mouse.up()
        expect(page.locator("#parallel figcaption")).to_contain_text("lie inside")
        expect(page).to_have_url(re.compile("filter=value"))
        expect(rows).not_to_have_count(6)
        shown = rows.count()
        assert 0 < shown < 6
        page.get_by_role("button", name="Clear the selection").click()
        expect(rows).to_have_count(6)

        for box_ in page.locator("input.pick").all()[:2]:
            box_.check()
        page.get_by_role("button", name="Compare 2").click()
        expect(page.get_by_role("heading", name="Compare 2 trials")).to_be_visible()
        expect(page.locator("td.differs").first).to_be_visible()

        page.goto(f"{server.url}/studies/{study.id}")
        with page.expect_download() as download:
            page.get_by_role("link", name="csv").click()
        assert len(Path(download.value.path()).read_text().splitlines()) == 7


def test_actions_ask_before_they_act(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    with window(browser) as page:
        log_in(page, server)
        page.goto(f"{server.url}/studies/{study.id}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Keep as it is").click()
        assert service.show_study(server.context, study.id).state == "queued"
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.cancelled")).to_be_visible()
        assert service.show_study(server.context, study.id).state == "cancelled"


def test_nothing_that_users_write_runs(browser: Browser, server: Server, spec: Spec) -> None:
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
    train(server.context, study.id, 4)
    (asked,) = service.ask(server.context, study.id, 1)
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason=EVIL)
    with window(browser) as page:
        log_in(page, server)
        paths = ["/", f"/studies/{study.id}", f"/trials/{asked.trial_id}", "/new?clone=1"]
        for path in paths:
            page.goto(server.url + path)
            page.wait_for_load_state("load")
            expect(page.locator("body")).to_contain_text("window.hit") if "/new" not in path else (
                expect(page.get_by_label("Description")).to_have_value(EVIL)
            )
            chart = page.locator("#curves .top-layer")
            if chart.count():
                chart.hover(position={"x": 80, "y": 60})
            assert page.evaluate("window.hit") is None


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_pages_fit_and_screenshots(
    browser: Browser, server: Server, spec: Spec, size: str, scheme: str
) -> None:
    first = submitted(server.context, spec, tags=["baseline"], description="A first look.")
    train(server.context, first.id)
    second = submitted(server.context, spec, name="another", budget={"trials": 40, "epochs": 3})
    train(server.context, second.id, 12)
    pages = {
        "studies": "/",
        "study": f"/studies/{second.id}",
        "trial": f"/trials/{service.best(server.context, second.id)[0].id}",
        "compare": f"/studies/{first.id}/compare?trials=1,2,3",
        "workers": "/workers",
        "new": "/new",
        "docs": "/docs",
    }
    with window(browser, size, scheme) as page:
        log_in(page, server)
        for name, path in pages.items():
            page.goto(server.url + path)
            expect(page.locator("main h1")).to_be_visible()
            if name in ("study", "trial", "compare"):
                expect(page.locator("canvas").first).to_be_visible()
            if name == "study":
                expect(page.locator("#curves figcaption")).to_contain_text("12 curves")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= SIZES[size][0], f"{name} is {wide} wide"
            if FOLDER:
                page.wait_for_timeout(1500)  # until pictures are drawn
                page.screenshot(path=f"{FOLDER}/{name}-{size}-{scheme}.png", full_page=True)
