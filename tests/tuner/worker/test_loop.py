from __future__ import annotations

import inspect
import io
import json
import math
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from tests.installation import PATIENCE_SECONDS
from tests.tuner.tasks import zoo
from tuner import logs, service, tasks
from tuner.errors import (
    InvalidInput,
    SchemaOutdated,
    TooManyRequests,
    TunerError,
    Unauthorized,
    Unavailable,
)
from tuner.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    Leased,
    LeaseRequest,
    Probe,
    Registration,
    Report,
    ReportAnswer,
    WorkerHello,
)
from tuner.service import Context
from tuner.spec import StudySpec
from tuner.storage import migrate
from tuner.tasks import Config
from tuner.training import Population
from tuner.training.checkpoint import CheckpointStore
from tuner.training.memory import measure
from tuner.worker.crew import Crew
from tuner.worker.device import MEMORY_SHARE, memory_to_plan_on
from tuner.worker.direct import DirectGateway
from tuner.worker.local import run_study
from tuner.worker.loop import load_task, run_worker


@pytest.fixture
def context(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/tuner.sqlite"
    migrate.prepare(url)
    ctx = Context.open(url)
    yield ctx
    ctx.close()


def spec(**changes: Any) -> StudySpec:
    return StudySpec.parse(
        {
            "name": "digits",
            "task": {"name": "digits"},
            "space": {
                "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
                "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
                "batch_size": {"type": "categorical", "choices": [32, 64]},
            },
            "sampler": {"name": "random", "seed": 0},
            "pruner": {"name": "asha"},
            "budget": {"trials": 10, "epochs": 4},
            **changes,
        }
    )


def work_until(ctx: Context, study_id: int, **options: Any) -> None:
    """One worker in this thread until the study has ended."""
    stop = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS

    def watch() -> None:
        while not stop.wait(0.1):
            service.tick(ctx)
            over = service.show_study(ctx, study_id).over
            if over or time.monotonic() > deadline:
                stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        gateway = options.pop("gateway", DirectGateway(ctx))
        run_worker(gateway, name="test", device="cpu", stop=stop, **options)
    finally:
        stop.set()
        watcher.join()
    service.tick(ctx)


def trials(ctx: Context, study_id: int) -> list[Any]:
    return service.list_trials(ctx, study_id, limit=1000).items


def test_a_study_is_trained_to_its_end(context: Context, tmp_path: Path) -> None:
    study = service.submit(context, spec())
    work_until(context, study.id, home=tmp_path)
    assert service.show_study(context, study.id).state == "completed"
    everyone = trials(context, study.id)
    assert sorted(trial.number for trial in everyone) == list(range(10))
    assert {trial.state for trial in everyone} <= {"complete", "pruned"}
    (best,) = service.best(context, study.id)
    assert best.state == "complete"
    assert best.last_metrics["val_accuracy"] > 0.8
    points = service.measurements(context, best.id)
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert points[0].samples == 1079
    assert {"train_loss", "val_loss", "lr", "grad_norm", "noise_scale"} <= set(points[0].metrics)
    assert not list((tmp_path / "checkpoints").rglob("*.safetensors"))


def test_the_same_seed_gives_the_same_numbers(context: Context, tmp_path: Path) -> None:
    """With any number of slots: what a trial measures belongs to its seed and config alone."""
    found = []
    for name, slots in (("one", 1), ("five", 5)):
        study = service.submit(context, spec(name=name, pruner={"name": "none"}))
        work_until(context, study.id, home=tmp_path, slots=slots)
        found.append({t.number: (t.params, t.value) for t in trials(context, study.id)})
    for number, (params, value) in found[0].items():
        assert found[1][number][0] == params
        assert found[1][number][1] == pytest.approx(value, rel=1e-3)


class Tearing(DirectGateway):
    """Loses the answer to every other report, so that it must be said again."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.calls = 0

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        answer = super().report(worker_id, report)
        self.calls += 1
        if self.calls % 2 == 1:
            raise Unavailable("the answer was lost")
        return answer


def test_lost_answers_lose_and_double_nothing(context: Context, tmp_path: Path) -> None:
    study = service.submit(context, spec(budget={"trials": 6, "epochs": 3}))
    gateway = Tearing(context)
    work_until(context, study.id, home=tmp_path, gateway=gateway)
    assert gateway.calls >= 2
    assert service.show_study(context, study.id).state == "completed"
    everyone = trials(context, study.id)
    assert sorted(t.number for t in everyone) == list(range(6))
    for trial in everyone:
        assert trial.step >= 1
        steps = [p.step for p in service.measurements(context, trial.id)]
        assert steps == list(range(1, trial.step + 1))


class Refusing(DirectGateway):
    """Answers the first request for work and the first report with an error."""

    def __init__(self, ctx: Context, error: TunerError) -> None:
        super().__init__(ctx)
        self.error = error
        self.refused: set[str] = set()

    def _refuse(self, what: str) -> None:
        if what not in self.refused:
            self.refused.add(what)
            raise self.error

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        self._refuse("lease")
        return super().lease(worker_id, request)

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        self._refuse("report")
        return super().report(worker_id, report)


@pytest.mark.parametrize(
    "error",
    [
        TunerError("HTTP status 500"),
        TooManyRequests("too many requests from this address"),
        SchemaOutdated("the database is of another version"),
    ],
    ids=lambda error: error.code,
)
def test_a_worker_outlives_whatever_passes(
    context: Context, tmp_path: Path, error: TunerError
) -> None:
    study = service.submit(context, spec(budget={"trials": 3, "epochs": 1}))
    gateway = Refusing(context, error)
    work_until(context, study.id, home=tmp_path, gateway=gateway)
    assert gateway.refused == {"lease", "report"}
    assert service.show_study(context, study.id).state == "completed"
    assert {t.attempt for t in trials(context, study.id)} == {1}


def test_a_worker_whose_token_is_revoked_ends(context: Context, tmp_path: Path) -> None:
    service.submit(context, spec())
    gateway = Refusing(context, Unauthorized("this token was revoked"))
    with pytest.raises(Unauthorized):
        run_worker(gateway, name="revoked", device="cpu", home=tmp_path)


class Forgetful(DirectGateway):
    """Gives trials to a request for work and loses the answer, the first time."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.keys: list[str] = []

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        answer = super().lease(worker_id, request)
        self.keys.append(request.key)
        if len(self.keys) == 1:
            raise Unavailable("the answer was lost")
        return answer


def test_trials_in_a_lost_answer_are_asked_for_again(context: Context, tmp_path: Path) -> None:
    study = service.submit(context, spec(budget={"trials": 4, "epochs": 2}, max_concurrent=4))
    gateway = Forgetful(context)
    work_until(context, study.id, home=tmp_path, gateway=gateway, slots=4)
    assert gateway.keys[0] == gateway.keys[1]
    assert len(set(gateway.keys)) == len(gateway.keys) - 1
    assert {t.attempt for t in trials(context, study.id)} == {1}


def test_trials_are_kept_while_their_data_is_read(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a lease lives: the worker shows life for what is not yet in a slot."""
    context.settings = replace(context.settings, lease_seconds=1.0, heartbeat_seconds=0.1)
    beats: list[set[int]] = []
    read = Crew.opened

    class Counting(DirectGateway):
        def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
            answer = super().heartbeat(worker_id, beat)
            beats.append(set(beat.held))
            return answer

    def slowly(self: Crew, leased: Leased | Probe) -> Any:
        if not self._tasks:
            seen = len(beats)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(beats) < seen + 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        return read(self, leased)

    monkeypatch.setattr(Crew, "opened", slowly)
    study = service.submit(context, spec(budget={"trials": 3, "epochs": 1}, pruner="none"))
    work_until(context, study.id, home=tmp_path, gateway=Counting(context), slots=3)
    everyone = {trial.id for trial in trials(context, study.id)}
    assert beats[1:3] == [everyone, everyone]


class Overtaken(DirectGateway):
    """A sign of life is under way while what it names is taken away and given again."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.ctx = ctx
        self.named, self.given = threading.Event(), threading.Event()

    def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
        if not beat.held or self.named.is_set():
            return super().heartbeat(worker_id, beat)
        self.named.set()
        assert self.given.wait(PATIENCE_SECONDS)
        return HeartbeatAnswer(drop=sorted(beat.held))

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        if self.named.is_set() and not self.given.is_set():
            service.leave(self.ctx, worker_id)
            answer = super().report(worker_id, report)
            assert {verdict.action for verdict in answer.verdicts} == {"lost"}
            assert answer.leased
            self.given.set()
            return answer
        return super().report(worker_id, report)


def test_the_loss_of_an_older_lease_drops_nothing(context: Context, tmp_path: Path) -> None:
    context.settings = replace(context.settings, heartbeat_seconds=0.1, lease_seconds=600.0)
    study = service.submit(context, spec(budget={"trials": 4, "epochs": 4}, pruner="none"))
    gateway = Overtaken(context)
    work_until(context, study.id, home=tmp_path, gateway=gateway, slots=4)
    assert gateway.given.is_set()
    assert service.show_study(context, study.id).state == "completed"
    assert {t.attempt for t in trials(context, study.id)} == {1}


def test_a_stopped_worker_hands_back_and_another_goes_on(context: Context, tmp_path: Path) -> None:
    """Stopped in the middle, resumed by another: as if nothing had happened."""
    whole = service.submit(context, spec(name="whole", pruner={"name": "none"}))
    work_until(context, whole.id, home=tmp_path)
    study = service.submit(context, spec(name="torn", pruner={"name": "none"}))
    stop = threading.Event()

    class Impatient(DirectGateway):
        reports = 0

        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            answer = super().report(worker_id, report)
            assert not (stop.is_set() and answer.leased), "given to a worker that leaves"
            self.reports += 1
            stop.set()
            return answer

    run_worker(Impatient(context), name="first", device="cpu", home=tmp_path, stop=stop)
    states = Counter(t.state for t in trials(context, study.id))
    assert states["running"] == 0
    assert states["waiting"] > 0
    work_until(context, study.id, home=tmp_path)
    expected = {t.number: t for t in trials(context, whole.id)}
    for trial in trials(context, study.id):
        assert trial.attempt == 1, "a return is no failed attempt"
        assert trial.value == pytest.approx(expected[trial.number].value, rel=1e-3)


def test_checkpoints_at_an_address_are_gone_on_with_from_another_home(
    context: Context, tmp_path: Path
) -> None:
    long = spec(pruner={"name": "none"}, budget={"trials": 10, "epochs": 60})
    study = service.submit(context, long)
    stop = threading.Event()

    class Impatient(DirectGateway):
        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            if any(slot.measurements for slot in report.slots):
                stop.set()
            return super().report(worker_id, report)

    class Listening(DirectGateway):
        first: dict[int, int] = {}  # noqa: RUF012  (one instance)

        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            for slot in report.slots:
                for measured in slot.measurements[:1]:
                    self.first.setdefault(slot.trial_id, measured.step)
            return super().report(worker_id, report)

    where = {"device": "cpu", "checkpoints": "memory://torn/checkpoints"}
    run_worker(Impatient(context), name="first", home=tmp_path / "one", stop=stop, **where)
    everyone = trials(context, study.id)
    torn = {t.id: t.step for t in everyone if t.state == "waiting" and t.step > 0}
    assert torn
    saved = fsspec.filesystem("memory").find("/torn/checkpoints")
    assert len(saved) >= len(torn)
    listening = Listening(context)
    where.pop("device")
    work_until(context, study.id, gateway=listening, home=tmp_path / "two", **where)
    assert service.show_study(context, study.id).counts.complete == 10
    assert {trial: listening.first[trial] for trial in torn} == {t: s + 1 for t, s in torn.items()}
    assert not fsspec.filesystem("memory").find("/torn/checkpoints"), "all have ended"
    assert not (tmp_path / "two" / "checkpoints").exists()


def test_a_late_answer_about_an_old_lease_drops_no_new_one(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials are handed back and taken again, all while a heartbeat about them is on its way.

    They are saved and reported each round, so that whatever has been reported is not trained again.
    """
    monkeypatch.setattr("tuner.worker.loop.REPORT_SECONDS", 0.0)
    study = service.submit(context, spec(pruner={"name": "none"}))
    asked, again, answered = threading.Event(), threading.Event(), threading.Event()
    given: set[int] = set()
    given_again: set[int] = set()

    class Slow(DirectGateway):
        def register(self, hello: WorkerHello) -> Registration:
            return super().register(hello).model_copy(update={"heartbeat_seconds": 0.01})

        def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
            late = bool(beat.held) and not asked.is_set()
            if late:
                asked.set()
                again.wait(20)
            answer = super().heartbeat(worker_id, beat)
            if late and answer.drop:
                answered.set()
            return answer

        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            first = not again.is_set() and any(slot.measurements for slot in report.slots)
            if first:
                asked.wait(20)
                service.pause_study(context, study.id, actor="test")
            answer = super().report(worker_id, report)
            if first:
                service.resume_study(context, study.id, actor="test")
            return answer

        def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
            answer = super().lease(worker_id, request)
            ids = {leased.trial_id for leased in answer.leased}
            given_again.update(given & ids)
            given.update(ids)
            if answer.leased and asked.is_set():
                again.set()
            return answer

    work_until(context, study.id, gateway=Slow(context), home=tmp_path, save_seconds=0.0)
    assert answered.is_set()
    assert given_again
    assert service.show_study(context, study.id).state == "completed"
    assert {trial.attempt for trial in trials(context, study.id)} == {1}


def test_divergence_and_a_broken_model_fail_alone(context: Context, tmp_path: Path) -> None:
    study = service.submit(
        context,
        spec(
            space={
                "optimizer": "sgd",
                "batch_size": 32,
                "lr": {"type": "categorical", "choices": [0.05, 1e25]},
            },
            sampler={"name": "grid"},
            pruner={"name": "none"},
            budget={"trials": 2, "epochs": 2},
        ),
    )
    work_until(context, study.id, home=tmp_path)
    by_rate = {t.params["lr"]: t for t in trials(context, study.id)}
    assert by_rate[1e25].state == "fail"
    assert by_rate[1e25].reason == "diverged"
    assert by_rate[0.05].state == "complete"
    assert math.isfinite(by_rate[0.05].value)


@pytest.mark.parametrize("broken", [AssertionError("width"), IndexError(), ZeroDivisionError()])
def test_whatever_a_task_raises_fails_the_trial_and_not_the_worker(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    class Narrow(zoo.MlpTask):
        name = "narrow"

        def model(self, config: Config) -> Any:
            if config["model.hidden"] == 6:
                raise broken
            return super().model(config)

        def loss(self, output: Any, target: Any, config: Config) -> Any:
            if config["model.hidden"] == 4:
                raise broken
            return super().loss(output, target, config)

    monkeypatch.setattr(tasks.registry, "_entries", {"narrow": Narrow})
    study = service.submit(
        context,
        spec(
            task={"name": "narrow"},
            space={"model.hidden": {"type": "categorical", "choices": [8, 6, 4]}},
            sampler={"name": "grid"},
            pruner={"name": "none"},
            budget={"trials": 3, "epochs": 2},
        ),
    )
    work_until(context, study.id, home=tmp_path)
    found = {t.params["model.hidden"]: t for t in trials(context, study.id)}
    assert found[8].state == "complete"
    for width in (6, 4):
        assert found[width].state == "fail"
        assert str(found[width].reason).startswith(type(broken).__name__)


def test_trials_that_cannot_start_are_told_of_one_after_another(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many follow each other, each the refill for the one before."""

    class Unbuildable(zoo.MlpTask):
        name = "unbuildable"

        def model(self, config: Config) -> Any:
            raise ValueError("no such width")

    monkeypatch.setattr(tasks.registry, "_entries", {"unbuildable": Unbuildable})
    depths = []

    class Measuring(DirectGateway):
        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            depths.append(len(inspect.stack(0)))
            return super().report(worker_id, report)

    study = service.submit(
        context,
        spec(task={"name": "unbuildable"}, pruner="none", budget={"trials": 30, "epochs": 1}),
    )
    work_until(context, study.id, home=tmp_path, slots=1, gateway=Measuring(context))
    assert [t.state for t in trials(context, study.id)] == ["fail"] * 30
    assert len(set(depths)) == 1


def test_what_could_not_start_is_kept_until_that_is_told(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbour's round may take longer than a lease lives."""
    context.settings = replace(context.settings, heartbeat_seconds=0.05)
    beats: list[set[int]] = []

    class Counting(DirectGateway):
        def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
            beats.append(set(beat.held))
            return super().heartbeat(worker_id, beat)

    class Half(zoo.MlpTask):
        name = "half"

        def model(self, config: Config) -> Any:
            if config["model.hidden"] == 6:
                raise ValueError("no such width")
            return super().model(config)

    real = Population.train

    def slowly(self: Population, samples: Any) -> None:
        seen, deadline = len(beats), time.monotonic() + PATIENCE_SECONDS
        while len(beats) < seen + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        real(self, samples)

    monkeypatch.setattr(Population, "train", slowly)
    monkeypatch.setattr(tasks.registry, "_entries", {"half": Half})
    study = service.submit(
        context,
        spec(
            task={"name": "half"},
            space={"model.hidden": {"type": "categorical", "choices": [8, 6]}},
            sampler={"name": "grid"},
            pruner={"name": "none"},
            budget={"trials": 2, "epochs": 1},
        ),
    )
    work_until(context, study.id, home=tmp_path, slots=2, gateway=Counting(context))
    both = {trial.id for trial in trials(context, study.id)}
    assert both in beats[1:]


def test_one_that_trains_nothing_says_no_speed(context: Context, tmp_path: Path) -> None:
    """Its heart goes on beating; what it said last would stand for hours."""
    stop = threading.Event()
    told: list[float] = []
    idle: list[float] = []

    class Listening(DirectGateway):
        def register(self, hello: WorkerHello) -> Registration:
            return super().register(hello).model_copy(update={"heartbeat_seconds": 0.01})

        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            told.append(report.status["samples_per_second"])
            return super().report(worker_id, report)

        def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
            if told and not beat.held:
                idle.append(beat.status["samples_per_second"])
            if len(idle) > 20:
                stop.set()
            return super().heartbeat(worker_id, beat)

    service.submit(context, spec(budget={"trials": 4, "epochs": 1}))
    patience = threading.Timer(PATIENCE_SECONDS, stop.set)
    patience.start()
    gateway = Listening(context)
    run_worker(gateway, name="test", device="cpu", stop=stop, home=tmp_path, slots=4)
    patience.cancel()
    assert max(told) > 0
    assert idle[-1] == 0


def test_a_worker_whose_gpu_refuses_everything_ends_and_another_goes_on(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an assertion on a GPU all that CUDA is asked fails, in that process only."""
    context.settings = replace(context.settings, lease_seconds=1.0, heartbeat_seconds=0.2)
    study = service.submit(
        context, spec(budget={"trials": 4, "epochs": 2}, pruner={"name": "none"})
    )
    real = Population.train
    asked: list[int] = []

    def train(self: Population, samples: Any) -> None:
        asked.append(1)
        if len(asked) == 2:
            raise torch.AcceleratorError("device-side assert triggered")
        real(self, samples)

    monkeypatch.setattr(Population, "train", train)
    with pytest.raises(TunerError, match="works no more in this process: device-side assert"):
        run_worker(DirectGateway(context), name="lost", device="cpu", home=tmp_path, slots=2)
    found = trials(context, study.id)
    assert [t.state for t in found] == ["running"] * 2, "which of them it was nobody knows"
    work_until(context, study.id, home=tmp_path)
    assert service.show_study(context, study.id).counts.complete == 4
    attempts = {t.id: t.attempt for t in trials(context, study.id)}
    assert {attempts[t.id] for t in found} == {2}, "its end counts as a worker's that died"


def test_a_broken_gpu_fails_no_trial(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its worker go through the study: the first trial is lost, the rest handed back."""

    def refuse(self: Population, *args: Any, **options: Any) -> None:
        raise torch.AcceleratorError("unspecified launch failure")

    monkeypatch.setattr(Population, "load", refuse)
    study = service.submit(context, spec(budget={"trials": 40, "epochs": 2}, pruner="none"))
    with pytest.raises(TunerError, match="works no more in this process: unspecified launch"):
        run_worker(DirectGateway(context), name="lost", device="cpu", home=tmp_path, slots=4)
    states = Counter(t.state for t in trials(context, study.id))
    assert states == {"running": 1, "waiting": 3}


def test_a_task_given_by_path_is_registered_and_trained(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.registry, "_entries", dict(tasks.registry._entries))
    monkeypatch.setattr(zoo.BatchNormTask, "ghost_batch_norm", False)
    name = load_task("tests.tuner.tasks.zoo:BatchNormTask")
    study = service.submit(context, spec(task={"name": name}, budget={"trials": 4, "epochs": 2}))
    work_until(context, study.id, home=tmp_path)
    assert service.show_study(context, study.id).state == "completed"
    with pytest.raises(InvalidInput, match="not a subclass"):
        load_task("tests.tuner.tasks.zoo:vectors")
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        load_task("no.such.module:Task")


def test_a_cancelled_study_lets_its_slots_go(context: Context, tmp_path: Path) -> None:
    study = service.submit(
        context, spec(budget={"trials": 4, "epochs": 500}, pruner={"name": "none"})
    )
    canceller = threading.Timer(1.5, lambda: service.cancel_study(context, study.id, actor="test"))
    canceller.start()
    work_until(context, study.id, home=tmp_path)
    canceller.join()
    assert service.show_study(context, study.id).state == "cancelled"
    assert all(t.state in ("pruned", "fail") for t in trials(context, study.id))


# The other tests of this process have loaded JAX, which fears forks; the children never call it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_study_without_a_server(context: Context, tmp_path: Path, processes: int) -> None:
    study = service.submit(context, spec(budget={"trials": 6, "epochs": 2}))
    threads = torch.get_num_threads()
    run_study(context, study.id, device="cpu", home=tmp_path, processes=processes)
    assert torch.get_num_threads() == threads
    assert service.show_study(context, study.id).state == "completed"
    assert len(trials(context, study.id)) == 6


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_bug_in_the_parent_is_told_to_the_child_that_waits(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    real, calls = service.report, []

    def report(*arguments: Any) -> ReportAnswer:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("a bug")
        return real(*arguments)

    monkeypatch.setattr(service, "report", report)
    stop = threading.Event()
    patience = threading.Timer(PATIENCE_SECONDS, stop.set)
    patience.start()
    study = service.submit(context, spec(budget={"trials": 2, "epochs": 1}))
    run_study(context, study.id, device="cpu", home=tmp_path, processes=1, stop=stop)
    patience.cancel()
    assert service.show_study(context, study.id).state == "completed"
    (said,) = [record for record in caplog.records if record.exc_info]
    assert "a worker's call failed: report" in said.getMessage()


def test_memory_bounds_the_slots_and_the_rest_is_handed_back(
    context: Context, tmp_path: Path
) -> None:
    """Leased before it was known what fits; nothing fails, and all of it is trained in turn."""
    study = service.submit(context, spec(budget={"trials": 6, "epochs": 1}, pruner="none"))
    gateway = DirectGateway(context)
    hello = gateway.register(WorkerHello(name="small", tasks=["digits"], slots=6))
    leased = gateway.lease(hello.worker_id, LeaseRequest(k=6)).leased
    digits = tasks.get("digits")()
    slot = measure(digits, leased[0].config, device=torch.device("cpu"))
    crew = Crew(torch.device("cpu"), 6, CheckpointStore(tmp_path), memory=int(2.5 * slot.at(64)))
    returned = [report for trial in leased if (report := crew.take(trial)) is not None]
    assert crew.room == 2
    assert len(crew.held) == 2
    assert [report.outcome for report in returned] == ["returned"] * 4
    gateway.report(hello.worker_id, Report(slots=returned, refill=-4))
    counts = service.show_study(context, study.id).counts
    assert (counts.running, counts.waiting) == (2, 4)
    (population,) = crew.populations.values()
    assert population.slots == 2
    assert population.trainer.max_micro_batch is not None
    assert 2 * slot.at(population.trainer.max_micro_batch) <= 2.5 * slot.at(64)


def test_a_worker_with_little_memory_trains_a_study_to_its_end(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = service.submit(context, spec(budget={"trials": 5, "epochs": 2}))
    slot = measure(tasks.get("digits")(), {"batch_size": 64}, device=torch.device("cpu"))
    free = 1.3 * slot.at(64) / MEMORY_SHARE
    monkeypatch.setattr("tuner.worker.device.free_memory", lambda device: free)
    work_until(context, study.id, home=tmp_path)
    assert service.show_study(context, study.id).state == "completed"
    everyone = trials(context, study.id)
    assert {trial.state for trial in everyone} <= {"complete", "pruned"}
    assert {trial.attempt for trial in everyone} == {1}


def test_a_batch_beyond_memory_is_cut_into_micro_batches(tmp_path: Path) -> None:
    """The same numbers as with all the memory in the world, to rounding."""
    config = {"optimizer": "adamw", "lr": 1e-3, "batch_size": 512}
    slot = measure(tasks.get("digits")(), config, device=torch.device("cpu"))
    found = []
    for memory in (int(slot.at(100)), 10**12):
        crew = Crew(torch.device("cpu"), 4, CheckpointStore(tmp_path), memory=memory)
        leased = Leased(
            trial_id=1, study_id=1, number=0, attempt=1, token="t", task="digits", task_params={},
            config=config, seed=0, data_seed=0, start=0, until=2, max_step=2, epochs_per_step=1.0,
            checkpoint=None, metrics=["val_loss"],
        )  # fmt: skip
        assert crew.take(leased) is None
        (population,) = crew.populations.values()
        crew.round(lambda: False)
        found.append(
            (population.trainer.micro_batch([512]), crew.held[1].news[0].metrics["val_loss"])
        )
    assert found[0][0] == 64
    assert found[1][0] == 512
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself would plan on most of all that is free."""
    monkeypatch.setattr("tuner.worker.device.free_memory", lambda device: 1000)
    assert memory_to_plan_on(torch.device("cpu"), 4) == int(MEMORY_SHARE * 250)


def test_what_a_worker_logs_names_it(tmp_path: Path, context: Context) -> None:
    """Also what its heart's own thread logs."""
    stop = threading.Event()

    class Deaf(DirectGateway):
        def register(self, hello: WorkerHello) -> Registration:
            return super().register(hello).model_copy(update={"heartbeat_seconds": 0.01})

        def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
            stop.set()
            raise Unavailable("the server is away")

    stream = io.StringIO()
    logs.configure("info", as_json=True, stream=stream)
    run_worker(Deaf(context), name="deaf", device="cpu", home=tmp_path, stop=stop)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (worker,) = service.list_workers(context)
    heard = [line for line in lines if "heartbeat" in line["message"]]
    assert heard
    assert {line["worker"] for line in heard} == {worker.id}
