"""The devices that there are: what trains on one must train on the other, to the same numbers."""

from __future__ import annotations

import pytest
import torch

CPU = torch.device("cpu")
CUDA = torch.device("cuda")

DEVICES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(
        CUDA,
        id="cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
each_device = pytest.mark.parametrize("device", DEVICES)
each_gpu = pytest.mark.parametrize("device", DEVICES[1:])
