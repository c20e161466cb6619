"""lr*(B) from databases with a known answer: bias, coverage, refusals and honesty."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.advisor.databases import SIZES, database, power
from tuner.advisor import Fit, Observation, fit
from tuner.advisor.curves import Parabola, judge, settle
from tuner.advisor.observations import differences
from tuner.errors import InvalidInput, Refusal


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestOneBatchSize:
    def test_closed_form_minimum_of_a_parabola(self) -> None:
        curve = settle(database(rng(), lambda _: -8.3, sizes=(64,), noise=0.0))
        assert isinstance(curve, Parabola)
        found = judge(curve, 0.0)
        assert found.kind == "interior"
        assert math.log2(found.lr or 0) == pytest.approx(-8.3, abs=1e-9)
        assert found.curvature == pytest.approx(0.03)
        assert found.loss == pytest.approx(1.0)

    def test_the_standard_error_is_the_spread(self) -> None:
        errors, values = [], []
        for seed in range(200):
            curve = settle(database(rng(seed), lambda _: -8.3, sizes=(64,), seeds=3))
            assert isinstance(curve, Parabola)
            found = judge(curve, 0.02)
            values.append(math.log2(found.lr or 0))
            errors.append(found.log2_error)
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)
        assert np.mean(values) == pytest.approx(-8.3, abs=0.02)

    def test_an_outlier_does_not_move_it(self) -> None:
        trials = database(rng(), lambda _: -8.0, sizes=(64,), seeds=3, noise=0.002)
        wrecked = [replace(t, loss=t.loss + 3.0) if i == 18 else t for i, t in enumerate(trials)]
        curve = settle(wrecked)
        assert isinstance(curve, Parabola)
        assert math.log2(judge(curve, 0.002).lr or 0) == pytest.approx(-8.0, abs=0.1)

    @pytest.mark.parametrize(("optimum", "side"), [(-12.0, "high"), (-4.0, "low")])
    def test_an_edge_minimum_is_a_bound(self, optimum: float, side: str) -> None:
        trials = [
            Observation(2.0**x, 64, 0.03 * (x - optimum) ** 2) for x in np.arange(-10, -6.4, 0.5)
        ]
        found = settle(trials)
        assert not isinstance(found, Parabola)
        assert found.kind == "bound"
        assert found.lr is None
        bound = getattr(found, side)
        assert bound is not None
        assert (bound >= 2.0**optimum) if side == "high" else (bound <= 2.0**optimum)
        assert "rate tried" in found.why

    def test_divergence_bounds_from_above_and_is_never_a_loss(self) -> None:
        rising = [Observation(2.0**x, 64, 0.03 * (x + 4) ** 2) for x in np.arange(-10, -6.4, 0.5)]
        wreck = Observation(2.0**-5.5, 64, 1e-9, diverged=True)  # its number must not count
        curve = settle([*rising, wreck])
        assert isinstance(curve, Parabola)
        found = judge(curve, 0.0)
        assert found.kind == "bound"
        assert found.high == pytest.approx(2.0**-5.5)
        assert found.low == pytest.approx(2.0**-6.5)
        alone = settle([wreck])
        assert not isinstance(alone, Parabola)
        assert (alone.kind, alone.high) == ("bound", pytest.approx(2.0**-5.5))

    def test_four_rates_are_not_enough(self) -> None:
        trials = [Observation(2.0**x, 64, (x + 8) ** 2) for x in (-9.0, -8.5, -7.5, -7.0)]
        found = settle(trials)
        assert not isinstance(found, Parabola)
        assert "4 learning rates" in found.why
        assert found.low is not None
        assert found.high is not None
        assert found.low < 2.0**-8 < found.high

    def test_coarse_grids_widen_the_window_up_to_a_limit(self) -> None:
        octave = [Observation(2.0**x, 64, (x + 8.2) ** 2) for x in range(-12, -3)]
        curve = settle(octave)
        assert isinstance(curve, Parabola)
        assert 1.6 < curve.window <= 3.5
        decade = [Observation(10.0**x, 64, (x + 2.4) ** 2) for x in range(-6, 1)]
        found = settle(decade)
        assert not isinstance(found, Parabola)
        assert "octaves" in found.why

    def test_losses_that_bend_down_have_no_minimum(self) -> None:
        trials = [Observation(2.0**x, 64, -abs(x + 8)) for x in np.arange(-9, -6.9, 0.5)]
        trials[2] = replace(trials[2], loss=-1.6)
        curve = settle(trials)
        if isinstance(curve, Parabola):
            curve = judge(curve, 0.1)
        assert curve.kind != "interior"

    def test_each_study_may_have_its_own_level(self) -> None:
        low = database(rng(1), lambda _: -8.0, sizes=(64,), noise=0.001)
        high = [replace(o, loss=o.loss + 5, study="b") for o in low if o.lr > 2.0**-8]
        curve = settle([*low, *high])
        assert isinstance(curve, Parabola)
        assert math.log2(judge(curve, 0.001).lr or 0) == pytest.approx(-8.0, abs=0.05)


class TestExponent:
    @pytest.mark.parametrize(
        ("case", "exponent"),
        [("even", 0.0), ("even", 0.5), ("even", 1.0), ("few", 0.5), ("skewed", 0.5)],
    )
    def test_bias_and_coverage(self, exponent: float, case: str) -> None:
        extra: dict[str, Any] = {
            "even": {},
            "few": {"sizes": (32, 128, 512), "seeds": 2},
            "skewed": {"skew": 0.3, "noise": 0.01, "seeds": 2},
        }[case]
        hits, values, repeats = 0, [], 200 if case == "few" else 120
        for seed in range(repeats):
            found = fit(database(rng(seed), power(exponent), **extra), seed=seed, draws=250)
            if found.exponent is not None:
                values.append(found.exponent.value)
                hits += exponent in found.exponent
        assert len(values) >= 0.99 * repeats  # noise may hide one optimum of three now and then
        assert abs(np.mean(values) - exponent) < 0.005
        assert 0.90 <= hits / len(values) <= 0.99

    def test_noiseless_is_exact(self) -> None:
        found = fit(database(rng(), power(0.37), noise=0.0))
        assert found.exponent is not None
        assert found.exponent.value == pytest.approx(0.37, abs=1e-6)
        assert found.predict(1024).lr.value == pytest.approx(2.0 ** power(0.37)(1024), rel=1e-4)

    @pytest.mark.parametrize(
        ("exponent", "excluded"), [(0.0, (0.5, 1.0)), (0.5, (0.0, 1.0)), (1.0, (0.0, 0.5))]
    )
    def test_says_which_rules_it_excludes(
        self, exponent: float, excluded: tuple[float, ...]
    ) -> None:
        found = fit(database(rng(3), power(exponent), seeds=3, noise=0.01))
        assert found.excluded == excluded
        assert ("sqrt" in str(found).split("excludes")[1].split(";")[0]) is (0.5 in excluded)

    def test_more_seeds_narrow_the_interval(self) -> None:
        widths = []
        for seeds in (1, 9):
            found = fit(database(rng(4), power(0.5), seeds=seeds))
            assert found.exponent is not None
            widths.append(found.exponent.high - found.exponent.low)
        assert widths[1] < 0.6 * widths[0]

    @given(st.floats(0.1, 10), st.floats(-50, 50), st.floats(0.1, 10))
    @settings(deadline=None, derandomize=True, max_examples=20)
    def test_units_of_rate_and_loss_do_not_matter(
        self, rate: float, shift: float, unit: float
    ) -> None:
        trials = database(rng(5), power(0.4), noise=0.01)
        moved = [replace(o, lr=o.lr * rate, loss=o.loss * unit + shift) for o in trials]
        once, again = fit(trials, draws=50), fit(moved, draws=50)
        assert once.exponent is not None
        assert again.exponent is not None
        assert again.exponent.value == pytest.approx(once.exponent.value, abs=1e-6)
        assert again.predict(256).lr.value == pytest.approx(
            once.predict(256).lr.value * rate, rel=1e-6
        )

    def test_order_of_trials_and_repeat_change_nothing(self) -> None:
        trials = database(rng(6), power(0.5))
        once = fit(trials, seed=7)
        assert fit(trials, seed=7).to_dict() == once.to_dict()
        turned = fit(trials[::-1], seed=7)
        assert turned.exponent is not None
        assert once.exponent is not None
        assert turned.exponent.value == pytest.approx(once.exponent.value, abs=1e-9)

    def test_a_run_sent_twice_is_one_run(self) -> None:
        trials = database(rng(13), power(0.5))
        copies = [replace(o, study=o.study) for o in trials]
        assert fit([*trials, *copies, *copies]).to_dict() == fit(trials).to_dict()

    def test_wrecks_and_outliers_do_not_break_it(self) -> None:
        trials = database(rng(7), power(0.5), seeds=3, diverges_above=2.0)
        generator = rng(8)
        wild = [replace(o, loss=o.loss + 20) if generator.random() < 0.05 else o for o in trials]
        wild.append(Observation(2.0**-8, 64, math.nan))
        found = fit(wild)
        assert found.exponent is not None
        assert found.exponent.value == pytest.approx(0.5, abs=0.1)
        assert 0.5 in found.exponent


class TestForms:
    @staticmethod
    def saturating(size: int) -> float:
        return -5 - math.log2(1 + 128 / size)

    def test_finds_saturation_and_foretells_beyond_it(self) -> None:
        sizes = (8, 16, 32, 64, 128, 256, 512, 1024)
        trials = database(rng(9), self.saturating, sizes=sizes, seeds=4, noise=0.005)
        found = fit(trials, optimizer="sgd")
        assert found.form == "saturating"
        assert found.held_out["saturating"] < 0.5 * found.held_out["power"]
        assert found.held_out["saturating"] < found.held_out["linear"]
        ahead = found.predict(2048)
        truth = 2.0 ** self.saturating(2048)
        assert ahead.lr.value == pytest.approx(truth, rel=0.1)
        assert ahead.beyond == 2

    def test_a_peak_is_for_the_quadratic(self) -> None:
        sizes = (8, 16, 32, 64, 128, 256, 512)

        def surge(size: int) -> float:
            return -6 - 0.12 * math.log2(size / 64) ** 2

        found = fit(database(rng(10), surge, sizes=sizes, seeds=3, noise=0.005))
        assert found.form == "quadratic"
        assert found.predict(64).lr.value > max(
            found.predict(8).lr.value, found.predict(512).lr.value
        )

    def test_a_power_law_is_not_dressed_up(self) -> None:
        names = [fit(database(rng(seed), power(0.8), seeds=2), draws=50).form for seed in range(20)]
        assert names.count("power") >= 14

    def test_predictions_cover_a_batch_size_left_out(self) -> None:
        hits = 0
        for seed in range(100):
            trials = database(rng(seed), power(0.5), sizes=SIZES[:5])
            interval = fit(trials, seed=seed, draws=250).predict(512).lr
            hits += interval.low <= 2.0 ** power(0.5)(512) <= interval.high
        assert 90 <= hits <= 99

    def test_a_bound_pulls_only_where_it_is_broken(self) -> None:
        trials = database(rng(11), power(0.5), sizes=(32, 64, 128, 256))
        plain = fit(trials)
        harmless = [Observation(2.0**x, 512, -x) for x in np.arange(-12, -9.5, 0.5)]
        assert plain.exponent is not None
        same = fit([*trials, *harmless])
        assert same.exponent is not None
        assert same.exponent.value == pytest.approx(plain.exponent.value, abs=1e-9)
        biting = [Observation(2.0**x, 512, -x) for x in np.arange(-7, -3.5, 0.5)]
        pulled = fit([*trials, *biting])
        assert pulled.exponent is not None
        assert pulled.exponent.value > plain.exponent.value + 0.02

    def test_regret_is_curvature_times_squared_octaves(self) -> None:
        found = fit(database(rng(12), power(0.5), noise=0.0))
        best = found.predict(128).lr.value
        assert found.regret(best, 128) == pytest.approx(0)
        assert found.regret(best * 2, 128) == pytest.approx(0.03, rel=1e-6)
        assert found.regret(best / 4, 128) == pytest.approx(0.12, rel=1e-6)


class TestNotIdentified:
    def test_two_batch_sizes(self) -> None:
        found = fit(database(rng(), power(0.5), sizes=(32, 512)))
        assert not found.identified
        assert "2 batch sizes" in found.why
        assert found.exponent is None
        assert found.trials
        with pytest.raises(InvalidInput, match="not identified"):
            found.predict(128)

    def test_too_narrow_a_span(self) -> None:
        found = fit(database(rng(), power(0.5), sizes=(32, 64, 128)))
        assert not found.identified
        assert "span a factor of 4" in found.why
        assert {t["batch_size"] for t in found.trials} == {256}

    def test_one_batch_size_gets_the_ladder(self) -> None:
        found = fit(database(rng(), power(0.5), sizes=(64,), noise=0.0))
        by_size: dict[float, list[float]] = {}
        for trial in found.trials:
            by_size.setdefault(trial["batch_size"], []).append(trial["lr"])
        assert set(by_size) == {128, 256, 512}
        ladder = [2.0**-8 * 8.0**p for p in (0, 0.25, 0.5, 0.75, 1)]
        assert by_size[512] == pytest.approx(ladder)

    def test_bounds_are_stepped_over(self) -> None:
        edge = [Observation(2.0**x, 64, (x + 4) ** 2) for x in np.arange(-10, -6.4, 0.5)]
        found = fit(edge)
        assert not found.identified
        assert [t["lr"] for t in found.trials][-1] > 2.0**-6

    def test_running_the_wanted_trials_identifies_it(self) -> None:
        trials = database(rng(1), power(0.5), sizes=(64,), noise=0.001)
        for _ in range(4):
            found = fit(trials)
            if found.identified:
                break
            trials += [
                Observation(
                    t["lr"],
                    int(t["batch_size"]),
                    1 + 0.03 * (math.log2(t["lr"]) - power(0.5)(int(t["batch_size"]))) ** 2,
                )
                for t in found.trials
            ]
        assert found.identified
        assert found.exponent is not None
        assert found.exponent.value == pytest.approx(0.5, abs=0.05)

    def test_nothing_at_all(self) -> None:
        assert not fit([]).identified


class TestMixtures:
    @staticmethod
    def mixed(name: str, values: list[Any]) -> list[Observation]:
        trials = database(rng(), power(0.5))
        return [replace(o, facts={name: values[i % len(values)]}) for i, o in enumerate(trials)]

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("schedule", ["cosine", "constant"]),
            ("epochs", [10, 20]),
            ("optimizer", ["adam", "sgd"]),
            ("weight_decay", [0.1, 0.01, 0.0]),
            ("beta1", [0.9, 0.95]),
            ("task", ["a", None]),
        ],
    )
    def test_refused_by_the_name_of_what_differs(self, name: str, values: list[Any]) -> None:
        with pytest.raises(Refusal) as caught:
            fit(self.mixed(name, values))
        assert caught.value.field == name
        assert str(values[0]) in str(caught.value)

    def test_all_differences_are_told(self) -> None:
        trials = [
            replace(o, facts={"schedule": "ab"[i % 2], "epochs": i % 3})
            for i, o in enumerate(database(rng(), power(0.5)))
        ]
        assert set(differences(trials)) == {"schedule", "epochs"}
        with pytest.raises(Refusal, match="so do schedule"):
            fit(trials)

    def test_one_and_one_point_zero_are_the_same(self) -> None:
        assert fit(self.mixed("epochs", [10, 10.0])).identified

    def test_what_differs_is_told_in_digits_that_a_person_reads(self) -> None:
        with pytest.raises(Refusal, match=r"these trials: 0\.821911, 0\.861911;"):
            fit(self.mixed("beta1", [0.8219105537661509, 0.8619105537661509]))

    def test_what_follows_the_batch_size_by_a_rule_is_no_mixture(self) -> None:
        trials = database(rng(), power(0.5))
        for facts in (
            lambda o: {"weight_decay": 0.1 * o.batch_size / 64},
            lambda o: {"weight_decay": 1e-4 / o.lr},
            lambda o: {"weight_decay": 1e-6 * o.batch_size / o.lr},
            lambda o: {"beta1": 0.9 ** (o.batch_size / 64)},
            lambda o: {"steps": 10_000 // o.batch_size},
        ):
            assert fit([replace(o, facts=facts(o)) for o in trials], draws=50).identified
        with pytest.raises(Refusal, match="steps"):
            fit([replace(o, facts={"steps": o.batch_size}) for o in trials])


def test_json_and_notebook_forms() -> None:
    found = fit(database(rng(), power(0.5)))
    document = json.loads(json.dumps(found.to_dict()))
    assert document["identified"] is True
    assert len(document["curve"]) > 10
    assert document["optima"][0]["kind"] == "interior"
    assert "| 16 |" in found._repr_markdown_()
    assert "_curves" not in repr(found)
    nothing = fit([])
    assert json.loads(json.dumps(nothing.to_dict()))["exponent"] is None
    assert "not identified" in str(nothing)
    assert isinstance(nothing, Fit)
    assert Fit.from_dict(json.loads(json.dumps(nothing.to_dict()))) == nothing
    again = Fit.from_dict(document)
    assert again == found
    assert (str(again), again._repr_markdown_()) == (str(found), found._repr_markdown_())
    at = {point.batch_size: point for point in again.curve}
    assert at[64] == found.predict(64)
    with pytest.raises(InvalidInput, match="came as JSON"):
        again.predict(64)


def test_a_stored_trial_becomes_an_observation() -> None:
    config = {"lr": 0.1, "batch_size": 64, "optimizer": "sgd", "epochs": 5, "seed": 3}
    seen = Observation.from_config(config, 0.5, seed=3, study="a")
    assert seen.facts == {"optimizer": "sgd", "epochs": 5}
    assert not seen.failed
    assert Observation.from_config(config, None).failed
    with pytest.raises(InvalidInput, match="lr"):
        Observation.from_config({"batch_size": 64}, 0.5)


@pytest.mark.parametrize(("lr", "batch"), [(0.0, 8), (-1.0, 8), (math.nan, 8), (0.1, 0)])
def test_impossible_trials(lr: float, batch: int) -> None:
    with pytest.raises(InvalidInput):
        Observation(lr, batch, 1.0)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_trials_the_answer_is_a_fit_or_a_refusal(seed: int) -> None:
    """Losses from 1e-300 to 1e300, ties, heavy tails, rates a hair apart, lone batch sizes."""
    generator = rng(seed)
    kind, span = generator.integers(0, 4), float(generator.choice([1, 6, 30, 900]))

    def loss() -> float:
        draws = [
            generator.standard_normal(),
            10 ** generator.uniform(-300, 300),
            float(generator.integers(0, 3)),
            generator.standard_cauchy(),
        ]
        return float(draws[int(generator.integers(0, 4)) if generator.random() < 0.1 else kind])

    sizes = generator.choice([1, 2, 8, 64, 512, 2**31 - 1], size=4)
    searched = generator.random() < 0.3
    trials = []
    for _ in range(int(generator.integers(0, 80))):
        x = generator.uniform(-span / 2, span / 2)
        x = [x, round(2 * x) / 2, 1 + 1e-12 * round(x)][seed % 3]
        facts = {"weight_decay": generator.random()} if searched else {}
        wrecked = bool(generator.random() < 0.1)
        size = int(generator.choice(sizes))
        trials.append(Observation(2.0**x, size, loss(), diverged=wrecked, facts=facts))
    try:
        found = fit(trials, draws=20)
    except Refusal:
        return
    json.dumps(found.to_dict(), allow_nan=False)
    if found.identified:
        assert found.predict(2**31 - 1).lr.value > 0
