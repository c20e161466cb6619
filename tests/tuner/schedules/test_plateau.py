"""Plateau beside torch's ReduceLROnPlateau, Keras's rules, and the tables of their differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tuner import schedules
from tuner.errors import InvalidInput
from tuner.schedules.plan import Plan, check
from tuner.schedules.plateau import Plateau, PlateauState


def run(metrics: list[float], *, lr0: float = 1.0, **given: Any) -> list[float]:
    """The learning rate after each observation."""
    config = {"schedule": "plateau", "lr": lr0}
    config |= {f"schedule.{name}": value for name, value in given.items()}
    plan = Plan.of(config, 10_000)
    state, seen = PlateauState.fresh(), []
    for metric in metrics:
        state = plan.observe(state, metric)
        seen.append(float(state.factor) * lr0)
    return seen


def keras(
    metrics: list[float],
    *,
    lr0: float,
    factor: float,
    patience: int,
    threshold: float,
    cooldown: int,
    min_lr: float,
    maximize: bool,
) -> list[float]:
    """Keras 3.15's callback, statement by statement, in float64."""
    best: float | None = None
    lr, wait, counter, seen = lr0, 0, 0, []
    delta = threshold if maximize else -threshold
    for current in metrics:
        if counter > 0:
            counter -= 1
            wait = 0
        if best is None:
            better = True
        elif maximize:
            better = current - delta > best
        else:
            better = current - delta < best
        if better:
            best, wait = current, 0
        elif not counter > 0:
            wait += 1
            if wait >= patience and lr > min_lr:
                lr = max(lr * factor, min_lr)
                counter, wait = cooldown, 0
        seen.append(lr)
    return seen


METRIC = st.one_of(
    st.sampled_from([0.5, 0.50001, 0.49999, 1.0, 2.0, math.nan, math.inf]), st.floats(0.01, 3.0)
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    metrics=st.lists(METRIC, min_size=1, max_size=40),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    min_lr=st.sampled_from([0.0, 1e-3, 0.2]),
    lr0=st.sampled_from([1.0, 0.1, 3e-8]),
)
def test_agrees_with_torch(
    metrics: list[float],
    factor: float,
    patience: int,
    cooldown: int,
    threshold: float,
    mode: str,
    threshold_mode: str,
    min_lr: float,
    lr0: float,
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr0)
    theirs = ReduceLROnPlateau(
        optimizer,
        mode,  # type: ignore[arg-type]  # drawn from the two that torch names
        factor,
        patience,
        threshold,
        threshold_mode,  # type: ignore[arg-type]  # likewise
        cooldown,
        min_lr,
    )
    seen = []
    for metric in metrics:
        theirs.step(metric)
        seen.append(float(optimizer.param_groups[0]["lr"]))
    own = run(
        metrics,
        lr0=lr0,
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        mode=mode,
        threshold_mode=threshold_mode,
        min_lr=min_lr,
    )
    assert own == pytest.approx(seen, rel=1e-12)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    metrics=st.lists(METRIC, min_size=1, max_size=40),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    maximize=st.booleans(),
    min_lr=st.sampled_from([0.0, 1e-3, 0.2]),
)
def test_agrees_with_keras(
    metrics: list[float],
    factor: float,
    patience: int,
    cooldown: int,
    threshold: float,
    maximize: bool,
    min_lr: float,
) -> None:
    theirs = keras(
        metrics,
        lr0=1.0,
        factor=factor,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
        maximize=maximize,
    )
    own = run(
        metrics,
        semantics="keras",
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        mode="max" if maximize else "min",
        min_lr=min_lr,
    )
    assert own == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("semantics", "cut_at"), [("torch", 4), ("keras", 3)])
def test_cut_when(semantics: str, cut_at: int) -> None:
    """With patience 2: the first value is the best, then torch bears two bad ones, Keras one."""
    rates = run([1.0] * 6, semantics=semantics, patience=2, factor=0.5)
    assert rates.index(0.5) + 1 == cut_at


@pytest.mark.parametrize(
    ("semantics", "metrics", "cuts"),
    [
        ("torch", [100.0, 99.995, 99.99], True),  # less than 0.01 % better
        ("keras", [100.0, 99.995, 99.99], False),  # more than 1e-4 better
        ("torch", [0.01, 0.00995, 0.0099], False),  # half a percent better
        ("keras", [0.01, 0.00995, 0.0099], True),  # less than 1e-4 better
    ],
)
def test_threshold(semantics: str, metrics: list[float], cuts: bool) -> None:
    rates = run(metrics, semantics=semantics, patience=1, factor=0.5)
    assert (rates[-1] < 1.0) == cuts


@pytest.mark.parametrize(("semantics", "free"), [("torch", 3), ("keras", 2)])
def test_cooldown(semantics: str, free: int) -> None:
    """A cooldown of 3 puts the next cut off by 3 observations in torch, by 2 in Keras."""

    def gap(cooldown: int) -> int:
        rates = run([1.0] * 20, semantics=semantics, patience=1, factor=0.5, cooldown=cooldown)
        return rates.index(0.25) - rates.index(0.5)

    assert gap(3) - gap(0) == free
    if semantics == "keras":
        assert gap(1) == gap(0)


