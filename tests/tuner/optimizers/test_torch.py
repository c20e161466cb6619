from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tuner import optimizers, tasks
from tuner.errors import InvalidInput, UnknownName
from tuner.optimizers.torch import RuleOptimizer


def model(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return net


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, generator=generator, dtype=torch.float64)
    return x, torch.stack([x.sum(1).sin(), x.prod(1)], 1)


def fit(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 20, each: Any = None
) -> float:
    x, y = data()
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        if each is not None:
            each()
    return float(loss.detach())


def same(a: nn.Module, b: nn.Module, tolerance: float = 1e-12) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert float((p - q).detach().abs().max()) <= tolerance


def test_attributes_and_create_give_the_same_class() -> None:
    optimizer = optimizers.create("adamw", model().parameters(), lr=0.1)
    assert type(optimizer) is optimizers.AdamW
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert type(optimizer).__name__ == "AdamW"
    with pytest.raises(
        AttributeError, match=r"'AdmaW'; did you mean AdamW\? The .* are AMSGrad, AdE"
    ):
        _ = optimizers.AdmaW
    with pytest.raises(AttributeError, match="'Rmsprop'; did you mean RMSprop"):
        _ = optimizers.Rmsprop
    with pytest.raises(AttributeError, match="'NoSuchOptimizer'; the optimizers are AMSGrad"):
        _ = optimizers.NoSuchOptimizer
    with pytest.raises(AttributeError, match=r"'no_such_thing'$"):
        _ = optimizers.no_such_thing
    assert {"AdamW", "SGD", "create", "torch", "__doc__"} <= {*dir(optimizers)}
    with pytest.raises(UnknownName, match="adamw"):
        optimizers.create("adamv", model().parameters())


def test_groups_have_settings_of_their_own() -> None:
    ours, theirs = model(), model()

    def groups(net: nn.Sequential) -> list[dict[str, Any]]:
        return [
            {"params": net[0].parameters(), "lr": 0.03},
            {"params": net[2].parameters(), "weight_decay": 0.3},
        ]

    fit(ours, optimizers.AdamW(groups(ours), lr=0.01))
    fit(theirs, torch.optim.AdamW(groups(theirs), lr=0.01))
    same(ours, theirs)


def test_a_group_can_join_later() -> None:
    nets = [model(), model()]
    makers = [optimizers.AdamW, torch.optim.AdamW]
    for net, make in zip(nets, makers, strict=True):
        optimizer = make(net[0].parameters(), lr=0.02)
        fit(net, optimizer, 5)
        optimizer.add_param_group({"params": net[2].parameters(), "lr": 0.05})
        fit(net, optimizer, 5)
    same(*nets)
    with pytest.raises(InvalidInput, match="lr"):
        optimizers.AdamW(model().parameters()).add_param_group(
            {"params": [nn.Parameter(torch.ones(1))], "lr": -1.0}
        )


