"""What the picture of lr against batch size shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tuner.advisor import Observation, scale
from tuner.advisor.picture import SHADES, dots, lines


def trials(count: int, wrecked: int = 0) -> list[Observation]:
    rng = np.random.default_rng(0)
    losses = rng.permutation(count).astype(float)
    good = [Observation(1e-3, 2 ** (4 + i % 5), loss) for i, loss in enumerate(losses)]
    return [*good, *(Observation(1.0, 16, 0.0, diverged=True) for _ in range(wrecked))]


def test_shades_go_by_rank_and_wrecks_have_none() -> None:
    seen = trials(70, wrecked=3)
    found = dots(seen)
    assert [dot.index for dot in found] == list(range(73))
    for dot in found:
        loss = seen[dot.index].loss
        assert dot.shade == (None if dot.index >= 70 else int(loss * SHADES / 70))


def test_one_ruined_loss_does_not_take_the_colours_of_the_rest() -> None:
    seen = [*trials(69), Observation(1.0, 16, 1e9)]
    assert {dot.shade for dot in dots(seen)} == set(range(SHADES))


def test_many_are_thinned_to_the_better_half_and_others_evenly() -> None:
    seen = trials(5000, wrecked=500)
    found = dots(seen, most=400)
    assert len(found) == 400
    assert [dot.index for dot in found] == sorted({dot.index for dot in found})
    shown = {dot.index for dot in found}
    best = sorted(range(5000), key=lambda i: seen[i].loss)[:200]
    assert set(best) <= shown
    assert any(i >= 5000 for i in shown)
    assert dots([]) == []


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_lines_say_what_the_rules_say(optimizer: str) -> None:
    found = lines(1e-3, 64, 16, 1024, optimizer=optimizer, noise_scale=500.0)
    config = {"lr": 1e-3, "batch_size": 64}
    for rule in ("keep", "sqrt", "gain"):
        for size, lr in found[rule]:
            if size == round(size):
                moved = scale(
                    config, round(size), optimizer=optimizer, rule=rule, noise_scale=500.0
                )
                assert lr == pytest.approx(moved.lr)
    assert found["linear"][-1] == (1024.0, pytest.approx(0.016))
    assert found["gain"][0][0] == pytest.approx(16)


@pytest.mark.parametrize("noise", [None, math.nan, 0.0, -3.0])
def test_no_gain_without_a_noise_scale(noise: float | None) -> None:
    assert "gain" not in lines(1e-3, 64, 16, 1024, optimizer="adamw", noise_scale=noise)
