"""What every schedule of the registry promises, with warm-up and without."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tuner import schedules
from tuner.errors import InvalidInput, UnknownName
from tuner.optimizers.rule import Hyper
from tuner.schedules import warmup
from tuner.schedules.plan import Plan, check, config_names, stack
from tuner.schedules.schedule import CONTEXT, Schedule

SMOOTH = [name for name in schedules.names() if not schedules.get(name).jumps]


def variants(name: str) -> list[Schedule]:
    """The schedule with its defaults, and with each other choice of each option."""
    kind = schedules.registry.get(name)
    made = [kind()]
    for option, spec in kind.options.items():
        made += [kind(**{option: choice}) for choice in spec.choices if choice != spec.default]
    return made


def legal(hyper: Hyper, unit: float) -> float:
    """A legal value: ``unit`` of the way through the range, at most 20 wide."""
    low, high = max(hyper.low, 0.0), min(hyper.high, 20.0)
    low += 1e-3 * hyper.open_low
    high -= 1e-3 * hyper.open_high
    return low + unit * (high - low)


@pytest.mark.parametrize("name", schedules.names())
def test_required_facts(name: str) -> None:
    schedule = schedules.get(name)
    assert schedule.name == name
    assert schedule.summary
    assert schedule.formula
    assert type(schedule).__doc__
    assert all(hyper.doc for hyper in schedule.hyper.values())
    assert all(option.doc for option in schedule.options.values())


@settings(deadline=None, derandomize=True, max_examples=200)
@given(data=st.data())
def test_finite_and_never_negative(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(schedules.names()))
    schedule = data.draw(st.sampled_from(variants(name)))
    unit = st.floats(0.0, 1.0)
    h = {key: legal(hyper, data.draw(unit)) for key, hyper in schedule.hyper.items()}
    h["warmup_steps"] = data.draw(st.integers(0, 50))
    h["steps_per_epoch"] = data.draw(st.floats(0.5, 100.0))
    h["lr0"] = data.draw(st.floats(1e-6, 10.0))
    T = data.draw(st.integers(1, 300))
    t = torch.arange(T + 20)
    values = schedule(t, T, **h)
    if name == "formula":  # linear to zero at T, which is past its last step
        values = values[:T]
    assert values.dtype == torch.float64
    assert values.isfinite().all()
    assert (values >= 0).all()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(data=st.data())
def test_broadcasting_equals_one_by_one(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(schedules.names()))
    schedule = data.draw(st.sampled_from(variants(name)))
    K, S = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    unit = st.floats(0.0, 1.0)
    h = {
        key: [legal(hyper, data.draw(unit)) for _ in range(K)]
        for key, hyper in schedule.hyper.items()
    }
    h["warmup_steps"] = [float(data.draw(st.integers(0, 9))) for _ in range(K)]
    h["lr0"] = [data.draw(st.floats(0.01, 1.0)) for _ in range(K)]
    h["steps_per_epoch"] = [7.0] * K
    h["plateau"] = [data.draw(st.floats(0.01, 1.0)) for _ in range(K)]
    T = [data.draw(st.integers(1, 100)) for _ in range(K)]
    t = [[data.draw(st.integers(0, 99)) for _ in range(K)] for _ in range(S)]
    table = schedule(t, T, **h)
    assert table.shape == (S, K)
    for s in range(S):
        for k in range(K):
            one = schedule(t[s][k], T[k], **{key: values[k] for key, values in h.items()})
            assert one.shape == ()
            torch.testing.assert_close(table[s, k], one, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize(
    "shapes", [((), ()), ((3,), ()), ((), (3,)), ((2, 1), (3,)), ((2, 3), (3,))]
)
def test_result_has_the_broadcast_shape(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    t, T = torch.zeros(shapes[0]), torch.full(shapes[1], 10.0)
    assert schedules.get(name)(t, T).shape == torch.broadcast_shapes(*shapes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name in SMOOTH
        for shape in ("none", "linear", "cosine", "exponential")
        if (name, shape) != ("noam", "none")  # s^-0.5 is steep at its start at any scale
    ],
)
def test_continuous_at_joins(name: str, shape: str) -> None:
    """With ten times as many steps, the largest change between two of them falls as much."""

    def largest(total: int) -> float:
        config = {"schedule": name, "warmup_fraction": 0.1}
        config |= {"warmup_fraction": 0.0} if shape == "none" else {"warmup": shape}
        lr, _ = check(config, total, epochs=40.0).table(0, total)
        return float(lr.diff().abs().max())

    # A square root (wsd) falls by sqrt(10) only; a jump does not fall at all.
    assert largest(20_000) < largest(2_000) / 3.0 + 1e-12
    assert largest(20_000) < 0.05


@pytest.mark.parametrize("shape", warmup.SHAPES)
def test_warmup_ends_at_the_full_rate_and_never_starts_at_zero(shape: str) -> None:
    factors = warmup.factor(shape, torch.arange(12.0), torch.tensor(8.0))
    assert (factors > 0).all()
    assert (factors.diff() >= 0).all()
    assert (factors[8:] == 1).all()
    if shape != "constant":
        assert float(factors[7]) == pytest.approx(1.0)


def test_warmup_linear_counts_from_one() -> None:
    plan = check({"schedule": "linear", "warmup_fraction": 0.4}, 10)
    lr, momentum = plan.table(0, 10)
    assert plan.warmup_steps == 4
    assert lr.tolist() == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
    assert momentum is None


@pytest.mark.parametrize(
    ("name", "t", "given", "expected"),
    [
        ("cosine", 25, {}, 0.853553390593),
        ("cosine", 200, {"final": 0.25}, 0.25),
        ("polynomial", 50, {}, 0.25),
        ("linear", 25, {"final": 0.2}, 0.8),
        ("wsd", 25, {"decay": 1.0}, 0.5),
        ("exponential", 50, {"gamma": 0.01}, 0.1),
        ("step", 34, {}, 0.1),
        ("multistep", 75, {}, 0.01),
        ("noam", 3, {}, 0.5),
        ("noam", 7, {"warmup_steps": 4}, math.sqrt(4 / 12)),
        ("one_cycle", 29, {}, 1.0),
        ("one_cycle", 99, {}, 1 / 2.5e5),
        ("one_cycle", 0, {}, 1 / 25),
        ("cosine_restarts", 100 / 7, {}, 1.0),
        ("cyclic", 12.5, {}, 1.0),
        ("cyclic", 25, {}, 0.1),
    ],
)
def test_known_values(name: str, t: float, given: dict[str, float], expected: float) -> None:
    assert float(schedules.get(name)(t, 100, **given)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("every", [0.1, 0.2, 0.3, 0.7])
def test_whole_periods_survive_rounding(every: float) -> None:
    """0.3 * 10 is 2.9999999999999996 or 3.0000000000000004, depending on how it is computed."""
    lr = schedules.get("step")(torch.arange(10), 10, every=every, gamma=0.5)
    cuts = [int(t // round(every * 10)) for t in range(10)]
    assert lr.tolist() == [0.5**cut for cut in cuts]


@pytest.mark.parametrize("name", schedules.names())
def test_illegal_settings_are_refused_by_name(name: str) -> None:
    schedule = schedules.get(name)
    for key, hyper in schedule.hyper.items():
        for value in (hyper.low - 1.0, math.nan, math.inf, "much", True, None):
            with pytest.raises(InvalidInput) as error:
                check({"schedule": name, f"schedule.{key}": value}, 100, "space.", epochs=20)
            assert error.value.field == f"space.schedule.{key}"
    for key in schedule.options:
        with pytest.raises(InvalidInput) as error:
            check({"schedule": name, f"schedule.{key}": {"no": 1}}, 100, "space.", epochs=20)
        assert error.value.field == f"space.schedule.{key}"


def test_a_setting_means_the_same_in_every_schedule() -> None:
    """A study may choose among schedules, and then one name has one range for all of them."""
    ranges: dict[str, tuple[object, ...]] = {}
    for _, kind in schedules.registry.items():
        for key, hyper in kind.hyper.items():
            bounds = (hyper.low, hyper.high, hyper.open_low, hyper.open_high)
            assert ranges.setdefault(key, bounds) == bounds, key
        for key, option in kind.options.items():
            assert ranges.setdefault(key, (option.choices,)) == (option.choices,), key
        assert not {*kind.hyper, *kind.options} & {*CONTEXT}


def test_names() -> None:
    required = (
        "constant linear polynomial exponential step multistep cosine cosine_restarts one_cycle "
        "noam wsd cyclic joined plateau formula"
    )
    assert set(required.split()) <= set(schedules.names())
    with pytest.raises(UnknownName, match=r"schedule: there is no schedule named 'cosin'; known: "):
        schedules.get("cosin")
    assert {"schedule", "warmup", "warmup_fraction", "schedule.final"} <= config_names()


def test_the_stack_of_many_equals_each_alone() -> None:
    configs = [
        {"schedule": name, "warmup_fraction": fraction, "warmup": shape, "lr": 0.1 * (i + 1)}
        for i, name in enumerate(schedules.names())
        for fraction, shape in ((0.0, "linear"), (0.13, "cosine"))
    ]
    plans = [Plan.of(config, 100 + 7 * i, epochs=30) for i, config in enumerate(configs)]
    starts = [(13 * i) % 90 for i in range(len(plans))]
    factors = [1.0 / (1 + i % 3) for i in range(len(plans))]
    lr, momentum = stack(plans, starts, 25, factors)
    assert lr.shape == (25, len(plans))
    assert momentum is not None
    for k, plan in enumerate(plans):
        own_lr, own_momentum = plan.table(starts[k], 25, factors[k])
        torch.testing.assert_close(lr[:, k], own_lr, rtol=1e-13, atol=1e-15)
        if own_momentum is None:
            assert momentum[:, k].isnan().all()
        else:
            torch.testing.assert_close(momentum[:, k], own_momentum, rtol=1e-13, atol=1e-15)


def test_a_table_in_parts_is_the_table() -> None:
    plan = check({"schedule": "one_cycle", "warmup_fraction": 0.1}, 97)
    whole, parts = plan.table(0, 97), [plan.table(s, min(10, 97 - s)) for s in range(0, 97, 10)]
    for i in (0, 1):
        joined: list[Tensor] = []
        for part in parts:
            piece = part[i]
            assert piece is not None
            joined.append(piece)
        torch.testing.assert_close(torch.cat(joined), whole[i], rtol=0, atol=0)