@pytest.mark.parametrize("scheduler", ["cosine", "plateau", "one_cycle", "lambda"])
def test_torch_schedulers_drive_it(scheduler: str) -> None:
    kinds = torch.optim.lr_scheduler
    nets = [model(), model()]
    for net, make in zip(nets, [optimizers.NAG, torch.optim.SGD], strict=True):
        more = {} if make is optimizers.NAG else {"momentum": 0.9, "nesterov": True}
        optimizer = make(net.parameters(), lr=0.05, **more)
        plan: Any = {
            "cosine": lambda o: kinds.CosineAnnealingLR(o, 20),
            "plateau": lambda o: kinds.ReduceLROnPlateau(o, patience=1),
            "one_cycle": lambda o: kinds.OneCycleLR(o, 0.1, total_steps=30),
            "lambda": lambda o: kinds.LambdaLR(o, lambda t: 1 / (1 + t)),
        }[scheduler](optimizer)
        fit(
            net,
            optimizer,
            20,
            (lambda p=plan: p.step(1.0)) if scheduler == "plateau" else plan.step,
        )
    same(*nets)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned() -> None:
    net = model()
    x, y = data()
    optimizer = optimizers.AdamW(net.parameters(), lr=0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    second = optimizer.step(closure)
    assert second < first


def test_maximize_climbs() -> None:
    up, down = model(), model()
    x, y = data()
    climber = optimizers.AdamW(up.parameters(), lr=0.01, maximize=True)
    descender = optimizers.AdamW(down.parameters(), lr=0.01)
    for _ in range(5):
        for net, optimizer, sign in ((up, climber, -1), (down, descender, 1)):
            optimizer.zero_grad()
            (sign * (net(x) - y).square().mean()).backward()
            optimizer.step()
    same(up, down)


def test_a_parameter_without_gradient_keeps_its_own_step_count() -> None:
    nets = [model(), model()]
    for net, make in zip(nets, [optimizers.AdamW, torch.optim.AdamW], strict=True):
        optimizer = make(net.parameters(), lr=0.03)
        x, y = data()
        for t in range(12):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            if t % 3 == 1:
                net[0].bias.grad = None
            if t == 7:
                net[2].weight.grad = None
            optimizer.step()
    same(*nets)


def stepped(name: str, given: list[Tensor | None], *, partner: bool) -> Tensor:
    """A parameter that gets these gradients (None: none), alone or beside one that gets others.

    At rates that grow as it does, so that the neighbour has taken as many steps at other rates.
    """
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((2,), 2.0))]
    optimizer = optimizers.create(name, params[::-1] if partner else params[:1])
    rate, taken = optimizer.param_groups[0]["lr"], 0
    for t, g in enumerate(given):
        taken += g is not None
        optimizer.param_groups[0]["lr"] = rate * 1.5**taken
        params[0].grad = g
        params[1].grad = None if t in (3, 4, 7) else torch.full((2,), 0.1 * (t + 1))
        optimizer.step()
    return params[0].detach()


@pytest.mark.parametrize(
    "name", [n for n in optimizers.names() if optimizers.get(n).granularity != "model"]
)
def test_a_pause_of_one_parameter_is_none_of_its_neighbours_business(name: str) -> None:
    grads: list[Tensor | None] = [torch.tensor([0.1, -0.2, 0.3]) * (1 + t) for t in range(6)]
    paused = [*grads[:2], None, *grads[2:4], None, None, *grads[4:]]
    alone = stepped(name, grads, partner=False)
    beside = stepped(name, paused, partner=True)
    torch.testing.assert_close(beside, alone, rtol=1e-6, atol=1e-7)


def test_prodigy_keeps_one_distance_while_parameters_come_and_go() -> None:
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    optimizer = optimizers.Prodigy(params)
    for t in range(12):
        for i, p in enumerate(params):
            p.grad = None if t in (4, 5) and i == 0 else p.detach() * 0.5
        optimizer.step()
    first, second = (optimizer.state[p] for p in params)
    assert first["d"] is second["d"]
    assert float(first["d"]) > 1
    assert first["step"] == second["step"] == 12


def test_prodigy_keeps_no_two_distances_in_a_group() -> None:
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]
    for p in params:
        p.grad = p.detach() * 0.5
    several = "params: prodigy sums over a group"
    with pytest.raises(InvalidInput, match=several):
        optimizers.Prodigy(params)
    added = optimizers.Prodigy(params[:1])
    with pytest.raises(InvalidInput, match=several):
        added.add_param_group({"params": [nn.Parameter(p.detach()) for p in params]})
    assert len(added.param_groups) == 1
    params[1].requires_grad = False
    frozen = optimizers.Prodigy(params)
    with pytest.raises(InvalidInput, match=several):
        frozen.step()
    assert not frozen.state
    optimizers.Prodigy([{"params": [p]} for p in params]).step()


def test_large_and_strided_and_scalar_parameters_take_the_same_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [
        torch.randn(300, 250, generator=generator),  # above the gathering threshold
        torch.randn(8, 16, generator=generator).t(),  # not contiguous
        torch.randn(260, 300, generator=generator).t(),
        torch.randn((), generator=generator),
        torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
    ]
    runs = []
    for make in (optimizers.AdamW, torch.optim.AdamW):
        params = [nn.Parameter(s.clone()) for s in starts]
        optimizer = make(params, lr=0.01)
        for t in range(5):
            draw = torch.Generator().manual_seed(t)
            for p in params:
                p.grad = torch.randn(p.shape, generator=draw) + p.detach()
            optimizer.step()
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [4, 64], ids=["gathered", "alone"])
def test_a_model_may_change_its_layout_between_steps(channels: int) -> None:
    runs = []
    for make in (optimizers.AdamW, torch.optim.AdamW):
        generator = torch.Generator().manual_seed(0)
        net = nn.Conv2d(channels, 128, 3)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        optimizer = make(net.parameters(), lr=0.01)
        for memory_format in (None, torch.channels_last, torch.contiguous_format):
            if memory_format is not None:
                net.to(memory_format=memory_format)
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=generator) + p.detach()
            optimizer.step()
        runs.append(net)
    same(*runs, 1e-6)


