"""The answer of one batch size where the narrow parabola has none: a wider one, or a bracket.

A loss has one valley over log lr. So the nearest rates that are worse than the best trial, by more
than noise explains, bracket the best rate; between them the valley is flat as far as these trials
can tell. In a valley flatter than the window a parabola follows the noise, and slopes to one side
or bends down; it is then fitted again, wider and over the middle of the bracket. Nothing is
answered that lies outside the bracket.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tuner.advisor.curves import (
    WIDEST_OCTAVES,
    WINDOW_OCTAVES,
    BatchOptimum,
    Kind,
    Parabola,
    judge,
    parabola,
)
from tuner.advisor.observations import Observation

Array = npt.NDArray[np.float64]

WORSE = 2.5
"""Standard errors by which a rate's loss must lie above the best trial's: this one, and the next
rate beyond it."""

TREND = 2.0
"""Standard errors by which a parabola must bend, or slope at the outermost rate, to be believed."""

WALL = 5.0
"""Standard deviations above the best trial from where all losses count as equal."""

WIDTHS = (WINDOW_OCTAVES, 2.1, 2.6, 3.1, WIDEST_OCTAVES)


@dataclass(frozen=True)
class Valley:
    """The finished rates of one batch size, lowest first, and which of them bracket the best.

    Attributes:
        rates: log2 lr.
        losses: The median of each rate.
        best: Index of the lowest loss.
        low: Index of the nearest rate below it that is worse; None if there is none.
        high: The same above it.
        ceiling: log2 of the lowest rate above the best that diverged, if any.
        noise: Standard deviation of a loss that this was judged by.
    """

    rates: Array
    losses: Array
    best: int
    low: int | None
    high: int | None
    ceiling: float | None
    noise: float

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """log2 of the rates below and above which the best rate cannot be."""
        low = None if self.low is None else float(self.rates[self.low])
        return low, self.ceiling if self.high is None else float(self.rates[self.high])

    @property
    def middle(self) -> float:
        """log2 of the middle of the rates that are not worse."""
        first = 0 if self.low is None else self.low + 1
        last = self.rates.size - 1 if self.high is None else self.high - 1
        return float(self.rates[first] + self.rates[last]) / 2


def valley(
    observations: Sequence[Observation], scale: float, *, dense: bool = True
) -> Valley | None:
    """The bracket of one batch size's trials; None where nothing finished.

    Args:
        observations: All of one batch size.
        scale: Standard deviation of a loss; at 0 the neighbours of the best trial are its bracket.
        dense: Whether the rates lie close enough together for their own roughness to count too.
    """
    repeats: dict[float, list[float]] = {}
    for o in observations:
        if not o.failed:
            repeats.setdefault(round(math.log2(o.lr), 6), []).append(o.loss)
    if not repeats:
        return None
    rates = np.array(sorted(repeats))
    losses = np.array([statistics.median(repeats[x]) for x in rates.tolist()])
    counts = np.array([len(repeats[x]) for x in rates.tolist()])
    best = int(np.argmin(losses))
    if dense:
        near = np.abs(rates - rates[best]) <= WIDEST_OCTAVES
        scale = max(scale, roughness(rates[near], losses[near]))
    error = scale * np.sqrt(1 / counts + 1 / counts[best])
    worse = losses - losses[best] > WORSE * error
    worse |= (scale <= 0) & (np.arange(rates.size) != best)
    # A lone bad trial bounds nothing: the next rate beyond it must be worse too.
    down = worse & np.concatenate([[True], worse[:-1]])
    up = worse & np.concatenate([worse[1:], [True]])
    below, above = np.flatnonzero(down[:best]), best + 1 + np.flatnonzero(up[best + 1 :])
    wrecks = [x for o in observations if o.failed and (x := math.log2(o.lr)) > rates[best]]
    return Valley(
        rates,
        losses,
        best,
        int(below[-1]) if below.size else None,
        int(above[0]) if above.size else None,
        min(wrecks, default=None),
        scale,
    )


def roughness(rates: Array, losses: Array) -> float:
    """Standard deviation of a loss, by how far each lies off the line through its neighbours.

    It needs no shape of the valley (Gasser, Sroka and Jennen-Steinmetz 1986), and where the valley
    bends between neighbours it is too large rather than too small. 0 for fewer than three rates.
    """
    if rates.size < 3:
        return 0.0
    share = (rates[2:] - rates[1:-1]) / (rates[2:] - rates[:-2])
    off = losses[1:-1] - share * losses[:-2] - (1 - share) * losses[2:]
    spread = np.abs(off) / np.sqrt(1 + share**2 + (1 - share) ** 2)
    return 1.4826 * float(np.median(spread))


def answer(
    observations: Sequence[Observation], curve: Parabola | BatchOptimum, scale: float
) -> tuple[BatchOptimum, Parabola | None]:
    """What one batch size's trials say, and the parabola that says it where one does.

    Args:
        observations: All of one batch size.
        curve: What :func:`tuner.advisor.windows.widened` made of them.
        scale: Standard deviation of the losses about the parabolas of all batch sizes.
    """
    first = judge(curve, scale) if isinstance(curve, Parabola) else curve
    if isinstance(curve, Parabola) and first.kind == "interior":
        return first, curve
    widest = parabola(observations, None, WIDEST_OCTAVES, at_edge=True)
    dense = isinstance(widest, Parabola)
    if isinstance(widest, Parabola):
        observations = _level(observations, widest)
    found = valley(observations, scale, dense=dense)
    if found is None:
        return first, None
    if not dense:
        return _bracketed(first, found, first.why), None
    wall = float(found.losses[found.best]) + (WALL * found.noise or math.inf)
    for width in WIDTHS:
        wider = parabola(observations, found.middle, width, at_edge=True)
        if not isinstance(wider, Parabola):
            continue
        # The wall of a valley, or the cliff beyond it, says where it ends and not what it is like.
        wider = replace(wider, loss=np.minimum(wider.loss, wall))
        again = judge(wider, max(found.noise, _misfit(wider, found.noise)))
        if _credible(again, wider, found):
            return _within(again, found), wider
    if isinstance(curve, Parabola) and _supported(first, curve, found):
        return first, None
    return _bracketed(first, found, ""), None


def _level(observations: Sequence[Observation], curve: Parabola) -> Sequence[Observation]:
    """The trials less the level of each study, so that their losses may be compared."""
    names = sorted({o.study for o in observations if not o.failed})
    levels = curve.solve(curve.loss, 0.0)[:-2].tolist()
    if len(names) != len(levels) or len(names) == 1:
        return observations
    above = {name: level - min(levels) for name, level in zip(names, levels, strict=True)}
    return [replace(o, loss=o.loss - above.get(o.study, 0.0)) for o in observations]


def _credible(said: BatchOptimum, curve: Parabola, found: Valley) -> bool:
    """Whether a wider parabola bends by more than noise, and its minimum agrees with the trials.

    Where the bracket is open, a minimum that may as well lie beyond the trials is none.
    """
    if said.lr is None or said.log2_error is None or said.curvature is None:
        return False
    inverse = np.linalg.inv(curve.design.T @ curve.design)
    if said.curvature < TREND * found.noise * math.sqrt(float(inverse[-1, -1])):
        return False
    x, (low, high) = math.log2(said.lr), found.ends
    least = float(found.rates[0]) + said.log2_error if low is None else low
    most = float(found.rates[-1]) - said.log2_error if high is None else high
    return least <= x <= most


def _misfit(curve: Parabola, scale: float) -> float:
    """Standard deviation about this parabola: of noise, and of what is not parabolic."""
    residual = curve.loss - curve.solve(curve.loss, scale) @ curve.design.T
    freedom = max(1, curve.loss.size - curve.design.shape[1])
    return float(np.sqrt(np.sum(residual**2) / freedom))


def _supported(said: BatchOptimum, curve: Parabola, found: Valley) -> bool:
    """Whether a parabola's minimum beyond all trials is more than noise, and the trials agree."""
    if said.kind != "bound":
        return False
    up = said.low is not None
    end, outermost = (1, found.rates.size - 1) if up else (0, 0)
    near = abs(found.best - outermost) <= 1 and curve.outermost[end]
    if not near or (found.high if up else found.low) is not None:
        return False
    beta = curve.solve(curve.loss, found.noise)
    gradient = np.zeros(beta.size)
    gradient[-2:] = 1, 2 * curve.span[end]
    inverse = np.linalg.inv(curve.design.T @ curve.design)
    error = found.noise * math.sqrt(float(gradient @ inverse @ gradient))
    return float(gradient @ beta) * (-1 if up else 1) > TREND * error


def _within(said: BatchOptimum, found: Valley) -> BatchOptimum:
    low, high = (None if x is None else float(2.0**x) for x in found.ends)
    return replace(said, low=low, high=high)


def _bracketed(said: BatchOptimum, found: Valley, why: str) -> BatchOptimum:
    """The bracket alone, with what it is about unless ``why`` says it."""
    ends = found.ends
    low, high = (None if x is None else float(2.0**x) for x in ends)
    last = found.rates.size - 1
    if why:
        text = why
    elif low is None and high is None:
        text = "the losses differ by no more than noise over all the learning rates tried"
    elif low is not None and high is not None:
        text = f"noise hides where between {low:.3g} and {high:.3g} the best lies"
    elif found.best in (0, last) and (found.best == 0) == (low is None):
        edge = "lowest" if low is None else "highest"
        text = f"the best trial has the {edge} learning rate tried"
    else:
        way = "down to the lowest" if low is None else "up to the highest"
        best = 2.0 ** float(found.rates[found.best])
        text = f"the losses are flat from {best:.3g} {way} learning rate tried"
    kind: Kind = "unknown" if ends == (None, None) else "bound"
    return replace(said, kind=kind, low=low, high=high, why=text, lr=None, log2_error=None)
