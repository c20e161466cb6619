from __future__ import annotations

import pytest

from tests.tuner.service.simulation import SPACE, Clock, Trainer, parameters, submit
from tuner import service
from tuner.errors import InvalidInput
from tuner.service import Context

BETA = {"type": "float", "low": 0.8, "high": 0.99}


@pytest.fixture
def study_id(ctx: Context) -> int:
    study = submit(ctx, space={**SPACE, "beta1": BETA}, budget={"trials": 60, "epochs": 1})
    Trainer(ctx, slots=20).work()
    return study.id


def test_the_field_is_best_where_the_trials_are(ctx: Context, study_id: int) -> None:
    found = service.landscape(ctx, study_id, "lr", "beta1")
    assert (len(found.rows), len(found.columns)) == (32, 32)
    assert (len(found.shades), len(found.shades[0])) == (32, 32)
    assert found.trials == 60
    best = service.best(ctx, study_id)[0]
    assert found.best == pytest.approx(best.value, rel=1e-4)
    # The loss depends on lr alone, and is least at 1e-3: the columns there outshine both ends.
    means = []
    for column, (low, high) in enumerate(found.columns):  # type: ignore[misc]  # numbers
        known = [row[column] for row in found.shades if row[column] is not None]
        assert low < high
        assert all(0.0 <= shade <= 1.0 for shade in known)
        means.append(sum(known) / len(known))
    middle = next(i for i, (_, high) in enumerate(found.columns) if high > 1e-3)  # type: ignore[misc]
    assert means[middle] > 0.8
    assert means[middle] > means[0] + 0.3
    assert means[middle] > means[-1] + 0.3


def test_choices_are_cells_of_their_own(ctx: Context, study_id: int) -> None:
    found = service.landscape(ctx, study_id, "batch_size", "lr")
    assert found.columns == [16, 32, 64]
    assert all(len(row) == 3 for row in found.shades)


def test_nothing_is_said_where_no_trial_is_near(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, space={**SPACE, "beta1": BETA}, budget={"trials": 3, "epochs": 1})
    config = {"lr": 1e-5, "batch_size": 16, "beta1": 0.8}
    service.enqueue(ctx, study.id, [config, {**config, "lr": 1.2e-5}])
    empty = service.landscape(ctx, study.id, "lr", "beta1")
    assert (empty.trials, empty.best, empty.worst) == (0, None, None)
    assert all(shade is None for row in empty.shades for shade in row)
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    trainer.deliver(trainer.next_report(refill=-2))
    clock.advance(60)  # what is shown of a study that runs may be seconds old
    found = service.landscape(ctx, study.id, "lr", "beta1")
    assert found.trials == 2
    assert found.shades[0][0] is not None
    assert found.shades[-1][-1] is None


@pytest.mark.parametrize(("x", "y"), [("lr", "optimizer"), ("none", "lr"), ("lr", "lr")])
def test_names_that_are_not_searched_are_refused(
    ctx: Context, study_id: int, x: str, y: str
) -> None:
    with pytest.raises(InvalidInput):
        service.landscape(ctx, study_id, x, y)


def test_no_statement_names_every_trial(ctx: Context, study_id: int) -> None:
    """PostgreSQL takes 65,535 parameters, and a study may have more trials."""
    with parameters(ctx) as counts:
        assert service.landscape(ctx, study_id, "lr", "beta1").trials == 60
    assert max(counts) < 60
