"""Where a machine's worker processes train."""

from __future__ import annotations

import pytest

from tuner.errors import InvalidInput
from tuner.worker.local import spread
from tuner.worker.places import Place, places


@pytest.mark.parametrize(
    ("processes", "gpus", "expected"),
    [
        (2, 0, [Place("cpu", 2)] * 2),
        (2, 2, [Place("cuda:0", 1), Place("cuda:1", 1)]),
        (1, 4, [Place("cuda:0", 1)]),
        (3, 2, [Place("cuda:0", 2), Place("cuda:1", 1), Place("cuda:0", 2)]),
    ],
)
def test_processes_take_the_gpus_in_turn(processes: int, gpus: int, expected: list[Place]) -> None:
    assert places(processes, gpus) == expected


def test_a_run_takes_all_gpus_or_the_one_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert spread("auto") == [Place("cuda:0", 1), Place("cuda:1", 1)]
    assert spread("auto", 4) == [Place("cuda:0", 2), Place("cuda:1", 2)] * 2
    assert spread("cuda:1") == [Place("cuda:1", 1)]
    assert spread("cuda:1", 2) == [Place("cuda:1", 2)] * 2
    assert spread("cpu", 2) == [Place("cpu", 2)] * 2
    with pytest.raises(InvalidInput, match="only 2 GPUs"):
        spread("cuda:2")
