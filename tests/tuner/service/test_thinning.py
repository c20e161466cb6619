from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tuner.service.thinning import crowds, digits_of, extremes, short

finite = st.floats(-1e6, 1e6, allow_nan=False)
curves = arrays(np.float64, st.integers(1, 400), elements=finite)


@given(curves, st.integers(2, 60))
def test_a_curve_keeps_its_ends_and_its_range(values: np.ndarray, most: int) -> None:
    kept = extremes(values, most)
    assert len(kept) <= most
    assert list(kept) == sorted(set(kept.tolist()))
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    if most >= 4:
        assert values[kept].min() == values.min()
        assert values[kept].max() == values.max()


def test_a_short_curve_stays_whole() -> None:
    assert extremes(np.arange(5.0), 5).tolist() == [0, 1, 2, 3, 4]


def test_every_spike_survives() -> None:
    values = np.zeros(10_000)
    spikes = [137, 2500, 9871]
    values[spikes] = 1.0
    assert set(spikes) <= set(extremes(values, 100).tolist())


@given(
    st.integers(1, 500).flatmap(
        lambda n: st.tuples(
            arrays(np.float64, n, elements=finite), arrays(np.float64, n, elements=finite)
        )
    ),
    st.integers(1, 200),
)
def test_a_cloud_is_never_larger_than_asked(
    cloud: tuple[np.ndarray, np.ndarray], most: int
) -> None:
    kept = crowds(*cloud, most)
    assert 0 < len(kept) <= most
    assert list(kept) == sorted(set(kept.tolist()))
    assert kept[-1] < len(cloud[0])


def test_a_cloud_keeps_its_loners_and_its_density() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(10_000.0)
    y = rng.normal(size=10_000)
    y[77] = 1e9  # far beyond the frame
    y[4000:6000] = 0.0  # a crowd
    kept = crowds(x, y, 2000)
    assert 77 in kept
    assert len(kept) > 1500
    share = np.isin(kept, np.arange(4000, 6000)).mean()
    assert share == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([0.1871, 2.3026, 0.4], 5),
        ([1234567.25, 1234569.5, 1234568.0], 10),
        ([-0.9999991, -0.9999997], 11),
        ([*(1e6 + i for i in range(20)), 1e30], 9),  # one far off changes nothing
        ([0.25, 0.25], 17),
        ([-1.7e308, 1.7e308, None, math.nan, math.inf], 5),
        ([1e300, 5e-324], 5),
        ([], 5),
    ],
)
def test_digits_tell_values_apart(values: list[float | None], digits: int) -> None:
    assert digits_of(values) == min(digits, 17)


def test_what_a_picture_shows_of_a_number() -> None:
    numbers = (0.123456789, 1234567.0, -0.0000123456, 0.0, 1e-300)
    assert [short(v) for v in numbers] == [0.12346, 1234600.0, -0.000012346, 0.0, 1e-300]