def test_a_model_that_becomes_wider_steps_wide() -> None:
    net = nn.Linear(3, 2)
    optimizer = optimizers.AdamW(net.parameters(), lr=1e-9)  # too small a step for float32
    for dtype, moves in ((torch.float32, False), (torch.float64, True)):
        net.to(dtype)
        with torch.no_grad():
            net.bias.fill_(1.0)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert net.bias.dtype == dtype
        assert bool((net.bias < 1).all()) == moves


def test_a_model_of_another_type_shows_its_average() -> None:
    net = model().float()
    optimizer = optimizers.ScheduleFreeAdamW(net.parameters(), lr=0.01)
    x, y = (part.float() for part in data())
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    optimizer.eval()
    shown = [p.detach().clone() for p in net.parameters()]
    optimizer.train()
    net.double()
    optimizer.eval()
    for p, before in zip(net.parameters(), shown, strict=True):
        torch.testing.assert_close(p.detach(), before.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_a_model_of_another_type_takes_in_curvature(name: str) -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = optimizers.create(name, [p])
    optimizer.update_hessian([torch.full((4,), 0.5)])
    held = optimizer.state[p]["hessian"].clone()
    p.data = p.data.double()
    optimizer.update_hessian([torch.full((4,), 0.5, dtype=torch.float64)])
    beta2 = optimizer.param_groups[0]["beta2"]
    torch.testing.assert_close(optimizer.state[p]["hessian"], held * beta2 + 0.5 * (1 - beta2))


def test_state_of_half_parameters_is_float32_and_survives_a_state_dict() -> None:
    params = [nn.Parameter(torch.ones(4, dtype=torch.bfloat16))]
    optimizer = optimizers.AdamW(params)
    params[0].grad = torch.full((4,), 0.1, dtype=torch.bfloat16)
    optimizer.step()
    other = optimizers.AdamW([nn.Parameter(params[0].detach().clone())])
    other.load_state_dict(optimizer.state_dict())
    (mine,), (loaded,) = optimizer.state.values(), other.state.values()
    assert loaded["exp_avg"].dtype == torch.float32
    assert torch.equal(mine["exp_avg"], loaded["exp_avg"])
    assert loaded["exp_avg"].data_ptr() != mine["exp_avg"].data_ptr()  # copies


def test_a_pickle_goes_on_where_it_was() -> None:
    net = model()
    optimizer = optimizers.SGD(net.parameters(), lr=0.01, momentum=0.9, decoupled=True)
    fit(net, optimizer, 4)
    other_net, other = pickle.loads(pickle.dumps((net, optimizer)))
    fit(net, optimizer, 4)
    fit(other_net, other, 4)
    same(net, other_net, 0.0)
    assert other.rule.decoupled


def test_state_can_be_cleared() -> None:
    net, fresh = model(), model()
    optimizer = optimizers.AdamW(net.parameters(), lr=0.01)
    fit(net, optimizer, 3)
    fresh.load_state_dict(net.state_dict())
    optimizer.state.clear()
    fit(net, optimizer, 3)
    fit(fresh, optimizers.AdamW(fresh.parameters(), lr=0.01), 3)
    same(net, fresh, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (0.9, 0.99)}, "betas: adamw has no such setting; use beta1, beta2"),
        ({"learning_rate": 0.1}, "learning_rate: adamw has no such setting; it has lr, beta1"),
        ({"foreach": True}, "foreach: adamw has no such setting"),
        ({"lr": None}, "lr: None is not a number"),
        ({"lr": "1e-3"}, "lr: '1e-3' is not a number"),
        ({"lr": b"1"}, "lr: b'1' is not a number"),
        ({"lr": torch.ones(2)}, r"lr: tensor\(\[1., 1.\]\) is not a number"),
        ({"beta1": "a"}, "beta1: 'a' is not a number"),
        ({"weight_decay": (1,)}, r"weight_decay: \(1,\) is not a number"),
        ({"eps": 10**400}, "eps: 1000.* is not a number"),
        ({"beta2": 1.0}, r"beta2: 1.0 is outside \[0.0, 1.0\)"),
    ],
)
def test_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(InvalidInput, match=message) as caught:
        optimizers.AdamW(params, **settings)
    assert caught.value.field == next(iter(settings))
    with pytest.raises(InvalidInput, match=message):
        optimizers.AdamW([{"params": params, **settings}])
    other = optimizers.AdamW(params)
    with pytest.raises(InvalidInput, match=message):
        other.add_param_group({"params": [nn.Parameter(torch.ones(2))], **settings})
    assert len(other.param_groups) == 1


