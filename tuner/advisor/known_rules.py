"""The rules by name, for people: formula, when each holds, and who says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleFacts:
    """What is known of a rule, for people: formula, when it holds, and who says so."""

    name: str
    formula: str
    valid: str
    source: str


RULES: dict[str, RuleFacts] = {
    fact.name: fact
    for fact in (
        RuleFacts(
            "linear",
            "lr' = kappa lr",
            "SGD with or without momentum, batch far below the noise scale, fixed epochs",
            "Goyal et al. 2017, section 2.1 (arXiv 1706.02677)",
        ),
        RuleFacts(
            "sqrt",
            "lr' = sqrt(kappa) lr",
            "keeps the covariance of one update; a weak prior for SGD, where the SDE says linear",
            "Krizhevsky 2014, section 5 (arXiv 1404.5997); Hoffer et al. 2017, section 4 "
            "(1705.08741)",
        ),
        RuleFacts(
            "sde",
            "lr' = sqrt(kappa) lr, beta_i' = 1 - kappa (1 - beta_i), eps' = eps / sqrt(kappa)",
            "Adam and RMSprop, noise-dominated gradients, fixed epochs, kappa < 1 / (1 - beta1)",
            "Malladi et al. 2022, definitions 5.2 and 5.3 (arXiv 2205.10287)",
        ),
        RuleFacts(
            "half_life",
            "lr' = sqrt(kappa) lr, beta_i' = beta_i^kappa, eps' = eps / sqrt(kappa)",
            "as sde, to first order equal to it; from kappa = 1 / (1 - beta_i) on beta_i' stays",
            "Marek et al. 2025 (arXiv 2507.07101), joined to the SDE's lr",
        ),
        RuleFacts(
            "gain",
            "lr' = lr ((1 + B_noise/B) / (1 + B_noise/B'))^alpha, alpha 1 for SGD, 1/2 for Adam",
            "fixed epochs and a measured noise scale; an estimate of one greedy step",
            "McCandlish et al. 2018 (arXiv 1812.06162); AdaScale 2020 (2007.05105); AdaptDL",
        ),
        RuleFacts(
            "surge",
            "lr' = lr f(B') / f(B), f(B) = 1 / (sqrt(B_noise/B) + sqrt(B/B_noise))",
            "steps of a sign-like size per coordinate, fixed epochs; the noise scale stands in for "
            "the peak",
            "Li et al. 2024, theorems 2 to 4 (arXiv 2405.14578)",
        ),
        RuleFacts(
            "keep",
            "lr' = lr",
            "past the noise scale; for Adam at fixed steps; for Adagrad, whose sum scales by "
            "itself",
            "the limit of the gain as B_noise / B goes to 0; for Adagrad derived and simulated "
            "here",
        ),
    )
}
