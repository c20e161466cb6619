"""A study's range test on this worker: one short population, and what there is to say of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from tuner.advisor import range_test
from tuner.protocol import Probe, ProbeReport
from tuner.training.architecture import build, mixing_modules
from tuner.training.program import first_line
from tuner.training.range_test import sweep
from tuner.worker.crew import FULL, Crew

log = logging.getLogger(__name__)


def run_probe(crew: Crew, probe: Probe, interrupted: Callable[[], bool]) -> ProbeReport:
    """Trains it from end to end, beside the populations that the crew holds.

    Args:
        crew: Whose device, and whose opened tasks.
        probe: What to measure.
        interrupted: Asked after each step; true hands the probe back.
    """
    said = {"study_id": probe.study_id, "token": probe.token}
    try:
        rates = range_test.rates(probe.low, probe.high, probe.steps)
        task, data = crew.opened(probe)
        # Statistics over micro-batches would be another model.
        mixing = mixing_modules(build(task, probe.config, 0, crew.dtype))
        micro_batch = None if mixing else crew.fitting(task, probe.config, data, probe.seeds)[1]
        swept = sweep(
            task,
            probe.config,
            rates,
            seeds=probe.seeds,
            device=crew.device,
            data=data,
            max_micro_batch=micro_batch,
            interrupted=interrupted,
        )
    except FULL:
        return ProbeReport(**said, outcome="failed", reason="oom")
    except Exception as error:  # a task's own code may raise any: the study goes on without a range
        log.exception("the range test of study %s failed", probe.study_id)
        crew.look(error)
        reason = f"{type(error).__name__}: {first_line(error)}"
        return ProbeReport(**said, outcome="failed", reason=reason)
    if interrupted():
        return ProbeReport(**said, outcome="returned", seconds=swept.seconds)
    rows = swept.losses.tolist()
    losses = [[x if math.isfinite(x) else None for x in row] for row in rows]
    return ProbeReport(**said, outcome="measured", losses=losses, seconds=swept.seconds)
