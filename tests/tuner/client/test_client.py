"""The client against a real server on the loopback, without workers: our own loop does the work."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from tuner.cli.serving import serving
from tuner.client import Client, load
from tuner.errors import Conflict, InvalidInput, NotFound, Refusal, TunerError, Unauthorized
from tuner.settings import Settings


def loss(config: dict[str, Any]) -> float:
    return float((config["lr"] - 0.1) ** 2 + config["depth"])


def finish(client: Client, study: int) -> None:
    while asked := client.ask(study, 2):
        for trial in asked:
            for step in (1, 2):
                verdict = client.report(trial, step, loss=loss(trial.config) / step)
                assert verdict.action == "continue"
            client.tell(trial, loss(trial.config))


def test_a_study_is_submitted_worked_on_and_read(client: Client, spec: dict[str, Any]) -> None:
    study = client.submit(spec)
    assert client.study(study.name).id == study.id
    assert study.id in [found.id for found in client.studies()]
    finish(client, study.id)
    ended = client.wait(study.id, progress=False, timeout_seconds=30)
    assert ended.state == "completed"
    assert ended.counts.complete == 6
    trials = list(client.trials(study.id))
    assert [trial.number for trial in trials] == list(range(6))
    (best,) = client.best(study.id)
    assert best.value == min(trial.value for trial in trials if trial.value is not None)
    assert [point.step for point in client.measurements(best.id)] == [1, 2]
    assert client.ask(study.id) == []


def test_a_bar_is_drawn_while_one_waits(
    client: Client, spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    study = client.submit({**spec, "name": "[b]bold[/b]"})
    assert client.wait(study.id, timeout_seconds=0).state == "queued"
    assert "[b]bold[/b]: queued" in capsys.readouterr().out
    finish(client, study.id)
    best = client.wait(study.id).best
    shown = capsys.readouterr().out
    assert best is not None
    assert "completed" in shown
    assert "6/6" in shown
    assert f"best {best.value:.6g}" in shown


def test_results_come_as_a_frame_a_figure_and_files(client: Client, spec: dict[str, Any]) -> None:
    study = client.submit(spec)
    finish(client, study.id)
    frame = client.trials_frame(study.id)
    assert list(frame["number"]) == list(range(6))
    assert {"value", "state", "params.lr", "params.depth", "metrics.loss"} <= set(frame.columns)
    assert frame["value"].notna().all()
    assert len(client.figure(study.id, "history").data) > 0
    table = pd.read_csv(io.BytesIO(client.export(study.id, "csv")))
    assert len(table) == 6
    assert len(pd.read_parquet(io.BytesIO(client.export(study.id, "parquet")))) == 6


def test_advice_and_fits_are_values_that_a_notebook_shows(
    client: Client, spec: dict[str, Any]
) -> None:
    space = {
        "optimizer": "adamw",
        "lr": {"type": "categorical", "choices": [0.1 * 2.0 ** (i / 2) for i in range(-5, 6)]},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
    }
    study = client.submit({**spec, "space": space, "sampler": "grid", "budget": {"trials": 44}})
    while asked := client.ask(study.id, 44):
        for trial in asked:
            best = 0.1 * (trial.config["batch_size"] / 45) ** 0.4
            client.tell(trial, math.log2(trial.config["lr"] / best) ** 2)
    fitted = client.fit(study.id)
    assert fitted.exponent is not None
    assert fitted.exponent.value == pytest.approx(0.4, abs=0.02)
    assert "| 128 |" in fitted._repr_markdown_()
    advice = client.advice(study.id, 256)
    assert (advice.rule, advice.confidence) == ("trials", "high")
    assert advice.lr == pytest.approx(0.1 * (256 / 45) ** 0.4, rel=0.05)
    assert f"**lr {advice.lr:.4g}**" in advice._repr_markdown_()
    known = client.scale({"lr": 5e-4, "batch_size": 128}, 1024, optimizer="adam", rule="sqrt")
    assert known.lr == pytest.approx(0.00141421356)
    with pytest.raises(Refusal, match="linear") as refused:
        client.scale({"lr": 5e-4, "batch_size": 128}, 1024, optimizer="adam", rule="linear")
    assert refused.value.field == "optimizer"


def test_the_critical_batch_size_of_stored_curves(client: Client, spec: dict[str, Any]) -> None:
    space = {"batch_size": {"type": "categorical", "choices": [8, 16, 32, 64, 128]}}
    budget = {"trials": 5, "epochs": 30}
    grid = {**spec, "space": space, "sampler": "grid", "budget": budget}
    study = client.submit({**grid, "task": "digits", "objective": {"metric": "val_loss"}})
    for trial in client.ask(study.id, 5):
        periods = 0.2 * (1 + 60 / trial.config["batch_size"]) * trial.config["batch_size"]
        for step in range(1, 31):
            told = {"step": step, "metrics": {"val_loss": 2.0 ** (-step / periods)}}
            body = {"token": trial.token, **told, "samples": 100 * step}
            client._transport.call("POST", f"trials/{trial.trial_id}/report", json=body)
    found = client.critical(study.id, target=0.5)
    assert found.value == pytest.approx(60, rel=0.1)
    assert found.identified


def test_a_study_without_a_range_test_has_none(client: Client, spec: dict[str, Any]) -> None:
    with pytest.raises(NotFound):
        client.range_test(client.submit(spec).id)
    auto = {**spec, "name": "auto", "space": "auto", "task": "digits", "objective": []}
    assert client.range_test(client.submit(auto).id).state == "waiting"


def test_events_are_told_in_order_until_the_end(client: Client, spec: dict[str, Any]) -> None:
    study = client.submit(spec)
    finish(client, study.id)
    told = list(client.events(study.id))
    assert [event.id for event in told] == sorted({event.id for event in told})
    assert told[0].kind == "study.created"
    assert told[-1].data["state"] == "completed"
    assert list(client.events(study.id, after=told[-1].id)) == []


def test_nothing_is_told_of_an_ended_study_whose_events_are_known(
    client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = client.submit(spec)
    finish(client, study.id)
    last = list(client.events(study.id))[-1].id
    listen, asked = client._listen, iter(range(3))

    def a_few_times(*arguments: Any) -> Iterator[Any]:
        next(asked)
        return listen(*arguments)

    monkeypatch.setattr(client, "_listen", a_few_times)
    assert list(client.events(study.id, after=last)) == []


def test_events_of_a_study_that_was_reopened_are_told_to_its_last_end(
    client: Client, spec: dict[str, Any]
) -> None:
    study = client.submit(spec)
    finish(client, study.id)
    more = {"budget": {**spec["budget"], "trials": 8}}
    client._transport.call("PATCH", f"studies/{study.id}", json=more)
    told = []
    for event in client.events(study.id):
        told.append(event)
        ends = [e for e in told if e.data.get("state") == "completed"]
        if event in ends and len(ends) == 1:
            finish(client, study.id)
    assert len(ends) == 2
    assert told[-1] is ends[-1]
    assert [event.id for event in told] == sorted({event.id for event in told})


def test_a_wrong_field_is_refused_by_its_name(client: Client, spec: dict[str, Any]) -> None:
    spec["space"]["lr"]["low"] = 0.0
    with pytest.raises(InvalidInput) as caught:
        client.submit(spec)
    assert caught.value.field.startswith("space.lr")
    with pytest.raises(NotFound):
        client.study(spec["name"])


def test_a_preview_stores_nothing(client: Client, spec: dict[str, Any]) -> None:
    preview = client.preview(spec)
    assert preview.trials == 6
    assert len(preview.samples) == 10
    with pytest.raises(NotFound):
        client.study(spec["name"])


def test_a_study_is_steered(client: Client, spec: dict[str, Any]) -> None:
    study = client.submit(spec)
    assert client.pause(study.id).state == "paused"
    assert client.resume(study.id).state in ("queued", "running")
    queued = client.enqueue(study.id, [{"lr": 0.1, "depth": 2}])
    assert queued[0].params == {"lr": 0.1, "depth": 2}
    (first,) = client.ask(study.id)
    assert first.config["depth"] == 2
    assert client.stop_trial(first.trial_id).reason == "cancelled"
    assert client.update(study.id, priority=3, tags=["slow"]).tags == ["slow"]
    (second,) = client.ask(study.id)
    assert client.tell(second, state="fail").state == "fail"
    again = client.retry_trial(second.trial_id)
    assert (again.params, again.origin) == (client.trial(second.trial_id).params, "retried")
    assert client.cancel(study.id).state == "cancelled"
    with pytest.raises(Conflict):
        client.resume(study.id)
    client.delete(study.id)
    with pytest.raises(NotFound):
        client.study(study.id)


class Tearing(httpx.HTTPTransport):
    """A network that loses the first answer to each request, after the server has acted."""

    def __init__(self) -> None:
        super().__init__()
        self.torn: set[tuple[str, bytes, str | None]] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        name = (str(request.url), request.content, request.headers.get("idempotency-key"))
        if request.method == "POST" and name not in self.torn:
            self.torn.add(name)
            answer.read()
            raise httpx.ReadError("the answer was lost", request=request)
        return answer


def test_every_call_survives_the_loss_of_its_answer(url: str, spec: dict[str, Any]) -> None:
    network = Tearing()
    with Client(url, inner=network) as client:
        study = client.submit(spec)
        queued = client.enqueue(study.id, [{"lr": 0.1, "depth": 2}])
        assert client.pause(study.id).state == "paused"
        assert client.resume(study.id).state == "queued"
        asked = client.ask(study.id, 2)
        assert len({trial.trial_id for trial in asked}) == 2
        for step in (1, 2, 3):
            verdict = client.report(asked[0], step, loss=1.0 / step)
        assert verdict.action == "finish"
        assert client.tell(asked[0]).state == "complete"
        assert client.tell(asked[1], state="pruned", reason="bored").state == "pruned"
        with client.held(asked, heartbeat_seconds=0.02) as lost:
            assert not lost.wait(0.2)
        counts = client.study(study.id).counts
        assert (counts.complete, counts.pruned, counts.running, counts.waiting) == (1, 1, 0, 0)
        assert [t.number for t in client.trials(study.id)] == [0, 1]
        assert client.trial(queued[0].id).origin == "enqueued"
        assert client.stop(study.id).state == "completed"
        other = client.submit({**spec, "name": spec["name"] + "-2"})
        assert client.cancel(other.id).state == "cancelled"
    assert len(network.torn) >= 13


def test_datasets_are_uploaded_and_named(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "flags.csv"
    file.write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(100)))
    made = client.upload(file)
    assert (made.name, made.format, made.rows) == ("flags", "csv", 100)
    assert client.upload(file, "other").reference == "dataset:other"
    assert [dataset.name for dataset in client.datasets()] == ["flags", "other"]
    preview = client.preview(
        {
            "name": "flags",
            "task": {"name": "tabular", "params": {"path": made.reference, "target": "y"}},
            "space": {"lr": 0.1},
            "budget": {"trials": 1},
        }
    )
    assert made.sha256 in preview.spec["task"]["params"]["path"]
    client.delete_dataset(made.id)
    assert [dataset.name for dataset in client.datasets()] == ["other"]
    with pytest.raises(InvalidInput, match="cannot be read"):
        client.upload(tmp_path / "none.csv")
    (tmp_path / "x.xls").write_bytes(b"no")
    with pytest.raises(InvalidInput) as caught:
        client.upload(tmp_path / "x.xls")
    assert "format" in caught.value.field


@pytest.mark.parametrize(
    ("body", "named"),
    [("<html>welcome</html>", "Invalid JSON"), ('{"id": 1, "name": "older"}', "state")],
)
def test_a_server_of_another_kind_is_one_clear_error(body: str, named: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                for call in (lambda: client.study(1), lambda: list(client.studies())):
                    with pytest.raises(TunerError, match="another version, or no tuner") as raised:
                        call()
                    assert "\n" not in str(raised.value)
                assert named in str(raised.value) or "items" in str(raised.value)
        finally:
            server.shutdown()


def test_a_study_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: x\nspace: {lr: 0.1}\n")
    assert load(file) == {"name": "x", "space": {"lr": 0.1}}
    for content in ("- a\n", "{", "just text", "name: x\nname: y\n"):
        file.write_text(content)
        with pytest.raises(InvalidInput, match="file"):
            load(file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "missing.yaml")


def test_tokens_are_asked_for_and_the_first_is_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    with serving(settings, auth=True, stop=threading.Event()) as url:
        secret = next(
            line.strip() for line in capsys.readouterr().err.splitlines() if "    tuner_" in line
        )
        with Client(url, secret) as admin, Client(url, "wrong") as stranger:
            assert list(admin.studies()) == []
            with pytest.raises(Unauthorized):
                list(stranger.studies())
    with serving(settings, auth=True, stop=threading.Event()):
        assert "tuner_" not in capsys.readouterr().err
