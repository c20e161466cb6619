from __future__ import annotations

from typing import Any

import pytest

from tests.tuner.tasks import zoo
from tests.tuner.training.test_noise import SIGNAL, TRACE, Regression
from tuner import tasks
from tuner.errors import InvalidInput
from tuner.tasks import Task
from tuner.training.range_test import find_range, measure_noise


@pytest.fixture(scope="module")
def digits() -> Task:
    return tasks.get("digits")()


def test_the_range_holds_the_rates_that_train_digits(digits: Task) -> None:
    found = find_range(digits, {"optimizer": "adamw", "batch_size": 32})
    assert found.measured
    assert found.seeds == 3
    assert found.low <= 1e-3
    assert found.high >= 1e-2
    assert found.low >= 1e-5
    assert found.high <= 1.0
    assert found.suggestion is not None
    assert found.low <= found.suggestion
    assert found.divergence is not None
    assert found.divergence < 10


def test_sgd_wants_higher_rates_than_adamw(digits: Task) -> None:
    sgd, adamw = (find_range(digits, {"optimizer": name}, seeds=2) for name in ("sgd", "adamw"))
    assert sgd.low > 3 * adamw.low
    assert sgd.high > 3 * adamw.high


def test_the_rate_and_the_schedule_of_the_config_do_not_matter(digits: Task) -> None:
    plain = find_range(digits, {"batch_size": 64}, seeds=1, steps=60)
    other = {"batch_size": 64, "lr": 0.7, "schedule": "cosine", "schedule.final": 0.5}
    moved = find_range(digits, {**other, "warmup_fraction": 0.1, "epochs": 3}, seeds=1, steps=60)
    assert moved == plain


def test_seeds_are_the_same_alone_and_together() -> None:
    """A curve is its seed's own; only what is averaged changes with more of them."""
    task = zoo.MlpTask()
    found = [find_range(task, {"batch_size": 7}, seeds=1, steps=40) for _ in range(2)]
    assert found[0] == found[1]
    assert find_range(task, {"batch_size": 7}, seeds=2, steps=40).loss != found[0].loss


@pytest.mark.parametrize(
    ("config", "arguments", "field"),
    [
        ({}, {"seeds": 0}, "seeds"),
        ({}, {"steps": 5}, "steps"),
        ({"batch_size": 0}, {}, "batch_size"),
        ({"optimizer": "adamw", "beta1": 2.0}, {}, "beta1"),
    ],
)
def test_a_wrong_test_is_refused(
    config: dict[str, Any], arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        find_range(zoo.MlpTask(), config, **arguments)
    assert caught.value.field == field


def test_the_noise_scale_of_a_regression_is_the_known_one() -> None:
    config = {"optimizer": "sgd", "lr": 1e-12, "batch_size": 64}
    found = measure_noise(Regression(), config, steps=512)
    assert found.measurements == 256
    assert found.value == pytest.approx(TRACE / SIGNAL, rel=0.15)
    assert found.low is not None
    assert found.high is not None
    assert found.low < TRACE / SIGNAL < found.high


def test_the_noise_scale_grows_as_digits_is_learned(digits: Task) -> None:
    short, long = (
        measure_noise(digits, {"lr": 1e-3, "batch_size": 64}, steps=steps) for steps in (32, 512)
    )
    assert short.value is not None
    assert short.low is not None
    assert long.low is not None
    assert long.low > short.value


def test_too_few_steps_are_said_to_be_too_few() -> None:
    found = measure_noise(zoo.MlpTask(), {"batch_size": 16}, steps=8)
    assert found.value is None
    assert "needs 8" in found.why


class Mixing(zoo.BatchNormTask):
    name = "mixing"
    ghost_batch_norm = False


@pytest.mark.parametrize(
    ("task", "config", "steps", "field"),
    [
        (zoo.MlpTask, {"batch_size": 1}, 64, "batch_size"),
        (zoo.MlpTask, {}, 1, "steps"),
        (zoo.MlpTask, {}, 10_000, "steps"),
        (Mixing, {"batch_size": 16}, 64, "task"),
    ],
)
def test_a_noise_scale_that_cannot_be_measured_is_refused(
    task: type[Task], config: dict[str, Any], steps: int, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        measure_noise(task(), config, steps=steps)
    assert caught.value.field == field
