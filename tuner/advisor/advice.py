"""What the advisor hands back: values that print well, travel as JSON and show in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.advisor.digits import derived, fitted, rate
from tuner.advisor.rules import Fixed

Confidence = Literal["low", "medium", "high"]
Evidence = Literal["trials", "noise scale", "rule"]


@dataclass(frozen=True)
class Range:
    """Where the best learning rate probably lies."""

    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """The same as JSON values."""
        return {"low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{fitted(self.low)} to {fitted(self.high)}"


@dataclass(frozen=True)
class Alternative:
    """What another source says: a learning rate, or why it says none.

    Attributes:
        rule: Name of the rule, or ``trials``.
        lr: Its learning rate; None where it refuses.
        config: Its full configuration; None where it refuses.
        refused: Why it does not hold here; empty otherwise.
        field: The hyperparameter that the refusal names; empty otherwise.
        note: When it would be right.
    """

    rule: str
    lr: float | None
    config: dict[str, Any] | None
    refused: str = ""
    field: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "rule": self.rule,
            "lr": self.lr,
            "config": None if self.config is None else dict(self.config),
            "refused": self.refused,
            "field": self.field,
            "note": self.note,
        }

    def __str__(self) -> str:
        return f"{self.rule}: " + (
            f"lr {rate(self.lr, self.rule)}" if self.lr is not None else self.refused
        )


@dataclass(frozen=True)
class Experiment:
    """One trial worth running: a full configuration, and what it would tell."""

    config: dict[str, Any]
    purpose: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"config": dict(self.config), "purpose": self.purpose}


@dataclass(frozen=True)
class Advice:
    """How to move a configuration to another batch size, on what evidence, and how sure that is.

    Attributes:
        config: The full recommended configuration.
        range: Where the best lr probably lies.
        rule: The rule that gave the lr, or ``trials``.
        why: Two sentences for a practitioner.
        alternatives: What every other rule says, or why it refuses.
        confidence: ``low``, ``medium`` or ``high``.
        experiments: Trials that would make it surer, cheapest first.
        evidence: The strongest kind that could be used: trials, then noise scale, then rule.
        confidence_why: What the confidence rests on.
        changes: One sentence for each hyperparameter that moved.
        cautions: What to know before trusting it.
        optimizer: Registry name.
        fixed: What both runs have in common.
        old: The configuration moved from.
    """

    config: dict[str, Any]
    range: Range
    rule: str
    why: str
    alternatives: tuple[Alternative, ...]
    confidence: Confidence
    experiments: tuple[Experiment, ...]
    evidence: Evidence
    confidence_why: str
    changes: dict[str, str]
    cautions: tuple[str, ...]
    optimizer: str
    fixed: Fixed
    old: dict[str, Any]

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Advice:
        """The inverse of :meth:`to_dict`, for advice that came as JSON."""
        parts = {
            "range": Range(**given["range"]),
            "alternatives": tuple(Alternative(**one) for one in given["alternatives"]),
            "experiments": tuple(Experiment(**one) for one in given["experiments"]),
            "cautions": tuple(given["cautions"]),
        }
        return cls(**{**given, **parts})

    @property
    def lr(self) -> float:
        """The recommended learning rate."""
        return float(self.config["lr"])

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "config": dict(self.config),
            "range": self.range.to_dict(),
            "rule": self.rule,
            "why": self.why,
            "alternatives": [alternative.to_dict() for alternative in self.alternatives],
            "confidence": self.confidence,
            "confidence_why": self.confidence_why,
            "experiments": [experiment.to_dict() for experiment in self.experiments],
            "evidence": self.evidence,
            "changes": dict(self.changes),
            "cautions": list(self.cautions),
            "optimizer": self.optimizer,
            "fixed": self.fixed,
            "old": dict(self.old),
        }

    def _shown(self, name: str) -> str:
        """A value of the new configuration; one that did not change stays as it was given."""
        value = self.config[name]
        if value == self.old.get(name) or not isinstance(value, float):
            return _given(value)
        return rate(value, self.rule) if name == "lr" else derived(value)

    def brief(self) -> str:
        """The answer for a person, without what else was said."""
        batch = f"batch size {self.old['batch_size']} -> {self.config['batch_size']}"
        lines = [
            f"{self.optimizer}, {batch}, fixed {self.fixed}",
            f"  lr {self._shown('lr')} (range {self.range}), by {self.rule}; "
            f"confidence {self.confidence}: {self.confidence_why}",
            f"  {self.why}",
        ]
        lines += [f"  {text}" for name, text in self.changes.items() if name != "lr"]
        lines += [f"  caution: {text}" for text in self.cautions]
        return "\n".join(lines)

    def __str__(self) -> str:
        others = [f"  otherwise {alternative}" for alternative in self.alternatives]
        return "\n".join([self.brief(), *others])

    def _repr_markdown_(self) -> str:
        def cell(value: object) -> str:
            text = derived(value) if isinstance(value, float) else str(value)
            return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

        names = [name for name in self.config if name in self.changes or name == "batch_size"]
        rows = [
            f"| {cell(n)} | {cell(_given(self.old.get(n, '')))} | {cell(self._shown(n))} |"
            for n in names
        ]
        others = [
            f"| {cell(a.rule)} | {'' if a.lr is None else rate(a.lr, a.rule)} | "
            f"{cell(a.refused or a.note)} |"
            for a in self.alternatives
        ]
        return "\n".join(
            [
                f"**lr {self._shown('lr')}** ({self.range}) by *{cell(self.rule)}*, confidence "
                f"{self.confidence}: {cell(self.confidence_why)}",
                "",
                cell(self.why),
                "",
                "| setting | from | to |",
                "|-|-|-|",
                *rows,
                "",
                "| otherwise | lr | |",
                "|-|-|-|",
                *others,
                *(f"\n> {cell(text)}" for text in self.cautions),
            ]
        )


def _given(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
