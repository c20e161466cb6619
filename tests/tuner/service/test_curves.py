from __future__ import annotations

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import InvalidInput
from tuner.service import Context


@pytest.fixture
def study_id(ctx: Context) -> int:
    """Twelve trials of four steps of half an epoch."""
    changes = {"budget": {"trials": 12, "epochs": 2}, "eval_every": 0.5}
    study = submit(ctx, sampler="random", **changes)
    Trainer(ctx, slots=4).work()
    return study.id


def test_curves_are_those_measured(ctx: Context, study_id: int) -> None:
    found = service.curves(ctx, study_id)
    assert (found.metric, found.trials, len(found.curves)) == ("val_loss", 12, 12)
    for curve in found.curves:
        points = service.measurements(ctx, curve.trial_id)
        assert curve.x == [p.step for p in points]
        assert curve.values == pytest.approx([p.value for p in points], rel=1e-4)
        params = service.show_trial(ctx, curve.trial_id).params
        assert curve.params["lr"] == pytest.approx(params["lr"], rel=1e-4)
        assert curve.params["batch_size"] == params["batch_size"]
    assert (found.measured, found.shown) == (48, 48)
    accuracy = service.curves(ctx, study_id, metric="val_accuracy", numbers=[3])
    assert [c.number for c in accuracy.curves] == [3]
    assert accuracy.curves[0].values == [0.5] * 4


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        ("step", [1, 2, 3, 4]),
        ("epochs", [0.5, 1.0, 1.5, 2.0]),
        ("samples", [1000, 2000, 3000, 4000]),
        ("seconds", [0.5, 1.0, 1.5, 2.0]),
    ],
)
def test_curves_run_over_what_is_asked(
    ctx: Context, study_id: int, x: service.Progress, wanted: list[float]
) -> None:
    found = service.curves(ctx, study_id, x=x)
    assert found.x == x
    assert [curve.x for curve in found.curves] == [wanted] * 12


def test_curves_are_thinned_and_few_and_say_so(ctx: Context, study_id: int) -> None:
    found = service.curves(ctx, study_id, max_points=2, max_trials=5)
    assert len(found.curves) == 5
    best = service.best(ctx, study_id)[0]
    assert best.number in [c.number for c in found.curves]
    assert all(c.x == [1, 4] for c in found.curves)
    assert (found.measured, found.shown) == (20, 10)


def test_an_attempt_that_resumed_goes_on_where_it_left_off(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 4})
    first = Trainer(ctx, slots=1)
    first.lease()
    first.round()
    first.round()
    clock.run(1000, ctx)
    Trainer(ctx, slots=1, loss=lambda config, step: 10.0 + step).work()
    (curve,) = service.curves(ctx, study.id, x="seconds").curves
    # Two steps of half a second, and two more whose attempt counted from nothing again.
    assert curve.x == [0.5, 1.0, 1.5, 2.0]
    assert curve.values[2:] == [13.0, 14.0]
    assert service.show_trial(ctx, curve.trial_id).attempt == 2


def test_bounds_are_checked(ctx: Context, study_id: int) -> None:
    with pytest.raises(InvalidInput, match="at least 2 points"):
        service.curves(ctx, study_id, max_points=1)
