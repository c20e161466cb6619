"""Randomness that belongs to a trial, not to the place where it trains.

``vmap`` draws one random tensor for all slots, so a trial's dropout would depend on its slot and on
how many neighbours it has. Here a mask is instead a hash of the trial's seed, the number of samples
that it has seen, the position of the call in the model, and the index of the element. It is the
same in any slot, fused or looped, on any device, for any micro-batch size (as long as axis 0 is the
batch).

The hash is Wellons' ``lowbias32`` (https://nullprogram.com/blog/2018/07/31/), in 32-bit integer
arithmetic that every backend of PyTorch has.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

from tuner.training.replacing import replaced


def hash32(x: Tensor) -> Tensor:
    """A bijective scramble of int32 values; every output bit depends on every input bit."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B as a signed number
    return x ^ ((x >> 16) & 0xFFFF)


def uniform(seed: Tensor, offset: Tensor, call: int, shape: Sequence[int]) -> Tensor:
    """Numbers in [0, 1) for one call of a random function.

    Args:
        seed: int32 ``[]``, the trial's.
        offset: int32 ``[]``, samples that the trial saw before this micro-batch.
        call: Which random call of the forward pass this is.
        shape: ``[m, ...]``; axis 0 runs over the samples of the micro-batch.

    Returns:
        float32 of that shape.
    """
    device = seed.device
    samples = torch.arange(shape[0], dtype=torch.int32, device=device) + offset
    elements = torch.arange(math.prod(shape[1:]), dtype=torch.int32, device=device)
    keys = hash32(hash32(samples ^ hash32(seed + call * 0x3C6EF372)))
    bits = hash32(keys[:, None] + hash32(elements)[None, :])
    # The top 24 bits fill a float32 mantissa exactly.
    unit: Tensor = ((bits >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return unit.reshape(shape)


@contextmanager
def own_generators(seed: Tensor, offset: Tensor) -> Iterator[None]:
    """Within it, what a model draws from PyTorch's global generators is the trial's own.

    For randomness that is not ours to replace, such as ``torch.randn_like``, or the dropout inside
    an ``nn.LSTM``; it goes by the micro-batch. The generators are put back.

    Args:
        seed: int32 ``[]``, the trial's.
        offset: int32 ``[]``, samples seen before this micro-batch.
    """
    cuda = seed.device.type == "cuda"
    of_trial, begun = torch.stack((seed, offset)).tolist()  # a GPU is waited for once
    drawn = of_trial * 2654435761 + begun
    with torch.random.fork_rng(devices=[seed.device] if cuda else []):
        torch.default_generator.manual_seed(drawn)
        if cuda:
            with torch.cuda.device(seed.device):
                torch.cuda.manual_seed(drawn)
        yield


class _Draws:
    """The random calls of one forward pass, in order."""

    def __init__(self, seed: Tensor, offset: Tensor, samples: int | None) -> None:
        self.seed = seed
        self.offset = offset
        self.samples = samples
        self.call = 0

    def keep(self, shape: torch.Size, p: float | Tensor) -> Tensor:
        """A boolean mask that is true with probability ``1 - p``."""
        self.call += 1
        rows = shape
        if self.samples and shape[0] % self.samples == 0:
            rows = torch.Size((self.samples, shape[0] // self.samples, *shape[1:]))
        return (uniform(self.seed, self.offset, self.call, rows) >= p).reshape(shape)


def _scaled(x: Tensor, keep: Tensor, p: float | Tensor) -> Tensor:
    # p = 1 keeps nothing; the guard turns 0/0 into 0.
    scale = 1.0 / torch.clamp(1.0 - torch.as_tensor(p, dtype=x.dtype, device=x.device), min=1e-12)
    return x * (keep.to(x.dtype) * scale)


_BAG = inspect.signature(F.embedding_bag)


class _Plainly:
    """In place of the function of autograd that computes again."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Computes once."""
        return function(*args)


def _around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what surrounds a forward pass with hooks to compute it again."""
    yield


_NOT_AGAIN: Mapping[str, Callable[..., Any]] = {
    "CheckpointFunction": _Plainly,
    "_checkpoint_without_reentrant_generator": _around,
}
"""By names of ``torch.utils.checkpoint``."""


def _shut(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores so that those under the mask count for nothing.

    To fill them in would take eight times as long on a CPU, and once more for the gradient.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as two products and a softmax, which ``vmap`` turns into batched products.

    PyTorch's own kernel has no batching rule that keeps it fast on CPU.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(repeats, -3)
        value = value.repeat_interleave(repeats, -3)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        ones = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        scores = scores + _shut(ones.triu(1), scores.dtype)
    seeing: Tensor | None = None
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        bias = _shut(~attn_mask, scores.dtype) if boolean else attn_mask
        # A row that sees nothing would be 0/0, also in its gradient: it is let see all, and not
        # used. The mask tells, which is smaller than the scores.
        seeing = (bias != -math.inf).any(-1, keepdim=True)
        scores = scores + torch.where(seeing, bias, 0.0)
    weights = torch.softmax(scores, -1)
    weights = F.dropout(weights, dropout_p, training=dropout_p > 0)
    mixed = torch.matmul(weights, value)
    return mixed if seeing is None else torch.where(seeing, mixed, 0.0)


@contextmanager
def slot_functions(seed: Tensor, offset: Tensor, samples: int | None = None) -> Iterator[None]:
    """Within it, the functional dropouts, attention and embeddings are ours.

    Nothing is checkpointed: the second forward pass, in the midst of the backward pass, would find
    neither the slot's weights in the model nor these functions. What ``checkpoint`` itself calls is
    replaced, since models import it by name.

    Args:
        seed: int32 ``[]``, the trial's (a batched tensor under ``vmap``).
        offset: int32 ``[]``, samples seen before this micro-batch.
        samples: In the micro-batch. What has several rows of each on axis 0, one after another, as
            ``nn.MultiheadAttention`` has its heads where weights are asked for, draws by sample
            too. Unless given, axis 0 is the samples.
    """
    draws = _Draws(seed, offset, samples)
    plain_embedding, plain_bag = F.embedding, F.embedding_bag

    def embedding(
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        # Gradients are rows of a population, which are dense.
        rest = (norm_type, scale_grad_by_freq, False)
        # Under vmap, where each slot has words of its own, only the first slot's padding is known
        # to the kernel, and the others' is trained.
        if padding_idx is None or max_norm is not None:
            return plain_embedding(input, weight, padding_idx, max_norm, *rest)
        found = plain_embedding(input, weight, None, None, *rest)
        padding = (input == padding_idx % len(weight)).unsqueeze(-1)
        return torch.where(padding, found.detach(), found)

    def embedding_bag(*args: Any, **kwargs: Any) -> Tensor:
        given = _BAG.bind(*args, **kwargs)
        given.arguments["sparse"] = False
        found: Tensor = plain_bag(*given.args, **given.kwargs)
        return found

    def dropout(
        input: Tensor, p: float | Tensor = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or (isinstance(p, float | int) and p == 0):
            return input
        return _scaled(input, draws.keep(input.shape, p), p)

    def channels(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        keep = draws.keep(input.shape[:2], p)
        return _scaled(input, keep.reshape(*input.shape[:2], *([1] * (input.ndim - 2))), p)

    def alpha(
        input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        # Klambauer et al. 2017, equation 6: dropped units take alpha', then the moments mend.
        low = -1.7580993408473766
        a: float = (1.0 - p + p * (1.0 - p) * low**2) ** -0.5
        keep = draws.keep(input.shape, p).to(input.dtype)
        kept: Tensor = input * keep + low * (1 - keep)
        return a * kept - a * p * low

    ours: dict[str, Callable[..., Any]] = {
        "dropout": dropout,
        "dropout1d": channels,
        "dropout2d": channels,
        "dropout3d": channels,
        "alpha_dropout": alpha,
        "scaled_dot_product_attention": _attention,
        "embedding": embedding,
        "embedding_bag": embedding_bag,
    }
    with replaced(ours), replaced(_NOT_AGAIN, torch.utils.checkpoint):
        yield
