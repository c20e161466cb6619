from __future__ import annotations

from typing import Any

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.service import Context
from tuner.storage import pictures, tallies


class Counted:
    """Calls a function and counts how many studies it was asked about."""

    def __init__(self, work: Any) -> None:
        self.work, self.ids = work, 0

    def __call__(self, session: Any, ids: Any) -> Any:
        self.ids += len(ids)
        return self.work(session, ids)


def test_only_studies_that_move_are_counted_again(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submit(ctx, "first", budget={"trials": 4, "epochs": 1})
    Trainer(ctx).work()
    second = submit(ctx, "second", budget={"trials": 4, "epochs": 2})
    service.list_studies(ctx)
    counted = Counted(tallies.counts)
    monkeypatch.setattr(tallies, "counts", counted)
    assert service.show_study(ctx, first.id).counts.complete == 4
    service.list_studies(ctx)
    assert counted.ids == 0
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    for step in (1, 2):
        trainer.round()
        seen = service.show_study(ctx, second.id)
        assert seen.progress == pytest.approx(0.0 if step == 1 else 0.5)
        listed = service.list_studies(ctx).items[0]
        assert listed == seen.model_copy(update={"throughput": None, "workers": None})
        assert seen.workers == 1
    assert counted.ids == 2


def test_what_another_server_changes_is_seen(ctx: Context, database_url: str) -> None:
    study = submit(ctx, budget={"trials": 4, "epochs": 1})
    assert service.show_study(ctx, study.id).counts.total == 0
    other = Context.open(database_url, now=ctx.now)
    Trainer(other).work()
    other.close()
    assert service.show_study(ctx, study.id).counts.complete == 4


def test_a_study_in_a_few_points(ctx: Context, clock: Clock, monkeypatch: Any) -> None:
    study = submit(ctx, budget={"trials": 30, "epochs": 1})
    Trainer(ctx, slots=10).work()
    empty = submit(ctx, "empty")
    found = service.sketches(ctx, [study.id, empty.id, 999])
    assert set(found) == {study.id, empty.id}
    sketch = found[study.id]
    assert sketch.best == service.overview(ctx, study.id).best
    assert (sketch.trials, len(sketch.devices)) == (30, 1)
    assert (found[empty.id].best, found[empty.id].devices) == ([], [])
    # A study that has not moved is not read again, however short the time.
    monkeypatch.setattr(pictures, "outcomes", None)
    assert service.sketches(ctx, [study.id], seconds=0.0) == {study.id: sketch}


def test_sketches_are_drawn_in_the_order_asked_for_and_stay_until_drawn_anew(ctx: Context) -> None:
    first, second, third = [submit(ctx, name) for name in ("one", "two", "three")]
    ids = [third.id, first.id, second.id]
    looks = [list(service.sketches(ctx, ids, seconds=-1.0)) for _ in ids]
    assert looks == [[third.id], [third.id, first.id], ids]  # one a look, none again
    Trainer(ctx, slots=4).work()
    found = service.sketches(ctx, ids, seconds=-1.0)
    assert [bool(found[study_id].best) for study_id in ids] == [True, False, False]
