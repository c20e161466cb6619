"""Draws that know where good values lie, and the coordinates in which a model sees a point."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.samplers.history import Floats
from tuner.samplers.surrogate import Ints
from tuner.spaces import Categorical, Float, Int, Space


def has_priors(space: Space) -> bool:
    """Whether anything is believed about any searched parameter."""
    own = any(
        isinstance(p := space.parameter(n), Float | Int) and p.prior not in (None, "none")
        for n in space.searched
    )
    return own or bool(space.priors)


def at(space: Space, u: Floats, *, informed: bool) -> dict[str, Any]:
    """The point at the quantiles ``u``: of the priors where ``informed``, else of uniform draws.

    Args:
        space: The space.
        u: ``[D]`` in [0, 1].
        informed: Whether priors are used. At 0.5 this is the centre of every prior.
    """
    params: dict[str, Any] = {}
    for name, q in zip(space.searched, u, strict=True):
        if name not in space.active(params):
            continue
        parameter = space.parameter(name)
        prior = space.prior(name, params) if informed else None
        if prior is None or not isinstance(parameter, Float | Int):
            params[name] = parameter.from_unit(float(q))
            continue
        inside = np.clip(np.array([q]), 1e-9, 1 - 1e-9)
        drawn = prior.draw(inside, float(parameter.low), float(parameter.high))
        params[name] = parameter.nearest(float(drawn[0]))
    return params


def many(space: Space, u: Floats, informed: NDArray[np.bool_]) -> Floats:
    """As :func:`at` for each row of ``u``, but in the unit cube, NaN where inactive."""
    if space.conditional or "optimizer" in space.searched:
        rows = [
            space.to_unit(at(space, q, informed=bool(i))) for q, i in zip(u, informed, strict=True)
        ]
        return np.array(rows).reshape(u.shape)
    out = u.copy()
    for j, name in enumerate(space.searched):
        p = space.parameter(name)
        prior = space.prior(name, {})
        if prior is None or not isinstance(p, Float | Int) or p.low == p.high:
            continue
        drawn = prior.draw(np.clip(u[informed, j], 1e-9, 1 - 1e-9), float(p.low), float(p.high))
        if p.log:
            shift = 0.5 if isinstance(p, Int) else 0.0
            low, high = math.log(p.low - shift), math.log(p.high + shift)
            out[informed, j] = (np.log(drawn) - low) / (high - low)
        elif isinstance(p, Int) or p.step is not None:
            out[informed, j] = (drawn - p.low + 0.5 * p.step) / (p.high - p.low + p.step)  # type: ignore[operator]
        else:
            out[informed, j] = (drawn - p.low) / (p.high - p.low)
    return snap(space, out)


def snap(space: Space, unit: Floats) -> Floats:
    """The legal points nearest to rows of the unit cube, NaN where inactive."""
    if space.conditional:
        rows = [space.to_unit(space.from_unit(np.nan_to_num(row, nan=0.5))) for row in unit]
        return np.array(rows).reshape(unit.shape)
    out = np.clip(unit, 0.0, 1.0)
    for j, name in enumerate(space.searched):
        p = space.parameter(name)
        size = p.size
        if size is None:
            continue
        if isinstance(p, Int) and p.log:
            low, high = math.log(p.low - 0.5), math.log(p.high + 0.5)
            whole = np.round(np.exp(low + out[:, j] * (high - low))).clip(p.low, p.high)
            out[:, j] = (np.log(whole) - low) / (high - low)
        else:
            out[:, j] = (np.minimum((out[:, j] * size).astype(int), size - 1) + 0.5) / size
    return out


def sobol(dimensions: int, index: int, seed: int) -> Floats:
    """The ``index``-th point of a scrambled Sobol sequence."""
    if dimensions == 0:
        return np.zeros(0)
    from scipy.stats import qmc  # noqa: PLC0415  (half a second to load)

    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng([seed, 4]))
    if index:
        engine.fast_forward(index)
    point: Floats = engine.random(1)[0]
    return point


class Encoder:
    """From the unit cube to what distances are taken in.

    Choices become one-hot columns. A range whose prior is on the logarithm of the complement (decay
    rates) is seen on that scale: 0.99 and 0.999 are as far apart as 0.9 and 0.99. An inactive
    parameter stands in the middle, so that it tells no two points apart.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        blocks = [
            p.size if isinstance(p := space.parameter(n), Categorical) else 1
            for n in space.searched
        ]
        self.columns: Ints = np.repeat(np.arange(len(blocks)), blocks)
        self._complement: dict[int, tuple[float, float]] = {}
        for j, name in enumerate(space.searched):
            p = space.parameter(name)
            if not isinstance(p, Float) or p.log or p.high > 1 or p.low == p.high:
                continue
            own = [p.prior, *(of.get(name) for of in space.priors.values())]
            if any(not isinstance(q, str) and q and q.scale == "complement" for q in own):
                self._complement[j] = (p.low, p.high)

    def __call__(self, unit: Floats) -> Floats:
        """``[n, D]`` in the unit cube, NaN where inactive, to ``[n, F]``."""
        out: list[Floats] = []
        for j, name in enumerate(self.space.searched):
            u = unit[:, j]
            p = self.space.parameter(name)
            if isinstance(p, Categorical):
                cell = np.clip((np.nan_to_num(u, nan=0.0) * p.size).astype(int), 0, p.size - 1)
                hot = np.zeros((len(u), p.size))
                hot[np.arange(len(u)), cell] = math.sqrt(0.5)  # two choices are 1 apart
                hot[np.isnan(u)] = 0.0
                out.append(hot)
                continue
            if j in self._complement:
                low, high = self._complement[j]
                ends = np.log(np.maximum(1.0 - np.array([low, high]), 1e-6))
                rest = np.log(np.maximum(1.0 - (low + u * (high - low)), 1e-6))
                u = (rest - ends[0]) / (ends[1] - ends[0])
            out.append(np.nan_to_num(u, nan=0.5)[:, None])
        return np.concatenate(out, axis=1) if out else np.zeros((len(unit), 0))
