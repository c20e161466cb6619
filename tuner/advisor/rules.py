"""The formulas: how a learning rate, and what goes with it, follows the batch size.

Plain functions of plain numbers, one per line of the literature; ``tuner.advisor.scaling`` applies
them to a configuration. Symbols: ``kappa`` is new batch over old batch, ``B_noise`` the batch at
which noise and signal are equal.

Goyal 2017 (arXiv 1706.02677), Krizhevsky 2014 (1404.5997), Hoffer 2017 (1705.08741), McCandlish
2018 (1812.06162), Ma and Yarats 2019 (1910.04209), Johnson 2020 (AdaScale, 2007.05105), Malladi
2022 (2205.10287), Li 2024 (2405.14578), Wang and Aitchison 2024 (2405.13698), Bergsma 2025
(2505.13738), Marek 2025 (2507.07101).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tuner.errors import InvalidInput, Refusal

Array = npt.NDArray[np.float64]
Fixed = Literal["epochs", "steps"]


def linear(lr: float, kappa: float) -> float:
    """Goyal 2017, section 2.1: ``kappa`` small steps of SGD in one, far below ``B_noise``.

    >>> linear(0.1, 32.0)
    3.2
    """
    return kappa * lr


def sqrt(lr: float, kappa: float) -> float:
    """Krizhevsky 2014, section 5: keeps the covariance of one update, ``lr^2 Sigma / B``.

    >>> round(sqrt(5e-4, 1024 / 128), 8)
    0.00141421
    """
    return math.sqrt(kappa) * lr


def sde_beta(beta: float, kappa: float, name: str = "beta1") -> float:
    """Malladi 2022, definitions 5.2 and 5.3: an average keeps its horizon in samples.

    Raises:
        Refusal: ``kappa (1 - beta)`` is at least 1, so the new decay rate would be zero or
            negative.
    """
    if beta == 0.0:
        return 0.0  # no average, so no horizon to keep
    scaled = 1 - kappa * (1 - beta)
    if kappa * (1 - beta) >= 1 - 1e-12:
        power = min(kappa, longest_kappa(beta))
        instead = half_life_beta(beta, kappa)
        raise Refusal(
            name,
            f"the SDE rule would make it 1 - {kappa:g} x {1 - beta:.4g} = {scaled:.4g}, which is "
            "no decay rate: the average would have to forget within one step; use "
            f"{name}^{power:g} = {instead:.4g} instead (rule half_life)",
            rule="sde",
            instead=instead,
        )
    return scaled


def longest_kappa(beta: float) -> float:
    """The batch ratio at which an average's horizon, ``1 / (1 - beta)`` steps, has become one step.

    No average forgets faster; beyond it there is no horizon left to keep.
    """
    return 1 / (1 - beta) if beta < 1 else math.inf


def half_life_beta(beta: float, kappa: float) -> float:
    """Marek 2025: ``beta^kappa`` keeps the half-life in samples, down to a horizon of one step.

    From :func:`longest_kappa` on it stays as it is there, near ``1/e``. ``0.9^64 = 0.001`` would
    switch momentum off: digits trained at 32 and 64 times the batch size, each at its own best
    rate, lost by that (0.287 beside 0.173, and 0.275 beside 0.271).

    >>> round(half_life_beta(0.999, 8.0), 9)
    0.992027944
    >>> round(half_life_beta(0.9, 64.0), 9)
    0.34867844
    """
    return float(beta ** min(kappa, longest_kappa(beta)))


def beta_of_half_life(batch_size: float, half_life: float) -> float:
    """The decay rate whose half-life is ``half_life`` samples (or tokens)."""
    return float(2.0 ** (-batch_size / half_life))


def sde_eps(eps: float, kappa: float, *, inside_root: bool = False) -> float:
    """Malladi 2022: the averaged square's root falls by ``sqrt(kappa)``; ``eps`` stands beside it.

    Inside the root it stands beside the square itself, so it falls by ``kappa``.
    """
    return eps / kappa if inside_root else eps / math.sqrt(kappa)


def noise_scale_lr(batch_size: float, lr_max: float, noise_scale: float) -> float:
    """McCandlish 2018, equation 2.6: the best greedy SGD step, ``lr_max / (1 + B_noise / B)``.

    >>> noise_scale_lr(500, 0.4, 2000)
    0.08
    """
    return lr_max / (1 + noise_scale / batch_size)


def gain(batch_size: float, new_batch_size: float, noise_scale: float) -> float:
    """The ratio of two greedy steps, ``(1 + B_noise/B) / (1 + B_noise/B')`` (AdaScale, AdaptDL).

    Tends to ``kappa`` where noise dominates and to 1 where it is averaged away.
    """
    return (1 + noise_scale / batch_size) / (1 + noise_scale / new_batch_size)


def surge_lr(batch_size: float, lr_max: float, peak: float) -> float:
    """Li 2024, theorem 2: sign-like steps rise as ``sqrt(B)`` up to a peak, then fall again.

    >>> surge_lr(256, 1e-3, 1024)
    0.0008
    """
    return 2 * lr_max / (math.sqrt(peak / batch_size) + math.sqrt(batch_size / peak))


def surge_peak(hessian: Array, gradient: Array, sigma: Array) -> float:
    """The surge's peak: ``B = pi sum_i H_ii / (2 sum_{i != j} H_ij g_i g_j / (s_i s_j))``.

    Args:
        hessian: ``[d, d]``.
        gradient: ``[d]``, the full gradient.
        sigma: ``[d]``, standard deviation of one sample's gradient, per coordinate.

    Raises:
        Refusal: The off-diagonal sum is not positive: steps add up to no more curvature, and there
            is no peak.
    """
    ratio = gradient / sigma
    diagonal = np.diagonal(hessian)
    off = float(ratio @ hessian @ ratio - np.sum(diagonal * ratio**2))
    if not off > 0:
        raise Refusal(
            "hessian",
            f"the off-diagonal sum of H_ij g_i g_j / (s_i s_j) is {off:.3g}, not positive: the "
            "best lr has no peak in the batch size; use the sqrt rule, bounded by trials",
            rule="surge",
            instead="sqrt",
        )
    return float(math.pi * np.sum(diagonal) / (2 * off))


def surge_large_batch_lr(hessian: Array, gradient: Array) -> float:
    """Li 2024: the best noiseless sign step, ``sum |g| / sum_ij H_ij sign(g_i) sign(g_j)``."""
    sign = np.sign(gradient)
    return float(np.sum(np.abs(gradient)) / (sign @ hessian @ sign))


@dataclass(frozen=True)
class GreedyStep:
    """The best single SGD step on a quadratic, and the batch sizes at which noise matters.

    Attributes:
        lr_max: ``|G|^2 / G'HG``, the best step without noise.
        noise_scale: ``B_noise = tr(H Sigma) / G'HG``.
        simple_noise_scale: ``B_simple = tr(Sigma) / |G|^2``, equal where ``H`` is a multiple of 1.
    """

    lr_max: float
    noise_scale: float
    simple_noise_scale: float

    def lr(self, batch_size: float) -> float:
        """The best step at ``batch_size``."""
        return noise_scale_lr(batch_size, self.lr_max, self.noise_scale)


def greedy_step(hessian: Array, gradient: Array, covariance: Array) -> GreedyStep:
    """McCandlish 2018, equations 2.6 to 2.9, from ``H``, ``G`` and one sample's ``Sigma``."""
    curvature = float(gradient @ hessian @ gradient)
    square = float(gradient @ gradient)
    if not curvature > 0 or not square > 0:
        raise Refusal(
            "hessian",
            f"G'HG is {curvature:.3g}, not positive: along the gradient there is no minimum to "
            "step to",
            rule="gain",
        )
    return GreedyStep(
        square / curvature,
        float(np.trace(hessian @ covariance)) / curvature,
        float(np.trace(covariance)) / square,
    )


def decay_timescale(
    lr: float, weight_decay: float, batch_size: float, dataset_size: float
) -> float:
    """Wang and Aitchison 2024: epochs AdamW's weights average, ``B / (lr weight_decay D)``."""
    return batch_size / (lr * weight_decay * dataset_size)


def scaled_decay(
    weight_decay: float, kappa: float, lr_ratio: float, form: str, fixed: Fixed
) -> float:
    """The decay that keeps the timescale in samples (fixed epochs) or in steps (fixed steps).

    >>> round(scaled_decay(0.1, 8.0, math.sqrt(8.0), "lr", "epochs"), 9)
    0.282842712

    Args:
        weight_decay: At the old batch size.
        kappa: New batch size over old.
        lr_ratio: New lr over old.
        form: ``Traits.decay`` of the optimizer.
        fixed: What the two runs have in common.

    Raises:
        Refusal: The decay passes through the preconditioner or a trust ratio: no rule is known.
    """
    duration = kappa if fixed == "epochs" else 1.0
    if form == "lr":
        return weight_decay * duration / lr_ratio
    if form == "direct":
        return weight_decay * duration
    through = "the preconditioner" if form == "preconditioned" else "a layer-wise trust ratio"
    raise Refusal(
        "weight_decay",
        f"it passes through {through}, so its strength depends on gradients that the batch size "
        "changes: no rule is known; keep it and tune it again, or move to an optimizer with "
        "decoupled decay (adamw)",
        rule="decay_timescale",
        instead="adamw",
    )


LONGEST_HORIZON = 0.1
"""Of a run: beyond it momentum is still being built up for much of the time."""


def momentum_lr(
    lr: float,
    momentum: float,
    new_momentum: float,
    dampening: float = 0.0,
    *,
    steps: float = math.inf,
) -> float:
    """The lr that keeps ``lr (1 - dampening) / (1 - momentum)`` at another momentum.

    Valid while the horizon ``1 / (1 - momentum)`` is a small part of the run (Polyak; the SDE
    limit).

    Args:
        lr: At the old momentum.
        momentum: The old one.
        new_momentum: The new one.
        dampening: Of both.
        steps: Of the run, where they are known.

    Raises:
        InvalidInput: A momentum is outside [0, 1), or the dampening leaves nothing.
        Refusal: The run is too short for either momentum to settle.
    """
    for name, value in (("momentum", momentum), ("new_momentum", new_momentum)):
        if not 0 <= value < 1:
            raise InvalidInput(name, f"{value!r} is outside [0, 1)")
    if not dampening < 1:
        raise InvalidInput("dampening", f"{dampening!r} leaves nothing of the gradient; below 1")
    horizon = 1 / (1 - max(momentum, new_momentum))
    if horizon > LONGEST_HORIZON * steps:
        raise Refusal(
            "momentum" if momentum >= new_momentum else "new_momentum",
            f"it averages over {horizon:.3g} steps, more than a tenth of a run of {steps:g}: the "
            "effective rate is never reached; tune the lr at the new momentum",
            rule="momentum",
        )
    return lr * (1 - new_momentum) / (1 - momentum)


def warmup_steps(steps: float, kappa: float, beta2: float | None = None) -> int:
    """Warm-up of the same number of samples, at least ``2 / (1 - beta2)`` steps (Ma 2019).

    The floor holds where the optimizer divides by an average of squares, whose first values are
    noise. Where the old run did with fewer steps, so many are enough: only shrinking below both is
    held up. A run without warm-up stays without.

    >>> warmup_steps(1000, 8.0, 0.992)
    250
    """
    if steps <= 0:
        return 0
    floor = 0.0 if beta2 is None else min(2 / (1 - beta2), steps)
    return math.ceil(max(steps / kappa, floor) - 1e-9)


def stability_limit(
    family: str, curvature: float, momentum: float = 0.0, beta1: float = 0.9
) -> float:
    """The largest lr that does not diverge on a quadratic of largest curvature ``curvature``.

    Heavy-ball SGD: ``2 (1 + momentum) / lambda_max(H)``. Adam with its denominator held fixed:
    ``(2 + 2 beta1) / ((1 - beta1) lambda_max(P^-1 H))`` (Cohen 2022, arXiv 2207.14484), 38 over it
    at 0.9.

    Raises:
        Refusal: Other families have no such limit known here.
    """
    if not curvature > 0:
        raise InvalidInput("curvature", f"{curvature!r} is not positive")
    if family == "sgd":
        return 2 * (1 + momentum) / curvature
    if family in ("adam", "rmsprop"):
        beta = beta1 if family == "adam" else 0.0
        return (2 + 2 * beta) / ((1 - beta) * curvature)
    raise Refusal(
        "optimizer",
        f"no stability limit is known for the family {family!r}; use the range test",
        rule="stability",
    )


def power_line_timescale(tau: float, ratio: float, new_ratio: float) -> float:
    """Bergsma 2025: the best AdamW timescale follows tokens per parameter to the power -0.527.

    Language models, one epoch, muP; in other settings this is an analogy, not a result.
    """
    return float(tau * (new_ratio / ratio) ** -0.527)


def power_line_batch(
    batch: float, tokens: float, new_tokens: float, *, critical: bool = False
) -> float:
    """Bergsma 2025: the best batch size follows tokens^0.4, the critical one tokens^0.5."""
    return float(batch * (new_tokens / tokens) ** (0.5 if critical else 0.4))
