"""The ordinary face in a real training loop."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from tuner import schedules
from tuner.errors import InvalidInput
from tuner.schedules import LRScheduler
from tuner.schedules.plan import Plan, check


def optimizer(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **given: Any) -> Any:
    model = nn.Linear(3, 2)
    return kind([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}], lr=0.1, **given)


def train(
    opt: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append([float(group["lr"]) for group in opt.param_groups])
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        opt.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", schedules.names())
def test_rates_are_the_plans(name: str) -> None:
    opt = optimizer(momentum=0.9)
    scheduler = LRScheduler(opt, name, total_steps=40, warmup_steps=4)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    table, momentum = check({"schedule": name, "warmup_fraction": 0.1}, 40).table(0, 40)
    seen = train(opt, scheduler, 40)
    assert [lr for lr, _ in seen] == pytest.approx((0.1 * table).tolist(), rel=1e-12)
    assert [lr for _, lr in seen] == pytest.approx((0.5 * table).tolist(), rel=1e-12)
    assert (momentum is None) == (name != "one_cycle")


@pytest.mark.parametrize("name", schedules.names())
def test_state_dict_round_trip(name: str) -> None:
    whole = optimizer(momentum=0.9)
    expected = train(whole, LRScheduler(whole, name, total_steps=40, warmup_steps=3), 40)
    first = optimizer(momentum=0.9)
    scheduler = LRScheduler(first, name, total_steps=40, warmup_steps=3)
    seen = train(first, scheduler, 17)
    file = io.BytesIO()
    torch.save([first.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = optimizer(momentum=0.9)
    resumed = LRScheduler(second, "constant", total_steps=2)
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    seen += train(second, resumed, 23)
    assert seen == expected


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, lambda group: group["momentum"]),
        (torch.optim.Adam, {}, lambda group: group["betas"][0]),
    ],
)
def test_one_cycle_sets_the_momentum(kind: Any, given: dict[str, Any], read: Any) -> None:
    opt = optimizer(kind, **given)
    scheduler = LRScheduler(opt, "one_cycle", total_steps=20)
    _, table = Plan.of({"schedule": "one_cycle"}, 20).table(0, 20)
    assert table is not None
    seen = []
    for _ in range(20):
        seen.append(read(opt.param_groups[1]))
        opt.step()
        scheduler.step()
    assert seen == pytest.approx(table.tolist())


def test_plateau_follows_the_metric_and_resumes() -> None:
    def observed(restore_at: int) -> list[float]:
        opt = optimizer()
        scheduler = LRScheduler(opt, "plateau", total_steps=100, patience=1, factor=0.5)
        seen = []
        for epoch in range(8):
            if epoch == restore_at:
                state = scheduler.state_dict()
                scheduler = LRScheduler(opt, "plateau", total_steps=100)
                scheduler.load_state_dict(state)
            opt.step()
            scheduler.observe(1.0)
            scheduler.step()
            seen.append(float(opt.param_groups[0]["lr"]))
        return seen

    assert observed(-1) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])
    assert observed(4) == observed(-1)


def test_plateau_takes_no_metric_by_torchs_idiom() -> None:
    opt = optimizer()
    scheduler = LRScheduler(opt, "plateau", total_steps=100, patience=1)
    opt.step()
    for metric in (0.5, torch.tensor(0.5)):
        with pytest.raises(InvalidInput, match=r"through observe\(metric\)"):
            scheduler.step(metric)  # type: ignore[arg-type]
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_plateau_can_follow_another_schedule_of_torchs() -> None:
    opt = optimizer()
    parts = [
        torch.optim.lr_scheduler.ConstantLR(opt, 0.5, total_iters=3),
        LRScheduler(opt, "plateau", total_steps=100, patience=1),
    ]
    both = torch.optim.lr_scheduler.SequentialLR(opt, parts, milestones=[3])
    seen = [rates[0] for rates in train(opt, both, 6)]
    assert seen == pytest.approx([0.05] * 3 + [0.1] * 3)


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_after_the_last_step_the_rate_stays(name: str, warmup_steps: int) -> None:
    opt = optimizer(momentum=0.9)
    scheduler = LRScheduler(opt, name, total_steps=24, warmup_steps=warmup_steps)
    seen = train(opt, scheduler, 24)
    after = train(opt, scheduler, 30)
    assert all(rates == after[0] for rates in after)
    assert after[0][0] <= seen[-1][0]  # nor does it begin another cycle
    plan = Plan.of({"schedule": name, "warmup_fraction": warmup_steps / 24}, 24)
    beyond, _ = plan.table(24, 30)  # such as a copy of a trial with smaller batches trains on
    assert (0.1 * beyond).tolist() == pytest.approx([after[0][0]] * 30)
    at_the_end = schedules.get(name)(24 - warmup_steps, 24 - warmup_steps)
    if name in ("linear", "cosine", "polynomial", "wsd", "exponential", "cyclic"):
        assert after[0][0] == pytest.approx(0.1 * float(at_the_end))
    elif schedules.get(name).jumps:
        assert after[0] == seen[-1]


def test_settings_in_epochs_need_to_know_how_long_one_is() -> None:
    for name, settings in (
        ("multistep", {"milestones": "1, 2", "unit": "epoch"}),
        ("formula", {"expression": "1 / (1 + epoch)"}),
    ):
        with pytest.raises(InvalidInput) as caught:
            LRScheduler(optimizer(), name, total_steps=20, **settings)
        assert caught.value.field == "steps_per_epoch"
    opt = optimizer()
    scheduler = LRScheduler(
        opt, "multistep", total_steps=20, steps_per_epoch=5, milestones="1, 2", unit="epoch"
    )
    rates = [rate for rate, _ in train(opt, scheduler, 20)]
    assert rates == pytest.approx([0.1] * 5 + [0.01] * 5 + [0.001] * 10)
    for length in (0, -1.0, float("inf"), float("nan"), "5", True):
        with pytest.raises(InvalidInput, match="steps_per_epoch"):
            LRScheduler(optimizer(), "cosine", total_steps=20, steps_per_epoch=length)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 - 2*t/T", "expression: gives -0.2 at step 6"),
        ("1 / (t - 4)", "expression: gives -0.25 at step 0"),
        ("sqrt(5 - t)", "expression: gives nan at step 6"),
        ("lr - 0.3", "expression: gives -2 at step 0"),  # in the first group alone
    ],
)
def test_a_formula_is_checked_as_before_a_study(expression: str, message: str) -> None:
    opt = optimizer()
    with pytest.raises(InvalidInput, match=message):
        LRScheduler(opt, "formula", total_steps=10, expression=expression)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.5]
    assert "initial_lr" not in opt.param_groups[0]
    parts = [{"schedule": "constant"}, {"schedule": "formula", "expression": "1 - 2*t/T"}]
    with pytest.raises(InvalidInput, match=r"parts.1.expression: gives"):
        LRScheduler(opt, "joined", total_steps=20, parts=parts)


def test_tuners_own_optimizers() -> None:
    from tuner.optimizers import create  # noqa: PLC0415  (only this test needs them)

    parameter = nn.Parameter(torch.zeros(3))
    opt = create("adamw", [parameter], lr=0.1)
    seen = train(opt, LRScheduler(opt, "linear", total_steps=4), 4)
    assert seen == [[pytest.approx(lr)] for lr in (0.1, 0.075, 0.05, 0.025)]


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_one_cycle_moves_beta1_as_torchs_does_with_betas(name: str) -> None:
    """torch's own looks for betas, which our rules have one by one: docs/optimizers.md says so."""
    from tuner.optimizers import create  # noqa: PLC0415  (only these tests need them)

    ours, theirs = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    opt, reference = create(name, [ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)
    scheduler = LRScheduler(opt, "one_cycle", total_steps=20)
    kind = torch.optim.lr_scheduler.OneCycleLR
    with pytest.raises(ValueError, match="cycle_momentum"):
        kind(create(name, [nn.Parameter(torch.zeros(3))]), 0.1, total_steps=20)
    plain = create(name, [nn.Parameter(torch.zeros(3))])
    rates = kind(plain, 0.1, total_steps=20, cycle_momentum=False)
    torchs = kind(reference, 0.1, total_steps=20)
    for _ in range(19):
        group, other = opt.param_groups[0], reference.param_groups[0]
        assert group["beta1"] == pytest.approx(other["betas"][0])
        assert group["lr"] == pytest.approx(other["lr"])
        assert plain.param_groups[0]["lr"] == pytest.approx(other["lr"])
        for optimizer, following in ((opt, scheduler), (plain, rates), (reference, torchs)):
            optimizer.step()
            following.step()


def test_one_cycle_moves_what_torchs_moves_of_a_rule_with_both() -> None:
    """Muon has a momentum for matrices and a beta1 for vectors."""
    from tuner.optimizers import create  # noqa: PLC0415  (only these tests need them)

    groups = []
    for kind, more in (
        (LRScheduler, {"schedule": "one_cycle"}),
        (torch.optim.lr_scheduler.OneCycleLR, {"max_lr": 0.1}),
    ):
        opt = create("muon", [nn.Parameter(torch.ones(2, 2))], lr=0.1)
        scheduler: Any = kind(opt, total_steps=10, **more)
        for _ in range(4):
            opt.step()
            scheduler.step()
        groups.append(opt.param_groups[0])
    assert groups[0]["momentum"] == pytest.approx(groups[1]["momentum"]) != 0.95
    assert groups[0]["beta1"] == groups[1]["beta1"] == 0.9


def test_a_joined_one_cycle_moves_the_momentum_and_leaves_it_there() -> None:
    parts = "constant share=2; one_cycle share=2 momentum_high=0.93; linear"
    lr, table = Plan.of({"schedule": "joined", "schedule.parts": parts}, 50).table(0, 50)
    alone_lr, alone = Plan.of({"schedule": "one_cycle", "schedule.momentum_high": 0.93}, 20).table(
        0, 20
    )
    assert table is not None
    assert alone is not None
    assert table[:20].isnan().all()
    torch.testing.assert_close(table[20:40], alone)
    assert table[40:].tolist() == pytest.approx([0.93] * 10)
    assert float(lr[30]) == pytest.approx(float(alone_lr[10] / alone_lr[0]))
    opt = optimizer(momentum=0.9)
    scheduler = LRScheduler(opt, "joined", total_steps=50, parts=parts)
    seen = []
    for _ in range(50):
        seen.append(opt.param_groups[1]["momentum"])
        opt.step()
        scheduler.step()
    assert seen == pytest.approx(table.nan_to_num(0.9).tolist())


def test_refusals() -> None:
    opt = optimizer()
    with pytest.raises(InvalidInput, match="final"):
        LRScheduler(opt, "cosine", total_steps=10, final=2.0)
    with pytest.raises(InvalidInput, match="fina"):
        LRScheduler(opt, "cosine", total_steps=10, fina=0.0)
    with pytest.raises(InvalidInput, match=r"milestones.1: .* after 30 steps of 20: never"):
        LRScheduler(opt, "multistep", total_steps=20, milestones=[10, 30], unit="step")
    with pytest.raises(InvalidInput, match="warmup_steps"):
        LRScheduler(opt, "cosine", total_steps=10, warmup_steps=10)
    with pytest.raises(InvalidInput, match="total_steps: 0 is below 1"):
        LRScheduler(opt, "cosine", total_steps=0)
    with pytest.raises(InvalidInput, match="warmup_shape"):
        LRScheduler(opt, "cosine", total_steps=10, warmup_shape="x")
    with pytest.raises(InvalidInput, match="follows no metric"):
        LRScheduler(opt, "cosine", total_steps=10).observe(1.0)
