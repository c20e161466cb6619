"""Rules run where no number can be looked at: on a GPU to look is to wait, at every step."""

from __future__ import annotations

import pytest
import torch

from tuner import optimizers
from tuner.optimizers.kernels import coefficient_table

META = torch.device("meta")


@pytest.mark.parametrize("name", optimizers.registry.names())
@pytest.mark.parametrize("shape", [(6, 4), (5,)], ids=["matrix", "vector"])
def test_a_step_looks_at_no_number_on_the_device(name: str, shape: tuple[int, ...]) -> None:
    rule = optimizers.get(name)
    shape = (24,) if rule.granularity == "model" else shape
    dims = tuple(range(-len(shape), 0))
    p = torch.zeros(3, *shape, device=META)
    hyper = {
        key: torch.full((3,), known.default, dtype=torch.float64)
        for key, known in rule.hyper.items()
    }
    steps = torch.tensor([[0, 1, 20], [1, 2, 21]])
    table = coefficient_table(rule, hyper, steps, p.dtype, META)
    state = rule.init(p, dims)
    for step in range(2):
        c = {key: values[step].view(3, *(1 for _ in shape)) for key, values in table.items()}
        p, state = rule.update(p, torch.zeros_like(p), state, c, dims)
    assert p.device == META
    assert {key for key, values in table.items() if values.device != META} == set(rule.flags)
