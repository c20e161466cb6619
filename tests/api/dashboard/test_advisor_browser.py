"""The advisor's page in a real browser: the answer follows the form, the picture the answer."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import enter, window
from tests.api.dashboard.test_advisor import scaling
from tests.api.loops import submitted
from tests.tuner.service import probing
from tests.tuner.service.simulation import Trainer
from tuner import service

Spec = dict[str, Any]


def place(page: Page, selector: str) -> tuple[float, float]:
    """Where the middle of a part of the picture is."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_answer_and_the_point_follow_the_form(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        enter(page, server)
        page.get_by_role("link", name="Advisor").click()
        expect(page.locator("#new-lr")).to_contain_text("0.00141421")
        expect(page.locator("#answer")).to_contain_text("rises from 0.0005 to 0.00141421")
        expect(page.locator("#answer")).to_contain_text("Measured rises flatten")
        page.evaluate("window.mark = 1")
        right, top = place(page, "circle.new")

        page.get_by_label("New batch size").first.fill("256")
        expect(page.locator("#new-lr")).to_contain_text("7.07107e−4")
        expect(page.get_by_role("slider")).to_have_attribute("aria-valuenow", "256")
        expect(page).to_have_url(re.compile(r"to=256"))
        assert place(page, "circle.new") != (right, top)
        page.get_by_label("Optimizer").select_option("momentum")
        expect(page.locator("#new-lr")).to_contain_text("0.001")
        expect(page.locator("#answer .facts")).to_contain_text("linear")
        page.get_by_label("steps", exact=True).first.check()
        expect(page.locator("#answer .facts")).to_contain_text("sqrt")

        rate = page.get_by_label("Learning rate", exact=True)
        rate.fill("fast")
        expect(page.get_by_role("alert")).to_contain_text("'fast' is not a number")
        expect(rate).to_have_attribute("aria-invalid", "true")
        expect(page.locator(".field > .error")).to_have_count(1)
        expect(page.locator("circle.new")).to_be_visible()  # the last picture stays
        rate.fill("0.01")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(rate).not_to_have_attribute("aria-invalid", "true")
        expect(page.locator(".field > .error")).to_have_count(0)
        assert page.evaluate("window.mark") == 1  # the page was never loaded again


def test_the_dashed_line_is_moved_by_keys_and_by_hand(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        enter(page, server, "/advisor")
        line = page.get_by_role("slider")
        line.focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_label("New batch size").first).to_have_value("2048")
        expect(line).to_have_attribute("aria-valuenow", "2048")
        expect(line).to_be_focused()
        page.keyboard.press("ArrowLeft")
        expect(line).to_have_attribute("aria-valuenow", "1024")

        x, y = place(page, ".handle rect")
        old, _ = place(page, "circle.old")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move((x + old) / 2, y, steps=5)
        page.mouse.up()
        expect(line).not_to_have_attribute("aria-valuenow", "1024")
        moved = int(line.get_attribute("aria-valuenow") or 0)
        assert 128 < moved < 1024
        expect(page.locator("#answer h2").first).to_contain_text(f"128 to {moved}")


def test_a_studys_trials_are_drawn_fitted_and_planned_on(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = scaling(server.context, spec)
    assert study.counts.fail > 3
    with window(browser) as page:
        enter(page, server, f"/studies/{study.id}")
        panel = page.locator("#change-answer")
        expect(panel).to_contain_text("by your trials")
        to = page.get_by_label("of the best trial to")
        to.fill("512")
        expect(panel).to_contain_text("512")
        to.fill("none")
        expect(panel).to_contain_text("'none' is not a number")
        to.fill("256")
        page.get_by_role("link", name="All of it, with a picture").click()

        expect(page.locator("#answer .facts")).to_contain_text("your trials")
        expect(page.locator("circle.dot")).to_have_count(study.counts.complete)
        expect(page.locator("path.cross")).to_have_count(study.counts.fail)
        expect(page.locator("rect.optimum")).to_have_count(4)
        expect(page.locator("path.curve")).to_have_count(1)
        expect(page.locator("path.band")).to_have_count(1)
        page.locator("circle.dot.shade-0").first.hover()
        expect(page.locator("#picture .tip")).to_contain_text(re.compile(r"trial \d+ of study 1"))
        page.get_by_role("checkbox", name="scaling").uncheck()
        expect(page.locator("#answer .facts")).not_to_contain_text("your trials")
        expect(page.locator("circle.dot")).to_have_count(0)
        page.get_by_role("checkbox", name="scaling").check()
        expect(page.locator("circle.dot")).to_have_count(study.counts.complete)

        page.get_by_label("Trials at most").fill("30")
        page.get_by_role("button", name="Show the plan").click()
        expect(page.locator("#plan")).to_contain_text("trials: batch sizes")
        page.get_by_role("button", name="Submit it as a study").click()
        expect(page.get_by_role("heading", name="scaling scaling")).to_be_visible()
    newest = service.list_studies(server.context).items[0]
    assert newest.name == "scaling scaling"
    assert newest.budget["trials"] <= 30


def test_a_range_that_is_being_measured_appears_when_it_is(
    browser: Browser, server: Server
) -> None:
    auto = submitted(server.context, {"name": "auto", "task": "digits", "space": "auto"})
    worker = Trainer(server.context)
    probe = probing.given(server.context, worker)
    with window(browser) as page:
        enter(page, server, f"/studies/{auto.id}")
        card = page.get_by_role("region", name="Range of learning rates")
        expect(card).to_contain_text("a worker measures which learning rates")
        probing.measure(server.context, worker, probe)
        expect(card).to_contain_text("a third of it")
        expect(card.locator("polyline")).to_have_count(1)


def test_without_scripts_the_form_still_answers(browser: Browser, server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    enter(page, server, "/advisor")
    page.get_by_label("New batch size").first.fill("512")
    page.get_by_role("button", name="Advise").click()
    expect(page.locator("#new-lr")).to_contain_text("0.001")
    expect(page.locator("#answer")).to_contain_text("128 to 512")
    context.close()
