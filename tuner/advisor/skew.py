"""How far a valley that is steeper on one side moves its parabola's vertex, and back.

Below the best learning rate a loss often rises far more steeply than above it, or the other way
round. A symmetric parabola then has its vertex on the gentle side, by 0.6 octaves where one side is
ten times as steep. The steepness of the sides is a property of the task, so one ratio is taken for
all batch sizes, and only where it explains the trials better than noise could: symmetric valleys
keep their parabolas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from tuner.advisor.curves import Parabola

Array = npt.NDArray[np.float64]

RATIOS = np.exp(np.linspace(-3.4, 3.4, 25))
"""Curvature on the left over that on the right; 1 stands in the middle."""
PLACES = 81
"""Vertices tried within the trials of each batch size."""
LEVEL = 0.001
"""How seldom noise alone may be taken for skewness."""
FAR = 2.5
"""Standard deviations beyond which a loss counts as no further: one bad trial is no slope."""


def shifts(curves: Sequence[Parabola], scale: float) -> list[float]:
    """Octaves from each parabola's vertex to that of the two-sided one; zeros where it has none.

    Args:
        curves: One for each batch size.
        scale: Standard deviation of the losses about them.
    """
    none = [0.0] * len(curves)
    freedom = sum(c.loss.size - c.design.shape[1] for c in curves) - 1
    if freedom < 1 or scale <= 0:
        return none
    tried = [_misfits(curve, scale) for curve in curves]
    total = np.sum([misfit.min(1) for _, misfit in tried], axis=0)
    least, middle = int(np.argmin(total)), len(RATIOS) // 2
    gained = float(total[middle] - total[least])
    if gained <= 0 or fdtrc(1, freedom, gained * freedom / max(total[least], 1e-300)) > LEVEL:
        return none
    return [
        float(places[np.argmin(misfit[least])] - places[np.argmin(misfit[middle])])
        for places, misfit in tried
    ]


def _misfits(curve: Parabola, scale: float) -> tuple[Array, Array]:
    """Vertices tried, and ``[ratios, vertices]`` squared distances of the losses from each."""
    fitted = curve.solve(curve.loss, scale) @ curve.design.T
    loss = fitted + np.clip(curve.loss - fitted, -FAR * scale, FAR * scale)
    places = np.linspace(*curve.span, PLACES)
    far = curve.design[:, -2] - places[:, None]
    root = np.sqrt(RATIOS)[:, None, None]
    sides = np.where(far < 0, root, 1 / root) * far**2
    levels = np.linalg.qr(curve.design[:, :-2]).Q
    loss = loss - levels @ (levels.T @ loss)
    sides = sides - sides @ levels @ levels.T
    bend = sides @ loss / np.maximum((sides**2).sum(-1), 1e-300)
    misfit = ((loss - np.maximum(bend, 0.0)[..., None] * sides) ** 2).sum(-1)
    return places, misfit
