"""The advisor's page as the server renders it: the answer, what is wrong, and the plan."""

from __future__ import annotations

import html
import json
import math
import re
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import Server
from tests.api.dashboard.test_pages import read
from tests.api.loops import submitted, train
from tests.tuner.service import probing
from tests.tuner.service.simulation import Trainer
from tuner import service
from tuner.protocol import Measured
from tuner.service import Context, StudyView
from tuner.tasks import TaskForm

Spec = dict[str, Any]
EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
KNOWN = {"optimizer": "adam", "lr": "0.0005", "batch_size": "128", "to": "1024", "rule": "sqrt"}


def scaling(context: Context, spec: Spec, name: str = "scaling") -> StudyView:
    """A grid whose best rate is 2e-3 (B / 64)^0.35, run to its end; a ruined rate diverges."""
    space = {
        "optimizer": "adamw",
        "lr": {"type": "categorical", "choices": [1e-3 * 2.0 ** (i / 2) for i in range(-5, 9)]},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
        "weight_decay": 0.01,
    }
    study = submitted(
        context, spec, name=name, space=space, sampler={"name": "grid"}, budget={"epochs": 1}
    )
    rng = np.random.default_rng(0)
    while asked := service.ask(context, study.id, 100):
        for trial in asked:
            best = 2e-3 * (trial.config["batch_size"] / 64) ** 0.35
            octaves = math.log2(trial.config["lr"] / best)
            if octaves > 2.8:
                service.tell(context, trial.trial_id, trial.token, state="fail", reason="diverged")
                continue
            value = 0.15 + 0.02 * octaves**2 + 0.003 * float(rng.standard_normal())
            metrics = {study.objective[0].metric: value, "noise_scale": 420.0}
            ends = {"noise_scale_low": 300.0, "noise_scale_high": 600.0}
            told = Measured(step=1, metrics={**metrics, **ends})
            service.report_trial(context, trial.trial_id, trial.token, told)
    return service.show_study(context, study.id)


def shown(client: httpx.Client, status: int = 200, **query: object) -> str:
    answer = client.get("/advisor", params=query)  # type: ignore[arg-type]  # plain values
    assert answer.status_code == status, answer.text
    return answer.text


