"""Errors cross from one process to another as what they are."""

from __future__ import annotations

import pickle

import pytest

from tuner import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.TunerError("it failed", limit=3),
        errors.InvalidInput("space.lr.low", "0.0: a log range must lie above 0", low=0.0),
        errors.UnknownName("task", "mnist", ["digits"], "task.name"),
        errors.NotFound("study", 7),
        errors.LeaseLost(41),
        errors.Unavailable("the database cannot be reached now"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_is_the_same_after_a_pickle(error: errors.TunerError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.message, again.facts) == (str(error), error.message, error.facts)
    assert vars(again) == vars(error)
