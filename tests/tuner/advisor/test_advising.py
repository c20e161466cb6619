"""The advice as a whole: which evidence decides, what it says in words, and how sure it is."""

from __future__ import annotations

import doctest
import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.advisor.databases import database, power
from tuner.advisor import RULES, Advice, advise, advising, fit
from tuner.advisor.families import TRAITS
from tuner.advisor.noise_scale import NoiseScale
from tuner.errors import InvalidInput, Refusal, UnknownName

ADAM = {"lr": 5e-4, "batch_size": 128}


def trials(exponent: float = 0.3, **extra: Any) -> Any:
    return database(np.random.default_rng(0), power(exponent), seeds=3, noise=0.01, **extra)


def sentences(text: str) -> int:
    return len(re.findall(r"[.](?: |$)", text))


class TestTheKnownError:
    advice = advise(ADAM, 1024, optimizer="adam", rule="sqrt")

    def test_the_number(self) -> None:
        assert self.advice.lr == pytest.approx(0.00141421356, rel=1e-6)
        assert self.advice.config == {"lr": self.advice.lr, "batch_size": 1024}

    def test_says_that_it_rises_and_why_and_that_rises_flatten(self) -> None:
        why = self.advice.why
        assert "rise" in why
        assert "falls" not in why
        assert "noise" in why
        assert "0.0005 to 0.00141421." in why
        assert "flatten" in why
        assert "x1.42" in why
        assert sentences(why) == 2

    def test_the_range_holds_what_was_measured(self) -> None:
        assert self.advice.range.low == pytest.approx(5e-4)
        assert self.advice.range.high == pytest.approx(5e-4 * 4.09, rel=1e-6)
        assert self.advice.confidence == "low"

    def test_the_ladder_of_trials(self) -> None:
        lrs = [experiment.config["lr"] for experiment in self.advice.experiments]
        assert lrs == pytest.approx([5e-4 * 8**p for p in (0, 0.25, 0.5, 0.75, 1)])
        assert all(e.config["batch_size"] == 1024 for e in self.advice.experiments)


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(advising).failed == 0


class TestOrderOfEvidence:
    def test_trials_before_noise_scale_before_rule(self) -> None:
        known = trials()
        by_trials = advise(ADAM, 256, optimizer="adam", noise_scale=5000, studies=known)
        assert (by_trials.evidence, by_trials.rule) == ("trials", "trials")
        by_noise = advise(ADAM, 256, optimizer="adam", noise_scale=5000)
        assert (by_noise.evidence, by_noise.rule) == ("noise scale", "gain")
        assert advise(ADAM, 256, optimizer="adam").evidence == "rule"

    def test_trials_give_their_own_optimum(self) -> None:
        advice = advise(ADAM, 256, optimizer="adam", studies=trials(0.5))
        assert advice.lr == pytest.approx(2.0 ** power(0.5)(256), rel=0.15)
        assert advice.range.low < advice.lr < advice.range.high
        assert advice.confidence == "high"
        assert "your own" in advice.why
        assert sentences(advice.why) == 2

    def test_a_fit_may_be_given_instead(self) -> None:
        known = trials()
        once = advise(ADAM, 256, optimizer="adam", studies=known)
        assert advise(ADAM, 256, optimizer="adam", studies=fit(known, optimizer="adam")) == once

    def test_confidence_falls_with_distance(self) -> None:
        order = [
            advise(ADAM, batch, optimizer="adam", studies=trials()).confidence
            for batch in (128, 2048, 65536)
        ]
        assert order == ["high", "medium", "low"]

    def test_trials_that_disagree_with_the_configuration_are_pointed_out(self) -> None:
        advice = advise(ADAM | {"lr": 0.1}, 256, optimizer="adam", studies=trials())
        assert any("not tuned there" in text for text in advice.cautions)

    def test_only_durations_move_with_the_trials_lr(self) -> None:
        config = ADAM | {"weight_decay": 0.1, "steps": 1000, "beta1": 0.9}
        advice = advise(config, 256, optimizer="adamw", studies=trials())
        assert advice.config["steps"] == 500
        assert advice.config["weight_decay"] == 0.1
        assert advice.config["beta1"] == 0.9
        assert "decay that the trials had" in advice.changes["weight_decay"]

    def test_unidentified_trials_step_back_and_say_so(self) -> None:
        advice = advise(ADAM, 256, optimizer="adam", studies=trials(sizes=(64,)))
        assert advice.rule == "sde"
        assert any("do not settle" in text for text in advice.cautions)
        assert advice.alternatives[0].rule == "trials"
        assert "batch sizes" in advice.alternatives[0].refused

    def test_a_mixture_steps_back_and_names_what_differs(self) -> None:
        mixed = [replace(o, facts={"schedule": "ab"[i % 2]}) for i, o in enumerate(trials())]
        advice = advise(ADAM, 256, optimizer="adam", studies=mixed)
        assert advice.evidence == "rule"
        assert any("schedule" in text for text in advice.cautions)

    def test_a_rule_insisted_on_is_used_and_the_trials_shown(self) -> None:
        advice = advise(ADAM, 256, optimizer="adam", studies=trials(), rule="sqrt")
        assert advice.rule == "sqrt"
        shown = next(a for a in advice.alternatives if a.rule == "trials")
        assert shown.lr is not None

    def test_trials_insisted_on_without_any(self) -> None:
        with pytest.raises(Refusal, match="studies"):
            advise(ADAM, 256, optimizer="adam", rule="trials")

    def test_unknown_noise_scale_is_a_caution(self) -> None:
        unknown = NoiseScale(None, 900.0, None, "too little signal", -1.0, 5.0, 100)
        advice = advise(ADAM, 256, optimizer="adam", noise_scale=unknown)
        assert advice.evidence == "rule"
        assert any("at least 900" in text for text in advice.cautions)

    def test_a_noise_scale_without_upper_bound_widens_and_lowers_confidence(self) -> None:
        bounded = NoiseScale(2000.0, 1500.0, 2600.0, "", 1.0, 2000.0, 100)
        config = {"lr": 0.1, "batch_size": 128}
        sure = advise(config, 512, optimizer="sgd", noise_scale=bounded)
        unsure = advise(config, 512, optimizer="sgd", noise_scale=replace(bounded, high=None))
        assert (sure.confidence, unsure.confidence) == ("medium", "low")
        assert sure.lr == unsure.lr
        assert unsure.range.high == pytest.approx(0.4)
        assert sure.range.high < 0.4


