"""How far from the optimum a parabola should look: noise asks for more, skewness for less.

Within 1.6 octaves a loss is a parabola; a wider window averages more noise away, and its vertex
moves by ``0.3 g window^2`` octaves, where ``g`` is the cubic term over the quadratic. So the trials
themselves say both, pooled over batch sizes, and each batch size takes the window of least expected
error. Without this, trials added close to an optimum would narrow the window and *lose* precision
(by a third, in simulation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tuner.advisor.curves import (
    WIDEST_OCTAVES,
    WINDOW_OCTAVES,
    BatchOptimum,
    Parabola,
    parabola,
    settle,
)
from tuner.advisor.observations import Observation

CANDIDATES = (WINDOW_OCTAVES, 2.1, 2.6, 3.1)
LEAST_SKEW = 0.02
"""Per octave; no loss is assumed more symmetric than this."""


def widened(
    by_size: Sequence[Sequence[Observation]],
    curves: Sequence[Parabola | BatchOptimum],
    scale: float,
) -> list[Parabola | BatchOptimum]:
    """The same curves, each over the window of least expected error.

    Args:
        by_size: The trials of each batch size.
        curves: Their parabolas over the narrowest window, or bounds, which stay.
        scale: Standard deviation of the losses about them.
    """
    inside = [c for c in curves if isinstance(c, Parabola)]
    bends = [float(c.solve(c.loss, scale)[-1]) for c in inside]
    skew = _skew(by_size, curves, scale)
    if scale <= 0 or skew is None or not bends or np.median(bends) <= 0:
        return list(curves)
    noise = scale / float(np.median(bends))
    out: list[Parabola | BatchOptimum] = []
    for trials, curve in zip(by_size, curves, strict=True):
        if not isinstance(curve, Parabola):
            out.append(curve)
            continue
        wider = (parabola(trials, curve.center, width) for width in CANDIDATES[1:])
        options = [curve, *(option for option in wider if isinstance(option, Parabola))]
        best = min(options, key=lambda option: _error(option, noise, skew))
        again = settle(trials, best.window) if best is not curve else curve
        out.append(again if isinstance(again, Parabola) else best)
    return out


def _error(curve: Parabola, noise: float, skew: float) -> float:
    """Expected squared error of the vertex, in octaves: of noise, and of what is not parabolic."""
    inverse = np.linalg.inv(curve.design.T @ curve.design)
    return float(noise**2 / 4 * inverse[-2, -2] + (0.3 * skew * curve.window**2) ** 2)


def _skew(
    by_size: Sequence[Sequence[Observation]],
    curves: Sequence[Parabola | BatchOptimum],
    scale: float,
) -> float | None:
    """The cubic term over the quadratic, pooled, its error added; None if it cannot be told."""
    top, bottom = [], []
    for trials, curve in zip(by_size, curves, strict=True):
        if not isinstance(curve, Parabola):
            continue
        wide = parabola(trials, curve.center, WIDEST_OCTAVES)
        if not isinstance(wide, Parabola) or wide.loss.size < wide.design.shape[1] + 3:
            continue
        cubic = wide.design[:, -2] ** 3
        with_cubic = replace(wide, design=np.column_stack([wide.design, cubic]))
        if np.linalg.matrix_rank(with_cubic.design) < with_cubic.design.shape[1]:
            continue
        beta = with_cubic.solve(wide.loss, scale)
        top.append(float(beta[-1]))
        bottom.append(float(beta[-2]))
    if len(top) < 2 or np.mean(bottom) <= 0:
        return None
    mean = float(np.mean(top) / np.mean(bottom))
    error = float(np.std(top, ddof=1) / np.sqrt(len(top)) / np.mean(bottom))
    return max(LEAST_SKEW, float(np.hypot(mean, error)))
