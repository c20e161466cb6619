"""Every rule against every implementation that has the same formula, in float64.

Gradients depend on the parameters, so that a difference grows instead of staying where it arose.
Each case states its tolerance: the largest absolute difference of any weight after 24 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import prodigyopt
import pytest
import pytorch_optimizer as po
import torch
from torch import nn

from tuner import optimizers
from tuner.optimizers.nadam import momentum_product

EXACT = 1e-11
BF16 = 4e-3
"""torch iterates Newton-Schulz in bfloat16; what that adds up to over these steps is 3.4e-3."""
ANY = ((5, 3), (4, 4), (7,), (2, 3, 2, 2))
MATRICES = ((5, 3), (4, 4), (3, 6))

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Case:
    name: str
    settings: dict[str, Any]
    make: Make
    oracle: str
    tolerance: float = EXACT
    shapes: tuple[tuple[int, ...], ...] = ANY
    id: str = field(default="")


def cases() -> list[Case]:
    o = torch.optim
    found: list[Case] = []

    def add(
        name: str, oracle: str, make: Callable[[list[nn.Parameter], float], Any], **rest: Any
    ) -> None:
        tolerance = rest.pop("tolerance", EXACT)
        shapes = rest.pop("shapes", ANY)
        for decay in (0.0, 0.1):
            found.append(
                Case(
                    name,
                    {**rest, "weight_decay": decay},
                    lambda p, d=decay: make(p, d),
                    oracle,
                    tolerance,
                    shapes,
                    f"{name}-{oracle}-{len(found)}-decay{decay}",
                )
            )

    add("sgd", "torch", lambda p, d: o.SGD(p, lr=0.03, weight_decay=d), lr=0.03)
    add(
        "sgd",
        "torch",
        lambda p, d: o.SGD(p, lr=0.03, momentum=0.8, dampening=0.3, weight_decay=d),
        lr=0.03,
        momentum=0.8,
        dampening=0.3,
    )
    add("momentum", "torch", lambda p, d: o.SGD(p, lr=0.01, momentum=0.9, weight_decay=d))
    add("nag", "torch", lambda p, d: o.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=d))
    add(
        "sgd",
        "SGDW",
        lambda p, d: po.SGDW(p, lr=0.03, momentum=0.9, weight_decay=d, weight_decouple=True),
        lr=0.03,
        momentum=0.9,
        decoupled=True,
    )
    add(
        "adagrad",
        "torch",
        lambda p, d: o.Adagrad(
            p, lr=0.1, lr_decay=0.01, weight_decay=d, initial_accumulator_value=0.1
        ),
        lr=0.1,
        lr_decay=0.01,
        initial_accumulator=0.1,
    )
    add(
        "rmsprop",
        "torch",
        lambda p, d: o.RMSprop(p, lr=0.01, momentum=0.5, weight_decay=d),
        momentum=0.5,
    )
    add(
        "rmsprop",
        "torch",
        lambda p, d: o.RMSprop(p, lr=0.01, centered=True, weight_decay=d),
        centered=True,
    )
    add(
        "adam",
        "torch",
        lambda p, d: o.Adam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=d),
        lr=0.01,
        beta1=0.8,
        beta2=0.95,
    )
    add(
        "adamw",
        "torch",
        lambda p, d: o.AdamW(p, lr=0.01, eps=1e-3, weight_decay=d),
        lr=0.01,
        eps=1e-3,
    )
    add(
        "adamw",
        "torch",
        lambda p, d: o.AdamW(p, lr=0.01, amsgrad=True, weight_decay=d),
        lr=0.01,
        amsgrad=True,
    )
    add("amsgrad", "torch", lambda p, d: o.Adam(p, lr=0.01, amsgrad=True, weight_decay=d), lr=0.01)
    # torch keeps the product of momenta in float32, hence the tolerance.
    add("nadam", "torch", lambda p, d: o.NAdam(p, weight_decay=d), tolerance=1e-9)
    add(
        "nadam",
        "torch",
        lambda p, d: o.NAdam(p, weight_decay=d, decoupled_weight_decay=True),
        decoupled=True,
        tolerance=1e-9,
    )
    add("adan", "po", lambda p, d: po.Adan(p, lr=0.01, weight_decay=d), lr=0.01)
    add(
        "adan",
        "po",
        lambda p, d: po.Adan(p, lr=0.01, weight_decay=d, weight_decouple=True),
        lr=0.01,
        decoupled=True,
    )
    add(
        "lion",
        "po",
        lambda p, d: po.Lion(p, lr=0.01, weight_decay=d, weight_decouple=True),
        lr=0.01,
    )
    add(
        "lion",
        "po",
        lambda p, d: po.Lion(p, lr=0.01, weight_decay=d, weight_decouple=False),
        lr=0.01,
        decoupled=False,
    )
    add("grams", "po", lambda p, d: po.Grams(p, lr=0.01, weight_decay=d), lr=0.01)
    add(
        "ademamix",
        "po",
        lambda p, d: po.AdEMAMix(p, lr=0.01, weight_decay=d, weight_decouple=True),
        lr=0.01,
    )
    add(
        "ademamix",
        "po",
        lambda p, d: po.AdEMAMix(
            p, lr=0.01, weight_decay=d, t_alpha_beta3=12, weight_decouple=True
        ),
        lr=0.01,
        warmup_steps=12,
    )
    add("lars", "po", lambda p, d: po.LARS(p, lr=1.0, momentum=0.9, weight_decay=d))
    add(
        "lars",
        "po",
        lambda p, d: po.LARS(p, lr=1.0, momentum=0.9, weight_decay=d, nesterov=True),
        nesterov=1.0,
    )
    add(
        "mars",
        "po",
        lambda p, d: po.MARS(
            p, lr=0.01, lr_1d=0.01, betas_1d=(0.95, 0.99), weight_decay=d, weight_decay_1d=d
        ),
        lr=0.01,
        tolerance=1e-6,
    )
    add(
        "mars",
        "po",
        lambda p, d: po.MARS(p, lr=0.01, optimize_1d=True, weight_decay=d),
        lr=0.01,
        optimize_1d=True,
        tolerance=1e-6,
    )
    add(
        "adafactor",
        "torch",
        lambda p, d: o.Adafactor(p, lr=0.05, eps=(1e-7, 1e-3), weight_decay=d),
        lr=0.05,
        eps1=1e-7,
    )
    add("prodigy", "prodigyopt", lambda p, d: prodigyopt.Prodigy(p, weight_decay=d))
    add(
        "prodigy",
        "prodigyopt",
        lambda p, d: prodigyopt.Prodigy(
            p,
            weight_decay=d,
            decouple=False,
            growth_rate=1.5,
            d0=1e-3,
            use_bias_correction=True,
            safeguard_warmup=True,
        ),
        decoupled=False,
        growth_rate=1.5,
        d0=1e-3,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    add(
        "muon",
        "torch",
        lambda p, d: o.Muon(p, lr=0.02, weight_decay=d),
        shapes=MATRICES,
        tolerance=BF16,
    )
    add(
        "muon",
        "torch",
        lambda p, d: o.Muon(
            p, lr=0.02, weight_decay=d, adjust_lr_fn="match_rms_adamw", nesterov=False
        ),
        scale="match_rms",
        nesterov=0.0,
        shapes=MATRICES,
        tolerance=BF16,
    )
    add(
        "shampoo",
        "po",
        lambda p, d: po.Shampoo(p, lr=0.05, weight_decay=d),
        lr=0.05,
        momentum=0.0,
        refresh=1.0,
        shapes=MATRICES,
    )
    add(
        "soap",
        "po",
        lambda p, d: po.SOAP(p, lr=0.01, weight_decay=d, precondition_frequency=1000),
        lr=0.01,
        refresh=1000.0,
        shapes=((4, 4), (6, 6), (7,)),
    )
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_agrees_with_the_reference(problem: Any, case: Case) -> None:
    ours, theirs = problem.weights(case.shapes), problem.weights(case.shapes)
    mine = optimizers.create(case.name, ours, **case.settings)
    reference = case.make(theirs)
    assert problem.gap(ours, mine.step, theirs, reference.step) <= case.tolerance
    for p, start in zip(ours, problem.weights(case.shapes), strict=True):
        assert float((p - start).detach().abs().max()) > 1e-4  # both moved


@pytest.mark.parametrize("decay", [0.004, 0.0, 1.0, 30.0])
@pytest.mark.parametrize("beta1", [0.9, 0.0, 0.999])
def test_nadams_product_of_momenta_is_that_of_a_loop(beta1: float, decay: float) -> None:
    product = 1.0
    for t in range(1, 301):
        product *= beta1 * (1 - 0.5 * 0.96 ** (t * decay))
        got = momentum_product(
            torch.tensor(beta1, dtype=torch.float64),
            torch.tensor(decay, dtype=torch.float64),
            torch.tensor(t),
        )
        assert float(got) == pytest.approx(product, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(("name", "limit"), [("adam", 1e-12), ("adamw", 1e-12), ("nadam", 2e-3)])
def test_a_momentum_that_moves_is_torchs(name: str, limit: float) -> None:
    """In the shortest cycles NAdam's product of momenta is that of the present one, torch's is not.

    A cycle of ten times as many steps is a thousand times closer.
    """
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam}

    def moved_and_gap(steps: int) -> tuple[float, float]:
        ends = []
        for make in (optimizers.create, lambda _, p: theirs[name](p)):
            generator = torch.Generator().manual_seed(3)
            p = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
            optimizer: Any = make(name, [p])
            reference = theirs[name]([torch.nn.Parameter(torch.zeros(1))])
            cycle = torch.optim.lr_scheduler.OneCycleLR(reference, 0.01, total_steps=steps + 1)
            for _ in range(steps):
                planned, group = reference.param_groups[0], optimizer.param_groups[0]
                group["lr"] = planned["lr"]
                group |= (
                    {"beta1": planned["betas"][0]}
                    if "beta1" in group
                    else {"betas": planned["betas"]}
                )
                p.grad = p.detach() - 1 + torch.randn(50, generator=generator, dtype=torch.float64)
                optimizer.step()
                reference.step()
                cycle.step()
            ends.append(p.detach())
        return float(ends[1].norm()), float((ends[0] - ends[1]).norm())

    moved, gap = moved_and_gap(20)
    assert gap <= limit * moved
    moved, gap = moved_and_gap(200)
    assert gap <= max(1e-12, limit / 1000) * moved
