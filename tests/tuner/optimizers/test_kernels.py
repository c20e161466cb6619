from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.devices import CPU, each_device
from tuner import optimizers
from tuner.optimizers import compiled, kernels
from tuner.optimizers.kernels import apply_, coefficient_table

SLOTS, WIDTH = 5, 20_001


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces of a small problem, whatever the number of threads."""
    monkeypatch.setattr(kernels, "CHUNK", 8_192 // torch.get_num_threads())


def population(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    rule = optimizers.get(name)
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(shape, generator=generator).to(device, dtype)
    g = torch.randn(shape, generator=generator).to(device, dtype)
    state = rule.init(p.to(kernels.working_dtype(dtype)), (-1,))
    lead = shape[:-1]
    rates = torch.linspace(0.5, 1.0, steps=lead[0] if lead else 1, dtype=torch.float64)
    hyper = {key: torch.full(lead, h.default, dtype=torch.float64) for key, h in rule.hyper.items()}
    hyper["lr"] = hyper["lr"] * rates.reshape(lead) if lead else hyper["lr"]
    table = coefficient_table(rule, hyper, torch.zeros(lead, dtype=torch.int64), dtype, device)
    c = {key: value.reshape((*lead, *(1 for _ in lead))) for key, value in table.items()}
    return p, g, state, c


ELEMENTS = [n for n in optimizers.names() if optimizers.get(n).granularity == "element"]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize("shape", [(SLOTS, WIDTH), (40, 1_001), (30_001,)], ids=str)
def test_pieces_give_the_bits_of_the_whole(name: str, shape: tuple[int, ...]) -> None:
    rule = optimizers.get(name)
    p, g, state, c = population(name, shape)
    assert p.numel() > kernels.CHUNK * torch.get_num_threads()
    whole_p, whole = rule.update(p, g, state, c, (-1,))
    apply_(rule, p, g, state, c, (-1,))
    assert torch.equal(p, whole_p)
    assert all(torch.equal(state[key], whole[key]) for key in state)


@pytest.mark.usefixtures("small_pieces")
def test_rows_of_a_buffer_can_be_stepped_alone() -> None:
    """Which is how only some slots step: the others keep their bits even if broken."""
    rule = optimizers.get("schedule_free_adamw")
    p, g, state, c = population("schedule_free_adamw", (SLOTS, WIDTH))
    p[3, 7], g[4] = float("nan"), float("nan")
    before, moments = p.clone(), {key: s.clone() for key, s in state.items()}
    want, _ = rule.update(p, g, state, c, (-1,))
    rows = slice(1, 3)
    apply_(
        rule,
        p[rows],
        g[rows],
        {key: s[rows] for key, s in state.items()},
        {key: value[rows] for key, value in c.items()},
        (-1,),
    )
    assert torch.equal(p[rows], want[rows])
    for k in (0, 3, 4):
        torch.testing.assert_close(p[k], before[k], rtol=0, atol=0, equal_nan=True)
        assert all(torch.equal(state[key][k], moments[key][k]) for key in state)
    assert (state["weight_sum"][:, 0] > 0).tolist() == [False, True, True, False, False]


def test_half_parameters_are_computed_wide_and_rounded_once() -> None:
    rule = optimizers.get("adamw")
    p, g, state, c = population("adamw", (2, 300), torch.bfloat16)
    assert state["exp_avg"].dtype == torch.float32
    want, _ = rule.update(p.float(), g.float(), state, c, (-1,))
    apply_(rule, p, g, state, c, (-1,))
    assert p.dtype == torch.bfloat16
    assert torch.equal(p, want.to(torch.bfloat16))


@each_device
def test_one_compiled_kernel_serves_all_sizes(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Compiles three times: for a population, for one slot, and for a single model."""
    rule = optimizers.get("adamw")
    monkeypatch.setattr(compiled, "_kernels", {})
    for shape in ((3, 4_000), (5, 1_111), (4, 3_333), (7_000,), (1, 5_000), (3_001,)):
        p, g, state, c = population("adamw", shape, device=device)
        want, wanted = rule.update(p, g, state, c, (-1,))
        apply_(rule, p, g, state, c, (-1,), compiled=True)
        torch.testing.assert_close(p, want, rtol=1e-6, atol=1e-7)
        for key, s in state.items():
            torch.testing.assert_close(s, wanted[key], rtol=1e-6, atol=1e-7)
    assert len(compiled._kernels) == 3
    assert not compiled._broken


