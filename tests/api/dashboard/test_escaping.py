"""Whatever users write stays text in a browser, wherever a page shows it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import enter, window
from tests.api.loops import submitted
from tuner import service
from tuner.protocol import LeaseRequest, Measured, Report, WorkerHello

Spec = dict[str, Any]
EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


def test_nothing_that_users_write_runs(browser: Browser, server: Server, spec: Spec) -> None:
    study = submitted(
        server.context,
        spec,
        name=EVIL,
        tags=[EVIL],
        description=EVIL,
        task=None,
        objective={"metric": EVIL, "direction": "minimize"},
        space={
            "lr": {"type": "float", "low": 0.1, "high": 0.9},
            "what": {"type": "categorical", "choices": [EVIL, f"{EVIL}2"]},
            "x": {"type": "float", "low": 0.0, "high": 1.0, "when": {"what": EVIL}},
        },
    )
    # A worker whose every word is an attack, beside the own loop that trains.
    hello = WorkerHello(name=EVIL, tasks=[EVIL], device={"kind": EVIL, "name": EVIL, "host": EVIL})
    me = service.register_worker(server.context, hello)
    service.lease(server.context, me.worker_id, LeaseRequest(k=1))
    service.report(server.context, me.worker_id, Report(slots=[], status={"engine": EVIL}))
    for _ in range(5):
        (asked,) = service.ask(server.context, study.id, actor=EVIL)
        for step in (1, 2):
            told = {EVIL: asked.config["lr"] / step, f"{EVIL}2": 1.0}
            measured = Measured(step=step, metrics=told)
            service.report_trial(server.context, asked.trial_id, asked.token, measured)
        service.tell(server.context, asked.trial_id, asked.token, values=[asked.config["lr"]])
    (asked,) = service.ask(server.context, study.id)
    service.tell(server.context, asked.trial_id, asked.token, state="fail", reason=EVIL)
    paths = [
        "/",
        f"/studies/{study.id}",
        f"/studies/{study.id}?columns=params.what,worker,reason,metrics.{EVIL}&filter=what:{EVIL}",
        f"/studies/{study.id}/compare?trials=1,2,3",
        "/trials/1",
        f"/trials/{asked.trial_id}",
        f"/trials/{asked.trial_id}/vary",
        "/workers",
        f"/new?clone={study.id}",
        f"/advisor?study={study.id}&to={EVIL}",
    ]
    with window(browser) as page:
        enter(page, server)
        for path in paths:
            page.goto(server.url + path)
            page.wait_for_load_state("load")
            expect(page.locator("main h1")).to_be_visible()
            for place in ("#importance-card", "#slices", "#pair-card", "#timeline"):
                if page.locator(place).count():
                    page.locator(place).scroll_into_view_if_needed()
            if "compare" not in path and f"/studies/{study.id}" in path:
                expect(page.locator("#importance .bars")).to_be_visible()
                expect(page.locator("#slices figure")).to_have_count(3)
            for canvas in page.locator(".top-layer").all():
                canvas.focus()
                page.keyboard.press("ArrowRight")  # tips tell names and values too
            assert page.evaluate("window.hit") is None, path
            assert page.locator("img").count() == 0, path
