"""The form of a new study, filled in by a browser."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import threading
from typing import Any

import yaml
from playwright.sync_api import Browser, Page, expect

from tests.api.conftest import Server
from tests.api.dashboard.browsers import BOTH, enter, inked, log_in, until, window
from tests.api.loops import submitted, train
from tests.installation import PATIENCE_SECONDS
from tests.programs import needed
from tuner import service
from tuner.protocol import WorkerHello
from tuner.service import datasets
from tuner.spec import StudySpec
from tuner.tasks import TaskForm

Spec = dict[str, Any]


def opened(page: Page, server: Server, query: str = "") -> None:
    """The form, once the server has said what it makes of it."""
    enter(page, server, f"/new{query}")
    expect(page.locator("#cost")).to_contain_text("trials")


def copied(page: Page, kind: str) -> str:
    page.get_by_role("button", name=f"Copy as {kind}").click()
    expect(page.locator(".toast")).to_have_text("Copied.")
    text = str(page.evaluate("navigator.clipboard.readText()"))
    page.evaluate("document.querySelector('.toast').remove()")
    return text


def row(page: Page, name: str) -> Any:
    return page.locator(f'.param[data-name="{name}"]')


@BOTH
def test_a_study_from_the_form_to_its_end_live(
    browser: Browser, server: Server, size: str, scheme: str
) -> None:
    with window(browser, size, scheme) as page:
        log_in(page, server)
        page.get_by_role("link", name="New study").first.click()
        expect(page.locator("#cost")).to_contain_text("64 trials")
        page.get_by_label("Name", exact=True).fill("from the form")
        page.get_by_label("Sampler", exact=True).select_option("random")
        page.get_by_label("Pruner", exact=True).select_option("none")
        page.get_by_label("Trials", exact=True).fill("5")
        page.get_by_label("Epochs of one training").fill("3")
        expect(page.locator("#cost")).to_contain_text("5 trials, at most 15 epochs in all")
        expect(page.locator("#samples tbody tr")).to_have_count(10)
        expect(page.locator("#sample-rates figcaption")).to_contain_text("learning rate")
        until(page, lambda: inked(page, "#sample-rates") > 300, "rates are drawn")

        low = row(page, "lr").get_by_label("Low")
        low.fill("0")
        error = row(page, "lr").locator("> .error")
        expect(error).to_contain_text("a log range must lie above 0")
        expect(low).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("button", name="Submit the study")).to_be_disabled()
        expect(page.locator("#cost")).to_contain_text("Mend what is marked")
        low.fill("0.00001")
        expect(error).to_be_empty()
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
        until(page, lambda: inked(page, "#curves") > 500, "curves are drawn")
        until(page, lambda: inked(page, "#history") > 200, "the history is drawn")


def test_a_script_and_an_own_loop_measure_what_they_like(browser: Browser, server: Server) -> None:
    script = TaskForm(name="my_llm", kind="script", objective=("loss", "minimize"))
    hello = WorkerHello(name="gpu-0", tasks=["my_llm"], forms=[script])
    service.register_worker(server.context, hello)
    with window(browser) as page:
        opened(page, server)
        page.get_by_label("Name", exact=True).fill("fine-tuning")
        for name in ("optimizer", "batch_size", "weight_decay", "schedule"):
            page.get_by_label(f"Remove {name}", exact=True).click()
        page.get_by_label("Task").select_option("my_llm")
        metric = page.get_by_label("Objective")
        expect(metric).to_have_value("loss")
        metric.fill("perplexity")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="fine-tuning")).to_be_visible()
        expect(page.locator("main")).to_contain_text("Best perplexity")

        page.get_by_role("link", name="Clone").click()
        expect(metric).to_have_value("perplexity")
        page.get_by_label("Task").select_option(label="none: a loop of my own")
        expect(metric).to_have_value("value")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="fine-tuning (copy)")).to_be_visible()
    loop, study = service.list_studies(server.context).items
    assert study.task == "my_llm"
    assert loop.task is None


def test_an_upload_is_offered_where_a_file_is_named(browser: Browser, server: Server) -> None:
    table = b"width,kind\n" + b"".join(f"{i},{'ab'[i % 2]}\n".encode() for i in range(600))
    datasets.add_dataset(server.context, "leaves", io.BytesIO(table), format="csv")
    with window(browser) as page:
        opened(page, server)
        page.get_by_label("Task", exact=True).select_option("tabular")
        path = page.locator('[data-setting="path"]')
        offered = page.locator(f"#{path.get_attribute('list')} option")
        expect(offered).to_have_count(1)
        expect(offered).to_have_text("600 rows")
        assert page.locator('[data-setting="target"]').get_attribute("list") is None
        page.get_by_label("Name", exact=True).fill("leaves")
        path.fill(str(offered.get_attribute("value")))
        page.locator('[data-setting="target"]').fill("kind")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="leaves")).to_be_visible()
    (study,) = service.list_studies(server.context).items
    assert re.fullmatch(r"dataset:leaves@\w+\.csv", study.spec["task"]["params"]["path"])


def test_conditions_are_chosen_not_written(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        opened(page, server)
        page.get_by_label("Hyperparameter to add").fill("schedule.final")
        page.get_by_role("button", name="Add", exact=True).click()
        added = row(page, "schedule.final")
        expect(added.get_by_label("High")).to_have_value("0.2")
        added.get_by_role("button", name="only when").click()
        condition = added.get_by_role("group", name="Condition of schedule.final")
        condition.get_by_role("combobox").select_option("schedule")
        expect(added.locator("> .error")).to_contain_text("empty")  # no value of it is chosen yet
        condition.get_by_label("cosine").check()
        condition.get_by_label("linear").check()
        expect(added.locator("> .error")).to_be_empty()
        expect(page.get_by_role("button", name="Submit the study")).to_be_enabled()
        found = yaml.safe_load(copied(page, "YAML"))["space"]["schedule.final"]
        assert found["when"] == {"schedule": ["cosine", "linear"]}
        # What the schedules do is shown beside their names.
        expect(row(page, "schedule").locator(".course polyline")).to_have_count(3)
        row(page, "schedule").get_by_label("Choices").fill("wsd, cosine, linear")
        expect(row(page, "schedule").locator("figcaption").first).to_have_text("wsd")
        condition.get_by_role("button", name="Remove the condition").click()
        row(page, "schedule.final").get_by_role("button", name="Remove schedule.final").click()
        assert "schedule.final" not in yaml.safe_load(copied(page, "YAML"))["space"]


def test_both_seeds_and_settings_reach_the_study(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        opened(page, server)
        expect(page.locator("#seed-hint")).to_contain_text("order of the data")
        expect(page.locator("#sampler-seed-hint")).to_contain_text("suggested")
        page.get_by_label("Name", exact=True).fill("seeded")
        page.get_by_label("Seed of the trainings").fill("3")
        page.get_by_label("Seed of the search").fill("7")
        page.get_by_label("Sampler", exact=True).select_option("tpe")
        page.get_by_text("Settings of the sampler").click()
        startup = page.get_by_label("n_startup_trials")
        startup.fill("0.5")
        expect(startup).to_have_attribute("aria-invalid", "true")
        startup.fill("4")
        page.get_by_role("button", name="another objective").click()
        page.locator(".objective").nth(1).get_by_role("combobox").first.select_option(
            "val_accuracy"
        )
        page.get_by_label("Pruner", exact=True).select_option("none")
        page.get_by_label("Sampler", exact=True).select_option("nsga2")
        page.get_by_label("Sampler", exact=True).select_option("tpe")
        page.get_by_label("n_startup_trials").fill("4")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="seeded")).to_be_visible()
    (study,) = service.list_studies(server.context).items
    assert study.spec["seed"] == 3
    assert study.spec["sampler"] == {"name": "tpe", "seed": 7, "n_startup_trials": 4}
    assert [o.metric for o in study.objective] == ["val_loss", "val_accuracy"]


def test_a_clone_keeps_what_the_form_has_no_field_for(
    browser: Browser, server: Server, spec: Spec
) -> None:
    lr = {"type": "float", "low": 1e-5, "high": 0.1, "log": True, "prior": "none", "default": 1e-3}
    warm = {"type": "float", "low": 0.0, "high": 0.2, "step": 0.05, "when": {"schedule": "cosine"}}
    schedule = {"type": "categorical", "choices": ["cosine", "constant"]}
    space = {"optimizer": "adamw", "lr": lr, "schedule": schedule, "warmup_fraction": warm}
    original = submitted(
        server.context,
        spec,
        space=space,
        max_concurrent=4,
        constraint={"metric": "train_loss", "max": 3.0},
        sampler={"name": "tpe", "n_startup_trials": 5},
        eval_every=0.5,
        tags=["one", "two"],
        priority=3,
    )
    with window(browser) as page:
        opened(page, server, f"?clone={original.id}")
        expect(page.get_by_label("Name", exact=True)).to_have_value("digits-adamw (copy)")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="digits-adamw (copy)")).to_be_visible()
    copy = service.find_study(server.context, "digits-adamw (copy)")
    assert copy is not None
    assert {**copy.spec, "name": original.spec["name"]} == original.spec


def test_a_clone_keeps_texts_that_look_like_something_else(
    browser: Browser, server: Server, spec: Spec
) -> None:
    choices = ["1", "true", "a,b", "", " a", 'say "b", c', '"', "a\\", "plain", None, 2]
    space = {
        "kind": {"type": "categorical", "choices": choices},
        "constant": {"type": "constant", "value": "2", "when": {"kind": ["1", "a,b"]}},
        "nothing": {"type": "constant", "value": None, "when": {"kind": "plain"}},
        "comma": "x, y",
        "x": {"type": "float", "low": 0.0, "high": 1.0, "when": {"comma": "x, y"}},
    }
    original = submitted(server.context, spec, task=None, space=space)
    with window(browser) as page:
        opened(page, server, f"?clone={original.id}")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="digits-adamw (copy)")).to_be_visible()
    copy = service.find_study(server.context, "digits-adamw (copy)")
    assert copy is not None
    assert copy.spec["space"] == original.spec["space"]


def test_a_clone_of_an_auto_study_need_not_test_the_range(
    browser: Browser, server: Server, spec: Spec
) -> None:
    original = submitted(server.context, spec, space="auto")
    assert original.spec["range_test"]
    with window(browser) as page:
        opened(page, server, f"?clone={original.id}")
        test = page.get_by_label("Measure the range of lr first")
        expect(test).to_be_checked()
        row(page, "optimizer").get_by_label("Kind").select_option("categorical")
        row(page, "optimizer").get_by_label("Choices").fill("adamw, lion")
        expect(test).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#form-error")).to_contain_text("it tests one optimizer")
        test.uncheck()
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="digits-adamw (copy)")).to_be_visible()
    copy = service.find_study(server.context, "digits-adamw (copy)")
    assert copy is not None
    assert "range_test" not in copy.spec


def test_what_is_copied_makes_the_same_study(browser: Browser, server: Server) -> None:
    with window(browser) as page:
        opened(page, server)
        page.get_by_label("Name", exact=True).fill('it\'s a "quoted" name: yes')
        page.get_by_label("Description").fill("# not a comment\nnull")
        page.get_by_label("Trials", exact=True).fill("7")
        expect(page.locator("#cost")).to_contain_text("7 trials")
        as_yaml, as_curl, as_python = (copied(page, kind) for kind in ("YAML", "curl", "Python"))
    wanted = StudySpec.parse(yaml.safe_load(as_yaml))
    assert wanted.name == 'it\'s a "quoted" name: yes'
    assert wanted.description == "# not a comment\nnull"
    assert wanted.budget is not None
    assert wanted.budget.trials == 7
    (told,) = re.findall(r"json\.loads\((.*)\)\)", as_python)
    compile(as_python, "copied.py", "exec")
    assert StudySpec.parse(json.loads(json.loads(told))) == wanted
    needed("curl")
    environment = {**os.environ, "TUNER_TOKEN": str(server.admin)}
    done = subprocess.run(
        ["bash", "-c", f"{as_curl.strip()} --silent --fail-with-body --noproxy '*'"],
        env=environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["name"] == wanted.name


def test_what_was_typed_outlives_the_session(browser: Browser, server: Server) -> None:
    with window(browser, forgive="status of 401") as page:
        opened(page, server)
        kept = page.context.cookies()
        page.context.clear_cookies()
        page.get_by_label("Name", exact=True).fill("kept")
        expect(page.locator("#form-error")).to_contain_text("You are logged out. Log in")
        expect(page.locator("#cost")).to_be_empty()
        page.get_by_role("button", name="Submit the study").click()
        expect(page.locator("#form-error")).to_contain_text("You are logged out. Log in")
        page.context.add_cookies([*kept])  # type: ignore[list-item]  # as they were read
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#cost")).to_contain_text("64 trials")
        page.get_by_role("button", name="Submit the study").click()
        expect(page.get_by_role("heading", name="kept")).to_be_visible()


def test_what_was_typed_outlives_a_server_that_is_away(browser: Browser, server: Server) -> None:
    with window(browser, forgive="ERR_FAILED|ERR_INTERNET") as page:
        opened(page, server)
        page.route("**/api/v1/studies**", lambda route: route.abort())
        page.get_by_label("Name", exact=True).fill("kept")
        expect(page.locator("#cost")).to_contain_text("cannot be reached")
        page.unroute("**/api/v1/studies**")
        page.get_by_label("Trials", exact=True).fill("9")
        expect(page.locator("#cost")).to_contain_text("9 trials")
        expect(page.get_by_label("Name", exact=True)).to_have_value("kept")