def test_a_group_may_hold_what_schedulers_keep_there_but_no_option() -> None:
    params = [nn.Parameter(torch.ones(2))]
    noted = {"name": "head", "lr_scale": 0.5, "initial_lr": 0.1, "swa_lr": 0.1, "maximize": True}
    optimizer = optimizers.AdamW([{"params": params, **noted}], lr=0.1)
    assert noted.items() <= optimizer.param_groups[0].items()
    assert optimizers.AdamW(optimizer.param_groups).param_groups == optimizer.param_groups
    with pytest.raises(InvalidInput, match="amsgrad: adamw takes it for the whole optimizer"):
        optimizers.AdamW([{"params": params, "amsgrad": True}])
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group(params)


def test_the_rate_may_be_positional_or_a_tensor() -> None:
    nets = [model(), model(), model()]
    rates = [torch.tensor(0.02, dtype=torch.float64), 0.02]
    for net, lr in zip(nets, rates, strict=False):
        fit(net, optimizers.AdamW(net.parameters(), lr))
    fit(nets[2], torch.optim.AdamW(nets[2].parameters(), 0.02))
    same(nets[0], nets[1], 0.0)
    same(nets[0], nets[2])
    assert optimizers.AdamW(nets[0].parameters()).param_groups[0]["lr"] == 1e-3


def test_a_gradient_that_turns_sparse_is_refused_too() -> None:
    for shape in ((4, 3), (300, 300)):
        p = nn.Parameter(torch.ones(shape))
        optimizer = optimizers.Adagrad([p])
        p.grad = torch.ones_like(p)
        optimizer.step()
        p.grad = torch.ones_like(p).to_sparse()
        with pytest.raises(InvalidInput, match="sparse"):
            optimizer.step()


def test_sparse_and_complex_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InvalidInput, match="sparse"):
        optimizers.AdamW(table.parameters()).step()
    with pytest.raises(InvalidInput, match="complex"):
        optimizers.AdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    optimizer = optimizers.AdamW([nn.Parameter(torch.ones(2))])
    with pytest.raises(InvalidInput, match="complex"):
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(2, dtype=torch.complex64))})
    assert len(optimizer.param_groups) == 1


def test_estimates_are_asked_for_by_name() -> None:
    with pytest.raises(InvalidInput, match="no curvature"):
        optimizers.AdamW(model().parameters()).update_hessian()
    with pytest.raises(InvalidInput, match="needs them"):
        optimizers.SophiaH(model().parameters()).update_hessian()
    with pytest.raises(InvalidInput, match="1 estimates for 4"):
        optimizers.SophiaG(model().parameters()).update_hessian([torch.ones(1)])
    with pytest.raises(InvalidInput, match="scale"):
        optimizers.Muon(model().parameters(), scale="none")


@pytest.mark.parametrize("grad", [1e-4, 300.0])
def test_curvature_of_half_gradients_is_taken_wide(grad: float) -> None:
    p = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    p.grad = torch.full_like(p, grad)
    optimizer = optimizers.SophiaG([p])
    optimizer.update_hessian(batch_size=1000)
    expected = 0.01 * 1000 * p.grad.double().square()  # beneath, or above, what float16 holds
    torch.testing.assert_close(optimizer.state[p]["hessian"].double(), expected)


