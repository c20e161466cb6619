"""``space: auto``: the default optimizer's own search ranges, and the task's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner import optimizers
from tuner.spec.names import DEFAULT_OPTIMIZER
from tuner.tasks import Setting

SCHEDULES = ("constant", "cosine", "linear", "wsd")


def auto_space(settings: Mapping[str, Setting], train_size: int | None) -> dict[str, Any]:
    """A space in the study file's form.

    Batch sizes are powers of two from 16 to 256, as far as an epoch still has a few steps.

    Args:
        settings: The task's.
        train_size: Its training samples, where that is known.
    """
    space: dict[str, Any] = {"optimizer": DEFAULT_OPTIMIZER}
    for name, hyper in optimizers.get(DEFAULT_OPTIMIZER).hyper.items():
        if hyper.search is None:
            continue
        low, high = hyper.search
        space[name] = {"type": "float", "low": low, "high": high}
        if hyper.log and not hyper.complement:
            space[name]["log"] = True
    sizes = [2**i for i in range(4, 9) if train_size is None or 2**i * 4 <= train_size]
    space["batch_size"] = {
        "type": "categorical",
        "choices": sizes or [max(1, (train_size or 0) // 4)],
    }
    space["schedule"] = {"type": "categorical", "choices": list(SCHEDULES)}
    space["warmup_fraction"] = {"type": "float", "low": 0.0, "high": 0.2}
    for name, setting in settings.items():
        if setting.search is not None:
            space[name] = dict(setting.search)
    return space