@each_device
@pytest.mark.parametrize("cut", [False, True], ids=["contiguous", "cut"])
def test_a_compiled_kernel_steps_rows_alone_whatever_their_number(
    monkeypatch: pytest.MonkeyPatch, cut: bool, device: torch.device
) -> None:
    """Also numbers of a slot, and columns of a wider buffer, which do not lie one after another."""
    rule = optimizers.get("schedule_free_adamw")
    monkeypatch.setattr(compiled, "_kernels", {})
    for slots, width in ((3, 4_000), (7, 1_001)):
        p, g, state, c = population("schedule_free_adamw", (slots, width + cut), device=device)
        columns = slice(0, width)
        p, g = p[:, columns], g[:, columns]
        state = {name: s[:, columns] for name, s in state.items()}
        want_p, want = p.clone(), {name: s.clone() for name, s in state.items()}
        rows, own = slice(1, slots), {name: value[1:] for name, value in c.items()}
        start, begun = p[0].clone(), {name: s[0].clone() for name, s in state.items()}
        for _ in range(2):
            here = {name: s[rows] for name, s in state.items()}
            apply_(rule, p[rows], g[rows], here, own, (-1,), compiled=True)
            apply_(rule, want_p, g, want, c, (-1,))
        torch.testing.assert_close(p[rows], want_p[rows], rtol=1e-5, atol=1e-6)
        assert torch.equal(p[0], start)
        for name, s in state.items():
            torch.testing.assert_close(s[rows], want[name][rows], rtol=1e-5, atol=1e-6)
            assert torch.equal(s[0], begun[name])
    ((_, _, plain, *_),) = compiled._kernels
    assert plain == (device == CPU and not cut)
    assert not compiled._broken


class Counted(TorchDispatchMode):
    """Counts the operations of one kind and the matrices they are given."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.matrices = kind, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ == self.kind:
            self.matrices += len(args[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "each", "due"), [("bmm", 8, 2), ("linalg_qr", 0, 2)])
def test_bases_cost_what_they_do_only_where_they_are_due(kind: str, each: int, due: int) -> None:
    """SOAP's, of slots that refresh at different steps: for each slot, and for each that is due."""
    rule = optimizers.get("soap")
    hyper = {key: torch.full((2,), h.default).double() for key, h in rule.hyper.items()}
    hyper["refresh"] = torch.tensor([2.0, 3.0]).double()
    p = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    state = rule.init(p, (-2, -1))
    for t in range(7):
        c = coefficient_table(rule, hyper, torch.tensor([t, t]), torch.float32)
        c = {key: value.view(2, 1, 1) for key, value in c.items()}
        with Counted(kind) as counted:
            apply_(rule, p, p.clone(), state, c, (-2, -1))
        turning = (t % 2 == 0) + (t % 3 == 0) if t else 0
        assert counted.matrices == 2 * each + turning * due


def test_without_a_compiler_it_runs_eager_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*_: object, **__: object) -> object:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch._inductor, "standalone_compile", no_compiler)
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(compiled, "_broken", set())
    rule = optimizers.get("lion")
    with caplog.at_level(logging.WARNING, logger="tuner.optimizers.compiled"):
        for _ in range(3):
            p, g, state, c = population("lion", (3, 4_000))
            want, _ = rule.update(p, g, state, c, (-1,))
            apply_(rule, p, g, state, c, (-1,), compiled=True)
            assert torch.equal(p, want)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no C++ compiler found" in caplog.text


