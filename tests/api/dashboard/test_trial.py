"""A trial's page in a browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import enter, inked, until, window
from tests.api.dashboard.test_escaping import EVIL
from tests.api.loops import measure, submitted, train
from tuner import service
from tuner.protocol import (
    Leased,
    LeaseRequest,
    Measured,
    Printed,
    Report,
    SlotReport,
    WorkerHello,
)
from tuner.service import StudyView
from tuner.tasks import TaskForm

Spec = dict[str, Any]
Trained = Callable[..., StudyView]


def titles(page: Page) -> Any:
    return page.locator("#charts h3")


def test_all_that_a_trial_measured(browser: Browser, server: Server, trained: Trained) -> None:
    study = trained(1)
    trial = service.best(server.context, study.id)[0]  # others may wait by now
    with window(browser) as page:
        enter(page, server, f"/trials/{trial.id}")
        wanted = ["loss", "accuracy", "learning rate", "gradient norm", "gradient noise scale"]
        expect(titles(page)).to_have_text(wanted)
        expect(page.locator("#charts .legend").first).to_contain_text("val_loss")
        expect(page.locator("#charts .legend").first).to_contain_text("train_loss")
        for place in range(len(wanted)):
            page.locator("#charts figure").nth(place).scroll_into_view_if_needed()
        until(page, lambda: inked(page, "#charts section:last-child") > 100, "drawn")
        top = page.locator("#charts .top-layer").first
        for unit, told in (
            ("epochs", "at epochs 1"),
            ("samples", "at samples 1000"),
            ("seconds", "at device seconds 0.1"),
            ("step", "at step 1"),
        ):
            page.locator("#unit").select_option(unit)
            top.focus()
            page.keyboard.press("ArrowRight")
            expect(page.locator("#charts .tip").first).to_contain_text(told)
            page.keyboard.press("Escape")
        page.locator("#log").check()
        events = page.locator("[data-live=events] tbody tr")
        expect(events).to_have_count(3)
        expect(events.nth(1)).to_contain_text("gpu-0")
        expect(page.locator("[data-live=events]")).to_contain_text("memory://")


def test_a_metric_with_an_interval_is_a_line_in_a_band(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    unknown = {"noise_scale": None, "noise_scale_low": 50.0, "noise_scale_high": None}
    known = {"noise_scale": 100.0, "noise_scale_low": 60.0, "noise_scale_high": 200.0}
    for step, scale in enumerate((unknown, known), 1):
        measured = Measured(step=step, metrics={"val_loss": 1.0, **scale})
        service.report_trial(server.context, asked.trial_id, asked.token, measured)
    with window(browser) as page:
        enter(page, server, f"/trials/{asked.trial_id}")
        expect(titles(page)).to_have_text(["loss", "gradient noise scale"])
        card = page.locator("#charts section").last
        expect(card.locator(".legend")).to_contain_text("shaded from noise_scale_low")
        # The band alone covers a good part of the picture.
        until(page, lambda: inked(page, "#charts section:last-child") > 10_000, "shaded")
        card.locator(".top-layer").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(card.locator(".tip")).to_contain_text("100 at step 2")
        page.goto(f"{server.url}/studies/{study.id}")
        expect(page.locator("#metric option")).to_have_text(["val_loss", "noise_scale"])


def test_what_a_script_prints_is_text_that_grows(
    browser: Browser, start: Callable[..., Server], spec: Spec
) -> None:
    server = start(lease_seconds=0.5)
    script = TaskForm(name="my_llm", kind="script", objective=("val_loss", "minimize"))
    hello = WorkerHello(name="gpu-0", tasks=["my_llm"], forms=[script])
    worker = service.register_worker(server.context, hello).worker_id
    space = {"lr": {"type": "float", "low": 0.1, "high": 0.9}}
    task, budget = {"name": "my_llm"}, {"trials": 1, "epochs": 3}
    submitted(server.context, spec, task=task, space=space, budget=budget)
    printed = 0

    def leased() -> list[Leased]:
        return service.lease(server.context, worker, LeaseRequest(k=1)).leased

    def say(lease: Leased, text: str, **end: Any) -> None:
        nonlocal printed
        told = {"trial_id": lease.trial_id, "token": lease.token}
        piece = Printed(**told, start=printed, size=len(text), text=text)
        printed += len(text)
        slots = [SlotReport(**told, **end)] if end else []
        service.report(server.context, worker, Report(slots=slots, printed=[piece]))

    (first,) = leased()
    say(first, "begun\n")
    with window(browser) as page:
        enter(page, server, f"/trials/{first.trial_id}")
        log = page.get_by_role("log")
        expect(log).to_have_text("begun\n")
        page.evaluate("window.mark = 1")
        say(first, f"{EVIL}\n\x1b[31mred\x1b[0m\n")
        expect(log).to_have_text(f"begun\n{EVIL}\nred\n")
        say(first, "".join(f"line {i}\n" for i in range(600)))
        expect(log).to_contain_text("line 599")
        assert page.evaluate("window.mark") == 1

        page.reload()
        expect(log).to_contain_text("line 599")
        expect(log).not_to_contain_text("red")
        page.get_by_role("button", name="From the beginning").click()
        expect(log).to_contain_text(EVIL)
        second: list[Leased] = []  # once the first lease has run out
        until(page, lambda: bool(second.extend(leased()) or second), "it is handed out again")
        printed = 0
        say(second[0], "once more", outcome="fail", reason="exit code 1")
        expect(log).to_have_text("once more")
        expect(page.locator("#log-note")).to_have_text("It has ended.")
        page.get_by_label("Attempt", exact=True).select_option("attempt 1")
        expect(log).to_contain_text("line 599")
        assert page.evaluate("window.hit") is None
        assert page.locator("img").count() == 0


def test_a_running_trial_grows_and_is_stopped(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    with window(browser) as page:
        enter(page, server, f"/trials/{asked.trial_id}")
        expect(page.locator("#no-curves")).to_contain_text("Nothing measured yet")
        expect(page.locator("#live")).to_have_text("live")
        page.evaluate("window.mark = 1")
        for step in (1, 2):
            measure(server.context, asked, step)
        expect(titles(page).first).to_have_text("loss")
        expect(page.locator(".facts")).to_contain_text("2 of 3")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator(".page-head .chip.pruned")).to_be_visible()
        expect(page.locator(".notice")).to_contain_text("Stopped by hand")
    assert service.show_trial(server.context, asked.trial_id).state == "pruned"


def test_curves_that_could_not_be_read_say_so_until_they_are(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    measure(server.context, asked, 1)
    with window(browser, forgive="status of 502") as page:
        enter(page, server, f"/trials/{asked.trial_id}")
        expect(titles(page).first).to_have_text("loss")
        expect(page.locator("#live")).to_have_text("live")
        page.route("**/measurements?**", lambda route: route.fulfill(status=502, body="<html>"))
        measure(server.context, asked, 2)
        told = page.locator("#no-curves")
        expect(told).to_contain_text("cannot be read: the answer was 502.")
        page.locator("#log").check()  # draws those at hand again
        page.locator("#unit").select_option("samples")
        expect(told).to_contain_text("cannot be read: the answer was 502.")
        page.unroute("**/measurements?**")
        measure(server.context, asked, 3)
        expect(told).to_be_hidden()


def test_a_traceback_keeps_its_lines_and_leaves_room(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    reason = "Traceback:\n" + "".join(f'  File "part_{i}.py"\n    call()\n' for i in range(60))
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason=reason)
    with window(browser, "mobile") as page:
        enter(page, server, f"/trials/{asked.trial_id}")
        why = page.get_by_role("region", name="Why it ended")
        assert '\n  File "part_1.py"\n    call()' in why.inner_text()
        box = why.bounding_box()
        assert box is not None
        assert box["height"] < 500


def test_a_failed_trial_is_retried_and_varied(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    (asked,) = service.ask(server.context, study.id)
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason="oom")
    with window(browser) as page:
        enter(page, server, f"/trials/{asked.trial_id}")
        expect(page.locator(".notice")).to_contain_text("Out of memory")
        page.get_by_role("button", name="Retry").click()
        expect(page.locator(".page-head .chip.waiting")).to_be_visible()
        expect(page.locator("main")).to_contain_text("retried")
        page.get_by_role("link", name="Enqueue a variation").click()
        page.get_by_label("lr").fill("7")
        page.get_by_role("button", name="Enqueue").click()
        expect(page.get_by_role("alert")).to_contain_text("lr")
        page.get_by_label("lr").fill("0.01")
        page.get_by_role("button", name="Enqueue").click()
        expect(page).to_have_url(re.compile(r"/trials/\d+$"))
        expect(page.locator("main")).to_contain_text("enqueued")
    assert train(server.context, study.id) == 5


def test_a_trial_that_waits_shows_its_first_report(
    browser: Browser, server: Server, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    (waiting,) = service.enqueue(server.context, study.id, [{"lr": 0.01, "batch_size": 16}])
    with window(browser) as page:
        enter(page, server, f"/trials/{waiting.id}")
        expect(page.locator("#live")).to_have_text("live")
        loop = threading.Thread(target=train, args=(server.context, study.id, 1))
        loop.start()
        expect(page.locator(".page-head .chip.complete").first).to_be_visible()
        loop.join()
        expect(titles(page).first).to_have_text("loss")
