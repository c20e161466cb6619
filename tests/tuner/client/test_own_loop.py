"""Our own loop against a real server: who holds a trial, and until when."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from tuner.client import Client
from tuner.errors import Conflict, InvalidInput, LeaseLost, TooManyRequests, TunerError
from tuner.service import Asked


def test_a_trial_told_twice_or_by_a_stranger_changes_nothing(
    client: Client, spec: dict[str, Any]
) -> None:
    study = client.submit(spec)
    (trial,) = client.ask(study.id)
    stranger = trial.model_copy(update={"token": "0" * 32})
    with pytest.raises(LeaseLost):
        client.tell(stranger, 0.0)
    client.tell(trial, 2.0)
    assert client.tell(trial, 2.0).value == 2.0
    with pytest.raises(Conflict, match=r"complete with 2\.0"):
        client.tell(trial, 1.0)
    assert client.trial(trial.trial_id).value == 2.0


def test_a_state_told_in_the_place_of_values_is_refused_in_words(
    client: Client, spec: dict[str, Any]
) -> None:
    study = client.submit(spec)
    (trial,) = client.ask(study.id)
    with pytest.raises(
        InvalidInput,
        match=r"^values: is not a list of numbers, .*; did you mean state: complete\?$",
    ):
        client.tell(trial, "complete")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^values: is not a list of .* such as \[0.31\]$"):
        client.tell(trial, {"loss": 1.0})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^values: is missing: nothing was reported before$"):
        client.tell(trial, state="complete")
    assert client.tell(trial, [1.0]).state == "complete"


def test_a_trial_that_has_ended_is_not_lost(client: Client, spec: dict[str, Any]) -> None:
    """The others of the same block train on."""
    study = client.submit(spec)
    told, reported, running = client.ask(study.id, 3)
    with client.held((told, reported, running), heartbeat_seconds=0.02) as lost:
        client.tell(told, 1.0)
        for step in (1, 2, 3):
            verdict = client.report(reported, step, loss=1.0)
        assert verdict.action == "finish"
        assert not lost.wait(0.5)
        client.cancel(study.id)
        assert lost.wait(20.0)


@pytest.mark.parametrize(
    "error", [TunerError("HTTP status 500"), TooManyRequests("too many requests")]
)
def test_an_answer_that_says_nothing_of_a_lease_does_not_lose_it(
    client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: TunerError
) -> None:
    study = client.submit({**spec, "name": f"{spec['name']}-{error.code}"})
    first, second = client.ask(study.id, 2)
    call, renewed = client._transport.call, threading.Event()

    def unwell(method: str, path: str, **said: Any) -> httpx.Response:
        if path == f"trials/{first.trial_id}/renew":
            raise error
        answer = call(method, path, **said)
        if path == f"trials/{second.trial_id}/renew":
            renewed.set()
        return answer

    with client.held([first, second], heartbeat_seconds=0.02) as lost:
        monkeypatch.setattr(client._transport, "call", unwell)
        assert renewed.wait(20.0)
        assert not lost.is_set()
        monkeypatch.setattr(client._transport, "call", call)
        client.tell(first, 1.0)
        client.tell(second, 1.0)


def test_asked_trials_are_held_by_heartbeats(client: Client, spec: dict[str, Any]) -> None:
    study = client.submit(spec)
    asked = client.ask(study.id, 2)
    with client.held(asked, heartbeat_seconds=0.02) as lost:
        assert not lost.wait(0.3)
        client.cancel(study.id)
        assert lost.wait(20.0)


def test_a_loop_that_dies_holds_nobody_up_and_one_that_lives_loses_nothing(
    client: Client, spec: dict[str, Any]
) -> None:
    study = client.submit(spec)
    kept, silent = client.ask(study.id, 2)
    with client.held([kept], heartbeat_seconds=1.0) as lost:
        client.report(kept, 1, loss=1.0)
        with client.held([silent], heartbeat_seconds=1.0):
            client.report(silent, 1, loss=1.0)
        # Without a heartbeat it is as if its process had died, and its lease ends after the other's
        # would have.
        taken = again(client, study.id, silent)
        assert kept.number not in taken
        assert not lost.is_set()
        with pytest.raises(LeaseLost):
            client.tell(silent, 1.0)
    told = client.tell(kept, 1.0)
    assert (told.state, told.attempt) == ("complete", 1)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_a_trial_whose_objective_is_not_finite_has_diverged(
    client: Client, spec: dict[str, Any], loss: Any
) -> None:
    study = client.submit(spec)
    reported, told, kept = client.ask(study.id, 3)
    verdict = client.report(reported, 1, loss=loss)
    assert (verdict.action, verdict.reason) == ("stop", "diverged")
    assert client.report(reported, 1, loss=loss) == verdict, "said again, it is answered again"
    client.tell(told, loss)
    for trial in (reported, told):
        view = client.tell(trial, loss)
        assert (view.state, view.reason, view.value) == ("fail", "diverged", None)
    assert client.report(kept, 1, loss=0.5, other=loss).action == "continue"


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), np.int64(2)])
def test_values_may_be_of_any_library(client: Client, spec: dict[str, Any], number: Any) -> None:
    study = client.submit(spec)
    reported, told, listed = client.ask(study.id, 3)
    client.report(reported, np.int64(1), loss=number)
    (point,) = client.measurements(reported.trial_id)
    assert point.metrics == {"loss": float(number)}
    assert client.tell(told, number).value == float(number)
    assert client.tell(listed, [number]).value == float(number)


def test_several_values_may_be_a_tensor(client: Client, spec: dict[str, Any]) -> None:
    directions = [{"metric": name, "direction": "minimize"} for name in ("loss", "size")]
    study = client.submit(spec | {"objective": directions})
    tensor, generator = client.ask(study.id, 2)
    assert client.tell(tensor, torch.tensor([0.5, 2.0])).values == [0.5, 2.0]
    assert client.tell(generator, (n / 2 for n in (1, 4))).values == [0.5, 2.0]


@pytest.mark.parametrize(
    "wrong", ["much", None, torch.ones(2), 10**400], ids=["text", "none", "several", "too large"]
)
def test_what_is_no_number_is_refused_and_said(
    client: Client, spec: dict[str, Any], wrong: Any
) -> None:
    study = client.submit(spec)
    (trial,) = client.ask(study.id)
    with pytest.raises(InvalidInput, match="is not a number") as caught:
        client.report(trial, 1, loss=wrong)
    assert caught.value.field == "metrics.loss"
    with pytest.raises(InvalidInput, match="is not a number"):
        client.tell(trial, [wrong])
    assert client.trial(trial.trial_id).state == "running"


def again(client: Client, study: int, wanted: Asked) -> set[int]:
    """All that was handed out until a trial was handed out again."""
    taken: set[int] = set()
    for _ in range(600):
        taken |= {trial.number for trial in client.ask(study, 2)}
        if wanted.number in taken:
            return taken
        time.sleep(0.1)
    raise AssertionError(f"trial {wanted.number} was not handed out again")