@pytest.mark.parametrize("count", [1, 5])
def test_a_compiler_that_is_switched_off_steps_once(count: int) -> None:
    """It runs the kernel as it is, and only then says that it was not compiled."""
    program = (
        "import torch\n"
        "from torch import nn\n"
        "from tuner import optimizers\n"
        "found = []\n"
        "for fast in (False, True):\n"
        "    ps = [nn.Parameter(torch.ones(300, 300)) for _ in range(5)]\n"
        "    for p in ps:\n"
        "        p.grad = torch.ones_like(p)\n"
        "    optimizers.create('momentum', ps[:COUNT], lr=0.1, compiled=fast).step()\n"
        "    found.append(ps[0])\n"
        "assert torch.equal(*found), found\n"
        "assert found[0][0, 0] < 1\n"
    )
    environment = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program.replace("COUNT", str(count))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_large_tensors_of_one_model_share_a_compiled_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many tensors that are stepped where they lie and two that are gathered: 20 + 4, filled up."""
    monkeypatch.setattr(compiled, "_kernels", {})
    shapes = [(0,), (), (70,), *((256 + i, 257) for i in range(compiled.GROUP + 3))]
    runs = []
    for fast in (False, True):
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
        optimizer = optimizers.create("momentum", params, lr=0.1, compiled=fast)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator) + p.detach()
            params[-1].grad = torch.randn((), generator=generator).expand(params[-1].shape)
            params[-2].grad = torch.randn(params[-2].shape[::-1], generator=generator).T
            versions = [p._version for p in params]
            optimizer.step()
            assert all(p._version > v for p, v in zip(params[1:], versions[1:], strict=True))
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    assert len(compiled._kernels) == 1
    assert not compiled._broken


@pytest.mark.parametrize("shape", [(3, 100_000), (300_000,)], ids=str)
def test_threads_share_the_loops_of_large_tensors_alone(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(compiled, "_kernels", {})
    written: list[str] = []
    monkeypatch.setattr("torch._inductor.graph.GraphLowering.save_output_code", written.append)
    rule = optimizers.get("momentum")
    threads, found = torch.get_num_threads(), []
    caching: Any = torch.compiler.config
    try:
        with caching.patch(force_disable_caches=True):
            p, g, state, c = population("momentum", (*shape[:-1], 2_999))
            apply_(rule, p, g, state, c, (-1,), compiled=True)
            p, g, state, c = population("momentum", shape)
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                q, held = p.clone(), {name: s.clone() for name, s in state.items()}
                apply_(rule, q, g, held, c, (-1,), compiled=True)
                found.append([q, *held.values()])
    finally:
        torch.set_num_threads(threads)
    assert "omp parallel" not in written[0]
    assert "#pragma omp parallel\n" in written[1]
    assert len(written) == 2, "of fewer threads there is no other kernel"
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))


def test_state_of_another_type_has_a_kernel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a loaded one may be; the kernel itself does not look at what it is given."""
    monkeypatch.setattr(compiled, "_kernels", {})
    for dtype in (torch.float32, torch.float64):
        runs = []
        for fast in (False, True):
            generator = torch.Generator().manual_seed(0)
            params = [nn.Parameter(torch.randn(256, 257 + i, generator=generator)) for i in (0, 1)]
            optimizer = optimizers.create("momentum", params, lr=0.1, compiled=fast)
            for _ in range(2):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator)
                optimizer.step()
                saved = optimizer.state_dict()
                for entry in saved["state"].values():
                    entry.update({k: v.to(dtype) for k, v in entry.items() if torch.is_tensor(v)})
                optimizer.load_state_dict(saved)
            runs.append(params)
        for p, q in zip(*runs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    assert len(compiled._kernels) == 2
