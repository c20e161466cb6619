from __future__ import annotations

import torch

from tuner.training.batch import Batch


def test_rows_are_filled_up_with_the_last() -> None:
    numbers, whole, x = torch.arange(3.0), torch.arange(3, dtype=torch.int32), torch.zeros(4, 2)
    batch = Batch(x, x, True, {"label_smoothing": numbers}, numbers, whole, whole)
    found = batch.padded(5)
    for filled in (found.numbers["label_smoothing"], found.scale, found.seed, found.offset):
        assert filled.tolist() == [0, 1, 2, 2, 2]
