"""Draws that know where good values lie, and the coordinates in which a model sees a point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.samplers.history import Floats
from tuner.samplers.surrogate import Ints
from tuner.spaces import Categorical, Constant, Float, Int, Scalar, Searched, Space


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
    quantiles = dict(zip(space.searched, u.tolist(), strict=True))

    def choose(name: str, parameter: Searched, params: Mapping[str, Any]) -> Scalar:
        prior = space.prior(name, params) if informed else None
        if prior is None or not isinstance(parameter, Float | Int):
            return parameter.from_unit(quantiles[name])
        inside = np.clip(np.array([quantiles[name]]), 1e-9, 1 - 1e-9)
        drawn = prior.draw(inside, float(parameter.low), float(parameter.high))
        return parameter.nearest(float(drawn[0]))

    return space.chosen(choose)


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
    out = np.clip(np.nan_to_num(unit, nan=0.5), 0.0, 1.0)
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
    if space.conditional:
        out[~active(space, out)] = np.nan
    return out


def active(space: Space, unit: Floats) -> NDArray[np.bool_]:
    """``[n, D]`` whether each parameter's conditions hold, for legal points without NaN."""
    columns = {name: unit[:, j].tolist() for j, name in enumerate(space.searched)}
    masks: dict[str, NDArray[np.bool_]] = {}
    met: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for name in space.order:
        masks[name] = np.ones(len(unit), dtype=bool)
        for parent, wanted in space.conditions[name]:
            asked = (parent, repr(wanted.choices))  # True is not 1
            if asked not in met:
                above = space.parameters[parent]
                values = (
                    [above.value] * len(unit)
                    if isinstance(above, Constant)
                    else [above.from_unit(u) for u in columns[parent]]
                )
                met[asked] = np.array([value in wanted for value in values], dtype=bool)
            masks[name] &= masks[parent] & met[asked]
    return (
        np.array([masks[name] for name in space.searched], dtype=bool).reshape(unit.shape[::-1]).T
    )


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