def text(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def picture(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" class="picture">(.*?)</script>', page, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def field(page: str, name: str) -> str:
    found = re.search(rf'<input id="ask-{name}" name="{name}" value="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])


def test_the_known_error_is_answered_rightly(client: httpx.Client) -> None:
    said = text(shown(client, **KNOWN))
    assert "0.00141421 from 5e−4" in said
    assert "it rises from 0.0005 to 0.00141421" in said
    assert "Measured rises flatten" in said
    assert "low confidence" in said
    first = shown(client)  # the page begins with this very question
    assert {name: field(first, name) for name in ("lr", "batch_size", "to")} == {
        name: KNOWN[name] for name in ("lr", "batch_size", "to")
    }


def test_every_field_of_the_shells_command_is_there(client: httpx.Client) -> None:
    more = {"beta1": "0.9", "beta2": "0.999", "eps": "1e-8", "warmup_steps": "4000"}
    page = shown(client, **{**KNOWN, "rule": "sde", **more, "weight_decay": "0.1", "to": "256"})
    said = text(page)
    assert "beta1 0.9 0.8" in said
    assert "warmup_steps 4000 2000" in said
    for name in ("momentum", "steps", "epochs", "clip_norm", "noise_scale", *more):
        assert f'name="{name}"' in page
    steps = text(shown(client, **{**KNOWN, "fixed": "steps", "epochs": "10"}))
    assert "Measured changes at fixed steps are small" in steps
    assert "epochs from 10 to 80: the same number of steps" in steps
    noisy = shown(client, **{**KNOWN, "rule": "", "noise_scale": "2000"})
    assert "By gain" in text(noisy)
    assert set(picture(noisy)["lines"]) == {"keep", "sqrt", "linear", "gain"}


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({"lr": "fast"}, "lr", "'fast' is not a number"),
        ({"lr": "0"}, "lr", "must be above 0"),
        ({"lr": ""}, "lr", "is missing"),
        ({"batch_size": "12.5"}, "batch_size", "not a whole number"),
        ({"to": ""}, "to", "which batch size"),
        ({"to": "inf"}, "to", "not a whole number"),
        ({"optimizer": "adamv"}, "optimizer", "no optimizer"),
        ({"fixed": "samples"}, "fixed", "neither epochs nor steps"),
        ({"rule": "cubic"}, "rule", "no rule"),
        ({"rule": "linear"}, "optimizer", "linear would overshoot"),
        ({"rule": "gain"}, "noise_scale", "none was given"),
        ({"rule": "sde", "to": "2048"}, "beta1", "no decay rate"),
        ({"rule": "trials"}, "study", "no finished trials"),
        ({"noise_scale": "-1"}, "noise_scale", "positive"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    client: httpx.Client, changes: dict[str, str], names: str, message: str
) -> None:
    page = shown(client, 422, **{**KNOWN, **changes})
    assert f'data-field="{names}"' in page
    assert message in text(page)
    control = re.search(rf'<(?:input|select)[^>]* name="{names}"[^>]*>', page)
    assert names == "study" or (control and "aria-invalid" in control[0]) or names == "fixed"
    assert 'class="picture"' not in page
    piece = shown(client, 200, **{**KNOWN, **changes}, fragment="answer")
    assert "<html" not in piece
    assert message in text(piece)


def test_the_studys_own_trials_are_the_evidence(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = scaling(server.context, spec)
    page = shown(client, study=study.id)
    assert study.best is not None
    assert float(field(page, "lr")) == pytest.approx(study.best.config["lr"], rel=1e-5)
    assert field(page, "weight_decay") == "0.01"
    assert field(page, "to") == str(2 * study.best.config["batch_size"])
    page = shown(client, study=study.id, optimizer="adamw", lr=2e-3, batch_size=64, to=256)
    said = text(page)
    assert "By your trials 56 of them" in said
    assert "high confidence" in said
    assert "noise scale 420 samples" in said
    drawn = picture(page)
    assert len(drawn["points"]) == 56
    assert {shade for _, _, shade, *_ in drawn["points"]} == {None, *range(9)}
    assert [size for size, *_ in drawn["optima"]] == [16, 32, 64, 128]
    assert all(low < lr < high for _, lr, low, high in drawn["optima"])
    batch, lr, low, high = drawn["new"]
    assert batch == 256
    assert lr == pytest.approx(2e-3 * 4**0.35, rel=0.05)
    assert low < lr < high
    assert drawn["old"] == [64, 2e-3]
    brief = shown(client, study=study.id, to=256, fragment="brief")
    assert f"lr {lr:.4g}" in text(brief)
    assert "<form" not in brief


def test_a_fit_that_answers_another_question_is_not_drawn(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = scaling(server.context, spec)
    asked = {"study": study.id, "lr": 2e-3, "batch_size": 64, "to": 256}
    same = shown(client, **asked, optimizer="adamw", rule="sqrt")
    assert picture(same)["curve"]  # their answer beside the one that was insisted on
    other = shown(client, **asked, optimizer="sgd")
    assert text(other).count("they are of adamw") == 1
    drawn = picture(other)
    assert (len(drawn["points"]), drawn["optima"], drawn["curve"]) == (56, [], [])


def test_a_study_that_tells_little_says_why(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = submitted(server.context, spec, budget={"trials": 2, "epochs": 3})
    for trial in service.ask(server.context, study.id, 2):
        service.tell(server.context, trial.trial_id, trial.token, values=trial.config["lr"])
    said = text(shown(client, study=study.id))
    (why,) = re.findall(r"your trials (?:do not settle it|were not used): ([^.;]+)", said)
    assert said.count(why) == 1  # not again in the table and below it
    assert "By sde rule" in said
    assert client.get("/advisor", params={"study": 99}).status_code == 404
    assert client.get("/advisor", params={"study": "x"}).status_code == 404


class TestPlan:
    @staticmethod
    def post(client: httpx.Client, server: Server, do: str, **changes: str) -> httpx.Response:
        query = "optimizer=adamw&lr=0.002&batch_size=64&to=512"
        form = {"query": query, "task": "digits", "trials": "40", "epochs": "5", "name": "plan"}
        headers = {"origin": server.url}
        return client.post("/advisor/plan", data={**form, "do": do, **changes}, headers=headers)

    def test_it_is_shown_and_then_submitted(self, server: Server, client: httpx.Client) -> None:
        page = self.post(client, server, "preview")
        assert page.status_code == 200
        assert re.search(r"\d+ trials: batch sizes", text(page.text))
        assert service.list_studies(server.context).items == []
        made = self.post(client, server, "submit")
        assert made.status_code == 303
        (study,) = service.list_studies(server.context).items
        assert made.headers["location"].endswith(f"/studies/{study.id}")
        assert study.owner == "admin"
        assert study.spec["sampler"]["name"] == "grid"
        assert study.budget["trials"] <= 40
        assert max(study.spec["space"]["batch_size"]["choices"]) == 512
        again = self.post(client, server, "submit")
        assert again.status_code == 422
        assert "there is a study named" in text(again.text)

    def test_it_may_be_of_a_task_that_only_workers_have(
        self, server: Server, client: httpx.Client, spec: Spec
    ) -> None:
        form = TaskForm(name="mine", metrics=("val_loss", "f1"), objective=("f1", "maximize"))
        service.offer_tasks(server.context, [form])
        study = scaling(server.context, {**spec, "task": "mine", "objective": {"metric": "f1"}})
        assert "<option selected>mine</option>" in shown(client, study=study.id)
        self.post(client, server, "submit", task="mine")
        planned, *_ = service.list_studies(server.context).items
        assert planned.task == "mine"
        assert [(o.metric, o.direction) for o in planned.objective] == [("f1", "maximize")]

    def test_the_loop_closes(self, server: Server, client: httpx.Client, spec: Spec) -> None:
        """Asked on a study with trials, the plan narrows to what is left to find out."""
        study = scaling(server.context, spec)
        known = f"study={study.id}&optimizer=adamw&lr=0.002&batch_size=64&to=512"
        wide = self.post(client, server, "preview")
        narrow = self.post(client, server, "preview", query=known)

        def error(page: str) -> float:
            found = re.search(r"best lr at 512 to \+-([0-9.]+) octaves", text(page))
            assert found is not None
            return float(found[1])

        assert error(narrow.text) <= error(wide.text)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"trials": "3"}, "it takes 3 batch sizes"),
            ({"trials": "many"}, "not a whole number"),
            ({"epochs": "0"}, "outside [1, 1000000]"),
            ({"task": "nothing"}, "no task"),
        ],
    )
    def test_what_cannot_be_planned_is_said(
        self, server: Server, client: httpx.Client, changes: dict[str, str], message: str
    ) -> None:
        page = self.post(client, server, "submit", **changes)
        assert page.status_code == 422
        assert message in text(page.text)
        assert service.list_studies(server.context).items == []

    def test_only_who_may_submit_and_from_here(self, server: Server) -> None:
        with server.client(server.token("read")) as reader:
            assert "advisor/plan" not in shown(reader)
            assert self.post(reader, server, "submit").status_code == 403
        with server.client() as client:
            form = {"query": "", "task": "digits", "trials": "40", "epochs": "5", "name": "x"}
            foreign = {"origin": "http://elsewhere.example"}
            answer = client.post("/advisor/plan", data={**form, "do": "submit"}, headers=foreign)
            assert answer.status_code == 403


def test_studies_of_other_things_hide_none_that_could_be_evidence(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id, 1)
    other = {**spec, "task": None, "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}}}
    for number in range(31):
        submitted(server.context, {**other, "name": f"other {number}"})
    offered = re.findall(r'type="checkbox" name="study" value="(\d+)"', shown(client))
    assert offered == [str(study.id)]


def test_names_of_studies_are_text(server: Server, client: httpx.Client, spec: Spec) -> None:
    study = scaling(server.context, spec, name=EVIL)
    for page in (
        shown(client, study=study.id, to=64),
        shown(client, 422, optimizer=EVIL, lr=EVIL, batch_size=EVIL, to=EVIL, rule=EVIL),
        client.get(f"/studies/{study.id}").text,
    ):
        reader = read(page)
        assert reader.handlers == []
        assert reader.images == 0
        assert reader.styled == []
        for script in reader.scripts:
            assert "src" in script or script.get("type") == "application/json"
        assert "&lt;script&gt;" in page


def test_a_studys_page_asks_the_advisor_and_shows_the_range(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = scaling(server.context, spec)
    page = client.get(f"/studies/{study.id}").text
    assert 'id="change"' in page
    assert "Range of learning rates" not in page
    auto = submitted(server.context, {"name": "auto", "task": "digits", "space": "auto"})
    waiting = text(client.get(f"/studies/{auto.id}").text)
    assert "Before the first trial a worker measures" in waiting
    worker = Trainer(server.context)
    probing.measure(server.context, worker, probing.given(server.context, worker))
    page = client.get(f"/studies/{auto.id}").text
    assert "a third of it" in text(page)
    assert re.search(r'<polyline points="0\.0,', page)
    assert 'id="change"' not in page, "there is no best trial yet"
