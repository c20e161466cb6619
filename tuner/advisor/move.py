"""A configuration on its way to another batch size: each method moves what belongs together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.advisor import rules
from tuner.advisor.digits import derived, rate
from tuner.advisor.families import FAMILY_TEXT, Traits
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput, Refusal

Config = Mapping[str, Any]


def number(config: Config, name: str, low: float = 0.0, *, strict: bool = True) -> float:
    """A positive (or, unless ``strict``, nonnegative) finite number of the configuration.

    Raises:
        InvalidInput: It is missing, not a number, or outside the range.
    """
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(name, f"{value!r} is not a finite number")
    if value < low or (strict and value == low):
        raise InvalidInput(name, f"{value!r} must be {'above' if strict else 'at least'} {low:g}")
    return float(value)


def batch_number(value: object, field: str = "batch_size") -> int:
    """A batch size: a whole number from 1."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
    ):
        raise InvalidInput(field, f"{value!r} is not a whole number")
    if value < 1:
        raise InvalidInput(field, f"{value!r} is below 1")
    return int(value)


def gain_power(family: str) -> float:
    """The power of the gain: 1 for steps in proportion to the gradient, 1/2 if normalised."""
    return 1.0 if family == "sgd" else 0.5


@dataclass
class Move:
    """A configuration on its way: what is known, and what was changed so far."""

    config: dict[str, Any]
    optimizer: str
    known: Traits
    kappa: float
    old: int
    new: int
    fixed: Fixed
    noise_scale: float | None

    def __post_init__(self) -> None:
        self.changes: dict[str, str] = {}
        self.cautions: list[str] = []

    def refuse(self, rule: str) -> None:
        """Raises Refusal where the rule was not derived for this optimizer, duration or noise."""
        family = self.known.family

        def no(field: str, why: str, instead: str) -> None:
            raise Refusal(field, f"{why}; use {instead}", rule=rule, instead=instead)

        if rule == "keep" or self.kappa == 1:
            return
        if family == "parameter-free":
            no(
                "lr",
                f"{self.optimizer} {FAMILY_TEXT[family]}, and finds the new one by itself",
                "keep",
            )
        if rule == "linear" and family != "sgd":
            no(
                "optimizer",
                f"{self.optimizer} {FAMILY_TEXT[family]}, whose size the noise sets; only "
                "the square root of the batch ratio is gained, and linear would overshoot",
                "sde" if family in ("adam", "rmsprop") else "sqrt",
            )
        if rule in ("sde", "half_life") and family not in ("adam", "rmsprop"):
            no(
                "optimizer",
                f"the rule is derived for Adam and RMSprop, and {self.optimizer} "
                f"{FAMILY_TEXT[family]}",
                {"sgd": "linear", "sign": "sqrt"}.get(family, "keep"),
            )
        if rule == "surge" and (
            family not in ("adam", "rmsprop", "sign") or not self.known.elementwise
        ):
            no(
                "optimizer",
                "the surge is derived for steps of a sign-like size per coordinate, and "
                f"{self.optimizer} does not take them",
                "linear" if family == "sgd" else "sqrt",
            )
        if rule == "gain" and family == "adagrad":
            no(
                "optimizer",
                f"the gain is not derived for {self.optimizer}, which {FAMILY_TEXT[family]}",
                "keep",
            )
        if rule not in ("keep", "sqrt") and self.fixed == "steps":
            no(
                "fixed",
                "the rule compares runs of the same number of samples; at fixed steps the best lr "
                "moves far less",
                "sqrt" if family == "sgd" else "keep",
            )
        largest = max(self.old, self.new)
        if rule in ("gain", "surge") and self.noise_scale is None:
            no(
                "noise_scale",
                "the rule needs it, and none was given or measured",
                "`tuner advise measure`",
            )
        if (
            rule in ("linear", "sde", "half_life")
            and self.noise_scale
            and largest > self.noise_scale
        ):
            no(
                "batch",
                f"batch size {largest} is above the noise scale {self.noise_scale:.4g}: noise no "
                "longer dominates there, and the rise has flattened",
                "gain",
            )

    def set_lr(self, lr: float, ratio: float, rule: str) -> None:
        """The lr and the batch size themselves."""
        if not 0 < lr * ratio < math.inf:
            raise InvalidInput("lr", f"{lr!r} x {ratio:.4g} is no number that can be trained with")
        self.config["lr"], self.config["batch_size"] = lr * ratio, self.new
        verb = "rises" if ratio > 1 else "falls" if ratio < 1 else "stays"
        self.changes["lr"] = (
            f"lr stays {lr:.6g}"
            if ratio == 1
            else f"lr {verb} from {lr:.6g} to {rate(lr * ratio, rule)}, x{ratio:.4g} ({rule})"
        )

    def scale_averages(self, rule: str, ratio: float) -> None:
        """Decay rates and eps: same horizons in samples; eps falls with the gradient's root."""
        if self.known.family not in ("adam", "rmsprop"):
            return
        self.fill()
        for name in self.known.averages:
            beta = number(self.config, name, strict=False)
            if beta >= 1:
                raise InvalidInput(name, f"{beta!r} is outside [0, 1)")
            scaled = (
                rules.sde_beta(beta, self.kappa, name)
                if rule == "sde"
                else rules.half_life_beta(beta, self.kappa)
            )
            self.config[name] = scaled
            if self.kappa > rules.longest_kappa(beta) and beta > 0:
                why = (
                    "a horizon of one step; as many samples as before would be less than that, and "
                    "no average left"
                )
            else:
                why = "the same horizon in samples"
            self.changes[name] = f"{name} from {beta:.6g} to {derived(scaled)}: {why}"
        if "eps" in self.config:
            eps = number(self.config, "eps", strict=False)
            self.config["eps"] = eps / ratio
            self.changes["eps"] = (
                f"eps from {eps:.4g} to {eps / ratio:.4g}: it stands beside the root of the "
                f"averaged square, which falls x{1 / ratio:.4g} where noise dominates it; harmless "
                "either way while that root is above 10 eps almost everywhere"
            )

    def fill(self) -> None:
        """Writes the optimizer's declared defaults where the configuration is silent."""
        wanted = (*self.known.averages, "eps")
        if all(name in self.config for name in wanted):
            return
        # Here, not above: it loads torch, which most callers of this room need not.
        from tuner import optimizers  # noqa: PLC0415

        declared = optimizers.get(self.optimizer).hyper
        for name in wanted:
            if name in declared:
                self.config.setdefault(name, declared[name].default)

    def scale_duration(self) -> None:
        """Steps, epochs, warm-up and every schedule setting that is counted in steps."""
        rate = self.kappa if self.fixed == "epochs" else 1.0
        if self.fixed == "steps" and "epochs" in self.config and self.kappa != 1:
            epochs = number(self.config, "epochs")
            self.config["epochs"] = _whole(epochs * self.kappa)
            self.changes["epochs"] = (
                f"epochs from {epochs:g} to {self.config['epochs']:g}: the same number of steps"
            )
        old = {
            name: number(self.config, name, strict=False)
            for name in self.config
            if name == "steps" or name.endswith("_steps")
        }
        for name, steps in old.items():
            new, why = math.ceil(steps / rate - 1e-9), "the same number of samples"
            if name == "warmup_steps" and rate != 1:
                new, why = self._warmup(steps, rate, old.get("steps", math.inf))
            if new != steps:
                self.config[name] = new
                self.changes[name] = f"{name} from {steps:g} to {new}: {why}"
        if self.kappa != 1 and self.config.get("warmup_fraction"):
            self.changes["warmup_fraction"] = (
                "warmup_fraction stays: a share of the run is the same number of samples"
                if self.fixed == "epochs"
                else "warmup_fraction stays: a share of the run is the same number of steps"
            )

    def _warmup(self, steps: float, rate: float, run: float) -> tuple[int, str]:
        """Steps of the new warm-up, and why so many.

        The floor of the optimizer's squares is not raised above what worked at the old batch size,
        and takes no more than half of a run whose old length is known.
        """
        same = rules.warmup_steps(steps, rate)
        name = self.known.second_moment
        beta2 = self.config.get(name) if name else None
        if not isinstance(beta2, float) or not beta2 < 1:
            return same, "the same number of samples"
        wanted = rules.warmup_steps(steps, rate, beta2)
        half = math.floor(run / rate / 2) if run < math.inf else wanted
        if wanted <= same or half <= same:
            floor, why = same, "the same number of samples"
        elif half < wanted:
            floor, why = half, "half of the run"
        else:
            floor, why = wanted, f"2 / (1 - {name}) steps, or as many as before if they were fewer"
        if floor < wanted:
            self.cautions.append(
                f"{name} wants a warm-up of {wanted} steps, more than half of the "
                f"{math.ceil(run / rate - 1e-9)} that are left: it gets {floor}; a smaller {name} "
                "needs less"
            )
        return floor, why

    def scale_decay(self, ratio: float) -> None:
        """The weight decay, or a caution where no rule is known for it."""
        if self.config.get("weight_decay") is None:
            return
        decay = number(self.config, "weight_decay", strict=False)
        if decay == 0 or self.kappa == 1:
            return
        try:
            new = rules.scaled_decay(decay, self.kappa, ratio, self.known.decay, self.fixed)
        except Refusal as refusal:
            self.cautions.append(str(refusal))
            return
        share = new * (float(self.config["lr"]) if self.known.decay == "lr" else 1.0)
        if share >= 1:
            self.cautions.append(
                f"weight_decay is kept: {derived(new)} would keep the time over which the weights "
                f"average, but each step would take {derived(share)} times the weights away, and "
                "from 1 on they change sign; tune it again at this batch size"
            )
            return
        self.config["weight_decay"] = new
        unit = "samples" if self.fixed == "epochs" else "steps"
        self.changes["weight_decay"] = (
            f"weight_decay from {decay:.6g} to {derived(new)}: the weights average over the same "
            f"number of {unit}"
        )

    def warn(self, rule: str) -> None:
        """Cautions that follow from the configuration alone."""
        family = self.known.family
        if rule == "linear" and self.new > 8192 and self.kappa > 1:
            self.cautions.append(
                "the linear rule held to a batch of about 8192 on ImageNet and broke beyond"
            )
        warm = self.config.get("warmup_steps") or self.config.get("warmup_fraction")
        if rule == "linear" and self.kappa >= 8 and not warm:
            self.cautions.append(
                "a rise this large wants a warm-up: Goyal et al. climb from the old lr to the new "
                "over 5 epochs"
            )
        if rule == "sqrt" and family == "sgd" and self.fixed == "epochs" and self.kappa != 1:
            self.cautions.append(
                "for SGD at fixed epochs the theory says linear; sqrt is the timid choice"
            )
        if family == "sign" and not self.known.elementwise and rule in ("sqrt", "gain"):
            self.cautions.append(
                f"no rule is derived for {self.optimizer}; this one is by analogy with normalised "
                "steps"
            )
        if self.config.get("clip_norm") and self.kappa != 1:
            self.cautions.append(
                "clip_norm is kept: gradient norms shrink as the batch grows, so it will bite "
                + ("less often" if self.kappa > 1 else "more often")
            )


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-9 * max(1.0, value) else value


LR_RATIO: dict[str, Callable[[Move], float]] = {
    "linear": lambda m: rules.linear(1.0, m.kappa),
    "sqrt": lambda m: rules.sqrt(1.0, m.kappa),
    "sde": lambda m: rules.sqrt(1.0, m.kappa),
    "half_life": lambda m: rules.sqrt(1.0, m.kappa),
    "gain": lambda m: rules.gain(m.old, m.new, m.noise_scale or 1.0) ** gain_power(m.known.family),
    "surge": lambda m: (
        rules.surge_lr(m.new, 1.0, m.noise_scale or 1.0)
        / rules.surge_lr(m.old, 1.0, m.noise_scale or 1.0)
    ),
    "keep": lambda m: 1.0,
}