@pytest.mark.parametrize(
    ("optimizer", "fixed", "batch", "rule"),
    [
        ("sgd", "epochs", 1024, "linear"),
        ("momentum", "epochs", 1024, "linear"),
        ("adam", "epochs", 1024, "sde"),
        ("adamw", "epochs", 1280, "half_life"),
        ("rmsprop", "epochs", 1280, "sde"),
        ("lion", "epochs", 1024, "sqrt"),
        ("muon", "epochs", 1024, "sqrt"),
        ("adagrad", "epochs", 1024, "keep"),
        ("prodigy", "epochs", 1024, "keep"),
        ("sgd", "steps", 1024, "sqrt"),
        ("adamw", "steps", 1024, "keep"),
        ("lion", "steps", 1024, "keep"),
    ],
)
def test_the_rule_without_evidence(optimizer: str, fixed: Any, batch: int, rule: str) -> None:
    config = {"lr": 1e-3, "batch_size": 128}
    assert advise(config, batch, optimizer=optimizer, fixed=fixed).rule == rule


@pytest.mark.parametrize("optimizer", sorted(TRAITS))
@pytest.mark.parametrize("fixed", ["epochs", "steps"])
@pytest.mark.parametrize("batch", [8, 128, 256, 4096])
def test_every_optimizer_gets_whole_advice(optimizer: str, fixed: Any, batch: int) -> None:
    config = {"lr": 1e-3, "batch_size": 128, "weight_decay": 0.01, "epochs": 10, "tag": "x"}
    for noise in (None, 100.0, 1e5):
        advice = advise(config, batch, optimizer=optimizer, fixed=fixed, noise_scale=noise)
        assert advice.range.low <= advice.lr <= advice.range.high
        assert advice.config["batch_size"] == batch
        assert advice.config["tag"] == "x"
        assert sentences(advice.why) == 2
        assert {a.rule for a in advice.alternatives} == {"trials", *RULES} - {advice.rule}
        for other in advice.alternatives:
            assert (other.lr is None) == bool(other.refused)
        if batch > 128:
            assert advice.lr >= 1e-3
        if batch == 128:
            assert advice.lr == pytest.approx(1e-3)
        json.dumps(advice.to_dict(), allow_nan=False)


