"""What every rule promises, run over the registry: a new file is tested the moment it exists."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tuner import optimizers
from tuner.errors import InvalidInput
from tuner.optimizers import Hyper, Rule
from tuner.optimizers.kernels import apply_, coefficient_table

NAMES = optimizers.names()
SHAPES = ((4, 3), (5,), (2, 2, 3))
REQUIRED = {
    *("sgd", "momentum", "nag", "adagrad", "rmsprop", "adam", "adamw", "amsgrad", "nadam", "adan"),
    *("lion", "sophia_g", "sophia_h", "grams", "cautious_adamw", "muon", "shampoo", "soap"),
    *("schedule_free_adamw", "lamb", "lars", "adafactor", "prodigy", "mars", "ademamix"),
}

every = pytest.mark.parametrize("name", NAMES)


class Stack:
    """K slots of one rule, stepped as the population engine does it; ``slots=None``: one model."""

    def __init__(
        self,
        rule: Rule,
        hyper: Mapping[str, Tensor],
        shapes: tuple[tuple[int, ...], ...],
        slots: int | None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.rule, self.hyper, self.slots, self.dtype = rule, hyper, slots, dtype
        generator = torch.Generator().manual_seed(5)
        starts = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
        if rule.granularity != "tensor":
            starts = [torch.cat([s.reshape(-1) for s in starts])]
        lead = () if slots is None else (slots,)
        self.params = [s.expand(*lead, *s.shape).clone() for s in starts]
        self.dims = [tuple(range(-s.ndim, 0)) for s in starts]
        self.state = [rule.init(p, d) for p, d in zip(self.params, self.dims, strict=True)]
        self.step_count = torch.zeros(lead, dtype=torch.int64)

    def step(self, noise: list[Tensor], mask: Tensor | None = None) -> None:
        """Gradient: the noise plus half the parameters; ``mask`` says which slots step."""
        flat = coefficient_table(self.rule, self.hyper, self.step_count, self.dtype)
        for p, dims, state, n in zip(self.params, self.dims, self.state, noise, strict=True):
            c = {
                key: value if self.slots is None else value.reshape(-1, *(1 for _ in dims))
                for key, value in flat.items()
            }
            g = n + 0.5 * p
            estimate = (p * p + 0.1) * n.abs()
            for rows in [...] if mask is None else runs(mask):
                here = {key: s[rows] for key, s in state.items()}
                own = {key: value[rows] for key, value in c.items()}
                if self.rule.needs:
                    for key, new in self.rule.refresh(here, estimate[rows], own).items():
                        here[key].copy_(new)
                apply_(self.rule, p[rows], g[rows], here, own, dims)
        self.step_count += 1 if mask is None else mask.to(torch.int64)

    def slot(self, k: int) -> Tensor:
        return torch.cat([p[k].reshape(-1) for p in self.params])

    def only(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.params])


def runs(mask: Tensor) -> list[slice]:
    """Neighbouring slots that step now: a mask is honoured by views of their rows."""
    edges = torch.cat([mask.new_zeros(1), mask, mask.new_zeros(1)]).int().diff().nonzero()
    ends = edges.reshape(-1, 2).tolist()
    return [slice(start, stop) for start, stop in ends]


def noises(rule: Rule, shapes: tuple[tuple[int, ...], ...], steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    drawn = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        for _ in range(steps)
    ]
    if rule.granularity == "tensor":
        return drawn
    return [[torch.cat([n.reshape(-1) for n in step])] for step in drawn]


def spread(hyper: Hyper, parts: int) -> list[float]:
    """Different values near the default, legal and tame enough to converge."""
    values = []
    for i in range(parts):
        if hyper.high == 1.0 and hyper.low == 0.0 and 0.0 < hyper.default < 1.0:
            values.append(1 - (1 - hyper.default) * 1.25**i)  # decay rates
        elif hyper.default == 0.0 and hyper.search is not None:
            values.append(hyper.search[1] * 0.1 * i)
        elif hyper.doc.startswith("steps between"):
            values.append(hyper.default / (1 + i))
        else:
            values.append(hyper.default * (1 + 0.25 * i))
        try:
            hyper.check("value", values[-1])
        except InvalidInput:
            values[-1] = hyper.default
    return values


def test_the_names_the_field_uses_are_there() -> None:
    assert set(NAMES) >= REQUIRED


@every
def test_a_slot_of_a_population_is_a_single_run(name: str) -> None:
    """Slots differ in every hyperparameter and step at different times; 200 micro-batches."""
    rule, slots, steps = optimizers.get(name), 4, 200
    columns = {key: spread(h, slots) for key, h in rule.hyper.items()}
    hyper = {key: torch.tensor(v, dtype=torch.float64) for key, v in columns.items()}
    periods = torch.tensor([1, 2, 3, 7])
    noise = noises(rule, SHAPES, steps)
    population = Stack(rule, hyper, SHAPES, slots)
    singles = [
        Stack(rule, {key: v[k] for key, v in hyper.items()}, SHAPES, None) for k in range(slots)
    ]
    for t in range(steps):
        mask = t % periods == 0
        population.step(noise[t], mask)
        for k in range(slots):
            if mask[k]:
                singles[k].step(noise[t])
    for k in range(slots):
        got, want = population.slot(k), singles[k].only()
        assert bool(got.isfinite().all())
        assert float((got - want).abs().max()) <= 1e-12
    assert float((population.slot(0) - population.slot(1)).abs().max()) > 1e-6  # not all the same


@every
def test_the_ordinary_face_is_the_rule(name: str) -> None:
    rule, steps = optimizers.get(name), 30
    noise = noises(rule, SHAPES, steps)
    hyper = {
        key: torch.tensor(spread(h, 2)[1], dtype=torch.float64) for key, h in rule.hyper.items()
    }
    stack = Stack(rule, hyper, SHAPES, None)
    start = stack.only()
    params = [
        nn.Parameter(part.reshape(s).clone())
        for part, s in zip(start.split([math.prod(s) for s in SHAPES]), SHAPES, strict=True)
    ]
    optimizer = optimizers.create(name, params, **{key: float(v) for key, v in hyper.items()})
    for t in range(steps):
        flat = torch.cat([n.reshape(-1) for n in noise[t]])
        for p, n in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad = n.reshape(p.shape) + 0.5 * p.detach()
            p.hessian = (p.detach() ** 2 + 0.1) * n.reshape(p.shape).abs()  # type: ignore[attr-defined]
        if rule.needs:
            optimizer.update_hessian([p.hessian for p in params])  # type: ignore[attr-defined]
        optimizer.step()
        stack.step(noise[t])
    got = torch.cat([p.detach().reshape(-1) for p in params])
    assert float((got - stack.only()).abs().max()) <= 1e-13


@every
def test_a_nan_in_one_slot_leaves_the_others_bit_identical(name: str) -> None:
    rule, slots, steps = optimizers.get(name), 3, 25
    hyper = {
        key: torch.full((slots,), h.default, dtype=torch.float64) for key, h in rule.hyper.items()
    }
    noise = noises(rule, SHAPES, steps)
    clean, dirty = (Stack(rule, hyper, SHAPES, slots) for _ in range(2))
    for t in range(steps):
        clean.step(noise[t])
        stacked = [n.expand(slots, *n.shape).clone() for n in noise[t]]
        if t >= 4:
            for n in stacked:
                n[1].view(-1)[0] = math.nan if t % 2 else math.inf
        dirty.step(stacked)
    for k in (0, 2):
        assert torch.equal(clean.slot(k), dirty.slot(k))
        for a, b in zip(clean.state, dirty.state, strict=True):
            assert all(torch.equal(a[key][k], b[key][k]) for key in a)
    assert not bool(dirty.slot(1).isfinite().all())


def run(name: str, params: list[nn.Parameter], optimizer: Any, steps: range) -> None:
    for t in steps:
        generator = torch.Generator().manual_seed(t)
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = noise.to(p.dtype) + p.detach()
        if optimizer.rule.needs and t % 5 == 0:
            optimizer.update_hessian([p.detach() ** 2 for p in params])
        optimizer.step()


def fresh(dtype: torch.dtype = torch.float64, shapes: Any = (*SHAPES, ())) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in shapes
    ]


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_resuming_from_a_state_dict_changes_nothing(name: str, dtype: torch.dtype) -> None:
    whole = fresh(dtype)
    optimizer = optimizers.create(name, whole)
    run(name, whole, optimizer, range(8))
    saved = io.BytesIO()
    torch.save([optimizer.state_dict(), whole], saved)
    copied, cloned = copy.deepcopy((whole, optimizer))
    run(name, whole, optimizer, range(8, 16))

    saved.seek(0)
    state, params = torch.load(saved, weights_only=True)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    other = optimizers.create(name, resumed, lr=0.123)
    other.load_state_dict(state)
    run(name, resumed, other, range(8, 16))
    run(name, copied, cloned, range(8, 16))
    for p, q, r in zip(whole, resumed, copied, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


@every
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    results = []
    for _ in range(2):
        params = fresh(torch.float32)
        run(name, params, optimizers.create(name, params), range(12))
        results.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


@every
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_parameters_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    params, starts = fresh(dtype), fresh(dtype)
    optimizer = optimizers.create(name, params, lr=0.05)
    run(name, params, optimizer, range(6))
    for p, start in zip(params, starts, strict=True):
        assert p.dtype == dtype
        assert bool(p.isfinite().all())
        moved = not torch.equal(p, start)
        assert moved or name in ("prodigy", "lars", "muon")  # too small a step for 16 bits
        wide = torch.float32 if dtype.itemsize == 2 else dtype
        tensors = [s for s in optimizer.state[p].values() if isinstance(s, Tensor)]
        assert all(s.dtype == wide for s in tensors)


@every
def test_a_zero_gradient_moves_nothing(name: str) -> None:
    params, starts = fresh(), fresh()
    decay = {"weight_decay": 0.0} if "weight_decay" in optimizers.get(name).hyper else {}
    optimizer = optimizers.create(name, params, **decay)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(p, start) for p, start in zip(params, starts, strict=True))


@every
def test_an_empty_parameter_does_no_harm(name: str) -> None:
    shapes = ((0,), (3, 2), (0, 4), (4,))
    with_empty, without = fresh(shapes=shapes), fresh(shapes=shapes)[1::2]
    run(name, with_empty, optimizers.create(name, with_empty), range(3))
    run(name, without, optimizers.create(name, without), range(3))
    for p, q in zip(with_empty[1::2], without, strict=True):
        torch.testing.assert_close(p, q)
    alone = fresh(shapes=((0, 3),))
    run(name, alone, optimizers.create(name, alone), range(2))


@every
@pytest.mark.parametrize(
    "shapes", [((),), ((1, 1),), ((), ()), ((), (3, 2)), ((0,), ()), ((1, 1), (4,), ())], ids=str
)
def test_a_number_is_a_parameter_too(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    """0-d or of one element: it steps as a vector of one would, and resumes."""
    params = fresh(shapes=shapes)
    vectors = [nn.Parameter(p.detach().reshape(-1).clone()) if p.numel() < 2 else p for p in params]
    vectors = [nn.Parameter(p.detach().clone()) for p in vectors]
    optimizer, plain = optimizers.create(name, params), optimizers.create(name, vectors)
    matrices = (1, 1) in shapes and optimizer.rule.granularity == "tensor"
    for steps in (range(4), range(4, 8)):
        run(name, params, optimizer, steps)
        run(name, vectors, plain, steps)
        optimizer.eval()
        optimizer.train()
        other = optimizers.create(name, params)
        other.load_state_dict(optimizer.state_dict())
        optimizer = other
    for p, q in zip(params, vectors, strict=True):
        assert p.numel() == 0 or not torch.equal(p, fresh(shapes=[p.shape])[0])
        if not matrices:  # which have other steps for a matrix, of one element or not
            torch.testing.assert_close(p.detach().reshape(q.shape), q.detach())


@every
def test_illegal_hyperparameters_are_refused_by_name(name: str) -> None:
    rule = optimizers.get(name)
    for key, hyper in rule.hyper.items():
        wrong = [math.nan]
        if math.isfinite(hyper.low):
            wrong.append(hyper.low if hyper.open_low else hyper.low - 0.1)
        if math.isfinite(hyper.high):
            wrong.append(hyper.high if hyper.open_high else hyper.high + 0.1)
        for value in wrong:
            with pytest.raises(InvalidInput) as caught:
                optimizers.create(name, fresh(), **{key: value})
            assert caught.value.field == key
            with pytest.raises(InvalidInput) as caught:
                optimizers.create(name, [{"params": fresh(), key: value}])
            assert caught.value.field == key
    with pytest.raises(InvalidInput) as caught:
        rule.check({"learning_rate": 0.1})
    assert caught.value.field == "learning_rate"


@every
def test_the_description_is_complete_and_sound(name: str) -> None:
    rule = optimizers.get(name)
    assert rule.name == name
    assert rule.summary.endswith(".")
    assert rule.when.endswith(".")
    assert rule.formula
    title, year, address = rule.reference
    assert title
    assert 1950 < year < 2030
    assert address.startswith("https://")
    assert "Differs" in (type(rule).__doc__ or "") or name in ("momentum", "nag")
    assert "lr" in rule.hyper
    for key, hyper in rule.hyper.items():
        hyper.check(key, hyper.default)
        assert hyper.doc
        assert not hyper.complement or hyper.log
        if hyper.search is not None:
            low, high = hyper.search
            assert low < high
            for end in hyper.search:
                hyper.check(key, end)
            if hyper.log:
                assert (1 - high if hyper.complement else low) > 0
        if hyper.prior is not None:
            hyper.check(key, hyper.prior.center)
            assert hyper.prior.spread > 0
            assert hyper.prior.source
            assert hyper.search is not None
            assert hyper.search[0] <= hyper.prior.center <= hyper.search[1]
            assert (hyper.prior.of == "complement") == hyper.complement
    assert rule.state_bytes_per_parameter() >= 0


@every
def test_coefficients_of_many_steps_are_those_of_each(name: str) -> None:
    rule = optimizers.get(name)
    hyper = {key: torch.tensor(spread(h, 3), dtype=torch.float64) for key, h in rule.hyper.items()}
    steps = torch.arange(6)[:, None] + torch.tensor([0, 10, 100])
    table = coefficient_table(rule, hyper, steps, torch.float64)
    for s in range(6):
        for k in range(3):
            one = rule.coefficients({key: v[k] for key, v in hyper.items()}, steps[s, k])
            for key, value in one.items():
                torch.testing.assert_close(table[key][s, k], value.double(), rtol=1e-14, atol=0.0)


def edges(hyper: Hyper) -> list[float]:
    """The default and what is legal at both ends of the range, 0 among it."""
    least = hyper.low + 1e-12 * hyper.open_low if math.isfinite(hyper.low) else -10.0
    most = hyper.high - 1e-6 * hyper.open_high if math.isfinite(hyper.high) else 3.0
    found = {hyper.default, least, most}
    for value in (0.0, 1.0):
        try:
            hyper.check("value", value)
        except InvalidInput:
            continue
        found.add(value)
    return sorted(found)


@every
def test_coefficients_are_finite_at_the_edges_of_what_is_legal(name: str) -> None:
    """Each two settings at every edge, the others at their defaults."""
    rule = optimizers.get(name)
    plain = {key: h.default for key, h in rule.hyper.items()}
    cases = [
        {**plain, a: x, b: y}
        for a, b in combinations(rule.hyper, 2)
        for x in edges(rule.hyper[a])
        for y in edges(rule.hyper[b])
    ]
    for case in cases:
        rule.check(case)
    hyper = {key: torch.tensor([c[key] for c in cases]).double() for key in rule.hyper}
    steps = torch.tensor([0, 1, 2, 10, 10_000])[:, None].expand(-1, len(cases))
    for key, values in coefficient_table(rule, hyper, steps, torch.float32).items():
        wrong = (~values.isfinite()).any(0).nonzero().reshape(-1).tolist()
        assert not wrong, f"{key}: {cases[wrong[0]]}"


def legal(hyper: Hyper) -> st.SearchStrategy[float]:
    low = max(hyper.low, -2.0)
    high = min(hyper.high, 30.0 if hyper.doc.startswith("steps") else 2.0)
    if hyper.search is not None:
        low, high = hyper.search
    if hyper.open_low:
        low = max(low, 1e-12)
    margin = 1e-6 if hyper.open_high else 0.0
    return st.floats(low, high - margin, allow_nan=False)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data())
def test_any_shape_and_any_legal_number_works(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    rule = optimizers.get(name)
    shape = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
    shapes = tuple(data.draw(st.lists(shape, min_size=1, max_size=3)))
    values = [{key: data.draw(legal(h)) for key, h in rule.hyper.items()} for _ in range(2)]
    for chosen in values:
        rule.check(chosen)
    hyper = {key: torch.tensor([v[key] for v in values], dtype=torch.float64) for key in rule.hyper}
    noise = noises(rule, shapes, 4)
    population = Stack(rule, hyper, shapes, 2)
    single = Stack(rule, {key: v[1] for key, v in hyper.items()}, shapes, None)
    for n in noise:
        population.step(n)
        single.step(n)
    # Large rates make large numbers: compare relative to what came out.
    torch.testing.assert_close(population.slot(1), single.only(), rtol=1e-7, atol=1e-7)
    assert bool(single.only().isfinite().all())
