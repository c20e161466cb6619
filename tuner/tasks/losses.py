"""Losses and metrics of each sample, good for one model and under ``vmap``.

``torch.nn.functional.cross_entropy`` takes label smoothing as a Python number only; in a population
it is a number of the trial, a tensor.
"""

from __future__ import annotations

from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy of each sample, averaged over positions where there are several.

    Args:
        logits: ``[m, classes]`` or ``[m, positions, classes]``.
        target: Integers ``[m]`` or ``[m, positions]``.
        label_smoothing: The weight of the uniform distribution in the target (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567, section 7), as in torch; a number or a 0-d tensor.

    Returns:
        ``[m]``.
    """
    log_p = logits.log_softmax(-1)
    loss = -log_p.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
    if isinstance(label_smoothing, Tensor) or label_smoothing != 0:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * log_p.mean(-1)
    return _per_sample(loss)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of each sample, averaged over its further axes: ``[m]``."""
    return _per_sample((output - target).square())


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """The fraction of right answers of each sample: ``[m]``, of the logits' dtype."""
    return _per_sample((logits.argmax(-1) == target).to(logits.dtype))


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.ndim > 1 else values
