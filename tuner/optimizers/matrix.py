"""Linear algebra on one parameter tensor a slot: norms, matrix views, roots and bases.

Everything is batched over slots and keeps them apart: a slot whose numbers are not finite comes out
as NaN and the others come out as if it were not there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from tuner.optimizers.rule import Dims

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of the quintic that Jordan et al. tuned for slope at zero."""


def lead(p: Tensor, dims: Dims) -> tuple[int, ...]:
    """The slot axes of ``p``: ``()`` or ``(K,)``."""
    return tuple(p.shape[: p.ndim - len(dims)])


def one_per_slot(p: Tensor, dims: Dims) -> Tensor:
    """Zeros, one number a slot, with as many axes as ``p``."""
    return p.new_zeros((*lead(p, dims), *(1 for _ in dims)))


def norm(x: Tensor, dims: Dims) -> Tensor:
    """Euclidean norm over ``dims``, which stay as axes of length 1."""
    length: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return length


def sides(p: Tensor, dims: Dims) -> tuple[int, int]:
    """Rows and columns of ``p`` as a matrix: the first axis against all others."""
    shape = [p.shape[axis] for axis in dims]
    return shape[0], prod(shape[1:])


def as_matrix(x: Tensor, dims: Dims) -> Tensor:
    """``[B, rows, columns]``, with B = 1 for a single model, so that both take one path."""
    return x.reshape(prod(lead(x, dims)), *sides(x, dims))


def per_slot(c: Tensor) -> Tensor:
    """A coefficient for :func:`as_matrix`: ``[K, 1, 1]`` or 0-d."""
    return c.reshape(-1, 1, 1) if c.ndim else c


def flagged(flag: Tensor, of: Tensor) -> Tensor:
    """Which slots of a batch ``[B, ...]`` a flag marks by a number above 0, where the batch is.

    Args:
        flag: One of the rule's ``flags``, 0-d or ``[K, 1, ...]``, on the host.
        of: The batch.
    """
    marked = (flag > 0).reshape(-1).expand(len(of)).nonzero().reshape(-1)
    return marked.to(of.device, non_blocking=True)


def replaced(due: Tensor, old: Tensor, source: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """``old`` with ``make(source)`` for some slots, computed for those alone.

    Args:
        due: The slots, as :func:`flagged` finds them.
        old: ``[B, n, n]``.
        source: ``[B, n, n]``, what the new matrices are made from.
        make: Takes and gives some rows of a batch.
    """
    return old if due.numel() == 0 else old.index_copy(0, due, make(source[due]))


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (rising) and eigenvectors of symmetric ``[B, n, n]``; NaN where not finite."""
    finite = a.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    values, vectors = torch.linalg.eigh(torch.where(finite, a, identity))
    nan = torch.full((), torch.nan, dtype=a.dtype, device=a.device)
    return torch.where(finite[..., 0], values, nan), torch.where(finite, vectors, nan)


def inverse_root(a: Tensor, root: int) -> Tensor:
    """``a^(-1 / root)`` of symmetric positive definite ``[B, n, n]``."""
    values, vectors = eigh(a)
    least = values.amax(-1, keepdim=True) * torch.finfo(a.dtype).eps * a.shape[-1]
    scaled = vectors * torch.maximum(values, least).pow(-1.0 / root).unsqueeze(-2)
    return scaled @ vectors.mT


def orthogonalize(x: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Pushes the singular values of ``[B, m, n]`` towards 1 by Newton-Schulz iteration.

    Computed in the type of ``x``; torch and the authors iterate in bfloat16, which is 1e-3 apart.
    """
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / norm(x, (-2, -1)).clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x
