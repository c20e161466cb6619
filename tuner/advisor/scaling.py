"""One rule applied to one configuration: what changes with the batch size and what stays.

The duration decides more than the optimizer does. At fixed epochs a larger batch means fewer steps,
each of which must do more; at fixed steps it means the same number of better steps. So ``fixed`` is
asked for, and each rule says for which of the two it was derived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tuner.advisor.families import traits
from tuner.advisor.known_rules import RULES, RuleFacts
from tuner.advisor.move import LR_RATIO, Config, Move, batch_number, number
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput, UnknownName


@dataclass(frozen=True)
class Scaled:
    """A configuration at another batch size, by one rule.

    Attributes:
        rule: Its name.
        config: All of the configuration, with what changed.
        kappa: New batch size over old.
        multiplier: New lr over old.
        changes: One sentence for each hyperparameter that moved, or that deliberately did not.
        cautions: What the reader should know before trusting it.
        facts: Formula, validity and source of the rule.
    """

    rule: str
    config: dict[str, Any]
    kappa: float
    multiplier: float
    changes: dict[str, str]
    cautions: tuple[str, ...]
    facts: RuleFacts

    @property
    def lr(self) -> float:
        """The new learning rate."""
        return float(self.config["lr"])

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "rule": self.rule,
            "config": dict(self.config),
            "kappa": self.kappa,
            "multiplier": self.multiplier,
            "changes": dict(self.changes),
            "cautions": list(self.cautions),
            "formula": self.facts.formula,
            "valid": self.facts.valid,
            "source": self.facts.source,
        }

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.facts.formula}"]
        lines += [f"  {text}" for text in self.changes.values()]
        lines += [f"  caution: {text}" for text in self.cautions]
        return "\n".join(lines)


def scale(
    config: Config,
    batch: int,
    *,
    optimizer: str | None = None,
    rule: str = "sqrt",
    fixed: Fixed = "epochs",
    noise_scale: float | None = None,
) -> Scaled:
    """Moves a good configuration to another batch size by one named rule.

    >>> round(scale({"lr": 5e-4, "batch_size": 128}, 1024, optimizer="adam").lr, 8)
    0.00141421

    Args:
        config: At least ``lr`` and ``batch_size``. Settings of the optimizer that the rule scales
            and that are missing are taken at the optimizer's defaults and written into the result;
            the rest is kept.
        batch: The new batch size.
        optimizer: Registry name; ``config["optimizer"]`` if None.
        rule: A name of ``RULES``.
        fixed: Whether both runs see the same ``epochs`` or take the same ``steps``.
        noise_scale: ``B_noise`` in samples; ``gain`` and ``surge`` need it, others refuse beyond
            it.

    Raises:
        InvalidInput: A value is missing or impossible; it names the field.
        Refusal: The rule does not hold here: names the hyperparameter, says why and what to do
            instead.
    """
    name = optimizer if optimizer is not None else config.get("optimizer")
    if name is None:
        raise InvalidInput("optimizer", "is missing: the rule depends on it")
    known = traits(name)
    if fixed not in ("epochs", "steps"):
        raise InvalidInput("fixed", f"{fixed!r} is neither 'epochs' nor 'steps'")
    if rule not in RULES:
        raise UnknownName("rule", rule, list(RULES), "rule")
    lr, old = number(config, "lr"), batch_number(config.get("batch_size"))
    new = batch_number(batch, "batch")
    if noise_scale is not None and not (math.isfinite(noise_scale) and noise_scale > 0):
        raise InvalidInput("noise_scale", f"{noise_scale!r} is not a positive number")
    move = Move(dict(config), name, known, new / old, old, new, fixed, noise_scale)
    move.refuse(rule)
    ratio = LR_RATIO[rule](move)
    move.set_lr(lr, ratio, rule)
    if rule in ("sde", "half_life", "gain"):
        move.scale_averages(rule, ratio)
    move.scale_duration()
    move.scale_decay(ratio)
    move.warn(rule)
    return Scaled(
        rule, move.config, move.kappa, ratio, move.changes, tuple(move.cautions), RULES[rule]
    )
