"""The formulas beside torch.optim.lr_scheduler and optax, wherever they mean the same.

Tolerances: 1e-12 against torch, which computes many of its schedules by recursion from step to
step; 1e-6 against optax, which computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
import pytest
import torch
from torch.optim import lr_scheduler as ts

from tuner import schedules
from tuner.schedules.plan import check

STEPS = 60


def ours(name: str, T: float, *, options: dict[str, Any] | None = None, **h: object) -> list[float]:
    values = schedules.get(name, **(options or {}))(torch.arange(STEPS), T, **h)
    return [float(v) for v in values]


def optimizer(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)


def rates(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    opt = optimizer()
    scheduler = make(opt)
    seen = []
    for _ in range(steps):
        seen.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        scheduler.step()
    return seen


STEP = {"unit": "step"}
TORCH: dict[str, tuple[Callable[[torch.optim.Optimizer], Any], list[float], int]] = {
    "constant": (lambda o: ts.ConstantLR(o, 1.0), ours("constant", 60), 60),
    "linear": (
        lambda o: ts.LinearLR(o, 1.0, 0.2, 40),
        ours("linear", 40, final=0.2),
        60,
    ),
    "polynomial": (lambda o: ts.PolynomialLR(o, 40, 3.0), ours("polynomial", 40, power=3.0), 60),
    "exponential": (
        lambda o: ts.ExponentialLR(o, 0.93),
        ours("exponential", 60, options=STEP, gamma=0.93),
        60,
    ),
    "step": (
        lambda o: ts.StepLR(o, 7, 0.5),
        ours("step", 60, options=STEP, every=7, gamma=0.5),
        60,
    ),
    "multistep": (
        lambda o: ts.MultiStepLR(o, [5, 20, 21], 0.3),
        ours("multistep", 60, options={**STEP, "milestones": [5, 20, 21]}, gamma=0.3),
        60,
    ),
    "cosine": (
        lambda o: ts.CosineAnnealingLR(o, 50, eta_min=0.1),
        ours("cosine", 50, final=0.1),
        51,  # after T_max torch rises again, by design here it stays
    ),
    "cosine_restarts": (
        lambda o: ts.CosineAnnealingWarmRestarts(o, 6, 2, eta_min=0.05),
        ours("cosine_restarts", 60, options=STEP, first=6, growth=2, final=0.05),
        60,
    ),
    "cosine_restarts_equal": (
        lambda o: ts.CosineAnnealingWarmRestarts(o, 9, 1),
        ours("cosine_restarts", 60, options=STEP, first=9, growth=1),
        60,
    ),
    "one_cycle": (
        lambda o: ts.OneCycleLR(o, 1.0, total_steps=61, pct_start=0.3),
        ours("one_cycle", 61, peak_at=0.3),
        60,
    ),
    "one_cycle_linear": (
        lambda o: ts.OneCycleLR(
            o, 1.0, 61, pct_start=0.2, anneal_strategy="linear", div_factor=10, final_div_factor=5
        ),
        ours("one_cycle", 61, options={"anneal": "linear"}, peak_at=0.2, div=10, final_div=5),
        60,
    ),
    "triangular": (
        lambda o: ts.CyclicLR(o, 0.2, 1.0, 7, cycle_momentum=False),
        ours("cyclic", 60, options=STEP, half_cycle=7, base=0.2),
        60,
    ),
    "triangular2": (
        lambda o: ts.CyclicLR(o, 0.2, 1.0, 5, mode="triangular2", cycle_momentum=False),
        ours("cyclic", 60, options={**STEP, "cycle": "triangular2"}, half_cycle=5, base=0.2),
        60,
    ),
    "exp_range": (
        lambda o: ts.CyclicLR(o, 0.2, 1.0, 5, mode="exp_range", gamma=0.97, cycle_momentum=False),
        ours("cyclic", 60, options={**STEP, "cycle": "exp"}, half_cycle=5, base=0.2, gamma=0.97),
        60,
    ),
}


@pytest.mark.filterwarnings("ignore:.*Detected call of `lr_scheduler:UserWarning")
@pytest.mark.parametrize("case", TORCH)
def test_agrees_with_torch(case: str) -> None:
    make, own, steps = TORCH[case]
    assert own[:steps] == pytest.approx(rates(make, steps), rel=1e-12, abs=1e-15)


def test_one_cycle_momentum_agrees_with_torch() -> None:
    opt = optimizer()
    scheduler = ts.OneCycleLR(opt, 1.0, total_steps=STEPS, pct_start=0.4)
    theirs = []
    for _ in range(STEPS - 1):
        theirs.append(float(opt.param_groups[0]["momentum"]))
        opt.step()
        scheduler.step()
    schedule = schedules.get("one_cycle")
    t = torch.arange(STEPS - 1, dtype=torch.float64)
    h = {name: torch.tensor(hyper.default) for name, hyper in schedule.hyper.items()}
    h["peak_at"] = torch.tensor(0.4, dtype=torch.float64)
    momentum = schedule.momentum(t, torch.tensor(float(STEPS), dtype=torch.float64), h)
    assert momentum is not None
    assert momentum.tolist() == pytest.approx(theirs, rel=1e-6)


OPTAX: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "linear": (optax.linear_schedule(1.0, 0.2, 40), ours("linear", 40, final=0.2)),
    "polynomial": (
        optax.polynomial_schedule(1.0, 0.1, 2.5, 40),
        ours("polynomial", 40, power=2.5, final=0.1),
    ),
    "cosine": (
        optax.cosine_decay_schedule(1.0, 40, alpha=0.1),
        ours("cosine", 40, final=0.1),  # and both stay after step 40
    ),
    "exponential": (
        optax.exponential_decay(1.0, 10, 0.5),
        ours("exponential", 60, gamma=0.5**6),
    ),
    "staircase": (
        optax.exponential_decay(1.0, 10, 0.5, staircase=True),
        ours("step", 60, every=1 / 6, gamma=0.5),
    ),
    "piecewise": (
        optax.piecewise_constant_schedule(1.0, {30: 0.1, 45: 0.1}),
        ours("multistep", 60, gamma=0.1),
    ),
    "joined": (
        optax.join_schedules(
            [optax.linear_schedule(1.0, 0.8, 20), optax.cosine_decay_schedule(0.8, 40)], [20]
        ),
        ours(
            "joined",
            60,
            options={
                "parts": [
                    {"schedule": "linear", "final": 0.8, "share": 1},
                    {"schedule": "cosine", "share": 2},
                ]
            },
        ),
    ),
    "joined_with_a_jump": (
        optax.join_schedules(
            [optax.linear_schedule(1.0, 0.2, 30), optax.cosine_decay_schedule(1.0, 30)], [30]
        ),
        ours(
            "joined",
            60,
            options={
                "continuous": False,
                "parts": [{"schedule": "linear", "final": 0.2}, {"schedule": "cosine"}],
            },
        ),
    ),
}


@pytest.mark.parametrize("case", OPTAX)
def test_agrees_with_optax(case: str) -> None:
    make, own = OPTAX[case]
    assert own == pytest.approx([float(make(t)) for t in range(STEPS)], rel=1e-6, abs=1e-6)


def test_warmup_and_cosine_agree_with_optax_one_step_on() -> None:
    """optax warms up by t / W, ours by (t + 1) / W; from the peak on the two are one step apart."""
    make = optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 60)
    lr, _ = check({"schedule": "cosine", "warmup_fraction": 1 / 6}, 60).table(0, 60)
    theirs = [float(make(t)) for t in range(61)]
    assert lr[:9].tolist() == pytest.approx(theirs[1:10], rel=1e-6)
    assert lr[10:].tolist() == pytest.approx(theirs[10:60], rel=1e-6, abs=1e-6)


def test_noam_is_the_papers_curve_over_its_peak() -> None:
    """d^-0.5 min(s^-0.5, s W^-1.5), with s from 1, d = 512 and W = 40 of 1,000 steps."""
    d, W = 512, 40
    lr, _ = check({"schedule": "noam"}, 1000).table(0, 1000)
    paper = [d**-0.5 * min(s**-0.5, s * W**-1.5) for s in range(1, 1001)]
    assert [float(m) * (d * W) ** -0.5 for m in lr] == pytest.approx(paper, rel=1e-12)


def test_torchs_cosine_rises_after_its_end_and_ours_does_not() -> None:
    seen = rates(lambda o: ts.CosineAnnealingLR(o, 20), 40)
    own = ours("cosine", 20)
    assert seen[39] > 0.9
    assert own[20:40] == [pytest.approx(0.0, abs=1e-15)] * 20
