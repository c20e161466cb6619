"""A worker over the service, as tests run it: real leases and reports; training is a formula."""

from __future__ import annotations

import math
from typing import Any

from tuner import service
from tuner.protocol import (
    Checkpoint,
    Leased,
    LeaseRequest,
    Measured,
    Report,
    SlotReport,
    WorkerHello,
)
from tuner.service import Context

SLOTS = 3


def metrics(config: dict[str, Any], step: int, last: int) -> dict[str, float | None]:
    """What a trial measures: best at lr 1e-3, with a cosine or constant learning rate."""
    loss = 0.3 * (math.log10(config["lr"]) + 3) ** 2 + 1 / step
    cosine = config.get("schedule") == "cosine"
    factor = 0.5 * (1 + math.cos(math.pi * (step - 1) / last)) if cosine else 1.0
    return {
        "val_loss": loss,
        "train_loss": 0.9 * loss,
        "val_accuracy": 1 / (1 + loss),
        "lr": config["lr"] * factor,
        "grad_norm": 2.0 / step,
        "noise_scale": 10.0 * step,
        "epoch": float(step),
    }


def work(context: Context, study_id: int, trials: int | None = None, name: str = "gpu-0") -> None:
    """Trains a study's trials, ``SLOTS`` at a time, until so many have begun and all have ended."""
    hello = WorkerHello(
        name=name, tasks=["digits"], slots=SLOTS, device={"kind": "cuda", "name": "H100"}
    )
    me = service.register_worker(context, hello).worker_id
    left = 10_000 if trials is None else trials
    held: dict[int, Leased] = {}
    steps: dict[int, int] = {}

    def fill() -> None:
        nonlocal left
        wanted = min(SLOTS - len(held), left)
        if wanted < 1:
            return
        request = LeaseRequest(k=wanted, prefer=study_id)
        for slot in service.lease(context, me, request).leased:
            held[slot.trial_id], steps[slot.trial_id] = slot, slot.start
            left -= 1

    fill()
    while held:
        slots = []
        for trial_id, slot in held.items():
            steps[trial_id] = step = steps[trial_id] + 1
            measured = Measured(
                step=step,
                metrics=metrics(slot.config, step, slot.max_step),
                samples=1000 * step,
                seconds=0.1 * step,
            )
            saved = Checkpoint(uri=f"memory://{trial_id}/{step}", step=step)
            slots.append(
                SlotReport(
                    trial_id=trial_id, token=slot.token, measurements=[measured], checkpoint=saved
                )
            )
        status = {"samples_per_second": 1000.0, "engine": "fused x3"}
        report = Report(slots=slots, refill=-len(held), prefer=study_id, status=status)
        for verdict in service.report(context, me, report).verdicts:
            if verdict.action != "continue":
                del held[verdict.trial_id]
        fill()
    service.leave(context, me)
