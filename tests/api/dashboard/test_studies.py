"""The list of studies in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from api.dashboard.studies import spark
from tests.api.conftest import Server
from tests.api.dashboard.browsers import enter, window
from tests.api.loops import submitted, train
from tuner import service
from tuner.protocol import PoolBeat
from tuner.service import Sketch, StudyView, pools

Spec = dict[str, Any]


def test_a_course_without_a_height_is_drawn_flat() -> None:
    drawn = spark(Sketch(best=[(0, 0.5), (1, 0.5)], trials=2, devices=[]), "val_loss", 4)
    assert drawn is not None
    assert drawn.points.endswith("100,22")


def test_studies_are_found_and_acted_on(
    browser: Browser, server: Server, spec: Spec, trained: Callable[..., StudyView]
) -> None:
    trained(name="alpha", tags=["baseline"])
    beta = submitted(server.context, spec, name="beta")
    with window(browser) as page:
        enter(page, server)
        rows = page.locator("tbody tr")
        names = page.locator("td.name > a:first-child")
        expect(names).to_have_text(["beta", "alpha"])
        alpha = rows.filter(has_text="alpha")
        expect(alpha.locator("polyline")).to_have_count(1)
        expect(alpha).to_contain_text("cuda H100")
        expect(alpha).to_contain_text("ada")

        page.get_by_label("Order").select_option("By name")
        page.get_by_role("button", name="Show").click()
        expect(names).to_have_text(["alpha", "beta"])
        page.get_by_role("link", name="baseline").click()
        expect(names).to_have_text(["alpha"])
        page.get_by_role("link", name="Remove the tag baseline").click()
        page.get_by_label("Search").fill("BET")
        page.get_by_label("State").select_option("queued")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Show").click()
        expect(names).to_have_text(["beta"])
        page.get_by_label("Search").fill("nothing of the kind")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
        page.get_by_role("link", name="Show all studies").click()

        page.get_by_label("Actions on beta").click()
        page.get_by_role("button", name="Pause").click()
        expect(rows.filter(has_text="beta").locator(".chip.paused")).to_be_visible()
        page.get_by_label("Actions on beta").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_contain_text("beta")
        page.get_by_role("button", name="Do it").click()
        expect(rows.filter(has_text="beta").locator(".chip.cancelled")).to_be_visible()
        page.get_by_label("Actions on alpha").click()
        page.get_by_role("link", name="Clone").click()
        expect(page.get_by_label("Name", exact=True)).to_have_value("alpha (copy)")
    assert service.show_study(server.context, beta.id).state == "cancelled"


def test_a_number_and_its_unit_stay_on_one_line(
    browser: Browser, server: Server, spec: Spec
) -> None:
    several = [
        {"metric": "val_loss", "direction": "minimize"},
        {"metric": "train_loss", "direction": "minimize"},
    ]
    submitted(server.context, spec, name="a name that takes all the room it gets " * 5)
    submitted(server.context, spec, name="several", objective=several)
    with window(browser) as page:
        enter(page, server)
        page.set_viewport_size({"width": 950, "height": 800})
        told = page.get_by_text("2 objectives")
        expect(told).to_be_visible()
        assert told.evaluate("(one) => one.getClientRects().length === 1 && one.offsetHeight < 30")


def test_the_list_refreshes_itself(browser: Browser, server: Server, spec: Spec) -> None:
    with window(browser) as page:
        enter(page, server)
        expect(page.get_by_role("heading", name="No studies yet")).to_be_visible()
        page.evaluate("window.mark = 1")
        submitted(server.context, spec, name="came later")
        expect(page.get_by_role("link", name="came later")).to_be_visible()
        page.get_by_label("Actions on came later").click()
        # An open menu stays open while the list changes below it.
        submitted(server.context, spec, name="came last")
        expect(page.get_by_role("link", name="came last")).to_be_visible()
        expect(page.locator("details.menu[open]")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator("details.menu[open]")).to_have_count(0)
        assert page.evaluate("window.mark") == 1


def test_a_list_whose_courses_take_long_is_filled_up_at_once(
    browser: Browser, server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        train(server.context, submitted(server.context, spec, name=name).id)
    one_a_look = partial(service.sketches, seconds=-1.0)
    monkeypatch.setattr(service, "sketches", one_a_look)

    def once(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, body=answer.text().replace('data-every="3"', 'data-every="9999"')
        )

    with window(browser) as page:
        page.route(f"{server.url}/", once)
        enter(page, server)
        expect(page.locator("tbody polyline")).to_have_count(3)
        expect(page.locator("[data-more]")).to_have_count(0)


def test_a_pool_of_workers_is_scaled(browser: Browser, server: Server) -> None:
    beat = PoolBeat(name="<b>ray</b>", driver="a", first=True, running=2, fits=8)
    pools.show_life(server.context, beat)
    with window(browser, forgive="status of 422") as page:
        enter(page, server)
        page.get_by_role("link", name="Workers").click()
        row = page.locator("tbody tr").filter(has_text="<b>ray</b>")
        expect(row.locator(".chip.active")).to_be_visible()
        wanted = row.get_by_label("Workers wanted")
        expect(wanted).to_have_value("")
        wanted.fill("3")
        row.get_by_role("button", name="Scale").click()
        expect(wanted).to_have_value("3")
        assert pools.list_pools(server.context)[0].wanted == 3
        wanted.fill("many")
        row.get_by_role("button", name="Scale").click()
        expect(page.locator("main")).to_contain_text("'many' is not a whole number")
        page.goto(f"{server.url}/workers")
        wanted.fill("")
        row.get_by_role("button", name="Scale").click()
        expect(wanted).to_have_value("")
    assert pools.list_pools(server.context)[0].wanted is None


def test_a_path_prefix_is_kept_everywhere(
    browser: Browser, start: Callable[..., Server], trained_at: Callable[..., StudyView]
) -> None:
    server = start(root_path="/tools/tuner")
    study = trained_at(server)
    prefix = f"{server.url}/tools/tuner"
    with window(browser) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{prefix}/studies/{study.id}")
        expect(page).to_have_url(re.compile("/tools/tuner/login"))
        page.get_by_label("Token").fill(str(server.admin))
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#history figcaption")).to_contain_text("finished trials")
        page.locator("#importance-card").scroll_into_view_if_needed()
        expect(page.locator("#importance .bars")).to_be_visible()
        page.locator("#trials tbody a").first.click()
        expect(page.locator("#charts canvas").first).to_be_visible()
        page.get_by_role("link", name="Enqueue a variation").click()
        page.get_by_role("link", name="New study").click()
        expect(page.locator("#cost")).to_contain_text("64 trials")
        for name in ("Workers", "Catalogue", "API", "Studies"):
            page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()
            expect(page.locator("main h1")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{prefix}/login")
        assert [url for url in asked if not url.startswith(prefix)] == []
