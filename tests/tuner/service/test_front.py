from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.service.front import front_of
from tuner.storage.pictures import Outcome


def beats(a: Outcome, b: Outcome, directions: list[str]) -> bool:
    """By the definition: nowhere worse, somewhere better."""
    signs = [1 if d == "minimize" else -1 for d in directions]
    pairs = [(s * x, s * y) for s, x, y in zip(signs, a.values, b.values, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


@pytest.mark.parametrize(
    "directions", [["minimize"] * 2, ["minimize", "maximize"], ["maximize"] * 3]
)
@given(st.data())
def test_the_front_is_what_nobody_beats(directions: list[str], data: st.DataObject) -> None:
    points = st.tuples(*[few] * len(directions))
    drawn = data.draw(st.lists(points, max_size=30))
    rows = [Outcome(i, i, "complete", None, values) for i, values in enumerate(drawn)]
    wanted = [row for row in rows if not any(beats(other, row, directions) for other in rows)]
    found = front_of(rows, directions)
    assert sorted(row.values for row in found) == sorted(row.values for row in wanted)
    sign = 1 if directions[0] == "minimize" else -1
    assert [sign * row.values[0] for row in found] == sorted(sign * r.values[0] for r in found)
