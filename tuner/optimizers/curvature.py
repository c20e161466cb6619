"""Estimates of the Hessian's diagonal, for the rules that take one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hutchinson(
    loss: Tensor, params: Sequence[Tensor], generator: torch.Generator | None = None
) -> list[Tensor]:
    """``v * (H v)`` with random signs v: an unbiased estimate of the Hessian's diagonal.

    Args:
        loss: Scalar, with its graph.
        params: With respect to which; those the loss does not depend on get zeros.
        generator: Draws the signs, on the parameters' device.
    """
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    used = [(g, p) for g, p in zip(grads, params, strict=True) if g is not None and g.requires_grad]
    if not used:  # which autograd would not differentiate: the loss is linear in them
        return [torch.zeros_like(p) for p in params]
    signs = [
        torch.randint(0, 2, g.shape, generator=generator, device=g.device, dtype=g.dtype) * 2 - 1
        for g, _ in used
    ]
    products = torch.autograd.grad(
        [g for g, _ in used], [p for _, p in used], signs, allow_unused=True
    )
    found = {
        id(p): torch.zeros_like(p) if hv is None else v * hv
        for (_, p), v, hv in zip(used, signs, products, strict=True)
    }
    return [found.get(id(p), torch.zeros_like(p)) for p in params]
