"""A study's page in a browser: its pictures, its table, and how both stay up to date."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import BOTH, enter, inked, log_in, until, window
from tests.api.dashboard.cables import cable
from tests.api.loops import submitted, train
from tests.api.workers import work
from tuner import service
from tuner.protocol import Measured, WorkerHello
from tuner.service import StudyView, tokens
from tuner.storage import SqlStorage

Spec = dict[str, Any]
Trained = Callable[..., StudyView]

FIGURES = ("#curves", "#rates", "#history", "#parallel", "#slices figure", "#pair", "#timeline")


def opened(page: Page, server: Server, study_id: int) -> None:
    enter(page, server, f"/studies/{study_id}")
    expect(page.locator("#history figcaption")).to_contain_text("finished trial")


def scrolled(page: Page, figure: str) -> Any:
    """The upper canvas of a chart, in view and drawn."""
    page.locator(figure).first.scroll_into_view_if_needed()  # it is drawn once it comes near
    top = page.locator(f"{figure} .top-layer").first
    until(page, lambda: inked(page, figure) > 150, f"{figure} is drawn")
    return top


def test_every_picture_of_a_study(browser: Browser, server: Server, trained: Trained) -> None:
    study = trained()
    with window(browser) as page:
        opened(page, server, study.id)
        for figure in FIGURES:
            scrolled(page, figure)
        expect(page.locator("#curves figcaption")).to_have_text("6 curves.")
        expect(page.locator("#rates figcaption")).to_contain_text("6 curves")
        expect(page.locator("#slices figure")).to_have_count(4)
        expect(page.locator("#pair figcaption")).to_contain_text("over 6 complete trials")
        expect(page.locator("#timeline figcaption")).to_contain_text("6 leases")
        expect(page.locator("#importance .bars")).to_be_visible()
        expect(page.locator("#importance")).to_contain_text("among the best tenth")
        page.locator("#evaluator").select_option("fanova")
        expect(page.locator("#importance")).to_contain_text("spread of all values")
        expect(page.locator("#front-card")).to_have_count(0)  # one objective has no front

        page.locator("#pair-kind").select_option("rank")
        expect(page.locator("#pair figcaption")).to_contain_text("coloured by its rank among 6")
        page.locator("#pair-y").select_option("weight_decay")
        scrolled(page, "#pair")


def test_curves_tell_their_configuration_and_change_their_axes(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained()
    best = service.best(server.context, study.id)[0]
    with window(browser) as page:
        opened(page, server, study.id)
        top = scrolled(page, "#curves")
        tip = page.locator("#curves .tip")
        # By keyboard: the first point of the first curve, and along it.
        top.focus()
        page.keyboard.press("ArrowRight")
        expect(tip).to_contain_text("trial 0 (complete)")
        expect(tip).to_contain_text("at step 1")
        expect(tip).to_contain_text("weight_decay")
        page.keyboard.press("ArrowRight")
        expect(tip).to_contain_text("at step 2")
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        page.locator("#unit").select_option("samples")
        expect(page.locator("#curves figcaption")).to_have_text("6 curves.")
        page.locator("#log").check()
        page.locator("#metric").select_option("val_accuracy")
        expect(page.locator("#curves figcaption")).to_have_text("6 curves.")
        top.focus()
        page.keyboard.press("ArrowRight")
        expect(tip).to_contain_text("val_accuracy")
        expect(tip).to_contain_text("at samples 1000")
        page.locator("#unit").select_option("seconds")
        page.keyboard.press("Escape")
        until(
            page,
            lambda: "device seconds" in _told(page, top, tip),
            "curves run over seconds",
        )
        # A click leads to the trial that is pointed at.
        page.locator("#history .top-layer").focus()
        until(page, lambda: inked(page, "#history") > 150, "the history is drawn")
        for _ in range(best.number + 1):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#history .tip")).to_contain_text(f"trial {best.number}")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"Trial {best.number}")).to_be_visible()


def _told(page: Page, top: Any, tip: Any) -> str:
    top.focus()
    page.keyboard.press("ArrowRight")
    return str(tip.text_content())


def test_a_state_has_one_colour_on_the_whole_page(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id, 3)
    service.ask(server.context, study.id)
    legends = """(word) => [...document.querySelectorAll(".legend li")]
        .filter((one) => one.textContent.trim().replace(/^\\d+ /, "") === word)
        .map((one) => getComputedStyle(one.firstElementChild).getPropertyValue("--tone"))"""
    drawn = """(figure) => {
        const pen = document.createElement("canvas").getContext("2d");
        const style = getComputedStyle(document.body);
        const picture = document.querySelector(`${figure} canvas`);
        const { data } = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 4).join());
        return [0, 1, 2].filter((tone) => {
            pen.fillStyle = style.getPropertyValue(`--chart-${tone}`);
            pen.fillRect(0, 0, 1, 1);
            return seen.has(pen.getImageData(0, 0, 1, 1).data.join());
        });
    }"""
    with window(browser) as page:
        opened(page, server, study.id)
        for word in ("running", "complete"):
            colours = page.evaluate(legends, word)
            assert len(colours) >= 3
            assert len(set(colours)) == 1, word
        for figure in ("#curves", "#history"):
            scrolled(page, figure)
            assert page.evaluate(drawn, figure) == [1, 2], figure  # the best, and complete ones


def test_values_that_differ_late_are_told_apart(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    losses = [1234567.25, 1234568.5, 1234570.75, 1234567.21]
    for loss in losses:
        (asked,) = service.ask(server.context, study.id, 1, actor="loop")
        for step in (1, 2, 3):
            measured = Measured(step=step, metrics={"val_loss": loss}, samples=1, seconds=1.0)
            service.report_trial(server.context, asked.trial_id, asked.token, measured)
    scale = """(module) => import(module).then(({ scaled }) => (low, high, most) =>
        scaled({ kind: "linear" }, [low, high], [0, 100]).ticks(most).map(([, text]) => text))
        .then((ticks) => [ticks(1234567.1, 1234570.8, 4), ticks(0.25, 0.57, 3), ticks(0, 1, 5)])"""
    with window(browser) as page:
        opened(page, server, study.id)
        expect(page.locator("#history figcaption")).to_contain_text("best so far is 1234567.21.")
        expect(page.locator("[aria-label='Best trial'] dd").first).to_have_text("1234567.21")
        page.locator("#curves .top-layer").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#curves .tip")).to_contain_text("val_loss 1234567.25 at step 1")
        module = page.locator("link[rel=modulepreload][href*='scale.js']").get_attribute("href")
        assert page.evaluate(scale, module) == [
            ["1234568", "1234569", "1234570"],
            ["0.3", "0.4", "0.5"],
            ["0", "0.2", "0.4", "0.6", "0.8", "1"],
        ]


def test_pointing_finds_what_lies_under_the_pointer(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained()
    with window(browser) as page:
        opened(page, server, study.id)
        top = scrolled(page, "#timeline")
        tip = page.locator("#timeline .tip")
        box = top.bounding_box()
        assert box is not None
        shares = itertools.cycle(i / 20 for i in range(2, 19))  # somewhere a worker was busy

        def pointed() -> bool:
            page.mouse.move(box["x"] + next(shares) * box["width"], box["y"] + box["height"] / 4)
            return "gpu-0" in (tip.text_content() or "")

        until(page, pointed, "a lease under the pointer")
        expect(tip).to_contain_text("complete")
        page.mouse.move(0, 0)
        expect(tip).to_be_hidden()


@BOTH
def test_sorting_brushing_and_comparing(
    browser: Browser, server: Server, spec: Spec, size: str, scheme: str
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    with window(browser, size, scheme) as page:
        opened(page, server, study.id)
        rows = page.locator("#trials tbody tr")
        page.locator("#trials").get_by_role("link", name="val_loss").click()
        expect(page).to_have_url(re.compile("sort=value"))
        expect(rows.first).to_have_class("best")

        # Drag over the best half of the last axis: what stays is what the server filters.
        top = scrolled(page, "#parallel")
        box = top.bounding_box()
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
        expect(page.locator(".kept")).to_contain_text("value")
        page.get_by_role("button", name="Clear the selection").click()
        expect(rows).to_have_count(6)

        # The same by keyboard: the first axis, its upper end down by three tenths.
        top.focus()
        page.keyboard.press("ArrowRight")
        for _ in range(3):
            page.keyboard.press("ArrowDown")
        expect(page.locator("#parallel .tip")).to_contain_text("kept: 1e−5 to")
        expect(page).to_have_url(re.compile("filter=lr"))
        page.keyboard.press("Delete")
        expect(page).not_to_have_url(re.compile("filter=lr"))
        expect(rows).to_have_count(6)

        for box_ in page.locator("input.pick").all()[:2]:
            box_.check()
        page.get_by_role("button", name="Compare 2").click()
        expect(page.get_by_role("heading", name="Compare 2 trials")).to_be_visible()
        expect(page.locator("td.differs").first).to_be_visible()
        expect(page.locator("#curves figcaption")).to_have_text("2 curves.")
        until(page, lambda: inked(page, "#curves") > 300, "curves are overlaid")

        page.goto(f"{server.url}/studies/{study.id}")
        with page.expect_download() as download:
            page.get_by_role("link", name="Export all trials as csv").click()
        assert len(Path(download.value.path()).read_text().splitlines()) == 7


def test_many_hyperparameters_are_folded_and_scrolled_and_a_finger_keeps_a_range(
    browser: Browser, server: Server, spec: Spec
) -> None:
    names = [f"p{i}" for i in range(30)]
    unit = {"type": "float", "low": 0.0, "high": 1.0}
    space = {"lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}}
    own = {**spec, "task": None, "space": {**space, **dict.fromkeys(names, unit)}}
    study = submitted(server.context, own)
    train(server.context, study.id, 5)
    with window(browser, "mobile") as page:
        opened(page, server, study.id)
        expect(page.locator("[aria-label='Best trial'] summary")).to_have_text("7 more")
        scrolled(page, "#slices figure")
        expect(page.locator("#slices summary")).to_have_text("7 more")
        figure = page.locator("#parallel .top-layer")
        figure.scroll_into_view_if_needed()
        expect(page.locator("#parallel figcaption")).to_contain_text("5 complete trials")
        # What lies above it and is still to grow would move the page, a finger or not.
        expect(page.locator("#importance .bars").first).to_be_visible()
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 30 * 60
        x, y = box["x"] + 46, box["y"] + box["height"] - 60  # on the first axis
        for kind, place in [("pointerdown", y), ("pointermove", y - 90), ("pointercancel", y)]:
            told = {"clientX": x, "clientY": place, "pointerId": 1, "bubbles": True}
            page.evaluate(
                """([kind, told]) => {
                    const top = document.querySelector("#parallel .top-layer");
                    top.setPointerCapture = () => {};
                    top.dispatchEvent(new PointerEvent(kind, told));
                }""",
                [kind, told],
            )
        assert "filter=" not in page.url  # the browser took the finger to scroll
        before = page.evaluate("scrollY")
        device = page.context.new_cdp_session(page)
        device.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
        for kind, place in [("Start", y), ("Move", y - 30), ("Move", y - 120), ("End", None)]:
            points = [] if place is None else [{"x": x, "y": place}]
            device.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        expect(page).to_have_url(re.compile("filter=lr"))
        assert abs(page.evaluate("scrollY") - before) < 50  # the finger went 120


def test_long_names_wrap_in_the_table_and_do_not_overlap_over_axes(
    browser: Browser, server: Server, spec: Spec
) -> None:
    names = [f"parameter_{i}_" * 5 for i in range(4)]
    unit = {"type": "float", "low": 0.0, "high": 1.0}
    lr = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
    space = {**dict.fromkeys(names, unit), "lr": lr}
    study = submitted(server.context, {**spec, "task": None, "space": space})
    train(server.context, study.id)
    told = """() => {
        const fill = CanvasRenderingContext2D.prototype.fillText;
        window.labels = [];
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
            const width = this.measureText(text).width;
            const left = x - { left: 0, center: width / 2, right: width }[this.textAlign];
            if (y === 12 && this.canvas.closest("#parallel")) {
                window.labels.push([left, left + width]);
            }
            fill.call(this, text, x, y);
        };
    }"""
    with window(browser) as page:
        page.add_init_script(f"({told})()")
        opened(page, server, study.id)
        scrolled(page, "#parallel")
        labels = page.evaluate("window.labels.slice(-6)")
        assert len(labels) == 6
        assert all(a[1] < b[0] for a, b in itertools.pairwise(labels)), labels
        head = page.locator("#trials thead th").filter(has_text="parameter_0_")
        box = head.bounding_box()
        assert box is not None
        assert box["width"] < 300


def test_what_has_no_place_on_a_log_axis_is_told(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id, 1, actor="loop")
    for step, loss in [(1, -2.0), (2, 0.0), (3, -1.0)]:
        measured = Measured(step=step, metrics={"val_loss": loss}, samples=1, seconds=1.0)
        service.report_trial(server.context, asked.trial_id, asked.token, measured)
    with window(browser) as page:
        opened(page, server, study.id)
        expect(page.locator("#curves figcaption")).to_have_text("1 curve.")
        page.locator("#log").check()
        expect(page.locator("#curves figcaption")).to_contain_text("; 3 points at or below 0")


def test_no_more_are_compared_than_fit_side_by_side(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec, budget={"trials": 13, "epochs": 3})
    configs = [{"lr": 0.01, "batch_size": 16}] * 13
    service.enqueue(server.context, study.id, configs)
    with window(browser) as page:
        enter(page, server, f"/studies/{study.id}")
        for box in page.locator("input.pick").all():
            box.check()
        compare = page.locator("#compare")
        expect(compare).to_be_disabled()
        expect(compare).to_have_text("Compare at most 12, not 13")
        page.locator("input.pick").first.uncheck()
        compare.click()
        expect(page.get_by_role("heading", name="Compare 12 trials")).to_be_visible()


def test_a_filter_that_makes_no_sense_is_told(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained(2)
    with window(browser) as page:
        opened(page, server, study.id)
        page.get_by_label("Keep those whose").select_option("schedule")
        page.get_by_label("is at least").fill("1")
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(page.locator(".toast")).to_contain_text("has no range, but choices: constant")


def test_columns_and_filters_by_hand(browser: Browser, server: Server, trained: Trained) -> None:
    study = trained()
    with window(browser) as page:
        opened(page, server, study.id)
        heads = page.locator("#trials thead th")
        expect(heads).to_have_count(11)
        page.get_by_text("Columns", exact=True).click()
        page.get_by_label("last noise_scale").check()
        expect(heads.filter(has_text="last noise_scale")).to_be_visible()
        page.get_by_label("Why it ended").uncheck()
        expect(heads.filter(has_text="Why it ended")).to_have_count(0)
        page.keyboard.press("Escape")
        expect(page.locator("details.menu[open]")).to_have_count(0)

        rows = page.locator("#trials tbody tr")
        page.get_by_label("Keep those whose").select_option("schedule")
        page.get_by_label("or exactly").fill("cosine")
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(page.locator(".kept")).to_contain_text("schedule: cosine")
        expect(rows.filter(has_text="constant")).to_have_count(0)
        # The choice of columns outlives the page; the filter is part of the address.
        page.goto(f"{server.url}/studies/{study.id}")
        expect(heads.filter(has_text="last noise_scale")).to_be_visible()
        expect(rows).to_have_count(6)
        page.get_by_text("Columns", exact=True).click()
        page.get_by_role("link", name="The usual ones").click()
        expect(heads.filter(has_text="last noise_scale")).to_have_count(0)


def test_several_objectives_have_a_front(
    browser: Browser, server: Server, trained: Trained
) -> None:
    objective = [
        {"metric": "val_loss", "direction": "minimize"},
        {"metric": "train_loss", "direction": "maximize"},
    ]
    study = trained(objective=objective)
    with window(browser) as page:
        opened(page, server, study.id)
        scrolled(page, "#front")
        expect(page.locator("#front figcaption")).to_contain_text("on the front")
        expect(page.locator("#front figcaption")).to_contain_text(
            "little val_loss, much train_loss."
        )
        page.locator("#front-x").select_option("1")
        expect(page.locator("#trials thead")).to_contain_text("train_loss")
        expect(page.locator("[aria-label='Best trial']")).to_contain_text("Pareto front")


def test_a_page_that_lost_its_server_catches_up(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id, 2)
    with (
        cable(server.url) as line,
        window(browser, forgive="ERR_|Failed to fetch|status of 5") as page,
    ):
        page.goto(f"{line.url}/login?next=/studies/{study.id}")
        page.get_by_label("Token").fill(str(server.admin))
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#history figcaption")).to_contain_text("2 finished trials")
        page.evaluate("window.mark = 1")
        line.cut()
        expect(page.locator("#live")).to_have_text("reconnecting…")
        train(server.context, study.id, 3)
        line.mend()
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#trials td .chip.complete")).to_have_count(5)
        expect(page.locator("#history figcaption")).to_contain_text("5 finished trials")
        expect(page.locator("#curves figcaption")).to_contain_text("5 curves")
        assert page.evaluate("window.mark") == 1


def test_curves_that_could_not_be_read_come_with_the_next_news(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id, 2)
    with window(browser, forgive="status of 502") as page:
        opened(page, server, study.id)
        caption = page.locator("#curves figcaption")
        expect(caption).to_have_text("2 curves.")
        expect(page.locator("#live")).to_have_text("live")
        page.route("**/curves?**", lambda route: route.fulfill(status=502, body="<html>"))
        train(server.context, study.id, 1)
        expect(caption).to_contain_text("cannot be read: the answer was 502.")
        page.locator("#log").check()  # draws those at hand again
        expect(caption).to_contain_text("cannot be read: the answer was 502.")
        page.unroute("**/curves?**")
        train(server.context, study.id, 1)
        expect(caption).to_have_text("4 curves.")


def test_figures_that_could_not_be_read_say_so_until_they_are(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained(4, budget={"trials": 12, "epochs": 3})
    broken = re.compile(r"/\d+/(overview|timeline|importances|landscape)")
    with window(browser, forgive="status of 502") as page:
        page.route(broken, lambda route: route.fulfill(status=502, body="<html>"))
        enter(page, server, f"/studies/{study.id}")
        expect(page.locator("#live")).to_have_text("live")
        said = "cannot be read: the answer was 502."
        for figure in ("#history", "#parallel", "#pair", "#timeline"):
            page.locator(figure).scroll_into_view_if_needed()
            expect(page.locator(f"{figure} figcaption")).to_contain_text(said)
        page.locator("#importance").scroll_into_view_if_needed()
        expect(page.locator("#importance")).to_contain_text("the answer was 502.")
        page.unroute(broken)
        work(server.context, study.id, 1)
        expect(page.locator("#history figcaption")).to_contain_text("5 finished trials")
        expect(page.locator("#parallel figcaption")).to_contain_text("5 complete trials")
        expect(page.locator("#pair figcaption")).to_contain_text("over 5 complete trials")
        expect(page.locator("#timeline figcaption")).to_contain_text("5 leases")
        expect(page.locator("#importance .bars")).to_be_visible()

        page.route(broken, lambda route: route.fulfill(status=502, body="<html>"))
        work(server.context, study.id, 1)
        expect(page.locator("#pair figcaption")).to_contain_text(said)
        page.locator("#pair-kind").select_option("rank")  # draws those at hand
        page.locator("#parallel .top-layer").focus()
        for key in ("ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        expect(page).to_have_url(re.compile("filter=lr"))
        for figure in ("#history", "#parallel", "#pair"):
            expect(page.locator(f"{figure} figcaption")).to_contain_text(said)


def test_a_head_and_a_table_that_could_not_be_read_are_asked_for_again(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id, 5)
    pieces = re.compile("fragment=head")
    with window(browser, forgive="status of 502") as page:
        opened(page, server, study.id)
        expect(page.locator("#live")).to_have_text("live")
        page.route(pieces, lambda route: route.fulfill(status=502, body="<html>"))
        with page.expect_response(pieces):
            train(server.context, study.id, 1)
        expect(page.locator("#live")).to_have_text("")  # no further news will come
        page.unroute(pieces)
        expect(page.locator(".page-head .chip.completed")).to_be_visible()
        expect(page.locator("#trials td .chip.complete")).to_have_count(6)


def test_a_page_whose_token_is_revoked_asks_for_another(
    browser: Browser, server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routers.events.RECHECK_SECONDS", 0.05)
    study = submitted(server.context, spec)
    secret = server.token("read")
    with window(browser, forgive="status of 401") as page:
        page.goto(f"{server.url}/login?next=/studies/{study.id}")
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#live")).to_have_text("live")
        tokens.revoke_token(server.context, "read")
        expect(page).to_have_url(re.compile(r"/login\?next="))


def test_a_page_that_knows_the_end_already_listens_once(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained()
    newest = service.newest_event(server.context)
    asked: list[str] = []
    with window(browser) as page:
        opened(page, server, study.id)
        page.on("request", lambda request: asked.append(request.url))
        module = page.locator("link[rel=modulepreload][href*='live.js']").get_attribute("href")
        with page.expect_response(f"{server.url}/api/v1/studies/{study.id}"):
            page.evaluate(
                f"import('{module}').then((live) => live.listen({study.id}, {newest}, () => {{}}))"
            )
        page.wait_for_load_state("networkidle")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.evaluate("fetch('/healthz')")
    assert sum("/events?" in url for url in asked) == 1


def test_live_updates_move_nothing_and_take_nothing_away(
    browser: Browser, server: Server, trained: Trained
) -> None:
    study = trained(2, budget={"trials": 12, "epochs": 3})
    with window(browser) as page:
        opened(page, server, study.id)
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#curves figcaption")).to_contain_text("2 curves")
        scrolled(page, "#timeline")
        page.evaluate("window.scrollTo(0, 0)")
        places = """() => [...document.querySelectorAll("section.card[aria-labelledby]")]
            .filter((card) => card.id !== "trials")
            .map((card) => Math.round(card.getBoundingClientRect().top))"""
        page.locator("input.pick").first.check()
        page.get_by_label("at most").fill("0.5")
        before = page.evaluate(places)
        loop = threading.Thread(target=work, args=(server.context, study.id, 4))
        loop.start()
        expect(page.locator("#trials td .chip.complete")).to_have_count(6)
        loop.join()
        expect(page.locator("#history figcaption")).to_contain_text("6 finished trials")
        assert page.evaluate(places) == before
        expect(page.get_by_label("at most")).to_have_value("0.5")
        expect(page.locator("input.pick:checked")).to_have_count(1)


def test_a_study_that_optuna_runs_is_followed_too(browser: Browser, server: Server) -> None:
    storage = SqlStorage(server.context.db)
    study = optuna.create_study(storage=storage, study_name="optuna's own")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5.0, 5.0)
        trial.suggest_categorical("kind", ["a", "b"])
        for step in range(3):
            trial.report(x * x + 1 / (step + 1), step)
        return x * x

    with window(browser) as page:
        enter(page, server, f"/studies/{study._study_id}")
        expect(page.locator("#live")).to_have_count(0)
        expect(page.locator(".crumbs")).to_have_text("Studies / Optuna")
        expect(page.get_by_role("link", name="Clone")).to_have_count(0)
        expect(page.locator("[aria-label=Progress] dd").first).to_have_text("–0 trials")
        study.optimize(objective, n_trials=6)
        expect(page.locator("#curves figcaption")).to_have_text("6 curves.")
        scrolled(page, "#parallel")
        expect(page.locator("#slices figure")).to_have_count(2)
        scrolled(page, "#pair")
        expect(page.locator("#pair figcaption")).to_contain_text("over 6 complete trials")
        page.locator("#importance-card").scroll_into_view_if_needed()
        expect(page.locator("#importance .bars")).to_be_visible()
        study.optimize(objective, n_trials=1)
        expect(page.locator("#trials tbody tr")).to_have_count(7)
        expect(page.locator("#history figcaption")).to_contain_text("7 finished trials")
        page.locator("#trials tbody a").first.click()
        expect(page.locator("[data-live=events]")).to_contain_text("made through Optuna")
        expect(page.locator("main")).not_to_contain_text("checkpoint")
        expect(page.get_by_role("link", name="Enqueue a variation")).to_have_count(0)
        expect(page.locator("#charts h3")).to_have_text(["value"])


def test_actions_ask_before_they_act(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    with window(browser) as page:
        enter(page, server, f"/studies/{study.id}")
        expect(page.locator(".page-head .chip.queued")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_contain_text("End “digits-adamw” now?")
        page.get_by_role("button", name="Keep as it is").click()
        assert service.show_study(server.context, study.id).state == "queued"
        page.get_by_role("button", name="Pause").click()
        expect(page.locator(".page-head .chip.paused")).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        expect(page.locator(".page-head .chip.queued")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.cancelled")).to_be_visible()
        assert service.show_study(server.context, study.id).state == "cancelled"
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.get_by_role("heading", name="No studies yet")).to_be_visible()


def test_a_study_without_javascript_says_so_and_waits_for_nothing(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    best = service.best(server.context, study.id)[0]
    with window(browser, scripts=False) as page:
        enter(page, server, f"/studies/{study.id}")
        expect(page.locator("noscript p")).to_contain_text("figures need JavaScript")
        assert "Loading…" not in page.locator("main").inner_text()
        expect(page.locator("[aria-label='Best trial']")).to_contain_text(f"trial {best.number}")
        rows = page.locator("#trials tbody tr")
        expect(rows).to_have_count(6)
        page.locator("#trials").get_by_role("link", name="val_loss").click()
        expect(rows.first).to_have_class("best")
        page.get_by_label("at most").fill(str(best.value))
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(rows).to_have_count(1)
        rows.get_by_role("link").click()
        expect(page.locator("noscript p")).to_contain_text("figures need JavaScript")
        page.goto(f"{server.url}/studies/{study.id}/compare?trials={best.id}")
        expect(page.locator("noscript p")).to_contain_text("figures need JavaScript")
        expect(page.locator("#curves")).to_be_hidden()


def test_actions_ask_before_they_act_without_javascript_too(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    hello = WorkerHello(name="gpu-1", tasks=["digits"])
    service.register_worker(server.context, hello)

    def state() -> str:
        return service.show_study(server.context, study.id).state

    with window(browser, scripts=False) as page:
        log_in(page, server)
        page.goto(f"{server.url}/trials/{asked.trial_id}")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("heading")).to_have_text("Stop trial 0? Its measurements stay.")
        assert service.show_trial(server.context, asked.trial_id).state == "running"
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.fail")).to_be_visible()
        page.goto(f"{server.url}/workers")
        page.get_by_role("button", name="Drain").click()
        expect(page.get_by_role("heading")).to_contain_text("Let gpu-1 finish")
        page.get_by_role("button", name="Do it").click()
        expect(page.get_by_role("table").locator(".chip.draining")).to_be_visible()
        page.goto(f"{server.url}/studies/{study.id}")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("heading")).to_contain_text("End “digits-adamw” now?")
        page.get_by_role("link", name="Keep as it is").click()
        expect(page).to_have_url(f"{server.url}/studies/{study.id}")
        assert state() == "running"
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.cancelled")).to_be_visible()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading")).to_contain_text("This cannot be undone.")
        assert state() == "cancelled"
        page.get_by_role("button", name="Do it").click()
        expect(page.get_by_role("heading", name="No studies yet")).to_be_visible()


@BOTH
def test_a_running_study_is_stopped_and_drains(
    browser: Browser, server: Server, spec: Spec, size: str, scheme: str
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    # What the page asked for as the study ended may arrive after the log-out, and is refused.
    with window(browser, size, scheme, forgive="status of 401") as page:
        enter(page, server, f"/studies/{study.id}")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.stopping")).to_be_visible()
        service.tell(server.context, asked.trial_id, asked.token, values=[0.5])
        expect(page.locator(".page-head .chip.completed")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(f"{server.url}/studies/{study.id}")
        expect(page.get_by_label("Token")).to_be_visible()
