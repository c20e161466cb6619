"""axe-core finds nothing to say against any page, and what a mouse can do a keyboard can too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import enter, log_in, look, window
from tests.api.loops import submitted
from tuner import service
from tuner.protocol import PoolBeat, WorkerHello
from tuner.service import StudyView, pools, webhooks

Spec = dict[str, Any]
AXE = Path(__file__).with_name("axe") / "axe.min.js"


def findings(page: Page) -> list[str]:
    """What axe-core has against the page, everything that folds opened: wide and light first.

    Then narrow and dark, where the same elements have other colours and other places.
    """
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for size, scheme in (("desktop", "light"), ("mobile", "dark")):
        look(page, size, scheme)
        told = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            f"{size}, {scheme}: {one['impact']}: {one['help']}: {node['html'][:200]}"
            for one in told["violations"]
            for node in one["nodes"]
        ]
    return found


def test_axe_finds_nothing(
    browser: Browser, server: Server, spec: Spec, trained: Callable[..., StudyView]
) -> None:
    several = [
        {"metric": "val_loss", "direction": "minimize"},
        {"metric": "train_loss", "direction": "maximize"},
    ]
    study = trained(name="done", objective=several, tags=["tag"], description="What it is for.")
    trained(name="one goal")  # several have no course in the list
    running = submitted(server.context, spec, name="runs")
    (asked,) = service.ask(server.context, running.id)
    (failed,) = service.ask(server.context, running.id)
    service.tell(server.context, failed.trial_id, failed.token, state="fail", reason="oom")
    hello = WorkerHello(name="gpu-1", tasks=["digits"], device={"kind": "cuda", "name": "H100"})
    service.register_worker(server.context, hello)
    beat = PoolBeat(name="ray", driver="a", first=True, running=1, fits=4)
    pools.show_life(server.context, beat)
    filtered = "?where=lr&low=1e-4&columns=state,params.lr,created#trials"
    paths = {
        "/": "td .spark polyline",
        "/?text=nothing": ".empty",
        f"/studies/{study.id}": "#importance .bars",
        f"/studies/{running.id}": ".chip.running",
        f"/studies/{study.id}{filtered}": ".kept a",
        f"/studies/{study.id}/compare?trials=1,2,3": "td.differs",
        "/trials/1": "#charts canvas",
        f"/trials/{asked.trial_id}": ".chip.running",
        f"/trials/{failed.trial_id}": ".notice",
        f"/trials/{asked.trial_id}/vary": "form.card input",
        f"/studies/{running.id}/cancel": "form button",
        "/advisor": "circle.new",
        "/advisor?lr=fast&batch_size=64&to=128": "#advisor-error",
        "/workers": "tbody tr",
        "/webhooks": ".empty",
        "/new": "#samples td",
        "/catalogue": "svg.plotted",
        "/docs": "details",
        "/nothing-here": ".empty",
    }
    with window(browser, forgive="status of (404|422)") as page:
        page.goto(f"{server.url}/login")
        assert findings(page) == []
        log_in(page, server)
        for path, shown in paths.items():
            look(page, "desktop", "light")
            page.goto(server.url + path)
            if page.locator("#importance-card").count():
                page.locator("#importance-card").scroll_into_view_if_needed()
            expect(page.locator(shown).first).to_be_visible()
            for figure in page.locator("figure.chart").all():
                figure.scroll_into_view_if_needed()
            assert findings(page) == [], path


def test_axe_finds_nothing_in_webhooks(browser: Browser, start: Callable[..., Server]) -> None:
    server = start(webhook_hosts=("127.0.0.1",))
    for name in ("idle", "told"):
        webhooks.create_webhook(server.context, name, "http://127.0.0.1:9/", tag="nightly")
    webhooks.try_webhook(server.context, "told")
    with window(browser) as page:
        enter(page, server, "/webhooks")
        expect(page.locator("tbody tr")).to_have_count(1)
        assert findings(page) == []


def test_the_keyboard_reaches_everything(
    browser: Browser, server: Server, trained: Callable[..., StudyView]
) -> None:
    study = trained()
    with window(browser) as page:
        enter(page, server, f"/studies/{study.id}")
        expect(page.locator("#history figcaption")).to_contain_text("finished trials")
        page.locator("#slices").scroll_into_view_if_needed()
        expect(page.locator("#slices figure")).to_have_count(4)
        charts = {"Learning curves of the trials", "Which worker trained which trial, over time"}
        for chart in charts:  # a chart is reached once it is drawn
            expect(page.get_by_label(chart)).to_be_visible()
        page.evaluate("window.scrollTo(0, 0); document.activeElement.blur()")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#content")).to_be_focused()
        reached = set()
        for _ in range(150):
            page.keyboard.press("Tab")
            told = page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const outline = getComputedStyle(one).outlineStyle;
                    return [one.id || one.getAttribute("aria-label") || one.textContent.trim(),
                        outline, one.matches("body")];
                }"""
            )
            if told[2]:
                break
            reached.add(str(told[0]))
            assert told[1] != "none", f"{told[0]} does not show that it has the focus"
        wanted = {"Clone", "Delete", "metric", "unit", "log", "rate-log", "evaluator", "pair-x"}
        table = {"where", "Columns", "Compare trial 0", "Export all trials as csv"}
        assert (wanted | charts | table) - reached == set()


def test_a_dialog_keeps_and_returns_the_focus(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(server.context, spec)
    with window(browser) as page:
        enter(page, server, f"/studies/{study.id}")
        page.get_by_role("button", name="Stop").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Keep as it is")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
    assert service.show_study(server.context, study.id).state == "queued"
