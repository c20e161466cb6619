"""What to change with the batch size: the best evidence there is, and how sure it makes one.

The order: the user's own trials, then the measured noise scale, then a rule. Every source that
could speak is asked and shown, and those that refuse say why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tuner.advisor import wording
from tuner.advisor.advice import Advice, Alternative, Confidence, Evidence, Experiment, Range
from tuner.advisor.digits import TRIALS
from tuner.advisor.families import Traits, traits
from tuner.advisor.fitted import Fit, Prediction
from tuner.advisor.fitting import fit
from tuner.advisor.identification import LADDER
from tuner.advisor.known_rules import RULES
from tuner.advisor.move import Config, Move, batch_number, gain_power, number
from tuner.advisor.noise_scale import NoiseScale
from tuner.advisor.observations import Observation, distinct
from tuner.advisor.rules import Fixed, gain
from tuner.advisor.scaling import Scaled, scale
from tuner.errors import InvalidInput, Refusal, UnknownName

LARGEST_EXPONENT = math.log(wording.MEASURED_128_TO_1024[2], 8)
"""Of lr* in B, the greatest that was measured for a normalised optimizer: 0.68."""

PROXY = 3.0
"""``B_simple`` stands for ``B_noise`` to about this factor either way."""

UNTUNED = 2.0
"""By this factor either way a rate that nothing compares with others may miss the best one."""

NEIGHBOUR = math.sqrt(2)
"""A rate this close to where the best one lies is its neighbour on a grid, and tuned."""

Studies = Fit | Iterable[Observation]


def advise(
    config: Config,
    batch: int,
    *,
    optimizer: str | None = None,
    fixed: Fixed = "epochs",
    noise_scale: float | NoiseScale | None = None,
    studies: Studies | None = None,
    rule: str | None = None,
) -> Advice:
    """How to move ``config`` to another batch size.

    >>> advice = advise({"lr": 5e-4, "batch_size": 128}, 1024, optimizer="adam", rule="sqrt")
    >>> round(advice.lr, 8), advice.confidence
    (0.00141421, 'low')

    Args:
        config: At least ``lr`` and ``batch_size``; everything in it comes back, changed or not.
        batch: The new batch size.
        optimizer: Registry name; ``config["optimizer"]`` if None.
        fixed: Whether both runs see the same ``epochs`` or take the same ``steps``.
        noise_scale: In samples, as a number or as measured.
        studies: Finished trials of this setting, or a fit to them.
        rule: A name of ``RULES`` or ``trials``, to insist on; by default the best evidence decides.

    Raises:
        InvalidInput: A value is missing or impossible.
        Refusal: The ``rule`` insisted on does not hold here.
    """
    name = optimizer if optimizer is not None else config.get("optimizer")
    if name is None:
        raise InvalidInput("optimizer", "is missing: the rule depends on it")
    if rule is not None and rule not in (*RULES, TRIALS):
        raise UnknownName("rule", rule, [*RULES, TRIALS], "rule")
    case = _Case(config, batch, str(name), fixed, noise_scale, studies)
    chosen = rule or case.default()
    return case.by_trials() if chosen == TRIALS else case.by_rule(chosen)


class _Case:
    """One question, with all that each source says to it."""

    def __init__(
        self,
        config: Config,
        batch: int,
        optimizer: str,
        fixed: Fixed,
        noise_scale: float | NoiseScale | None,
        studies: Studies | None,
    ) -> None:
        self.old = dict(config)
        self.optimizer = optimizer
        self.known: Traits = traits(optimizer)
        self.fixed = fixed
        self.lr = number(config, "lr")
        self.old_batch = batch_number(config.get("batch_size"))
        self.batch = batch_number(batch, "batch")
        self.kappa = self.batch / self.old_batch
        self.cautions: list[str] = []
        self.noise, self.noise_low, self.noise_high, bounded = self._noise(noise_scale)
        self.noise_bounded = bounded
        self.rules: dict[str, Scaled | Refusal] = {name: self._try(name) for name in RULES}
        self.fit, self.prediction, self.trials_say = self._trials(studies)

    def _noise(self, given: float | NoiseScale | None) -> tuple[float | None, float, float, bool]:
        if isinstance(given, NoiseScale):
            if given.value is None:
                self.cautions.append(str(given))
                return None, 0.0, 0.0, False
            low = min(given.value / PROXY, given.low or math.inf)
            high = max(given.value * PROXY, given.high or math.inf)
            return given.value, low, high, given.high is not None
        if given is None:
            return None, 0.0, 0.0, False
        return float(given), given / PROXY, given * PROXY, True

    def _try(self, rule: str) -> Scaled | Refusal:
        try:
            return scale(
                self.old,
                self.batch,
                optimizer=self.optimizer,
                rule=rule,
                fixed=self.fixed,
                noise_scale=self.noise,
            )
        except Refusal as refusal:
            return refusal

    def _trials(self, studies: Studies | None) -> tuple[Fit | None, Prediction | None, str]:
        if studies is None:
            return None, None, "no finished trials were given"
        if isinstance(studies, Fit):
            fitted = studies
        else:
            try:
                fitted = fit(studies, optimizer=self.optimizer)
            except Refusal as refusal:
                self.cautions.append(f"your trials were not used: {refusal}")
                return None, None, str(refusal)
        if why := self._foreign(fitted):
            self.cautions.append(f"your trials were not used: {why}")
            return fitted, None, why
        if not fitted.identified:
            self.cautions.append(f"your trials do not settle it: {fitted.why}")
            return fitted, None, fitted.why
        self._compare(fitted)
        return fitted, fitted.predict(self.batch), ""

    def _foreign(self, fitted: Fit) -> str:
        """Why these trials answer another question than this one; empty where they answer it."""
        theirs = fitted.facts.get("optimizer", self.optimizer)
        if theirs != self.optimizer:
            return f"they are of {theirs}, and the best lr of {self.optimizer} is another one"
        if self._moves_nowhere(fitted):
            return ""
        if self.fixed == "steps" and fitted.fixed == "epochs":
            return (
                "they have the same epochs at every batch size, and the question is of runs of the "
                "same steps, whose best lr moves far less"
            )
        if self.fixed == "epochs" and fitted.fixed == "steps":
            return (
                "they take the same steps at every batch size, and the question is of runs of the "
                "same epochs, whose best lr moves far more"
            )
        return ""

    def _moves_nowhere(self, fitted: Fit) -> bool:
        """At the same size, and one that was tried, it is no matter how durations go with size."""
        return self.kappa == 1 and any(o.batch_size == self.batch for o in fitted.optima)

    def _compare(self, fitted: Fit) -> None:
        """Cautions where the trials are of another setting, or may be of another duration."""
        differ = [
            f"{name} ({fitted.facts[name]}, here {self.old[name]})"
            for name in sorted(set(fitted.facts) & set(self.old) - {"optimizer"})
            if distinct([fitted.facts, {**fitted.facts, name: self.old[name]}])
        ]
        if differ:
            self.cautions.append(
                f"your trials have another {', '.join(differ)}: their best lr is that of their own "
                "setting"
            )
        if fitted.fixed is None and not self._moves_nowhere(fitted):
            self.cautions.append(
                "your trials do not say how long they are: they count as runs of the same "
                f"{self.fixed}; tell epochs or steps with each to be sure"
            )

    def default(self) -> str:
        """The strongest evidence that speaks."""
        if self.prediction is not None:
            return TRIALS
        if not isinstance(self.rules["gain"], Refusal) and self.noise is not None:
            return "gain"
        family = self.known.family
        if family in ("adagrad", "parameter-free") or (family != "sgd" and self.fixed == "steps"):
            return "keep"
        order = {"sgd": ("linear", "sqrt")}.get(family, ("sde", "half_life", "sqrt"))
        return next(name for name in order if not isinstance(self.rules[name], Refusal))

    def by_rule(self, rule: str) -> Advice:
        """Advice by a rule.

        Raises:
            Refusal: It does not hold here.
        """
        said = self.rules[rule]
        if isinstance(said, Refusal):
            raise said
        evidence: Evidence = "noise scale" if rule in ("gain", "surge") else "rule"
        confidence, reason = self._sure(evidence)
        low, high = self._span(evidence, said.multiplier)
        return self._advice(
            said.config,
            Range(self.lr * low, self.lr * high),
            rule,
            wording.why(rule, self.known, self.kappa, self.lr, said.lr, self.fixed),
            confidence,
            evidence,
            reason,
            said.changes,
            said.cautions,
            self._ladder(said.config),
        )

    def by_trials(self) -> Advice:
        """Advice by the user's own trials: the lr is theirs, and only durations move with it.

        Raises:
            Refusal: They do not identify lr*(B).
        """
        if self.fit is None or self.prediction is None:
            raise Refusal("studies", self.trials_say, rule=TRIALS)
        lr = self.prediction.lr
        move = self._moved_by(lr.value)
        half = math.log2(lr.high / lr.low) / 2
        far = self.prediction.beyond
        confidence: Confidence = (
            "high" if half <= 0.5 and far <= 2 else "medium" if half <= 1 and far <= 4 else "low"
        )
        place = "within" if far == 1 else f"{far:.3g}x outside"
        reason = f"interval of +-{half:.2f} octaves, {place} the batch sizes tried"
        here = self.fit.predict(self.old_batch).lr
        if not here.low / NEIGHBOUR <= self.lr <= here.high * NEIGHBOUR:
            move.cautions.append(
                f"at batch size {self.old_batch} your trials put the best lr at {here.value:.4g} "
                f"({here.low:.4g} to {here.high:.4g}), so {self.lr:.4g} was not tuned there or is "
                "of another setting"
            )
        ladder = tuple(
            Experiment(move.config | {"lr": lr.value * 2.0**step}, "brackets the predicted optimum")
            for step in (0, -0.5, 0.5, -1, 1)
        )
        wanted = tuple(
            Experiment(
                move.config | {"lr": t["lr"], "batch_size": int(t["batch_size"])}, "fills a gap"
            )
            for t in self.fit.trials
        )
        return self._advice(
            move.config,
            Range(lr.low, lr.high),
            TRIALS,
            wording.why_trials(self.fit, self.prediction, self.lr),
            confidence,
            "trials",
            reason,
            move.changes,
            tuple(move.cautions),
            ladder + wanted,
        )

    def _moved_by(self, lr: float) -> Move:
        """The configuration at the lr that the trials gave."""
        move = Move(
            dict(self.old),
            self.optimizer,
            self.known,
            self.kappa,
            self.old_batch,
            self.batch,
            self.fixed,
            self.noise,
        )
        move.set_lr(self.lr, lr / self.lr, TRIALS)
        move.scale_duration()
        if self.old.get("weight_decay"):
            move.changes["weight_decay"] = (
                "weight_decay stays: the lr is the best one under the decay that the trials had"
            )
        return move

    def _sure(self, evidence: Evidence) -> tuple[Confidence, str]:
        factor = max(self.kappa, 1 / self.kappa)
        if factor == 1:
            return "low", "the batch size is the same: nothing says whether this lr was the best"
        if evidence == "noise scale":
            if self.noise_bounded and factor <= 8:
                return "medium", "a measured noise scale is good to an order of magnitude"
            return "low", "the noise scale is not bounded, or the step is too far for it"
        if factor <= 2:
            return "medium", f"a rule alone, but only {factor:g}x in batch size"
        return "low", "a rule alone; measured exponents differ from it and between settings"

    def _span(self, evidence: Evidence, multiplier: float) -> tuple[float, float]:
        """Multipliers of the old lr between which the best one probably lies."""
        family, kappa = self.known.family, self.kappa
        if kappa == 1 and family != "parameter-free":  # whose lr needs no tuning
            return 1 / UNTUNED, UNTUNED
        if evidence == "noise scale" and self.noise is not None:
            powers = (1.0,) if family == "sgd" else (0.25, gain_power(family), LARGEST_EXPONENT)
            scales = (self.noise_low, self.noise, self.noise_high)
            gains = [gain(self.old_batch, self.batch, s) if s < math.inf else kappa for s in scales]
            ends = [g**power for g in gains for power in powers]
        elif self.fixed == "steps":
            a, b = wording.FIXED_STEPS_SLOPES["sgd" if family == "sgd" else "adam"]
            ends = [kappa**a, kappa**b, 1.0]
        else:
            top = {"sgd": 1.0, "adagrad": 0.5, "parameter-free": 0.0}.get(family, LARGEST_EXPONENT)
            ends = [1.0, kappa**top]
        return min(*ends, multiplier), max(*ends, multiplier)

    def _ladder(self, config: dict[str, Any]) -> tuple[Experiment, ...]:
        """The old lr times kappa^{0, 1/4, 1/2, 3/4, 1}, two octaves at least, centred if steps."""
        span = math.log2(self.kappa) if self.kappa != 1 else 2.0
        span = math.copysign(max(2.0, abs(span)), span)
        shift = 0.5 if self.fixed == "steps" or self.kappa == 1 else 0.0
        said = {0.0: "keep", 0.5: "square root", 1.0: "linear"}
        exact = shift == 0 and abs(math.log2(self.kappa)) >= 2
        return tuple(
            Experiment(
                config | {"lr": self.lr * 2.0 ** (span * (power - shift))},
                f"lr at this batch size, step {i + 1} of {len(LADDER)} from keep to linear"
                + (f" ({said[power]})" if exact and power in said else ""),
            )
            for i, power in enumerate(LADDER)
        )

    def _advice(
        self,
        config: dict[str, Any],
        span: Range,
        rule: str,
        why: str,
        confidence: Confidence,
        evidence: Evidence,
        reason: str,
        changes: dict[str, str],
        cautions: tuple[str, ...],
        experiments: tuple[Experiment, ...],
    ) -> Advice:
        others = [self._alternative(name) for name in (TRIALS, *RULES) if name != rule]
        return Advice(
            config,
            span,
            rule,
            why,
            tuple(others),
            confidence,
            experiments,
            evidence,
            reason,
            changes,
            (*self.cautions, *cautions),
            self.optimizer,
            self.fixed,
            self.old,
        )

    def _alternative(self, name: str) -> Alternative:
        if name == TRIALS:
            if self.prediction is None:
                return Alternative(TRIALS, None, None, self.trials_say, "studies")
            lr = self.prediction.lr.value
            config = self._moved_by(lr).config
            return Alternative(TRIALS, lr, config, note="your own finished trials")
        said = self.rules[name]
        if isinstance(said, Refusal):
            return Alternative(name, None, None, said.message, said.field)
        return Alternative(name, said.lr, said.config, note=f"valid: {said.facts.valid}")