@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_steps_without_any_curvature_are_warned_of_once(name: str) -> None:
    def started(steps: int) -> tuple[nn.Sequential, RuleOptimizer]:
        net = model()
        optimizer = optimizers.create(name, net.parameters())
        fit(net, optimizer, steps)  # warnings are errors
        return net, optimizer

    net, blind = started(10)
    copied_net, copied = pickle.loads(pickle.dumps((net, blind)))
    with pytest.warns(UserWarning, match=f"{name} has made 11 steps .* update_hessian") as caught:
        fit(net, blind, 1)
    assert caught[0].filename == __file__
    fit(net, blind, 30)
    with pytest.warns(UserWarning, match="update_hessian"):
        fit(copied_net, copied, 1)

    net, late = started(10)
    late.update_hessian([torch.ones_like(p) for p in net.parameters()])
    fit(net, late, 30)
    net, resumed = started(0)
    resumed.load_state_dict(late.state_dict())
    fit(net, resumed, 30)


def test_the_loops_of_the_page_feed_sophia() -> None:
    """docs/optimizers.md, as a reader would copy it."""
    page = Path(__file__).parents[3].joinpath("docs", "optimizers.md").read_text(encoding="utf-8")
    loops = [
        part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "loader" in part
    ]
    assert len(loops) == 2
    for loop in loops:
        net = nn.Linear(3, 2)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        loader = [(x, x.argmax(1) % 2)] * 25
        names = {"model": net, "loader": loader, "F": nn.functional, "torch": torch}
        exec(loop, names)
        optimizer: Any = names["optimizer"]
        assert all(entry["step"] == 25 for entry in optimizer.state.values())
        assert all(bool(entry["hessian"].any()) for entry in optimizer.state.values())


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_learns(name: str) -> None:
    net = model()
    default = optimizers.get(name).hyper["lr"].default
    timid = name.startswith(("sophia", "lion", "lamb"))  # their defaults are for long runs
    optimizer: RuleOptimizer = optimizers.create(
        name, net.parameters(), lr=default * (10 if timid else 1)
    )
    start = fit(net, optimizer, 1)

    def estimate() -> None:
        if optimizer.rule.needs:
            optimizer.update_hessian([torch.ones_like(p) for p in net.parameters()])

    assert fit(net, optimizer, 150, estimate) < 0.8 * start


@pytest.mark.parametrize("name", optimizers.names())
def test_no_default_diverges_on_batches_of_real_data(name: str) -> None:
    """Each batch's gradient is another one, which a whole data set's is not."""
    task = tasks.get("digits")()
    samples = task.data()
    x, y = torch.as_tensor(samples.train.x), torch.as_tensor(samples.train.y)
    torch.manual_seed(0)
    net = task.model({"hidden": 64})
    optimizer = optimizers.create(name, net.parameters())

    def loss(chosen: slice | Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(x[chosen]), y[chosen])

    start = float(loss(slice(None)).detach())
    blind = pytest.warns(match="no curvature") if optimizer.rule.needs else nullcontext()
    with blind:
        for batch in torch.randperm(len(x))[:1056].view(33, 32):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
    # Where curvature estimates are wanted and none came, next to nothing moves.
    assert float(loss(slice(None)).detach()) < start


def test_a_rule_from_outside_joins_by_its_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.registry, "_entries", dict(optimizers.registry.items()))

    @optimizers.register("sign")
    class Sign(optimizers.Rule):
        """Steps by the sign of the gradient."""

        hyper: ClassVar[Mapping[str, optimizers.Hyper]] = {"lr": optimizers.Hyper(0.5, low=0.0)}

        def coefficients(self, h: optimizers.Tensors, step: Tensor) -> dict[str, Tensor]:
            return {"lr": h["lr"]}

        def update(
            self,
            p: Tensor,
            g: Tensor,
            state: optimizers.Tensors,
            c: optimizers.Tensors,
            dims: optimizers.Dims,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            return p - c["lr"] * g.sign(), {}

    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([3.0, -0.1])
    optimizer = optimizers.create("sign", [p])
    assert type(optimizer) is optimizers.Sign
    optimizer.step()
    assert p.tolist() == [0.5, -1.5]
    with pytest.raises(ValueError, match="sign"):
        optimizers.register("sign")(Sign)
