"""What a range test trains, when there is one, and what the space becomes after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tuner.advisor.range_test import RangeTest
from tuner.errors import InvalidInput
from tuner.spaces import Float, Prior, Space
from tuner.spec import StudySpec, check, range_test, resolve

LR = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
BOTH = ["sgd", "adamw"]
FOUND = RangeTest(2.34e-4, 0.0456, 0.01, 7e-4, 0.14, ("because",), True, 3, (), ())

FALLING = replace(FOUND, high=0.456, divergence=1.368, lr=(1e-7, 0.9, 1.5), loss=(2.0, 1.0, 9.0))


def auto(**changes: Any) -> StudySpec:
    return StudySpec.parse({"name": "x", "task": "digits", **changes})


def space(**parameters: Any) -> Space:
    return Space.parse({"optimizer": "adamw", "lr": LR, **parameters})


class TestWhether:
    def test_by_default_where_the_space_is_auto(self) -> None:
        assert check(auto()).spec.range_test is True
        assert check(auto(range_test=False)).spec.range_test is None
        assert check(auto(space={"lr": LR})).spec.range_test is None
        assert check(auto(space={"lr": LR}, range_test=True)).spec.range_test is True

    def test_a_resolved_study_resolves_to_itself(self) -> None:
        for spec in (auto(), auto(range_test=False), auto(space={"lr": LR}, range_test=True)):
            first = resolve(spec)
            assert resolve(StudySpec.parse(first.spec.to_dict())) == first

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"space": {"optimizer": "adamw"}}, "lr must be searched"),
            ({"space": {"lr": 1e-3}}, "lr must be searched"),
            ({"space": {"lr": {**LR, "log": False}}}, "log scale"),
            ({"space": {"lr": {"type": "categorical", "choices": [1e-3, 1e-2]}}}, "log scale"),
            (
                {"space": {"lr": LR, "optimizer": {"type": "categorical", "choices": BOTH}}},
                "one optimizer",
            ),
            (
                {
                    "space": {
                        "lr": LR,
                        "schedule": {"type": "categorical", "choices": ["cosine", "wsd"]},
                        "optimizer": {
                            "type": "constant",
                            "value": "sgd",
                            "when": {"schedule": "wsd"},
                        },
                    }
                },
                "one optimizer",
            ),
            ({"task": None, "space": {"lr": LR}}, "needs a task"),
        ],
    )
    def test_refused_where_it_makes_no_sense(self, changes: dict[str, Any], why: str) -> None:
        with pytest.raises(InvalidInput, match=why) as caught:
            resolve(auto(**changes, range_test=True))
        assert caught.value.field == "range_test"


class TestTested:
    def test_the_centre_of_what_is_expected_without_a_rate(self) -> None:
        checked = check(auto())
        config = range_test.tested(checked.space)
        assert "lr" not in config
        assert config["optimizer"] == "adamw"
        assert config["batch_size"] == 64
        assert 1 - config["beta2"] == pytest.approx(0.003, rel=0.05)  # of a truncated prior
        assert checked.space.contains(
            {n: v for n, v in config.items() if n in checked.space.searched} | {"lr": 1e-3}
        )

    @pytest.mark.parametrize(
        ("given", "middle", "ends"),
        [
            ({"type": "categorical", "choices": [512, 16, 128]}, 128, (16, 512)),
            ({"type": "int", "low": 16, "high": 256, "log": True}, 64, (16, 256)),
            (48, 48, (48, 48)),
            (None, 32, (32, 32)),
        ],
    )
    def test_the_batch_size_is_the_geometric_middle(
        self, given: Any, middle: int, ends: tuple[int, int]
    ) -> None:
        searched = space() if given is None else space(batch_size=given)
        assert range_test.tested(searched)["batch_size"] == middle
        assert range_test.batch_sizes(searched) == ends


class TestChosen:
    def test_the_measured_range_takes_the_place_of_the_defaults(self) -> None:
        found = range_test.chosen(space(), FALLING, within=False)
        assert (found.low, found.high, found.measured) == (2.3e-4, 0.46, True)
        assert found.reasons[0] == "because"
        assert "0.00023 to 0.46" in found.reasons[-1]

    @pytest.mark.parametrize(
        ("low", "lowest", "ends"),
        [
            (6e-6, 0.03, (1e-5, 0.1)),  # it drops at 1.8e-5 and is lowest at 0.03
            (2e-6, 0.3, (6e-6, 0.3)),  # it drops at 6e-6
            (1e-8, 0.6, (3e-8, 0.46)),  # it drops at 3e-8
        ],
    )
    def test_beyond_the_defaults_only_as_far_as_the_curve_shows_use(
        self, low: float, lowest: float, ends: tuple[float, float]
    ) -> None:
        curve = replace(FALLING, low=low, lr=(1e-7, lowest, 1.0), loss=(2.0, 1.0, 1.5))
        found = range_test.chosen(space(), curve, within=False)
        assert (found.low, found.high) == pytest.approx(ends)
        assert any("shows no use" in reason for reason in found.reasons)

    def test_ends_that_moved_with_the_batch_size_move_what_is_of_use(self) -> None:
        wide = replace(FALLING, low=2e-6, high=1.824)  # four times as high as measured
        curve = replace(wide, lr=(1e-7, 0.03, 1.0), loss=(2.0, 1.0, 1.5))
        assert curve.useful == pytest.approx((6e-6, 0.12))
        found = range_test.chosen(space(), curve, within=False)
        assert (found.low, found.high) == pytest.approx((6e-6, 0.12))

    def test_a_range_that_was_written_is_never_left(self) -> None:
        found = range_test.chosen(space(), replace(FOUND, high=0.456), within=True)
        assert (found.low, found.high) == (2.3e-4, 0.1)

    @pytest.mark.parametrize(("low", "high"), [(1.0, 5.0), (1e-8, 1e-6), (0.05, 5.0)])
    def test_what_leaves_next_to_nothing_of_it_is_not_taken(self, low: float, high: float) -> None:
        found = range_test.chosen(space(), replace(FOUND, low=low, high=high), within=True)
        assert (found.low, found.high, found.measured) == (1e-5, 1e-1, False)
        assert "next to nothing" in found.reasons[-2]

    def test_a_test_that_found_nothing_changes_nothing_and_says_so(self) -> None:
        nothing = replace(FOUND, measured=False, reasons=("it never drops",))
        found = range_test.chosen(space(), nothing, within=False)
        assert (found.low, found.high, found.measured) == (1e-5, 1e-1, False)
        assert found.reasons == (
            "it never drops",
            "the study searches lr from 1e-05 to 0.1 as it was submitted",
        )

    def test_trials_that_are_there_already_stay_inside(self) -> None:
        found = range_test.chosen(space(), FOUND, within=True, tried=[0.09, 1e-3])
        assert (found.low, found.high) == (2.3e-4, 0.09)
        assert any("enqueued" in reason for reason in found.reasons)


class TestRanged:
    def test_only_the_range_of_lr_changes(self) -> None:
        checked = check(auto())
        moved = checked.ranged(1e-4, 1e-2)
        assert moved.spec is checked.spec
        lr = moved.space.parameters["lr"]
        assert isinstance(lr, Float)
        assert (lr.low, lr.high) == (1e-4, 1e-2)
        for name, parameter in checked.space.parameters.items():
            assert name == "lr" or moved.space.parameters[name] == parameter
        assert moved.space.prior("lr", {}) == checked.space.prior("lr", {})
        for suggestion in moved.search().suggest(8):
            assert 1e-4 <= suggestion.params["lr"] <= 1e-2

    def test_a_prior_whose_centre_is_outside_is_dropped(self) -> None:
        checked = check(auto())
        assert checked.ranged(1e-6, 1e-5).space.prior("lr", {}) is None
        assert checked.ranged(1e-6, 1e-5).space.prior("beta2", {}) is not None
        own = space(lr={**LR, "prior": {"center": 1e-3, "spread": 1.0}})
        assert range_test.ranged(own, 1e-2, 1e-1).prior("lr", {}) is None
        kept = range_test.ranged(own, 1e-4, 1e-1).prior("lr", {})
        assert kept == Prior(1e-3, 1.0, "log")
