"""Why, in two sentences a practitioner accepts: the mechanism, then what measurements say of it.

A widely copied tutorial computes the sqrt rule and then says that the lr must go down. It rises:
averaging more samples makes the gradient less noisy, so a longer step is safe. The second sentence
matters as much: measured optima rise less than the rules say, and flatten.
"""

from __future__ import annotations

from tuner.advisor.digits import derived, fitted
from tuner.advisor.families import Traits
from tuner.advisor.fitted import Fit, Prediction
from tuner.advisor.rules import Fixed

MEASURED_EXPONENTS = (0.13, 0.26, 0.61)
"""Least, median and greatest s of lr* = c B^s, refitted on the Step Law table (arXiv 2503.04715):
1,911 AdamW language-model trials, 17 settings, fixed tokens."""

MEASURED_128_TO_1024 = (1.03, 1.42, 4.09)
"""The same table: least, median and greatest rise of lr* over an eightfold batch size."""

FIXED_STEPS_SLOPES = {"sgd": (0.11, 0.42), "adam": (-0.36, 0.42)}
"""Local exponents of the best lr at fixed steps. SGD: exact on a noisy quadratic (h_i = 1/i,
d = 100). Adam: the same less 1/2 where noise sets its denominator, unchanged where signal does."""


def why(rule: str, known: Traits, kappa: float, lr: float, new_lr: float, fixed: Fixed) -> str:
    """Two sentences for the lr that a rule gave."""
    if kappa == 1:
        return (
            "The batch size is the same, so nothing changes. "
            "A rule of scaling says nothing about whether this lr was the best to begin with."
        )
    mechanism = _mechanism(rule, known.family, kappa, lr, new_lr, fixed)
    return f"{mechanism} {_measured(rule, known, kappa, fixed)}"


def why_trials(fit: Fit, prediction: Prediction, lr: float) -> str:
    """Two sentences for the lr that the user's own trials gave."""
    s = fit.exponent
    slope = "" if s is None else f"goes as B^{s.value:.2f} ({s.low:.2f} to {s.high:.2f})"
    move = "above" if prediction.lr.value > lr else "below"
    error = fit.held_out.get(fit.form)
    return (
        f"In your own {fit.observations} trials the best learning rate {slope}, B the batch "
        f"size, which puts it at {fitted(prediction.lr.value)} for {prediction.batch_size}, "
        f"{move} the old {lr:.6g}. The {fit.form} curve missed batch sizes it had not seen by "
        f"{error or 0:.2f} octaves"
        + (
            f", and {prediction.batch_size} lies {prediction.beyond:.3g}x outside those tried, "
            "where measured rises flatten."
            if prediction.beyond > 1
            else "."
        )
    )


def _mechanism(rule: str, family: str, kappa: float, lr: float, new_lr: float, fixed: Fixed) -> str:
    up = kappa > 1
    factor = kappa if up else 1 / kappa
    move = f"from {lr:.6g} to {derived(new_lr)}"
    rises = "rises" if new_lr > lr else "falls"
    noise = (
        f"Averaging {factor:.4g}x {'more' if up else 'fewer'} samples {'cuts' if up else 'raises'} "
        f"the gradient's noise {factor**0.5:.3g}-fold"
    )
    if new_lr == lr and fixed == "steps":
        text = (
            "At a fixed number of steps a larger batch brings as many but better steps, not fewer "
            f"that must each go further, so the learning rate stays {lr:.6g}."
        )
    elif new_lr == lr and family == "adagrad":
        text = (
            f"The learning rate stays {lr:.6g}: the sum of squares that divides the step has its "
            "own share in fewer, cleaner steps, and shrinks exactly as much as each step must "
            "grow."
        )
    elif new_lr == lr:
        text = (
            f"The learning rate stays {lr:.6g}: where curvature rather than noise limits the step, "
            "or the optimizer finds its own step size, a cleaner gradient allows no longer one."
        )
    elif rule == "linear" and up:
        text = (
            f"One step on {factor:.4g}x more samples replaces {factor:.4g} small steps in nearly "
            f"the same direction, so the learning rate rises in proportion, {move}."
        )
    elif rule == "linear":
        text = (
            f"A step on {factor:.4g}x fewer samples is one of {factor:.4g} that replace the large "
            f"one, so the learning rate falls in proportion, {move}."
        )
    elif rule == "gain":
        text = (
            f"{noise}, and the noise scale says how much of that a step can use: the learning rate "
            f"{rises} {move}, x{new_lr / lr:.3g} for a batch x{kappa:.4g}."
        )
    elif rule == "surge":
        text = (
            f"{noise}; steps of a sign-like size gain from that up to the noise scale and lose "
            f"beyond it, so the learning rate {rises} {move}."
        )
    else:
        text = (
            f"{noise}, so the learning rate {'can rise' if up else 'must fall'} by the square root "
            f"of the batch ratio: it {rises} {move}."
        )
    return text


def _measured(rule: str, known: Traits, kappa: float, fixed: Fixed) -> str:
    low, median, high = MEASURED_EXPONENTS
    least, middle, most = MEASURED_128_TO_1024
    if fixed == "steps":
        a, b = FIXED_STEPS_SLOPES["sgd" if known.family == "sgd" else "adam"]
        text = (
            f"Measured changes at fixed steps are small (exponents {a:g} to {b:g} of the batch "
            "size on noisy quadratics), so treat the square root as the "
            f"{'top' if kappa > 1 else 'bottom'} of the range."
        )
    elif rule == "keep":
        text = (
            "In 17 measured language-model settings the best AdamW rate still followed the batch "
            f"size, slowly (median exponent {median:g}), so a few trials on that side may pay."
        )
    elif known.family == "sgd":
        text = (
            "Measured rises flatten: on a noisy quadratic the exponent is 1 far below the noise "
            f"scale and 0.01 far above it, so try {'lower' if kappa > 1 else 'higher'} rates too."
        )
    elif kappa == 8:
        text = (
            f"Measured rises flatten: from 128 to 1024 the best AdamW rate rose x{middle:g} in the "
            f"median of 17 language-model settings (x{least:g} to x{most:g}), not x2.83, so try "
            "lower rates too."
        )
    else:
        text = (
            "Measured rises flatten: in 17 language-model settings the best AdamW rate followed "
            f"the batch size to the power {median:g} in the median ({low:g} to {high:g}), not 0.5, "
            f"so try {'lower' if kappa > 1 else 'higher'} rates too."
        )
    return text