@pytest.mark.parametrize(("semantics", "expected"), [("torch", [3e-8] * 6), ("keras", None)])
def test_tiny_change(semantics: str, expected: list[float] | None) -> None:
    rates = run([1.0] * 6, lr0=3e-8, semantics=semantics, patience=1, factor=0.9)
    if expected is None:
        assert rates[-1] < 3e-8
    else:
        assert rates == expected


@pytest.mark.parametrize(("semantics", "recovers"), [("torch", True), ("keras", False)])
def test_first_nan(semantics: str, recovers: bool) -> None:
    rates = run([math.nan, 3.0, 2.0, 1.0, 0.5, 0.2], semantics=semantics, patience=2, factor=0.5)
    assert (rates[-1] == 1.0) == recovers


def test_a_worsening_negative_metric_is_cut() -> None:
    """torch's relative threshold never cuts here: -1 + 1e-5 is "better" than -1 * (1 - 1e-4)."""
    worsening = [-1.0 + 1e-5 * i for i in range(30)]
    assert run(worsening, patience=3, factor=0.5)[-1] < 1.0
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = ReduceLROnPlateau(optimizer, "min", 0.5, 3)
    for metric in worsening:
        theirs.step(metric)
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(
    ("monitor", "mode", "maximize"),
    [
        ("val_loss", "auto", False),
        ("val_accuracy", "auto", True),
        ("val_roc_auc", "auto", True),
        ("val_accuracy", "min", False),
        ("val_loss", "max", True),
    ],
)
def test_mode(monitor: str, mode: str, maximize: bool) -> None:
    schedule = schedules.get("plateau", monitor=monitor, mode=mode)
    assert isinstance(schedule, Plateau)
    assert schedule.maximize is maximize


def test_a_vector_of_trials_is_each_alone() -> None:
    schedule = schedules.get("plateau", semantics="keras")
    assert isinstance(schedule, Plateau)
    generator = torch.Generator().manual_seed(0)
    metrics = torch.rand(30, 5, generator=generator, dtype=torch.float64)
    metrics[3, 1] = torch.nan
    h = {
        "factor": torch.tensor([0.1, 0.5, 0.5, 0.9, 0.3], dtype=torch.float64),
        "patience": torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0], dtype=torch.float64),
        "threshold": torch.full((5,), 1e-4, dtype=torch.float64),
        "cooldown": torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0], dtype=torch.float64),
        "min_lr": torch.zeros(5, dtype=torch.float64),
        "lr0": torch.linspace(0.1, 1.0, 5, dtype=torch.float64),
    }
    together = PlateauState.fresh((5,))
    alone = [PlateauState.fresh() for _ in range(5)]
    for row in metrics:
        together = schedule.observe(together, row, h)
        alone = [
            schedule.observe(state, row[k], {name: value[k] for name, value in h.items()})
            for k, state in enumerate(alone)
        ]
    for name, value in together.to_dict().items():
        each = torch.stack([state.to_dict()[name] for state in alone])
        assert torch.equal(value.nan_to_num(9.0), each.nan_to_num(9.0)), name
    assert float(together.factor.min()) < 0.5


def test_the_state_survives_a_checkpoint() -> None:
    plan = Plan.of({"schedule": "plateau", "schedule.patience": 1, "lr": 0.1}, 1000)
    metrics = [1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0]
    whole = PlateauState.fresh()
    for metric in metrics:
        whole = plan.observe(whole, metric)
    parted = PlateauState.fresh()
    for metric in metrics:
        parted = PlateauState.from_dict(parted.to_dict())
        parted = plan.observe(parted, metric)
    assert whole == parted
    lr, _ = plan.table(0, 3, float(whole.factor))
    assert lr.tolist() == pytest.approx([0.01] * 3)


def test_patience_longer_than_the_study_is_refused() -> None:
    config = {"schedule": "plateau", "epochs": 10}
    with pytest.raises(InvalidInput, match="never cuts") as error:
        check(config, 1000, "space.")
    assert error.value.field == "space.schedule.patience"
    check({**config, "schedule.patience": 3}, 1000)


@pytest.mark.parametrize("semantics", ["torch", "keras"])
@pytest.mark.parametrize("patience", [0, 1, 2, 5])
def test_the_refusal_is_exact(semantics: str, patience: int) -> None:
    """The shortest study that is let through has a cut that at least one epoch follows."""
    rates = run([1.0] * 30, semantics=semantics, patience=patience, factor=0.5)
    config = {
        "schedule": "plateau",
        "schedule.semantics": semantics,
        "schedule.patience": patience,
    }
    first_cut = rates.index(0.5) + 1
    check({**config, "epochs": first_cut + 1}, 1000)
    with pytest.raises(InvalidInput):
        check({**config, "epochs": first_cut}, 1000)
