"""What an optimizer takes over, and what it refuses before it trains wrongly."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn

from tests.tuner.optimizers.test_torch import fit, model, same
from tuner import optimizers
from tuner.errors import InvalidInput
from tuner.optimizers.torch import RuleOptimizer

SAME: list[tuple[str, dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("adamw", {}, torch.optim.AdamW, {"betas": (0.8, 0.9), "weight_decay": 0.2}),
    ("adam", {}, torch.optim.Adam, {"betas": (0.8, 0.9), "weight_decay": 0.2, "foreach": True}),
    ("amsgrad", {}, torch.optim.Adam, {"amsgrad": True, "lr": torch.tensor(0.03).double()}),
    ("adamw", {"amsgrad": True}, torch.optim.AdamW, {"amsgrad": True, "maximize": True}),
    ("nadam", {}, torch.optim.NAdam, {"momentum_decay": 0.01, "betas": (0.8, 0.9)}),
    ("nadam", {"decoupled": True}, torch.optim.NAdam, {"decoupled_weight_decay": True}),
    ("sgd", {}, torch.optim.SGD, {}),
    ("sgd", {}, torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("momentum", {}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ("nag", {}, torch.optim.SGD, {"momentum": 0.8}),
    ("rmsprop", {}, torch.optim.RMSprop, {"alpha": 0.9}),
    ("rmsprop", {"centered": True}, torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    (
        "adagrad",
        {"initial_accumulator": 0.2},
        torch.optim.Adagrad,
        {"initial_accumulator_value": 0.5, "lr_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "options", "kind", "settings"), SAME)
def test_a_checkpoint_of_torch_goes_on_as_there(
    name: str, options: dict[str, Any], kind: Any, settings: dict[str, Any]
) -> None:
    """Whatever settings ours was made with; and a parameter that was never stepped begins."""
    theirs, ours = model(), model()
    theirs[2].bias.requires_grad_(False)
    first = kind(theirs.parameters(), **{"lr": 0.02, **settings})
    fit(theirs, first, 5)
    ours.load_state_dict(theirs.state_dict())
    second = optimizers.create(name, ours.parameters(), **options)
    saved = first.state_dict()
    kept = copy.deepcopy(saved)
    second.load_state_dict(saved)
    assert str(saved) == str(kept)  # the caller's own is left as it is
    theirs[2].bias.requires_grad_(True)
    fit(theirs, first, 5)
    fit(ours, second, 5)
    same(theirs, ours, 1e-9 if name == "nadam" else 1e-12)  # torch's product is in float32
    torchs = {"maximize", "params", "differentiable"}
    assert {*second.param_groups[0]} == {*second.rule.hyper, *torchs}
    again = model()
    again.load_state_dict(ours.state_dict())
    third = optimizers.create(name, again.parameters(), **options)
    third.load_state_dict(second.state_dict())
    fit(ours, second, 2)
    fit(again, third, 2)
    same(ours, again, 0.0)


def test_state_that_lies_channels_last_goes_on_in_a_model_that_does_not() -> None:
    theirs = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    gradient = torch.randn(8, 4, 3, 3)
    saver = torch.optim.AdamW([theirs])
    theirs.grad = gradient
    saver.step()
    ours = nn.Parameter(theirs.detach().clone(memory_format=torch.contiguous_format))
    optimizer = optimizers.AdamW([ours])
    optimizer.load_state_dict(saver.state_dict())
    ours.grad = gradient
    for each in (saver, optimizer):
        each.step()
    torch.testing.assert_close(ours, theirs, check_stride=False)


def test_half_precision_state_of_torch_becomes_float32() -> None:
    params = [nn.Parameter(torch.ones(4, dtype=torch.bfloat16))]
    params[0].grad = torch.full((4,), 0.1, dtype=torch.bfloat16)
    first, second = torch.optim.AdamW(params), optimizers.AdamW(params)
    first.step()
    second.load_state_dict(first.state_dict())
    assert second.state[params[0]]["exp_avg"].dtype == torch.float32
    assert second.state[params[0]]["step"] == 1
    second.step()


def saved(maker: Any, **settings: Any) -> dict[str, Any]:
    net = model()
    optimizer = maker(net.parameters(), **settings)
    fit(net, optimizer, 3)
    state: dict[str, Any] = optimizer.state_dict()
    return state


@pytest.mark.parametrize(
    ("taker", "maker", "settings", "field"),
    [
        ("adamw", optimizers.SGD, {}, "rule"),
        ("grams", optimizers.AdamW, {}, "rule"),
        ("cautious_adamw", optimizers.AdamW, {}, "rule"),
        ("sophia_h", optimizers.SophiaG, {}, "rule"),
        ("lars", optimizers.Momentum, {}, "rule"),
        ("adamw", optimizers.AdamW, {"decoupled": False}, "decoupled"),
        ("adamw", optimizers.AdamW, {"amsgrad": True}, "amsgrad"),
        ("amsgrad", optimizers.Adam, {}, "amsgrad"),
        ("adam", optimizers.AdamW, {}, "decoupled"),
        ("muon", optimizers.Muon, {"scale": "match_rms"}, "scale"),
        ("prodigy", optimizers.Prodigy, {"growth_rate": 1.02}, "growth_rate"),
        ("adamw", torch.optim.SGD, {"momentum": 0.9}, "momentum"),
        ("adamw", torch.optim.Adam, {}, "decoupled_weight_decay"),
        ("adam", torch.optim.AdamW, {}, "decoupled_weight_decay"),
        ("adamw", torch.optim.AdamW, {"amsgrad": True}, "amsgrad"),
        ("adam", torch.optim.Adam, {"eps": 0.0}, "eps"),
        ("rmsprop", torch.optim.RMSprop, {"centered": True}, "centered"),
        ("sgd", torch.optim.Adam, {}, "betas"),
        ("muon", torch.optim.Adam, {}, "amsgrad"),
        ("adamw", torch.optim.NAdam, {}, "momentum_decay"),
        ("adam", torch.optim.Adamax, {}, "exp_inf"),
        ("adam", torch.optim.Rprop, {}, "etas"),
        ("adafactor", torch.optim.Adafactor, {}, "eps"),
    ],
)
def test_another_optimizers_checkpoint_is_refused_by_name(
    taker: str, maker: Any, settings: dict[str, Any], field: str
) -> None:
    net, untouched = model(), model()
    optimizer = optimizers.create(taker, net.parameters())
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InvalidInput) as caught:
        optimizer.load_state_dict(saved(maker, **settings))
    assert caught.value.field == field
    assert optimizer.state_dict() == before
    fit(net, optimizer, 2)
    fit(untouched, optimizers.create(taker, untouched.parameters()), 2)
    same(net, untouched, 0.0)


def test_rules_that_differ_in_defaults_alone_take_over_each_others() -> None:
    for first, second in (
        (optimizers.SGD, optimizers.NAG),
        (optimizers.AMSGrad, functools.partial(optimizers.Adam, amsgrad=True)),
        (functools.partial(optimizers.Adam, decoupled=True), optimizers.AdamW),
    ):
        net, other = model(), model()
        one = first(net.parameters(), weight_decay=0.1)
        fit(net, one, 3)
        other.load_state_dict(net.state_dict())
        two = second(other.parameters())
        two.load_state_dict(one.state_dict())
        fit(net, one, 3)
        fit(other, two, 3)
        same(net, other, 0.0)


@pytest.mark.parametrize(
    ("taker", "maker", "field"),
    [
        ("adamw", optimizers.SGD, "momentum"),
        ("sgd", optimizers.AdamW, "beta1"),
        ("adamw", optimizers.Lion, "exp_avg_sq"),
        ("lion", optimizers.AdamW, "eps"),
        ("adamw", lambda p: optimizers.AdamW(p, amsgrad=True), "max_exp_avg_sq"),
        ("amsgrad", optimizers.Adam, "max_exp_avg_sq"),
        ("adam", optimizers.AdamW, None),
    ],
)
def test_checkpoints_from_before_rules_were_written_down(
    taker: str, maker: Any, field: str | None
) -> None:
    state = saved(maker)
    for group in state["param_groups"]:
        for name in ("rule", *maker(model().parameters()).rule.options):
            del group[name]
    optimizer = optimizers.create(taker, model().parameters())
    if field is None:
        optimizer.load_state_dict(state)
        return
    with pytest.raises(InvalidInput) as caught:
        optimizer.load_state_dict(state)
    assert caught.value.field == field


def test_a_checkpoint_of_other_parameters_is_refused() -> None:
    net = model()
    state = saved(optimizers.AdamW)
    turned: RuleOptimizer = optimizers.AdamW([*net.parameters()][::-1])
    with pytest.raises(InvalidInput, match=r"exp_avg: shape \[8, 3\] in the checkpoint, \[2\]"):
        turned.load_state_dict(state)
    state["state"][0]["exp_avg"] = 1.0
    with pytest.raises(InvalidInput, match=r"exp_avg: 1.0 in the checkpoint is no tensor"):
        optimizers.AdamW(net.parameters()).load_state_dict(state)
    del state["state"][0]["step"]
    with pytest.raises(InvalidInput, match="step: adamw keeps this state"):
        optimizers.AdamW(net.parameters()).load_state_dict(state)
    with pytest.raises(ValueError, match="size of optimizer's group"):
        optimizers.AdamW(net[0].parameters()).load_state_dict(saved(optimizers.AdamW))
    with pytest.raises(ValueError, match="number of parameter groups"):
        optimizers.AdamW([{"params": [p]} for p in net.parameters()]).load_state_dict(
            saved(optimizers.AdamW)
        )


def test_own_checkpoints_that_kept_torchs_names_go_on_as_they_trained() -> None:
    """Before they were translated, torch's settings lay beside ours, which were in force."""
    state = saved(optimizers.AdamW, beta1=0.8)
    state["param_groups"][0] |= {"betas": (0.1, 0.2), "foreach": None, "initial_lr": 0.5}
    del state["param_groups"][0]["eps"]  # nor did every setting exist from the start
    optimizer = optimizers.AdamW(model().parameters(), eps=1e-6)
    optimizer.load_state_dict(state)
    group = optimizer.param_groups[0]
    assert (group["beta1"], group["beta2"], group["eps"]) == (0.8, 0.999, 1e-6)
    assert group["initial_lr"] == 0.5
    assert "betas" not in group


