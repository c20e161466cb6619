"""The mathematics of one slot in plain PyTorch: loss, metrics, curvature.

Nothing here knows of other slots; :mod:`tuner.training.program` runs it for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from tuner.errors import InvalidInput
from tuner.tasks import Task
from tuner.training.architecture import Architecture
from tuner.training.batch import Tensors
from tuner.training.randomness import slot_functions, uniform

DRAWS = 1 << 20
"""Random calls of curvature estimates start here, beyond those of any forward pass."""


class OneSlot:
    """What is computed for one trial, given all its tensors.

    Args:
        task: Gives loss and metrics.
        architecture: The structure to run.
        names: The part of a config that the whole population shares.
        autocast: Reduced precision for the forward pass, or None.
    """

    def __init__(
        self,
        task: Task,
        architecture: Architecture,
        names: Mapping[str, Any],
        autocast: torch.dtype | None = None,
    ) -> None:
        self.task = task
        self.architecture = architecture
        self.names = dict(names)
        self.autocast = autocast
        modules = architecture.template.modules()
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in modules)

    def loss(
        self,
        params: Tensors,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        scale: Tensor,
        seed: Tensor,
        offset: Tensor,
    ) -> tuple[Tensor, Tensor, Tensors]:
        """Scaled sum of the losses of samples ``[m, ...]``, the sum itself, and new buffers.

        Of buffers that are constant there are no new ones.
        """
        # Modules such as BatchNorm write into their buffers; these copies take the writes.
        constant = self.architecture.constant
        new = {name: value.clone() for name, value in buffers.items() if name not in constant}
        held = {**params, **buffers, **new}
        with slot_functions(seed, offset, len(x)):
            output = self._forward(held, x)
            losses = self.task.loss(output, y, {**self.names, **numbers})
        self._check("loss()", losses, y)
        total = _total(losses)
        return total * scale, total.detach(), {name: held[name] for name in new}

    def metrics(
        self, params: Tensors, buffers: Tensors, x: Tensor, y: Tensor, numbers: Tensors
    ) -> Tensors:
        """Sums over samples ``[m, ...]`` of the loss without smoothing, and of each metric."""
        self.architecture.template.eval()
        try:
            zero = torch.zeros((), dtype=torch.int32, device=x.device)
            clean = {**numbers, "label_smoothing": torch.zeros((), device=x.device)}
            with slot_functions(zero, zero):
                output = self._forward({**params, **buffers}, x)
                losses = self.task.loss(output, y, {**self.names, **clean})
            self._check("loss()", losses, y)
            sums = {"loss": _total(losses)}
            metrics = self.task.metrics(output, y)
            if metrics.keys() != set(self.task.extra_metrics):
                raise InvalidInput(
                    f"task {self.task.name}",
                    f"metrics() gives {sorted(metrics)}, and extra_metrics says "
                    f"{sorted(self.task.extra_metrics)}",
                )
            for name, value in metrics.items():
                self._check(f"metric {name}", value, y)
                sums[name] = value.to(sums["loss"].dtype).sum()
            return sums
        finally:
            self.architecture.template.train()

    def loss_of_drawn(
        self,
        params: Tensors,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        scale: Tensor,
        seed: Tensor,
        offset: Tensor,
    ) -> Tensor:
        """The scaled sum, as in :meth:`loss`, under labels drawn from the model.

        Added up over a batch of B its gradient is g, and ``B g^2`` the Gauss-Newton-Bartlett
        estimate. Liu et al. 2023, https://arxiv.org/abs/2305.14342, algorithm 2.
        """
        copies = {name: value.clone() for name, value in buffers.items()}
        with slot_functions(seed, offset, len(x)):
            output = self._forward({**params, **copies}, x)
            drawn = drawn_targets(output, y, uniform(seed, offset, DRAWS, y.shape))
            return _total(self.task.loss(output, drawn, {**self.names, **numbers})) * scale

    def signs(self, params: Tensors, seed: Tensor, origin: Tensor) -> Tensors:
        """Hutchinson's v: a random sign for each number of ``params``.

        ``v * (H v)``, with H of the scaled sum of :meth:`loss`, adds up over a batch to the
        estimate: v goes by ``origin``, where the batch begins.
        """
        found: Tensors = {}
        for i, (name, p) in enumerate(params.items()):
            draws = uniform(seed, origin, DRAWS + i, p.shape or (1,)).reshape(p.shape)
            found[name] = 1.0 - 2.0 * (draws < 0.5).to(p.dtype)
        return found

    def _check(self, what: str, values: Tensor, y: Tensor) -> None:
        """A mean, which only looks like a value a sample, would be added up and divided again."""
        if values.shape != y.shape[:1]:
            raise InvalidInput(
                f"task {self.task.name}",
                f"{what} must give one number a sample, shape {list(y.shape[:1])}, "
                f"not {list(values.shape)}",
            )

    def _forward(self, tensors: Tensors, x: Tensor) -> Any:
        """The model's output; of what it puts in the place of a buffer, ``tensors`` then has it."""
        with self._precision(x), without_cudnn(self._recurrent and x.is_cuda):
            output = functional_call(self.architecture.template, tensors, (x,))
        if self.autocast is None:
            return output
        # What a loss takes in reduced precision it adds up in it, to three digits; and whether it
        # comes so depends on the form, as under vmap a bias is added in single precision.
        return tree_map_only(Tensor, _widened, output)

    def _precision(self, x: Tensor) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(x.device.type, self.autocast)


def _widened(values: Tensor) -> Tensor:
    """In single precision at least, where they are not whole numbers."""
    if not values.is_floating_point():
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _total(values: Tensor) -> Tensor:
    """The sum of the samples' values, in single precision at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32)).sum()


@contextmanager
def without_cudnn(wanted: bool) -> Iterator[None]:
    """Within it, cuDNN is not used.

    Its recurrent kernels copy all weights together at each call, as ours are views of a row, and
    draw from a generator of their own, so that they cannot be recorded.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = before and not wanted
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def drawn_targets(output: Any, target: Tensor, u: Tensor) -> Tensor:
    """Targets drawn from the model's own distribution, by inverse transform of ``u`` in [0, 1).

    Integer targets from the softmax over the last axis of ``output``; real ones from a normal
    distribution of unit variance around it.

    Raises:
        InvalidInput: The output is no tensor of logits or means.
    """
    if not isinstance(output, Tensor):
        raise InvalidInput("optimizer", "sophia_g needs a model whose output is a tensor")
    means: Tensor = output.detach()
    if target.is_floating_point():
        safe = u.to(output.dtype).clamp(1e-7, 1 - 1e-7)
        normal: Tensor = math.sqrt(2) * torch.erfinv(2 * safe - 1)
        return means + normal.reshape(means.shape)
    below = torch.softmax(means, -1).cumsum(-1) < u.to(means.dtype).unsqueeze(-1)
    drawn: Tensor = below.sum(-1).clamp(max=means.shape[-1] - 1).to(target.dtype)
    return drawn