@given(st.sampled_from(["sgd", "adamw", "lion"]), st.floats(1, 64), st.floats(10, 1e6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_larger_noise_scale_never_asks_for_a_smaller_rise(
    optimizer: str, factor: float, noise: float
) -> None:
    batch = round(128 * factor)
    once = advise(ADAM, batch, optimizer=optimizer, noise_scale=noise)
    more = advise(ADAM, batch, optimizer=optimizer, noise_scale=noise * 2)
    assert more.lr >= once.lr * (1 - 1e-12)


def test_text_and_notebook_forms_carry_the_essentials() -> None:
    advice = advise(ADAM | {"weight_decay": 0.1, "note": "a|b<c"}, 1024, optimizer="adamw")
    for text in (str(advice), advice._repr_markdown_()):
        assert "0.00141421" in text
        assert "weight_decay" in text
        assert advice.why in text
    assert "| lr | 0.0005 | 0.00141421 |" in advice._repr_markdown_()


def test_json_has_the_promised_keys() -> None:
    document = json.loads(json.dumps(advise(ADAM, 1024, optimizer="adam").to_dict()))
    assert {"config", "range", "rule", "why", "alternatives", "confidence"} <= set(document)
    assert document["range"] == {
        "low": pytest.approx(5e-4),
        "high": pytest.approx(5e-4 * 4.09),
    }
    assert isinstance(advise(ADAM, 1024, optimizer="adam"), Advice)


def test_json_comes_back_the_same() -> None:
    for advice in (
        advise(ADAM, 1024, optimizer="adam"),
        advise(ADAM | {"weight_decay": 0.1}, 256, optimizer="adamw", studies=trials()),
    ):
        again = Advice.from_dict(json.loads(json.dumps(advice.to_dict())))
        assert again == advice
        assert str(again) == str(advice)
        assert again._repr_markdown_() == advice._repr_markdown_()
        assert str(advice).startswith(advice.brief())
        assert "otherwise" not in advice.brief()


def test_refusals_and_unknown_names() -> None:
    with pytest.raises(Refusal, match="beta1"):
        advise(ADAM, 2048, optimizer="adam", rule="sde")
    with pytest.raises(UnknownName):
        advise(ADAM, 2048, optimizer="adam", rule="magic")
    with pytest.raises(InvalidInput, match="optimizer"):
        advise(ADAM, 2048)
    with pytest.raises(InvalidInput, match="batch"):
        advise(ADAM, 0, optimizer="adam")


def test_noisy_quadratic_of_adviser_and_simulation_agree_at_fixed_steps() -> None:
    """The exponents that the text quotes, from the exact recursion of SGD on h_i = 1/i, d = 100."""
    h = 1 / np.arange(1, 101)
    lrs = np.geomspace(1e-4, 1.999, 3000)[:, None]

    def best(batch: float, steps: float) -> float:
        shrink = (1 - lrs * h) ** 2
        left = shrink**steps
        loss = (h * (left + lrs**2 * h / batch * (1 - left) / (1 - shrink))).sum(1)
        return float(lrs[np.argmin(loss), 0])

    def slope(small: float, large: float, steps: Any) -> float:
        return math.log(best(large, steps(large)) / best(small, steps(small))) / math.log(
            large / small
        )

    assert slope(1, 2, lambda _: 1000) == pytest.approx(0.36, abs=0.06)
    assert slope(1024, 4096, lambda _: 1000) == pytest.approx(0.115, abs=0.03)
    assert slope(1, 4, lambda b: 20_000 / b) == pytest.approx(1, abs=0.02)
    assert abs(slope(512, 4096, lambda b: 20_000 / b)) < 0.05


class TestTrialsOfAnotherQuestion:
    def test_of_another_optimizer(self) -> None:
        known = trials(facts={"optimizer": "adamw"})
        advice = advise(ADAM, 256, optimizer="sgd", studies=known)
        assert advice.rule == "linear"
        assert any("they are of adamw" in text for text in advice.cautions)
        assert "adamw" in advice.alternatives[0].refused
        assert advise(ADAM, 256, optimizer="adamw", studies=known).rule == "trials"
        with pytest.raises(Refusal, match="adamw"):
            advise(ADAM, 256, optimizer="sgd", studies=known, rule="trials")

    def test_of_another_schedule_are_used_with_a_caution(self) -> None:
        known = trials(facts={"schedule": "cosine", "weight_decay": 0.01, "epochs": 5})
        config = ADAM | {"schedule": "constant", "weight_decay": 0.01, "epochs": 5.0}
        advice = advise(config, 256, optimizer="adam", studies=known)
        assert advice.rule == "trials"
        (caution,) = [text for text in advice.cautions if "have another" in text]
        assert "schedule (cosine, here constant)" in caution
        assert "weight_decay" not in caution
        assert "epochs" not in caution

    @pytest.mark.parametrize(
        ("length", "fixed"),
        [
            (lambda size: {"epochs": 5}, "epochs"),
            (lambda size: {"epochs": size / 16}, "steps"),
            (lambda size: {"steps": 1000}, "steps"),
            (lambda size: {"steps": 1000, "epochs": 20}, "steps"),
            (lambda size: {"steps": 512_000 // size}, "epochs"),
            (lambda size: {}, None),
        ],
    )
    def test_of_another_duration(self, length: Any, fixed: str | None) -> None:
        known = [replace(o, facts=length(o.batch_size)) for o in trials()]
        assert fit(known).fixed == fixed
        for asked in ("epochs", "steps"):
            advice = advise(ADAM, 256, optimizer="adam", studies=known, fixed=asked)
            fits = fixed in (asked, None)
            assert (advice.rule == "trials") == fits
            assert fits or any("the question is of runs" in text for text in advice.cautions)
            unsure = f"do not say how long they are: they count as runs of the same {asked}"
            assert any(unsure in text for text in advice.cautions) == (fixed is None)

    def test_of_another_duration_tell_the_best_rate_at_a_size_they_have(self) -> None:
        known = [replace(o, facts={"epochs": 5}) for o in trials()]
        size = known[0].batch_size
        config = {"lr": 5e-4, "batch_size": size}
        assert advise(config, size, optimizer="adam", studies=known, fixed="steps").rule == "trials"
        between = {"lr": 5e-4, "batch_size": size + 1}
        advice = advise(between, size + 1, optimizer="adam", studies=known, fixed="steps")
        assert advice.rule != "trials"


class TestWordsAndNumbersAgree:
    def test_the_same_batch_size_says_nothing_of_the_rate(self) -> None:
        advice = advise({"lr": 0.00123456789, "batch_size": 128}, 128, optimizer="adam")
        assert advice.confidence == "low"
        assert advice.range.low < advice.lr < advice.range.high
        assert "lr 0.00123457 (" in str(advice), "it stays as it was given"

    @pytest.mark.parametrize("fixed", ["epochs", "steps"])
    def test_a_rate_that_needs_no_tuning_has_no_range_at_the_same_size(self, fixed: Any) -> None:
        config = {"lr": 1.0, "batch_size": 32}
        advice = advise(config, 32, optimizer="prodigy", fixed=fixed)
        assert (advice.range.low, advice.range.high) == (1.0, 1.0)

    def test_a_negative_exponent_does_not_rise(self) -> None:
        advice = advise(ADAM, 256, optimizer="adam", studies=trials(-0.4))
        assert "rises as" not in advice.why
        assert "goes as B^-0.4" in advice.why

    @pytest.mark.parametrize(("batch", "end"), [(1024, "top"), (16, "bottom")])
    def test_the_square_root_is_an_end_of_the_range(self, batch: int, end: str) -> None:
        advice = advise(ADAM, batch, optimizer="sgd", fixed="steps")
        assert f"square root as the {end} of the range" in advice.why
        edge = advice.range.high if end == "top" else advice.range.low
        assert advice.lr == pytest.approx(edge)

    def test_the_alternative_by_trials_moves_what_the_advice_by_trials_moves(self) -> None:
        config = ADAM | {"steps": 1000, "warmup_steps": 400}
        known = trials()
        by_trials = advise(config, 256, optimizer="adam", studies=known)
        other = advise(config, 256, optimizer="adam", studies=known, rule="sqrt")
        assert other.alternatives[0].config == by_trials.config

    def test_decay_rates_keep_the_digits_that_count(self) -> None:
        config = ADAM | {"beta2": 0.99999}
        advice = advise(config, 256, optimizer="adam", rule="half_life")
        assert "to 0.99998:" in advice.changes["beta2"]
