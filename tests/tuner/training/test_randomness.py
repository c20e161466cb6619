from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuner.training.randomness import slot_functions, uniform


def int32(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int32)


def test_uniform_is_uniform_and_independent() -> None:
    """Moments, and correlations between samples, elements, calls, seeds and offsets."""
    shape = (512, 512)
    base = uniform(int32(1), int32(0), 1, shape)
    n = base.numel()
    assert float(base.min()) >= 0
    assert float(base.max()) < 1
    assert abs(float(base.mean()) - 0.5) < 4 / (12 * n) ** 0.5
    assert abs(float(base.var()) - 1 / 12) < 1e-3
    others = [
        uniform(int32(2), int32(0), 1, shape),
        uniform(int32(1), int32(512), 1, shape),
        uniform(int32(1), int32(0), 2, shape),
        base.roll(1, 0),
        base.roll(1, 1),
        base.T,
    ]
    for other in others:
        correlation = torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 5 / n**0.5


def test_a_mask_does_not_depend_on_the_micro_batch() -> None:
    whole = uniform(int32(5), int32(100), 3, (32, 7))
    parts = [uniform(int32(5), int32(100 + at), 3, (8, 7)) for at in range(0, 32, 8)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_mask_of_several_rows_a_sample_does_not_depend_on_the_micro_batch_either() -> None:
    x = torch.ones(3 * 8, 5)
    with slot_functions(int32(5), int32(100), samples=8):
        whole = F.dropout(x)
    found = []
    for at in range(0, 8, 2):
        with slot_functions(int32(5), int32(100 + at), samples=2):
            found.append(F.dropout(x[3 * at : 3 * at + 6]))
    assert torch.equal(whole, torch.cat(found))
    assert len(whole.unique(dim=0)) > 16  # rows of one sample differ


def test_dropout_keeps_the_mean_and_drops_the_rate() -> None:
    x = torch.ones(400, 500)
    with slot_functions(int32(3), int32(0)):
        y = F.dropout(x, 0.3)
        again = F.dropout(x, 0.3)
        assert F.dropout(x, 0.3, training=False) is x
        gone = F.dropout(x, 1.0)
        channels = F.dropout2d(torch.ones(300, 20, 2, 2), 0.5)
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.005
    assert abs(float(y.mean()) - 1) < 0.01
    assert not torch.equal(y, again)
    assert float(gone.abs().sum()) == 0
    assert set(channels.sum((2, 3)).unique().tolist()) == {0.0, 8.0}


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0))
    with slot_functions(int32(3), int32(0)):
        y = F.alpha_dropout(x, 0.2, training=True)
    assert abs(float(y.mean())) < 0.01
    assert abs(float(y.var()) - 1) < 0.02


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torchs(causal: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator).double() for _ in range(3))
    mask = torch.rand(5, 5, generator=generator) < 0.7
    mask[:, 0] = True
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with slot_functions(int32(0), int32(0)):
        found = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), masked)


@pytest.mark.parametrize("boolean", [True, False])
def test_a_row_that_sees_nothing_is_zero(boolean: bool) -> None:
    """As torch has it, and nothing in the gradient is NaN."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    bias = mask if boolean else torch.zeros(3, 3).double().masked_fill(~mask, -torch.inf)
    found = []
    for ours in (False, True):
        generator.manual_seed(1)
        q, k, v = (torch.randn(2, 2, 3, 4, generator=generator).double() for _ in range(3))
        leaves = [t.requires_grad_() for t in (q, k, v)]
        with slot_functions(int32(0), int32(0)) if ours else nullcontext():
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    assert float(found[1][0][..., 1, :].abs().sum()) == 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_inside_attention_is_ours_and_names_are_put_back() -> None:
    """A composite function of torch draws through us, and nothing stays replaced."""
    theirs = F.dropout
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = torch.randn(4, 3, 8)
    results = []
    for _ in range(2):
        with slot_functions(int32(3), int32(0)):
            results.append(attention(x, x, x, need_weights=False)[0])
    assert torch.equal(*results)
    with slot_functions(int32(4), int32(0)):
        assert not torch.equal(attention(x, x, x, need_weights=False)[0], results[0])
    with pytest.raises(RuntimeError), slot_functions(int32(0), int32(0)):
        raise RuntimeError
    assert F.dropout is theirs
