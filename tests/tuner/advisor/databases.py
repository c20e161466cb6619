"""Synthetic trial databases whose lr*(B) is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tuner.advisor import Observation

SIZES = (16, 32, 64, 128, 256, 512)


def power(exponent: float, level: float = -8.0) -> Callable[[int], float]:
    """log2 lr* of a power law through ``level`` octaves at batch size 64."""
    return lambda size: level + exponent * math.log2(size / 64)


def database(
    rng: np.random.Generator,
    optimum: Callable[[int], float],
    *,
    sizes: Sequence[int] = SIZES,
    spacing: float = 0.5,
    half: float = 3.0,
    seeds: int = 1,
    noise: float = 0.02,
    curvature: float = 0.03,
    skew: float = 0.0,
    diverges_above: float = math.inf,
    facts: dict[str, Any] | None = None,
) -> list[Observation]:
    """Trials on a grid about each optimum: a parabola, steeper to the right by ``skew``."""
    out = []
    for size in sizes:
        best = optimum(size)
        middle = round(best / spacing) * spacing
        for x in np.arange(middle - half, middle + half + 1e-9, spacing):
            for seed in range(seeds):
                d = float(x) - best
                loss = 1 + curvature * d * d * (1 + skew * math.tanh(d))
                out.append(
                    Observation(
                        2.0 ** float(x),
                        size,
                        loss + noise * rng.standard_normal(),
                        seed,
                        diverged=d > diverges_above,
                        facts=facts or {},
                    )
                )
    return out
