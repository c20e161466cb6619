"""Studies that have run for a while, written into the tables directly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from optuna.distributions import distribution_to_json
from sqlalchemy import insert

from tuner import service
from tuner.service import Context
from tuner.spec import StudySpec, resolve
from tuner.storage.models import Measurement, Study, Trial

SPACE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "beta1": {"type": "float", "low": 0.8, "high": 0.99},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
}


def settle(ctx: Context) -> None:
    """Has PostgreSQL do now what it does some minutes after so many writes, amid the measuring."""
    if ctx.db.embedded:
        return
    engine = ctx.db.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")
        connection.exec_driver_sql("CHECKPOINT")


def filled(
    ctx: Context, studies: int, trials: int, free: int, steps: int, sampler: str
) -> list[int]:
    """Studies of which all trials but the last ``free`` have been trained; their ids."""
    now = datetime.now(UTC)
    rng = np.random.default_rng(0)
    ids = []
    for i in range(studies):
        spec = StudySpec.parse(
            {
                "name": f"load-{i}",
                "task": "digits",
                "space": SPACE,
                "sampler": sampler,
                "pruner": "none",
                "budget": {"trials": trials, "epochs": steps},
            }
        )
        space = resolve(spec).space
        written = {n: distribution_to_json(d) for n, d in space.distributions().items()}
        view = service.submit(ctx, spec)
        ids.append(view.id)
        axes = len(space.searched)
        points = [space.from_unit(rng.random(axes)) for _ in range(trials - free)]
        _write(ctx, view.id, points, written, steps, now)
    return ids


def _write(
    ctx: Context,
    study_id: int,
    points: list[dict[str, Any]],
    written: dict[str, str],
    steps: int,
    now: datetime,
) -> None:
    losses = [0.1 * (np.log10(p["lr"]) + 3.0) ** 2 for p in points]
    with ctx.db.write() as session:
        study = session.get_one(Study, study_id)
        study.next_number, study.revision = len(points), 1
        session.flush()
        if not points:
            return
        rows = [
            {
                "study_id": study_id,
                "number": n,
                "state": "complete",
                "params": point,
                "distributions": written,
                "values": [loss + 1.0 / steps],
                "step": steps,
                "until": steps,
                "revision": 1,
                "created_at": now,
                "started_at": now,
                "finished_at": now,
            }
            for n, (point, loss) in enumerate(zip(points, losses, strict=True))
        ]
        ids = session.scalars(
            insert(Trial).returning(Trial.id, sort_by_parameter_order=True), rows
        ).all()
        session.execute(
            insert(Measurement),
            [
                {
                    "trial_id": trial_id,
                    "attempt": 1,
                    "step": step,
                    "value": loss + 1.0 / step,
                    "samples": 1000 * step,
                    "seconds": float(step),
                    "metrics": {"val_loss": loss + 1.0 / step},
                    "created_at": now,
                }
                for trial_id, loss in zip(ids, losses, strict=True)
                for step in range(1, steps + 1)
            ],
        )
