from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import pandas as pd
import pytest

from tests.api.conftest import Server
from tests.api.loops import submitted, train
from tests.installation import until
from tests.tuner.service import probing
from tuner import optimizers, pruners, samplers, schedules, service, tasks
from tuner.client import Client

Spec = dict[str, Any]


def get(client: httpx.Client, path: str, **query: object) -> Any:
    answer = client.get(f"/api/v1/{path}", params=query)  # type: ignore[arg-type]  # plain values
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(client: httpx.Client, path: str, body: object = None, status: int = 200) -> Any:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("said", [{"metrics": {"val_loss": None}}, {"values": [None]}])
def test_null_says_that_a_trial_of_ones_own_loop_diverged(
    client: httpx.Client, spec: Spec, said: Spec
) -> None:
    study = post(client, "studies", spec, 201)
    (trial,) = post(client, f"studies/{study['id']}/ask", {})
    path = f"trials/{trial['trial_id']}"
    if "metrics" in said:
        verdict = post(client, f"{path}/report", {"token": trial["token"], "step": 1, **said})
        assert (verdict["action"], verdict["reason"]) == ("stop", "diverged")
    else:
        post(client, f"{path}/tell", {"token": trial["token"], **said})
    ended = get(client, path)
    assert (ended["state"], ended["reason"], ended["values"]) == ("fail", "diverged", None)


def test_a_study_from_submission_to_results(client: httpx.Client, spec: Spec) -> None:
    answer = client.post("/api/v1/studies", json=spec)
    assert answer.status_code == 201
    study = answer.json()
    assert answer.headers["location"].endswith(f"/api/v1/studies/{study['id']}")
    assert study["state"] == "queued"
    base = f"studies/{study['id']}"
    while asked := post(client, f"{base}/ask", {"k": 2}):
        for trial in asked:
            path = f"trials/{trial['trial_id']}"
            for step in (1, 2, 3):
                value = math.log10(trial["config"]["lr"] / 1e-3) ** 2 + 1 / step
                told = {"token": trial["token"], "step": step, "metrics": {"val_loss": value}}
                post(client, f"{path}/renew", {"token": trial["token"]})
                action = post(client, f"{path}/report", told)["action"]
            assert action == "finish"
            assert post(client, f"{path}/report", told)["action"] == "finish"
            stranger = {**told, "token": "x"}
            assert post(client, f"{path}/report", stranger, 409)["code"] == "lease_lost"
    study = get(client, base)
    assert (study["state"], study["progress"], study["counts"]["complete"]) == ("completed", 1.0, 6)
    best = get(client, f"{base}/best", k=2)
    trials = get(client, f"{base}/trials", sort="value")["items"]
    assert [t["id"] for t in best] == [t["id"] for t in trials[:2]]
    assert study["best"]["id"] == best[0]["id"]
    curves = get(client, f"{base}/curves", numbers=[0, 3])
    assert [c["number"] for c in curves["curves"]] == [0, 3]
    assert [c["x"] for c in curves["curves"]] == [[1, 2, 3]] * 2
    measured = get(client, f"trials/{best[0]['id']}/measurements", after_step=1)
    assert [m["step"] for m in measured] == [2, 3]
    seen = get(client, f"{base}/overview")
    assert seen["numbers"] == list(range(6))
    assert seen["best"][-1][1] == pytest.approx(best[0]["value"], rel=1e-4)
    assert get(client, f"{base}/overview", since=seen["revision"])["ids"] == []
    for evaluator in ("ped_anova", "fanova"):
        importances = get(client, f"{base}/importances", evaluator=evaluator)
        assert set(importances["importances"]) == {"lr", "batch_size"}
    field = get(client, f"{base}/landscape", x="lr", y="batch_size")
    assert (len(field["columns"]), field["rows"]) == (32, [16, 32, 64])
    spans = get(client, f"{base}/timeline")["spans"]
    assert [span["outcome"] for span in spans] == ["complete"] * 6
    told = get(client, f"trials/{best[0]['id']}/events")
    assert [event["what"] for event in told] == ["created", "leased", "complete"]
    assert get(client, f"{base}/figures/history")["data"]


