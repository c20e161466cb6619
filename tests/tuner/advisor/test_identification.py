"""Trials that would tell more: in the gaps or beyond all trials, and none that was run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.tuner.advisor.databases import database
from tests.tuner.advisor.test_valleys import FASHION, RATES, fashion
from tuner.advisor import Observation, fit
from tuner.advisor.curves import BatchOptimum
from tuner.advisor.identification import STEPS, wanted


def bound(low: float | None, high: float | None) -> BatchOptimum:
    return BatchOptimum(64, "bound", None, None, low, high, None, None, 9, 9, 0.0, "")


def test_between_bounds_the_widest_gaps_are_filled() -> None:
    tried = {64: [2.0**x for x in (-12, -8, -7.5, -7, -6.5, -4)]}
    lrs = [one["lr"] for one in wanted([bound(2.0**-8, 2.0**-4)], tried)]
    assert np.log2(lrs).tolist() == [-6.1875, -5.875, -5.5625, -5.25, -4.625]


@pytest.mark.parametrize(("low", "high", "way"), [(2.0**-8, None, 1), (None, 2.0**-8, -1)])
def test_an_open_side_is_looked_at_beyond_all_trials(
    low: float | None, high: float | None, way: int
) -> None:
    tried = {64: [2.0**x for x in (-10.0, -9.0, -8.0, -7.0, -6.0)]}
    lrs = [one["lr"] for one in wanted([bound(low, high)], tried)]
    edge = 2.0 ** (-8 + 2 * way)
    assert lrs == pytest.approx([edge * 2.0 ** (way * step) for step in STEPS])


def test_the_ladder_leaves_out_what_was_tried() -> None:
    given = database(np.random.default_rng(0), lambda _: -8.0, sizes=(64,), noise=0.0)
    once = fit(given, draws=2).trials
    again = fit([*given, *(Observation(t["lr"], int(t["batch_size"]), 1.0) for t in once[:3])])
    kept = {(t["batch_size"], t["lr"]) for t in again.trials}
    assert not kept & {(t["batch_size"], t["lr"]) for t in once[:3]}


def test_no_proposal_was_tried() -> None:
    found = fit([*fashion(16), *fashion(64)], draws=2)
    bounds = [bound(4.39e-4, None), replace(bound(7.37e-4, None), batch_size=16)]
    tried = dict.fromkeys(FASHION, RATES)
    assert found.trials
    for one in (*found.trials, *wanted(bounds, tried)):
        if one["batch_size"] in FASHION:
            assert min(abs(math.log(one["lr"] / lr)) for lr in RATES) > 0.06
