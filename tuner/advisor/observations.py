"""Finished trials as the advisor sees them, and whether they may be compared at all.

A best learning rate belongs to everything else that was held fixed. So trials are grouped by all
but (lr, batch size, seed, study), and a mixture is refused by the name of what differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.advisor.digits import derived
from tuner.advisor.move import batch_number, number
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput, Refusal

FOLLOWERS = frozenset(
    {"weight_decay", "beta1", "beta2", "beta3", "eps", "momentum", "warmup_steps"}
)
"""What a scaling rule may move with the batch size: one value for each is no mixture."""

Array = npt.NDArray[np.float64]

LARGEST_LOSS = 1e100

_IGNORED = frozenset({"lr", "batch_size", "seed", "study"})


@dataclass(frozen=True)
class Observation:
    """One finished trial.

    Attributes:
        lr: Its learning rate (peak, if scheduled).
        batch_size: Its batch size.
        loss: The objective, lower is better; ignored where it diverged.
        seed: What was repeated.
        diverged: Whether it failed by divergence: then its lr bounds the best one from above.
        facts: All else that could differ: optimizer, schedule, epochs, weight_decay and so on.
        study: Where it came from; each study may have a level of its own.
    """

    lr: float
    batch_size: int
    loss: float
    seed: int = 0
    diverged: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InvalidInput("lr", f"{self.lr!r} is not a positive number")
        if self.batch_size < 1:
            raise InvalidInput("batch_size", f"{self.batch_size!r} is below 1")

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        loss: float | None,
        *,
        seed: int = 0,
        diverged: bool = False,
        study: str = "",
    ) -> Observation:
        """A trial as it is stored: everything in its configuration but lr and batch size is a fact.

        Args:
            config: With ``lr`` and ``batch_size``.
            loss: Lower is better (negate a metric to maximise); None if there is none.
            seed: What was repeated.
            diverged: Whether it failed by divergence.
            study: Where it came from.

        Raises:
            InvalidInput: ``lr`` or ``batch_size`` is missing or impossible.
        """
        return cls(
            number(config, "lr"),
            batch_number(config.get("batch_size")),
            math.nan if loss is None else float(loss),
            seed,
            diverged,
            {name: value for name, value in config.items() if name not in _IGNORED},
            study,
        )

    @property
    def failed(self) -> bool:
        """Diverged, or with a loss that is no number, or none that a square survives."""
        return self.diverged or not abs(self.loss) < LARGEST_LOSS


def differences(observations: Sequence[Observation]) -> dict[str, list[Any]]:
    """What keeps these trials from being one group: each fact that differs, with its values.

    A fact of ``FOLLOWERS`` may change with the batch size, one value each; ``weight_decay`` may
    also keep ``lr weight_decay`` or ``lr weight_decay / batch_size`` fixed, ``steps`` the number of
    samples, and ``epochs`` the number of steps.
    """
    return {
        name: values
        for name, values in distinct([o.facts for o in observations]).items()
        if not _follows(name, observations)
    }


def distinct(facts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each fact that differs, with its values; None where it is missing."""
    names = sorted({name for one in facts for name in one} - _IGNORED)
    found = {name: sorted({_plain(one.get(name)) for one in facts}, key=repr) for name in names}
    return {name: values for name, values in found.items() if len(values) > 1}


def shared(observations: Sequence[Observation]) -> dict[str, Any]:
    """The facts that are the same in all trials."""
    first = observations[0].facts if observations else {}
    differs = distinct([o.facts for o in observations])
    return {n: v for n, v in first.items() if n not in differs and n not in _IGNORED}


def duration(observations: Sequence[Observation]) -> Fixed | None:
    """What trials of several batch sizes have the same number of; None where none of them says."""
    batch = np.array([o.batch_size for o in observations], dtype=np.float64)
    ways: tuple[tuple[str, Fixed, Array, Fixed], ...] = (
        ("steps", "steps", batch, "epochs"),
        ("epochs", "epochs", 1 / batch, "steps"),
    )
    for name, same, factor, scaled in ways:
        values = _numbers(name, observations)
        if values is None:
            continue
        if _constant(values, 1e-9):
            return same
        if _constant(values * factor, 0.05):
            return scaled
    return None


def refuse_mixture(found: Mapping[str, list[Any]], why: str) -> None:
    """Refuses trials that differ.

    Args:
        found: Each fact that differs, with its values.
        why: Why they may not, and what to do about it.

    Raises:
        Refusal: Names the first fact that differs; ``differs`` in its facts holds all of them.
    """
    if not found:
        return
    name, values = next(iter(found.items()))
    told = (derived(v) if isinstance(v, float) else str(v) for v in values[:4])
    shown = ", ".join(told) + (", ..." if len(values) > 4 else "")
    others = [other for other in found if other != name]
    also = f" (so do {', '.join(others)})" if others else ""
    raise Refusal(
        name,
        f"it differs between these trials: {shown}{also}; {why}",
        differs={key: [str(value) for value in values] for key, values in found.items()},
        instead="one group of trials",
    )


def require_one_group(observations: Sequence[Observation]) -> None:
    """Refuses a mixture.

    Raises:
        Refusal: As :func:`refuse_mixture`.
    """
    refuse_mixture(
        differences(observations),
        "a best lr is that of one setting, so fit trials that share all but lr, batch size and "
        "seed",
    )


def _plain(value: Any) -> Any:
    """Hashable, with 1 and 1.0 the same."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value)
    return repr(value)


def _numbers(name: str, observations: Sequence[Observation]) -> Array | None:
    """A fact of every trial; None unless each has it as a number."""
    values = [_plain(o.facts.get(name)) for o in observations]
    if not values or not all(isinstance(value, float) for value in values):
        return None
    return np.array(values, dtype=np.float64)


def _follows(name: str, observations: Sequence[Observation]) -> bool:
    values = _numbers(name, observations)
    if values is None:
        return False
    lr = np.array([o.lr for o in observations])
    batch = np.array([o.batch_size for o in observations], dtype=np.float64)
    if name == "steps":
        return _constant(values * batch, 0.05)
    if name == "epochs":
        return _constant(values / batch, 0.05)
    if name not in FOLLOWERS:
        return False
    if name == "weight_decay" and (
        _constant(values * lr, 0.01) or _constant(values * lr / batch, 0.01)
    ):
        return True
    return all(_constant(values[batch == size], 1e-9) for size in np.unique(batch))


def _constant(values: np.ndarray[Any, np.dtype[np.float64]], relative: float) -> bool:
    return bool(np.ptp(values) <= relative * np.abs(values).max())