def test_pages_and_orders(server: Server, client: httpx.Client, spec: Spec) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    seen: list[int] = []
    cursor = None
    for _ in range(4):
        query = {"limit": 2, "sort": "params.lr", "order": "desc", "cursor": cursor}
        page = get(
            client,
            f"studies/{study.id}/trials",
            **{key: value for key, value in query.items() if value is not None},
        )
        seen += [trial["params"]["lr"] for trial in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 6
    assert seen == sorted(seen, reverse=True)


def test_workers_come_in_pages_that_heartbeats_do_not_shuffle(
    server: Server, client: httpx.Client
) -> None:
    hello = {"tasks": ["digits"]}
    ids = [post(client, "workers", {**hello, "name": f"w{i}"}, 201)["worker_id"] for i in range(5)]
    first = get(client, "workers", limit=2)
    post(client, f"workers/{ids[0]}/heartbeat", {})
    second = get(client, "workers", limit=2, cursor=first["next_cursor"])
    last = get(client, "workers", limit=2, cursor=second["next_cursor"])
    listed = [worker["id"] for page in (first, second, last) for worker in page["items"]]
    assert listed == ids[::-1]
    assert last["next_cursor"] is None
    with Client(server.url, server.admin) as mine:
        assert mine.workers()[0].id == ids[0], "those heard of last come first"


def test_trials_that_are_set_aside_are_listed_apart(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    pruner = {"name": "pbt", "interval_steps": 1, "population": 2}
    study = submitted(server.context, spec, pruner=pruner)
    first, _ = service.ask(server.context, study.id, 2)
    told = {"token": first.token, "step": 1, "metrics": {"val_loss": 1.0}}
    assert post(client, f"trials/{first.trial_id}/report", told)["action"] == "pause"
    path = f"studies/{study.id}/trials"
    assert [t["number"] for t in get(client, path, state="paused")["items"]] == [first.number]
    assert first.number not in [t["number"] for t in get(client, path, state="running")["items"]]


def test_filters_by_range_choice_and_value(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    path = f"studies/{study.id}/trials"
    everything = get(client, path)["items"]
    low, high = sorted(trial["params"]["lr"] for trial in everything)[1:3]
    inside = get(client, path, filter=f"lr:{low}..{high}")["items"]
    assert {t["number"] for t in inside} == {
        t["number"] for t in everything if low <= t["params"]["lr"] <= high
    }
    chosen = get(client, path, filter="batch_size:16|64")["items"]
    assert {t["number"] for t in chosen} == {
        t["number"] for t in everything if t["params"]["batch_size"] in (16, 64)
    }
    middle = sorted(t["value"] for t in everything)[2]
    good = get(client, path, filter=f"value:0..{middle}")["items"]
    assert len(good) == 3
    for wrong in ("lr", "nothing:1", "lr:a..b"):
        assert client.get(f"/api/v1/{path}", params={"filter": wrong}).status_code == 422


def test_filters_by_choices_that_hold_a_bar_and_by_a_parameter_named_value(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    choices = ["a", "b", "a|b", "1..2"]
    study = submitted(
        server.context,
        spec,
        task=None,
        space={
            "kind": {"type": "categorical", "choices": choices},
            "value": {"type": "float", "low": 0.0, "high": 9.0},
        },
    )
    configs = [{"kind": kind, "value": float(i)} for i, kind in enumerate(choices)]
    service.enqueue(server.context, study.id, configs)
    path = f"studies/{study.id}/trials"

    def kept(*filters: str) -> list[int]:
        return [trial["number"] for trial in get(client, path, filter=list(filters))["items"]]

    assert kept("kind:a|b") == [2]
    assert kept("kind:a", "kind:a|b") == [0, 2]
    assert kept("kind:b|a") == [0, 1]
    assert kept("kind:1..2") == [3]
    assert kept("params.value:1..2") == [1, 2]
    assert kept("value:1..2") == []
    answer = client.get(f"/api/v1/{path}", params={"filter": "kind:1..1e308"})
    assert answer.status_code == 422
    assert "has no range, but choices: a, b" in answer.json()["detail"]
    html = client.get(f"/studies/{study.id}?filter=params.value:1..2").text
    assert '<option value="params.value">value</option>' in html


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_exports_hold_every_trial(
    server: Server, client: httpx.Client, spec: Spec, kind: str
) -> None:
    study = submitted(server.context, spec)
    train(server.context, study.id)
    answer = client.get(f"/api/v1/studies/{study.id}/export", params={"format": kind})
    assert f'filename="study-{study.id}.{kind}"' in answer.headers["content-disposition"]
    content = io.BytesIO(answer.content)
    read: Callable[[], pd.DataFrame] = {
        "csv": lambda: pd.read_csv(content),
        "json": lambda: pd.DataFrame(json.loads(answer.content)),
        "parquet": lambda: pd.read_parquet(content),
    }[kind]
    assert list(read()["number"]) == list(range(6))


def test_a_dry_run_stores_nothing(client: httpx.Client, spec: Spec) -> None:
    found = post(client, "studies/preview", spec)
    assert len(found["samples"]) == 10
    assert (found["trials"], found["total_epochs"]) == (6, 18.0)
    assert get(client, "studies")["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"space": {"lr": {"type": "float", "low": 0, "high": 1, "log": True}}}, "space.lr.low"),
        ({"task": {"name": "mnist"}}, "task.name"),
        ({"sampler": {"name": "gut"}}, "sampler.name"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"objective": {"metric": "luck"}}, "objective.metric"),
        ({"colour": "red"}, "colour"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(
    client: httpx.Client, spec: Spec, change: Spec, field: str
) -> None:
    answer = client.post("/api/v1/studies", json={**spec, **change})
    assert answer.status_code == 422
    assert answer.json()["field"].replace("[0]", "") == field
    assert get(client, "studies")["items"] == []


def test_states_follow_the_buttons(client: httpx.Client, spec: Spec) -> None:
    study = post(client, "studies", spec, 201)
    base = f"studies/{study['id']}"
    assert post(client, f"{base}/pause")["state"] == "paused"
    assert post(client, f"{base}/resume")["state"] == "queued"
    changed = client.patch(f"/api/v1/{base}", json={"priority": 5, "tags": ["a"]}).json()
    assert (changed["priority"], changed["tags"]) == (5, ["a"])
    assert post(client, f"{base}/cancel")["state"] == "cancelled"
    assert post(client, f"{base}/resume", status=409)["code"] == "conflict"
    assert client.delete(f"/api/v1/{base}").status_code == 204
    assert client.get(f"/api/v1/{base}").status_code == 404


def test_a_named_request_makes_its_study_once(client: httpx.Client, spec: Spec) -> None:
    headers = {"Idempotency-Key": "monday"}
    first = client.post("/api/v1/studies", json=spec, headers=headers)
    again = client.post("/api/v1/studies", json=spec, headers=headers)
    assert [first.status_code, again.status_code] == [201, 201]
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    other = client.post("/api/v1/studies", json={**spec, "name": "other"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    assert len(get(client, "studies")["items"]) == 1
    ask = f"/api/v1/studies/{first.json()['id']}/ask"
    asked = [client.post(ask, json={"k": 2}, headers=headers).json() for _ in range(2)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2


def test_a_worker_registers_leases_reports_and_leaves(client: httpx.Client, spec: Spec) -> None:
    study = post(client, "studies", spec, 201)
    hello = {"name": "cpu-1", "tasks": ["digits"], "slots": 2}
    worker = post(client, "workers", hello, 201)["worker_id"]
    leased = post(client, f"workers/{worker}/lease", {"k": 2})["leased"]
    assert [trial["study_id"] for trial in leased] == [study["id"]] * 2
    beat = {"held": {str(trial["trial_id"]): trial["token"] for trial in leased}}
    assert post(client, f"workers/{worker}/heartbeat", beat)["drop"] == []
    slots = [
        {
            "trial_id": trial["trial_id"],
            "token": token,
            "measurements": [{"step": 1, "metrics": {"val_loss": value}}],
        }
        for trial, token, value in (
            (leased[0], leased[0]["token"], 0.5),
            (leased[1], "not mine", 0.4),
        )
    ]
    verdicts = post(client, f"workers/{worker}/report", {"slots": slots})["verdicts"]
    assert [verdict["action"] for verdict in verdicts] == ["continue", "lost"]
    assert post(client, f"workers/{worker}/drain")["state"] == "draining"
    drained = {"leased": [], "probe": None, "drain": True}
    assert post(client, f"workers/{worker}/lease", {"k": 1}) == drained
    assert client.delete(f"/api/v1/workers/{worker}").status_code == 204
    counts = get(client, f"studies/{study['id']}")["counts"]
    assert counts["running"] == 0
    assert counts["waiting"] >= 2


def test_enqueued_configurations_come_first(client: httpx.Client, spec: Spec) -> None:
    study = post(client, "studies", spec, 201)
    config = {"lr": 0.01, "batch_size": 32}
    made = post(client, f"studies/{study['id']}/trials", {"configs": [config]}, 201)
    assert made[0]["origin"] == "enqueued"
    asked = post(client, f"studies/{study['id']}/ask")
    assert asked[0]["config"] == {"optimizer": "adamw", **config}
    stopped = post(client, f"trials/{asked[0]['trial_id']}/stop")
    assert stopped["state"] == "fail"
    retried = post(client, f"trials/{stopped['id']}/retry")
    assert (retried["origin"], retried["params"]) == ("retried", config)


@pytest.mark.parametrize(
    ("kind", "registry"),
    [
        ("tasks", tasks.registry),
        ("optimizers", optimizers.registry),
        ("schedules", schedules.registry),
        ("samplers", samplers.registry),
        ("pruners", pruners.registry),
    ],
)
def test_the_catalogue_is_the_registry(client: httpx.Client, kind: str, registry: Any) -> None:
    found = get(client, kind)
    assert [entry["name"] for entry in found] == registry.names()
    assert all(entry["summary"] for entry in found)


def test_the_catalogue_says_which_ends_of_a_range_are_open(client: httpx.Client) -> None:
    found = {
        f"{entry['name']}.{setting['name']}": setting
        for kind in ("optimizers", "schedules", "pruners")
        for entry in get(client, kind)
        for setting in entry["settings"]
    }

    def range_of(name: str) -> tuple[object, ...]:
        ends = ("minimum", "open_minimum", "maximum", "open_maximum")
        return tuple(found[name][end] for end in ends)

    assert range_of("adamw.eps") == (0.0, True, None, False)
    assert range_of("adamw.beta1") == (0.0, False, 1.0, True)
    assert range_of("adamw.lr") == (0.0, False, None, False)
    assert range_of("step.gamma") == (0.0, True, 1.0, False)
    page = " ".join(client.get("/catalogue").text.split())
    assert "<td>&gt; 0</td>" in page
    assert "<td>0 to below 1</td>" in page
    assert "<td>above 0 to 1</td>" in page


def test_the_advisor_answers_the_known_question(client: httpx.Client) -> None:
    question = {
        "config": {"lr": 5e-4, "batch_size": 128},
        "batch": 1024,
        "optimizer": "adam",
        "rule": "sqrt",
    }
    advice = post(client, "advisor/scale", question)
    assert advice["config"]["lr"] == pytest.approx(0.00141421, rel=1e-5)
    assert "rises from 0.0005 to 0.00141421" in advice["why"]
    assert "Measured rises flatten" in advice["why"]
    refused = post(client, "advisor/scale", {**question, "rule": "linear"}, 422)
    assert (refused["code"], refused["field"]) == ("refusal", "optimizer")


def test_memory_and_fit(client: httpx.Client) -> None:
    found = post(client, "advisor/memory", {"optimizer": "adamw", "parameters": 1000})
    assert found["per_parameter"]["state"] == 8.0
    trials = [
        {"lr": lr, "batch_size": batch, "loss": math.log2(lr / (1e-3 * (batch / 32) ** 0.5)) ** 2}
        for batch in (32, 64, 128, 256)
        for lr in (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    ]
    assert post(client, "advisor/fit", {"trials": trials, "optimizer": "adamw"})


def test_the_critical_batch_size_needs_a_target_that_runs_reach(
    server: Server, client: httpx.Client, spec: Spec
) -> None:
    study = submitted(server.context, spec).id
    train(server.context, study)
    body = {"studies": [study], "target": -1.0}
    refused = post(client, "advisor/critical", body, 422)
    assert refused["field"] == "target"
    assert "these do: none" in refused["detail"]
    assert post(client, "advisor/critical", {**body, "studies": [99]}, 404)["code"] == "not_found"


def test_advice_on_a_study(server: Server, client: httpx.Client, spec: Spec) -> None:
    study = submitted(server.context, spec).id
    path = f"studies/{study}/advice"
    empty = client.get(f"/api/v1/{path}", params={"batch": 256})
    assert (empty.status_code, empty.json()["field"]) == (422, "study")
    assert client.get("/api/v1/studies/999/advice", params={"batch": 256}).status_code == 404
    train(server.context, study)
    best = get(client, f"studies/{study}/best")[0]
    said = get(client, path, batch=256, fixed="epochs", rule="sqrt")
    assert said["config"]["batch_size"] == 256
    rise = (256 / best["config"]["batch_size"]) ** 0.5
    assert said["config"]["lr"] == pytest.approx(best["config"]["lr"] * rise)
    question = {"config": best["config"], "batch": 256, "rule": "sqrt", "studies": [study]}
    asked = post(client, "advisor/scale", {"optimizer": said["optimizer"], **question})
    assert asked["config"]["lr"] == said["config"]["lr"]
    assert asked["cautions"] == said["cautions"]
    question["studies"] = [999]
    assert post(client, "advisor/scale", question, 404)["code"] == "not_found"


def test_a_range_test_comes_first_and_is_shown(client: httpx.Client, spec: Spec) -> None:
    body = {"name": "auto", "task": "digits", "budget": {"trials": 4, "epochs": 1}}
    study = post(client, "studies", body, 201)
    assert study["range_test"]["state"] == "waiting"
    hello = {"name": "w", "tasks": ["digits"], "slots": 4}
    worker = post(client, "workers", hello, 201)["worker_id"]
    answer = post(client, f"workers/{worker}/lease", {"k": 4})
    probe = answer["probe"]
    assert (probe["study_id"], answer["leased"]) == (study["id"], [])
    beat = {"probes": {str(study["id"]): "wrong"}}
    assert post(client, f"workers/{worker}/heartbeat", beat)["drop_probes"] == [study["id"]]
    said = {"study_id": study["id"], "token": probe["token"], "outcome": "measured"}
    report = {"slots": [], "probe": {**said, "losses": [[1.0]]}}
    problem = post(client, f"workers/{worker}/report", report, 422)
    assert problem["field"] == "probe.losses"
    report["probe"] = {**said, "losses": probing.losses(), "seconds": 1.0}
    assert post(client, f"workers/{worker}/report", report)["probe"] is None
    found = get(client, f"studies/{study['id']}")["range_test"]
    assert (found["state"], found["low"] < found["high"]) == ("measured", True)
    kept = get(client, f"studies/{study['id']}/range")
    assert kept["loss"][-1] is None
    assert kept["why"] == found["why"]
    assert client.get(f"/api/v1/studies/{submit_plain(client, spec)}/range").status_code == 404
    wrong = {**spec, "name": "wrong", "space": {"lr": 1e-3}, "range_test": True}
    assert post(client, "studies", wrong, 422)["field"] == "range_test"


def submit_plain(client: httpx.Client, spec: Spec) -> int:
    return int(post(client, "studies", spec, 201)["id"])


def test_a_plan_can_be_submitted(client: httpx.Client) -> None:
    question = {
        "config": {"lr": 1e-3, "batch_size": 32, "optimizer": "adamw"},
        "task": {"name": "digits"},
        "trials": 40,
        "epochs": 1,
        "target": 256,
    }
    found = post(client, "advisor/plan", question)
    assert found["trials"] <= 40
    assert found["target"] == 256
    assert post(client, "studies", found["study"], 201)["budget"]["trials"] == found["trials"]
    refused = post(client, "advisor/plan", {**question, "trials": 4}, 422)
    assert (refused["code"], refused["field"]) == ("refusal", "trials")


def test_memory_from_measured_peaks(client: httpx.Client) -> None:
    question = {
        "optimizer": "adamw",
        "parameters": 10_000_000,
        "batch_size": 8,
        "capacity": 80e9,
        "context": 0.5e9,
        "peaks": {"fixed": 1e9, "per_sample": 1e8},
    }
    found = post(client, "advisor/memory", question)
    assert found["basis"] == "measured"
    assert found["trials_one_process"] == int((0.9 * 80e9 - 0.5e9) / 1.8e9)
    tiny = {**question, "peaks": {"fixed": 1e9, "per_sample": 1e-300}}
    assert post(client, "advisor/memory", tiny)["largest_batch"] is None


def test_the_log_of_a_trial_is_tailed(client: httpx.Client, spec: Spec) -> None:
    post(client, "studies", spec, 201)
    worker = post(client, "workers", {"name": "w", "tasks": ["digits"]}, 201)["worker_id"]
    (leased,) = post(client, f"workers/{worker}/lease", {"k": 1})["leased"]
    path = f"trials/{leased['trial_id']}/log"
    assert get(client, path)["text"] == ""
    piece = {"trial_id": leased["trial_id"], "token": leased["token"]}
    for start, text in ((0, "epoch 1\n"), (8, "epoch 2\n")):
        printed = [{**piece, "start": start, "size": len(text), "text": text}]
        post(client, f"workers/{worker}/report", {"slots": [], "printed": printed})
    found = get(client, path)
    assert found == {
        "trial_id": leased["trial_id"],
        "attempt": 1,
        "attempts": [1],
        "text": "epoch 1\nepoch 2\n",
        "cursor": found["cursor"],
        "ended": False,
    }
    assert get(client, path, tail=1)["text"] == "epoch 2\n"
    assert get(client, path, after=found["cursor"])["text"] == ""
    assert client.get(f"/api/v1/{path}", params={"attempt": 2}).status_code == 404
    assert client.get(f"/api/v1/{path}", params={"tail": -1}).status_code == 422


def test_datasets_are_kept_by_name(client: httpx.Client) -> None:
    query = {"name": "iris", "format": "csv"}
    made = client.post("/api/v1/datasets", params=query, content=b"a,b\n1,2\n3,4\n")
    assert made.status_code == 201, made.text
    found = made.json()
    assert (found["rows"], list(found["columns"])) == (2, ["a", "b"])
    assert found["reference"] == "dataset:iris"
    again = client.post("/api/v1/datasets", params=query, content=b"a,b\n1,2\n3,4\n")
    assert again.json() == found
    assert get(client, "datasets") == [found]
    other = client.post("/api/v1/datasets", params=query, content=b"a,b\n5,6\n")
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    file = client.get(f"/api/v1/datasets/files/{found['sha256']}")
    assert (file.status_code, file.content) == (200, b"a,b\n1,2\n3,4\n")
    path = f"/api/v1/datasets/{found['id']}"
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert client.get(f"/api/v1/datasets/files/{found['sha256']}").status_code == 404


def test_health_and_metrics(server: Server, client: httpx.Client, spec: Spec) -> None:
    submitted(server.context, spec)
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json()["status"] == "ok"
    text = client.get("/metrics").text
    assert "tuner_up 1.0" in text
    assert 'tuner_studies{state="queued"} 1.0' in text
    for name in ("queue_depth", 'leases{holder="worker"}', 'trials{state="waiting"}'):
        assert f"tuner_{name} " in text
    assert "tuner_samples_per_second 0.0" in text
    assert 'route="/healthz"' in text
    client.get("/api/v1/trials/1/measurements")
    client.get("/workers")
    client.get("/api/v1/workers")
    text = client.get("/metrics").text
    assert set(re.findall(r'seconds_count.*route="(\S+?)"', text)) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/trials/{trial_id}/measurements",
        "/workers",
        "/api/v1/workers",
    }


def test_every_operation_is_described(client: httpx.Client) -> None:
    document = get(client, "openapi.json")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            if path.startswith("/api/"):
                problems = {"401", "403", "422", "429", "503"}
                assert problems <= set(operation["responses"]), where
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert "application/problem+json" in answer["content"], where


def test_behind_a_prefix_links_and_redirects_keep_it(start: Callable[..., Server]) -> None:
    server = start(root_path="/tune")
    with server.client() as client:
        for path in ("/", "/tune/"):  # proxies that strip the prefix, and those that do not
            page = client.get(path)
            assert page.status_code == 200
            assert 'href="/tune/assets/' in page.text
            assert 'href="/tune/workers"' in page.text
        asset = page.text.split('href="/tune/assets/')[1].split('"')[0]
        assert client.get(f"/tune/assets/{asset}").status_code == 200
    with server.client(token="") as stranger:
        answer = stranger.get("/tune/workers", headers={"accept": "text/html"})
        assert answer.headers["location"] == "/tune/login?next=%2Fworkers"


@pytest.mark.parametrize("prefix", ["/", "//"])
def test_no_prefix_may_be_written_as_a_slash(start: Callable[..., Server], prefix: str) -> None:
    with start(root_path=prefix).client() as client:
        assert 'href="/workers"' in client.get("/").text


def test_housekeeping_misses_a_silent_worker(start: Callable[..., Server]) -> None:
    server = start(lease_seconds=0.2)
    with server.client() as client:
        post(client, "workers", {"name": "silent", "tasks": ["digits"]}, 201)
        until(
            lambda: get(client, "workers")["items"][0]["state"] == "gone",
            "a tick to miss the worker",
        )
