"""A config becomes a plan, or a refusal that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.errors import InvalidInput
from tuner.schedules.plan import Plan, check, stack


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"schedule": "cosin"}, "schedule"),
        ({"schedule": ["cosine"]}, "schedule"),
        ({"schedule": None}, "schedule"),
        ({"schedule": "cosine", "schedule.finall": 0.1}, "schedule.finall"),
        ({"warmup_fraction": 1.0}, "warmup_fraction"),
        ({"warmup_fraction": -0.1}, "warmup_fraction"),
        ({"warmup_fraction": float("nan")}, "warmup_fraction"),
        ({"warmup_fraction": "0.1"}, "warmup_fraction"),
        ({"warmup_fraction": 0.999}, "warmup_fraction"),
        ({"warmup": "lineer"}, "warmup"),
        ({"warmup": ["linear"]}, "warmup"),
        ({"lr": "fast"}, "lr"),
        ({"schedule": "step", "schedule.every": 2.0}, "schedule.every"),
        (
            {"schedule": "step", "schedule.unit": "epoch", "schedule.every": 10, "epochs": 10},
            "schedule.every",
        ),
        ({"schedule": "step", "schedule.unit": "epoch"}, "epochs"),
        ({"schedule": "step", "schedule.unit": "week"}, "schedule.unit"),
        ({"schedule": "multistep", "schedule.milestones": [0.5, 1.0]}, "schedule.milestones.1"),
        ({"schedule": "multistep", "schedule.milestones": [0.5, 0.5]}, "schedule.milestones.1"),
        ({"schedule": "multistep", "schedule.milestones": [0.5, "x"]}, "schedule.milestones.1"),
        ({"schedule": "multistep", "schedule.milestones": []}, "schedule.milestones"),
        ({"schedule": "multistep", "schedule.milestones": "a,b"}, "schedule.milestones"),
        ({"schedule": "cosine_restarts", "schedule.first": 1.0}, "schedule.first"),
        ({"schedule": "cyclic", "schedule.half_cycle": 1.0}, "schedule.half_cycle"),
        ({"schedule": "joined", "schedule.parts": []}, "schedule.parts"),
        ({"schedule": "joined", "schedule.parts": [{}]}, "schedule.parts.0"),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "x"}]},
            "schedule.parts.0.schedule",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "joined"}]},
            "schedule.parts.0.schedule",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "plateau"}]},
            "schedule.parts.0.schedule",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "linear", "final": 2}]},
            "schedule.parts.0.final",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "linear", "fin": 2}]},
            "schedule.parts.0.fin",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "wsd", "decay_shape": "x"}]},
            "schedule.parts.0.decay_shape",
        ),
        (
            {"schedule": "joined", "schedule.parts": [{"schedule": "linear", "share": 0}]},
            "schedule.parts.0.share",
        ),
        (
            {
                "schedule": "joined",
                "schedule.parts": [
                    {"schedule": "linear", "share": 1e-6},
                    {"schedule": "constant", "share": 1},
                ],
            },
            "schedule.parts.0.share",
        ),
        (
            {
                "schedule": "joined",
                "schedule.parts": [
                    {"schedule": "constant"},
                    {"schedule": "formula", "expression": "10 - t"},
                ],
            },
            "schedule.parts.1.expression",
        ),
    ],
)
def test_refused_by_name(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check(config, 100, "space.")
    assert error.value.field == f"space.{field}"


def test_no_steps_at_all() -> None:
    with pytest.raises(InvalidInput, match="no optimizer step"):
        check({}, 0)


def test_settings_of_another_schedule_are_inactive() -> None:
    """A study that samples the schedule may give every choice its settings."""
    config = {"schedule.decay": 0.3, "schedule.final": 0.1, "schedule.unit": "epoch"}
    assert check({"schedule": "cosine", **config}, 10).settings == {"final": 0.1}
    assert check({"schedule": "constant", **config}, 10).settings == {"value": 1.0}
    assert check({"schedule": "wsd", **config}, 10).settings == {"decay": 0.3, "final": 0.1}


def test_default_is_constant_without_warmup() -> None:
    plan = check({"lr": 0.1, "batch_size": 32}, 7)
    assert plan.table(0, 7)[0].tolist() == [1.0] * 7
    assert plan.warmup_steps == 0
    assert plan.plateau is None


def test_units() -> None:
    """The same cuts, said in fractions, epochs and steps."""
    said = [("budget", 0.3), ("epoch", 3), ("step", 30)]
    tables = [
        check(
            {"schedule": "step", "schedule.unit": unit, "schedule.every": every, "epochs": 10}, 100
        )
        .table(0, 100)[0]
        .tolist()
        for unit, every in said
    ]
    assert tables[0] == tables[1] == tables[2]
    assert tables[0][29:31] == [1.0, 0.1]


def test_a_batch_size_changes_steps_and_not_the_curve() -> None:
    """Half the steps, and at the same fraction of the budget nearly the same multiplier."""
    for name in ("cosine", "wsd", "exponential", "cyclic", "step", "cosine_restarts"):
        config = {"schedule": name, "warmup_fraction": 0.1}
        fine = check(config, 20_000).table(0, 20_000)[0][::2]
        coarse = check(config, 10_000).table(0, 10_000)[0]
        away = (fine - coarse).abs()
        assert float(away.quantile(0.99)) < 2e-3, name


def test_noam_brings_its_warmup() -> None:
    assert check({"schedule": "noam"}, 1000).warmup_steps == 40
    assert check({"schedule": "noam", "warmup_fraction": 0.0}, 1000).warmup_steps == 0


def test_joined_runs_on_from_where_a_part_ended() -> None:
    parts = [
        {"schedule": "linear", "final": 0.5, "share": 2},
        {"schedule": "constant", "share": 1},
        {"schedule": "linear", "share": 1},
    ]
    lr, _ = check({"schedule": "joined", "schedule.parts": parts}, 8).table(0, 8)
    assert lr.tolist() == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("total", [20, 21])
def test_joined_runs_on_from_the_last_step_of_a_part_that_jumps(total: int) -> None:
    parts = "cosine_restarts first=0.5 growth=1; constant"
    lr, _ = check({"schedule": "joined", "schedule.parts": parts}, total).table(0, total)
    first, second = lr[: (total + 1) // 2], lr[(total + 1) // 2 :]
    assert first[-1] < 0.2
    assert second.tolist() == [float(first[-1])] * len(second)


def test_lists_may_be_text() -> None:
    """A study file's values are scalars."""
    listed = [
        {"schedule": "linear", "final": 0.5, "share": 2},
        {"schedule": "wsd", "decay_shape": "cosine"},
        {"schedule": "multistep", "milestones": [0.25, 0.5], "gamma": 0.3},
    ]
    text = "linear share=2 final=0.5; wsd decay_shape=cosine; multistep milestones=.25,.5 gamma=.3"
    plans = [check({"schedule": "joined", "schedule.parts": parts}, 40) for parts in (listed, text)]
    assert plans[0].table(0, 40)[0].tolist() == plans[1].table(0, 40)[0].tolist()
    plans = [
        check({"schedule": "multistep", "schedule.milestones": times}, 40)
        for times in ([0.2, 0.9], "0.2, 0.9")
    ]
    assert plans[0].table(0, 40)[0].tolist() == plans[1].table(0, 40)[0].tolist()


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ("", "parts.0.schedule"),
        ("linear;", "parts.1.schedule"),
        ("linear final", "parts.0"),
        ("linear final=0.1 final=0.2", "parts.0"),
        ("linear schedule=cosine", "parts.0"),
        ("linear; linear final=high", "parts.1.final"),
        ("joined parts=linear", "parts.0.schedule"),
        ("linear share=nan", "parts.0.share"),
        (";".join(["linear"] * 17), "parts"),
    ],
)
def test_text_that_is_no_list_of_parts(parts: str, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check({"schedule": "joined", "schedule.parts": parts}, 1000)
    assert error.value.field == f"schedule.{field}"


def test_joined_has_no_momentum_and_counts_epochs_of_its_parts() -> None:
    parts = [{"schedule": "step", "unit": "epoch", "every": 1}]
    plan = check({"schedule": "joined", "schedule.parts": parts, "epochs": 4}, 8)
    assert plan.table(0, 8)[0].tolist() == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])
    with pytest.raises(InvalidInput, match="epochs"):
        check({"schedule": "joined", "schedule.parts": parts}, 8)


def test_steps_after_the_end_keep_the_last_rate() -> None:
    for name in ("linear", "cosine", "polynomial", "wsd"):
        lr, _ = Plan.of({"schedule": name, "schedule.final": 0.2}, 50).table(49, 20)
        assert lr[1:].tolist() == pytest.approx([0.2] * 19), name


def test_lengths_of_a_stack_must_agree() -> None:
    with pytest.raises(ValueError, match="1 plans, 2 starts"):
        stack([Plan.of({}, 10)], [0, 1], 3)