def test_one_number_a_group_loads_in_any_shape() -> None:
    """Parameters without axes once had it without axes too."""
    p = nn.Parameter(torch.tensor(2.0))
    optimizer = optimizers.ScheduleFreeAdamW([p])
    p.grad = torch.tensor(1.0)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["weight_sum"] = state["state"][0]["weight_sum"].view(())
    optimizer.load_state_dict(state)
    assert optimizer.state[p]["weight_sum"].shape == (1,)
    optimizer.step()


def test_hooks_around_loading_act_as_torchs_do() -> None:
    """torch's documented one finds the state by the names of the parameters."""
    net = model()
    first = optimizers.AdamW(net.named_parameters())
    fit(net, first, 3)
    state = first.state_dict()
    second = optimizers.AdamW([*net.named_parameters()][::-1])

    def by_name(optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        (saved,), (group,) = given["param_groups"], optimizer.param_groups
        entries = dict(zip(saved["param_names"], given["state"].values(), strict=True))
        states = {i: entries[name] for i, name in enumerate(group["param_names"])}
        named = {**saved, "param_names": group["param_names"]}
        return {**given, "state": states, "param_groups": [named]}

    def forget(optimizer: torch.optim.Optimizer) -> None:
        optimizer.state[net[0].bias]["exp_avg"].zero_()

    hook = second.register_load_state_dict_pre_hook(by_name)
    second.load_state_dict(state)
    for p in net.parameters():
        assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])
    second.register_load_state_dict_post_hook(forget)
    second.load_state_dict(state)
    assert not second.state[net[0].bias]["exp_avg"].any()
    hook.remove()
    with pytest.raises(InvalidInput, match="exp_avg: shape"):
        second.load_state_dict(state)
