"""The picture of lr against batch size: which trials, and where each rule would go from here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.advisor import rules
from tuner.advisor.families import traits
from tuner.advisor.move import gain_power
from tuner.advisor.observations import Observation

SHADES = 9
"""Steps of the colour scale from the best loss to the worst."""
POINTS = 25


@dataclass(frozen=True)
class Dot:
    """One trial.

    Attributes:
        index: Which of the observations it is.
        shade: From 0 for the best ninth of the losses to 8 for the worst; None: it diverged.
    """

    index: int
    shade: int | None


def dots(observations: Sequence[Observation], most: int = 1500) -> list[Dot]:
    """The trials, at most ``most`` of them: the better half of those, and others evenly.

    Shades go by rank, since a few ruined losses would leave one colour to all the rest.
    """
    order = sorted(
        (i for i, o in enumerate(observations) if not o.failed),
        key=lambda i: observations[i].loss,
    )
    shade = {i: rank * SHADES // len(order) for rank, i in enumerate(order)}
    found = [Dot(i, shade.get(i)) for i in range(len(observations))]
    if len(found) <= most:
        return found
    best = set(order[: most // 2])
    rest = [dot for dot in found if dot.index not in best]
    wanted = most - len(best)
    kept = [rest[i * len(rest) // wanted] for i in range(wanted)]
    return sorted([*(found[i] for i in best), *kept], key=lambda dot: dot.index)


def lines(
    lr: float, batch: int, low: int, high: int, *, optimizer: str, noise_scale: float | None = None
) -> dict[str, list[tuple[float, float]]]:
    """What the rules say from ``lr`` at ``batch``, over batch sizes from ``low`` to ``high``.

    ``gain`` is there where the noise scale is known; the others are straight on two logarithms.
    """
    ends = [float(low), float(high)]
    found = {
        "keep": [(size, lr) for size in ends],
        "sqrt": [(size, rules.sqrt(lr, size / batch)) for size in ends],
        "linear": [(size, rules.linear(lr, size / batch)) for size in ends],
    }
    if noise_scale is not None and math.isfinite(noise_scale) and noise_scale > 0:
        power = gain_power(traits(optimizer).family)
        found["gain"] = [
            (float(size), lr * rules.gain(batch, size, noise_scale) ** power)
            for size in np.geomspace(low, high, POINTS)
        ]
    return found
