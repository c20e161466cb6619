"""The picture of lr against batch size that the advisor's page draws: plain values, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tuner import advisor
from tuner.advisor import Advice, Fit, Observation
from tuner.advisor.noise_scale import NoiseScale
from tuner.advisor.picture import dots, lines
from tuner.errors import Refusal
from tuner.service.advice import Seen


def fitted(seen: Sequence[Observation], optimizer: str | None = None) -> tuple[Fit | None, str]:
    """The best lr against the batch size; or none, and why the trials do not tell."""
    if not seen:
        return None, ""
    try:
        found = advisor.fit(seen, optimizer=optimizer)
    except Refusal as refusal:
        return None, refusal.message
    return found, found.why


def picture(
    observed: Sequence[tuple[Seen, Observation]],
    fit: Fit | None,
    advice: Advice | None,
    noise_scale: float | NoiseScale | None = None,
) -> dict[str, Any]:
    """Trials, optima, the fitted curve, where the rules go, the old point and the new one.

    Points are ``[batch size, lr, shade or null, trial id, number, study id, value]``; a shade is
    null where the trial diverged. Curves are ``[batch size, lr, low, high]``.
    """
    found: dict[str, Any] = {"points": [], "optima": [], "curve": [], "lines": {}}
    for dot in dots([observation for _, observation in observed]):
        who, what = observed[dot.index]
        known = who.value is not None and math.isfinite(who.value)
        place = [what.batch_size, what.lr, dot.shade]
        found["points"].append(
            [*place, who.trial_id, who.number, who.study_id, who.value if known else None]
        )
    if fit is not None:
        found["optima"] = [
            [o.batch_size, o.lr, *_about(o.lr or 0.0, o.log2_error or 0.0)] for o in fit.interior
        ]
        found["curve"] = [[p.batch_size, p.lr.value, p.lr.low, p.lr.high] for p in fit.curve]
    if advice is not None:
        old, new = advice.old, advice.config
        sizes = [old["batch_size"], new["batch_size"], *(point[0] for point in found["points"])]
        scale = noise_scale.value if isinstance(noise_scale, NoiseScale) else noise_scale
        found["lines"] = lines(
            float(old["lr"]),
            int(old["batch_size"]),
            int(min(sizes)),
            int(max(sizes)),
            optimizer=advice.optimizer,
            noise_scale=scale,
        )
        found["old"] = [old["batch_size"], float(old["lr"])]
        found["new"] = [new["batch_size"], advice.lr, advice.range.low, advice.range.high]
    return found


def _about(lr: float, octaves: float) -> tuple[float, float]:
    """The 95 % interval of an optimum by its standard error."""
    return lr * 2.0 ** (-1.96 * octaves), lr * 2.0 ** (1.96 * octaves)
