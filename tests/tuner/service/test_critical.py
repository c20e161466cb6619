"""The critical batch size from stored curves whose hyperbola is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tuner.service.simulation import submit
from tuner import service
from tuner.errors import InvalidInput, NotFound, Refusal
from tuner.protocol import Measured
from tuner.service import Context, StudyView

SIZES = [8, 16, 32, 64, 128, 256, 512]
SPACE: dict[str, Any] = {
    "lr": {"type": "categorical", "choices": [1e-3, 1e-2]},
    "batch_size": {"type": "categorical", "choices": SIZES},
}
SAMPLES = 1000
"""Of an evaluation period."""
STEPS_MIN, CRITICAL = 40.0, 100.0


def ran(ctx: Context, name: str, *, sizes: Any = SIZES, **changes: Any) -> StudyView:
    """Curves that fall in a straight line and reach 0.5 after S_min (1 + B_crit / B) steps."""
    space = {**SPACE, "batch_size": {"type": "categorical", "choices": sizes}}
    budget = {"trials": 2 * len(sizes), "epochs": 40}
    study = submit(ctx, name, **{"space": space, "sampler": "grid", "budget": budget, **changes})
    while asked := service.ask(ctx, study.id, 50):
        for trial in asked:
            slope = 0.5 / periods(trial.config)
            for step in range(1, trial.max_step + 1):
                value = max(1.0 - slope * step, 0.0)
                metrics = {"val_loss": value, "val_accuracy": -value}
                told = Measured(step=step, metrics=metrics, samples=SAMPLES * step)
                service.report_trial(ctx, trial.trial_id, trial.token, told)
    return study


def periods(config: Mapping[str, Any]) -> float:
    """Evaluation periods to the target; the wrong rate takes half as long again."""
    size = config.get("batch_size", 32)
    best = STEPS_MIN * (1 + CRITICAL / size) * size / SAMPLES
    return float(best if config["lr"] == 1e-3 else 1.5 * best)


def test_the_known_hyperbola_is_found(ctx: Context) -> None:
    study = ran(ctx, "known")
    found = service.critical_batch(ctx, [study.id, study.id], 0.5)
    assert found.identified
    assert found.value == pytest.approx(CRITICAL, rel=0.01)
    assert found.steps_min == pytest.approx(STEPS_MIN, rel=0.01)
    assert found.low <= CRITICAL * 1.01
    assert found.high >= CRITICAL * 0.99


def test_an_objective_to_maximise_has_its_target_above(ctx: Context) -> None:
    objective = {"metric": "val_accuracy", "direction": "maximize"}
    study = ran(ctx, "up", objective=objective)
    found = service.critical_batch(ctx, [study.id], -0.5)
    assert found.value == pytest.approx(CRITICAL, rel=0.01)


def test_what_cannot_be_told_names_the_target(ctx: Context) -> None:
    study = ran(ctx, "few", sizes=[8, 16])
    for target, says in ((0.5, "these do: 8, 16"), (-1.0, "these do: none")):
        with pytest.raises(InvalidInput, match=says) as caught:
            service.critical_batch(ctx, [study.id], target)
        assert caught.value.field == "target"
    with pytest.raises(InvalidInput, match="finite"):
        service.critical_batch(ctx, [study.id], float("nan"))
    three = ran(ctx, "three", sizes=[8, 64, 512])
    with pytest.raises(InvalidInput, match="too few runs"):
        service.critical_batch(ctx, [three.id], 0.5)
    with pytest.raises(NotFound):
        service.critical_batch(ctx, [99], 0.5)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective": {"metric": "val_accuracy", "direction": "maximize"}}, "direction"),
        ({"budget": {"trials": 14, "epochs": 41}}, "epochs"),
        ({"task": {"name": "digits_cnn"}}, "task"),
        ({"space": {**SPACE, "optimizer": "sgd"}}, "optimizer"),
    ],
)
def test_studies_of_other_settings_are_refused_by_name(
    ctx: Context, changes: dict[str, Any], field: str
) -> None:
    first = ran(ctx, "first")
    second = ran(ctx, "second", **changes)
    with pytest.raises(Refusal) as caught:
        service.critical_batch(ctx, [first.id, second.id], 0.5 if field != "direction" else 0.0)
    assert caught.value.field == field


def test_what_is_tuned_with_the_rate_may_differ_and_a_default_batch_size_is_known(
    ctx: Context,
) -> None:
    tuned = {"type": "categorical", "choices": [0.0, 0.1]}
    budget = {"trials": 28, "epochs": 40}
    study = ran(ctx, "tuned", space={**SPACE, "weight_decay": tuned}, budget=budget)
    assert service.critical_batch(ctx, [study.id], 0.5).identified
    silent = ran(ctx, "silent", space={"lr": SPACE["lr"]}, budget={"trials": 2, "epochs": 40})
    with pytest.raises(InvalidInput, match="these do: 32"):
        service.critical_batch(ctx, [silent.id], 0.5)
