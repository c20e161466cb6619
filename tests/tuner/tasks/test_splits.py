"""Parts are disjoint, complete, in proportion, and always the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import InvalidInput
from tuner.tasks.splits import cut


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    n=st.integers(10, 300),
    valid=st.floats(0.1, 0.4),
    test=st.one_of(st.just(0.0), st.floats(0.1, 0.4)),
    classes=st.integers(0, 40),
)
def test_a_partition(n: int, valid: float, test: float, classes: int) -> None:
    strata = None
    if classes:
        strata = np.random.default_rng(n).integers(0, classes, n)
    parts = cut(n, valid=valid, test=test, strata=strata)
    together = np.concatenate([parts.train, parts.valid, parts.test])
    assert sorted(together.tolist()) == list(range(n))
    assert len(parts.valid) == round(n * valid)
    assert len(parts.test) == round(n * test)
    again = cut(n, valid=valid, test=test, strata=strata)
    assert np.array_equal(parts.train, again.train)
    assert np.array_equal(parts.valid, again.valid)


def test_classes_are_in_proportion() -> None:
    strata = np.repeat([0, 1, 2], [600, 300, 100])
    parts = cut(1000, valid=0.2, test=0.3, strata=strata)
    assert np.bincount(strata[parts.train]).tolist() == [300, 150, 50]
    assert np.bincount(strata[parts.valid]).tolist() == [120, 60, 20]
    assert np.bincount(strata[parts.test]).tolist() == [180, 90, 30]


@pytest.mark.parametrize(
    ("n", "valid", "test", "field"),
    [
        (100, 0.0, 0.1, "valid"),
        (100, 1.0, 0.0, "valid"),
        (100, 0.5, 0.5, "valid"),
        (100, -0.1, 0.5, "valid"),
        (100, 0.1, float("nan"), "test"),
        (100, True, 0.1, "valid"),
        (3, 0.1, 0.0, ""),
        (10, 0.2, 0.01, ""),
    ],
)
def test_refused(n: int, valid: float, test: float, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        cut(n, valid=valid, test=test)
    assert error.value.field == f"task.params.{field}".rstrip(".")
