"""The tensor programs of a population: gradients of many slots, and their evaluation.

One per-slot function is written here, in plain PyTorch. It runs in one of these forms:

- ``fused``: under ``vmap``, all slots of a block at once;
- ``looped``: slot after slot.

and each of them eagerly, *traced* (recorded once as a list of ATen calls, already differentiated
and batched, so that neither autograd nor ``vmap`` costs anything while it runs), or compiled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, vmap

from tuner.errors import InvalidInput, NotVmappable
from tuner.tasks import Task
from tuner.training.architecture import Architecture
from tuner.training.randomness import slot_functions, uniform
from tuner.training.tracing import record

Backend = Literal["eager", "traced", "compiled"]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One micro-batch for a block of R rows.

    Args:
        x: Inputs ``[m, ...]``, or ``[R, m, ...]`` when rows are at different places in the data.
        y: Targets, likewise.
        shared: Whether ``x`` and ``y`` lack the row axis.
        numbers: Loss hyperparameters by name, ``[R]`` each.
        scale: ``[R]``, one over the size of the batch that the row is gathering.
        seed: int32 ``[R]``, the trials' dropout seeds.
        offset: int32 ``[R]``, samples each trial saw before.
    """

    x: Tensor
    y: Tensor
    shared: bool
    numbers: Tensors
    scale: Tensor
    seed: Tensor
    offset: Tensor

    def rows(self, at: slice | Tensor) -> Batch:
        """The same for some of the rows, by slice or by index."""
        return Batch(
            self.x if self.shared else self.x[at],
            self.y if self.shared else self.y[at],
            self.shared,
            {name: value[at] for name, value in self.numbers.items()},
            self.scale[at],
            self.seed[at],
            self.offset[at],
        )

    def padded(self, rows: int) -> Batch:
        """The same with the last row repeated until there are ``rows``."""
        last = torch.arange(rows).clamp(max=len(self.scale) - 1)
        return self.rows(last.to(self.scale.device))

    def samples(self, at: slice) -> Batch:
        """The same for some of the samples."""
        return replace(
            self,
            x=self.x[at] if self.shared else self.x[:, at],
            y=self.y[at] if self.shared else self.y[:, at],
            offset=self.offset + (at.start or 0),
        )


@dataclass(frozen=True)
class Gradients:
    """What one micro-batch gives for a block of R rows.

    Args:
        flat: ``[R, P]``, gradient of the scaled sum of losses: added up over a batch it is the
            gradient of the batch's mean loss.
        loss: ``[R]``, sum of the samples' losses.
        buffers: New values of the model's buffers, ``[R, ...]``.
    """

    flat: Tensor
    loss: Tensor
    buffers: Tensors

    def rows(self, at: slice) -> Gradients:
        """Those of some rows."""
        buffers = {name: value[at] for name, value in self.buffers.items()}
        return Gradients(self.flat[at], self.loss[at], buffers)


def join(parts: list[Gradients]) -> Gradients:
    """Blocks of rows as one."""
    return Gradients(
        torch.cat([part.flat for part in parts]),
        torch.cat([part.loss for part in parts]),
        {name: torch.cat([p.buffers[name] for p in parts]) for name in parts[0].buffers},
    )


def sum_of(parts: list[Gradients]) -> Gradients:
    """Parts of one micro-batch added up; the buffers are the last part's."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    return Gradients(first.flat + second.flat, first.loss + second.loss, second.buffers)


class Programs:
    """All programs of one architecture, traced on first use and kept by shape.

    Args:
        task: Gives loss and metrics.
        architecture: The structure to run.
        names: The part of a config that the whole population shares.
        autocast: Reduced precision for the forward pass (on CUDA), or None.
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
        self._recorded: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._calls: Counter[tuple[Any, ...]] = Counter()

    def gradients(
        self,
        params: Tensor,
        buffers: Tensors,
        batch: Batch,
        *,
        fused: bool,
        backend: Backend,
        at_once: bool = False,
    ) -> Gradients:
        """Gradients of every row of ``params`` ``[R, P]`` on one micro-batch.

        Args:
            params: ``[R, P]``.
            buffers: Of the model, ``[R, ...]``.
            batch: The micro-batch.
            fused: Whether to run all rows at once.
            backend: How; ``traced`` and ``compiled`` begin when these shapes have become common.
            at_once: They begin now.

        Raises:
            NotVmappable: ``fused``, and ``vmap`` refuses the model.
        """
        hot = 1 if at_once else HOT
        if fused:
            return self._fused(params, buffers, batch, backend, hot)
        rows = [
            self._looped(
                params[k : k + 1],
                {name: value[k : k + 1] for name, value in buffers.items()},
                batch.rows(slice(k, k + 1)),
                backend,
                hot,
            )
            for k in range(len(params))
        ]
        if len(rows) == 1:
            return rows[0]
        return Gradients(
            torch.cat([row.flat for row in rows]),
            torch.cat([row.loss for row in rows]),
            {name: torch.cat([row.buffers[name] for row in rows]) for name in buffers},
        )

    def evaluate(
        self, params: Tensor, buffers: Tensors, x: Tensor, y: Tensor, *, fused: bool
    ) -> Tensors:
        """Sums over samples ``[m, ...]`` of ``loss`` and each metric, ``[R]`` each."""
        one = self._metrics_of_one
        views = self.architecture.views
        if not fused:
            with torch.no_grad():
                rows = []
                for k in range(len(params)):
                    own = {name: value[k] for name, value in buffers.items()}
                    rows.append(one(views(params[k]), own, x, y))
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        names = ("loss", *self.task.extra_metrics)

        def flat(params: Tensor, x: Tensor, y: Tensor, *values: Tensor) -> list[Tensor]:
            own = dict(zip(buffers, values, strict=True))
            batched = vmap(one, in_dims=(0, 0, None, None))
            found = batched(views(params), own, x, y)
            return [found[name] for name in names]

        leaves = (params, x, y, *buffers.values())
        with torch.no_grad():
            key = ("evaluate", params.dtype, params.shape, x.shape)
            body = self._recall(key, flat, leaves, HOT)
            return dict(zip(names, body(*leaves), strict=True))

    def curvature(
        self, params: Tensor, buffers: Tensors, batch: Batch, *, kind: str, fused: bool
    ) -> Tensor:
        """An estimate of the Hessian's diagonal for every row, ``[R, P]``.

        Args:
            params: ``[R, P]``.
            buffers: Of the model, ``[R, ...]``.
            batch: The micro-batch to estimate it on.
            kind: ``gnb`` (Gauss-Newton-Bartlett: Liu et al. 2023, https://arxiv.org/abs/2305.14342,
                algorithm 2) or ``hutchinson`` (v * Hv with v of random signs).
            fused: Whether to run all rows at once.
        """
        one = {"gnb": self._gauss_newton_bartlett, "hutchinson": self._hutchinson}[kind]
        views = self.architecture.views
        if fused:
            data = None if batch.shared else 0
            found = vmap(one, in_dims=(0, 0, data, data, 0, 0, 0))(
                views(params), buffers, batch.x, batch.y, batch.numbers, batch.seed, batch.offset
            )
            rows = [found[span.name].flatten(1) for span in self.architecture.spans]
            return torch.cat(rows, 1)
        flat = []
        for k in range(len(params)):
            row = batch.rows(slice(k, k + 1))
            found = one(
                views(params[k]),
                {name: value[k] for name, value in buffers.items()},
                row.x if row.shared else row.x[0],
                row.y if row.shared else row.y[0],
                {name: value[0] for name, value in row.numbers.items()},
                row.seed[0],
                row.offset[0],
            )
            spans = self.architecture.spans
            flat.append(torch.cat([found[span.name].reshape(-1) for span in spans]))
        return torch.stack(flat)

    # The mathematics of one slot.

    def _gauss_newton_bartlett(
        self,
        params: Tensors,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        seed: Tensor,
        offset: Tensor,
    ) -> Tensors:
        m = x.shape[0]

        def loss(params: Tensors) -> Tensor:
            copies = {name: value.clone() for name, value in buffers.items()}
            with slot_functions(seed, offset):
                output = self._forward(params, copies, x)
                drawn = drawn_targets(output, y, uniform(seed, offset, DRAWS, y.shape))
                return self.task.loss(output, drawn, {**self.names, **numbers}).mean()

        return {name: m * g.square() for name, g in grad(loss)(params).items()}

    def _hutchinson(
        self,
        params: Tensors,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        seed: Tensor,
        offset: Tensor,
    ) -> Tensors:
        signs = {
            name: 1.0 - 2.0 * (uniform(seed, offset, DRAWS + i, p.shape or (1,)) < 0.5).to(p.dtype)
            for i, (name, p) in enumerate(params.items())
        }
        signs = {name: v.reshape(params[name].shape) for name, v in signs.items()}

        def loss(params: Tensors) -> Tensor:
            copies = {name: value.clone() for name, value in buffers.items()}
            with slot_functions(seed, offset):
                output = self._forward(params, copies, x)
                return self.task.loss(output, y, {**self.names, **numbers}).mean()

        def slope(params: Tensors) -> Tensor:
            gradients = grad(loss)(params)
            return torch.stack([(gradients[name] * v).sum() for name, v in signs.items()]).sum()

        # Reverse over reverse: more operations have it than forward mode.
        return {name: signs[name] * hv for name, hv in grad(slope)(params).items()}

    def _forward(self, params: Tensors, buffers: Tensors, x: Tensor) -> Any:
        return functional_call(self.architecture.template, {**params, **buffers}, (x,))

    def _loss_of_one(
        self,
        params: Tensors,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        scale: Tensor,
        seed: Tensor,
        offset: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensors]]:
        # Modules such as BatchNorm write into their buffers; these copies take the writes.
        buffers = {name: value.clone() for name, value in buffers.items()}
        with slot_functions(seed, offset):
            if self.autocast is not None:
                with torch.autocast(x.device.type, self.autocast):
                    output = self._forward(params, buffers, x)
            else:
                output = self._forward(params, buffers, x)
            losses = self.task.loss(output, y, {**self.names, **numbers})
        if losses.shape != y.shape[:1]:
            raise ValueError(
                f"{type(self.task).__name__}.loss must return one loss a sample, "
                f"shape {tuple(y.shape[:1])}, not {tuple(losses.shape)}"
            )
        total = losses.sum()
        return total * scale, (total.detach(), buffers)

    def _metrics_of_one(self, params: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensors:
        self.architecture.template.eval()
        try:
            zero = torch.zeros((), dtype=torch.int32, device=x.device)
            clean = {name: torch.zeros((), device=x.device) for name in ("label_smoothing",)}
            with slot_functions(zero, zero):
                output = self._forward(params, buffers, x)
                losses = self.task.loss(output, y, {**self.names, **clean})
            sums = {"loss": losses.sum()}
            metrics = self.task.metrics(output, y)
            if metrics.keys() != set(self.task.extra_metrics):
                raise ValueError(
                    f"{type(self.task).__name__}.metrics gives {sorted(metrics)}, "
                    f"but extra_metrics says {sorted(self.task.extra_metrics)}"
                )
            for name, value in metrics.items():
                sums[name] = value.to(losses.dtype).sum()
            return sums
        finally:
            self.architecture.template.train()

    # The forms it runs in.

    def _fused(
        self, params: Tensor, buffers: Tensors, batch: Batch, backend: Backend, hot: int
    ) -> Gradients:
        def make() -> Body:
            data = None if batch.shared else 0
            return vmap(
                grad_and_value(self._loss_of_one, has_aux=True),
                in_dims=(0, 0, data, data, 0, 0, 0, 0),
                randomness="error",
            )

        try:
            return self._run("fused", make, params, buffers, batch, backend, hot)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise NotVmappable(f"vmap refuses this model: {first_line(error)}") from error

    def _looped(
        self, params: Tensor, buffers: Tensors, batch: Batch, backend: Backend, hot: int
    ) -> Gradients:
        def only(tensors: Tensors) -> Tensors:
            return {name: value[0] for name, value in tensors.items()}

        def body(params: Tensors, buffers: Tensors, x: Tensor, y: Tensor, *rest: Any) -> Any:
            numbers, scale, seed, offset = rest
            leaves = {name: p[0].detach().requires_grad_() for name, p in params.items()}
            if not batch.shared:
                x, y = x[0], y[0]
            with torch.enable_grad():
                total, (loss, new) = self._loss_of_one(
                    leaves, only(buffers), x, y, only(numbers), scale[0], seed[0], offset[0]
                )
                gradients = torch.autograd.grad(
                    total, list(leaves.values()), materialize_grads=True
                )
            return (
                {name: g[None] for name, g in zip(leaves, gradients, strict=True)},
                (None, (loss[None], {name: value.detach()[None] for name, value in new.items()})),
            )

        return self._run("looped", lambda: body, params, buffers, batch, backend, hot)

    def _run(
        self,
        form: str,
        make: Callable[[], Body],
        params: Tensor,
        buffers: Tensors,
        batch: Batch,
        backend: Backend,
        hot: int,
    ) -> Gradients:
        """Runs a body on a flat list of tensors; recorded when these shapes are common."""
        names, numbers = tuple(buffers), tuple(batch.numbers)

        def flat(params: Tensor, x: Tensor, y: Tensor, *rest: Tensor) -> list[Tensor]:
            scale, seed, offset, *values = rest
            own = dict(zip(names, values, strict=False))
            given = dict(zip(numbers, values[len(names) :], strict=True))
            views = self.architecture.views(params)
            gradients, (_, (loss, new)) = make()(views, own, x, y, given, scale, seed, offset)
            rows = [gradients[span.name].flatten(1) for span in self.architecture.spans]
            return [torch.cat(rows, 1), loss, *(new[name] for name in names)]

        leaves = (
            params,
            batch.x,
            batch.y,
            batch.scale,
            batch.seed,
            batch.offset,
            *buffers.values(),
            *batch.numbers.values(),
        )
        body: Callable[..., Any] = flat
        if backend != "eager":
            key = (form, backend, batch.shared, numbers, params.dtype, params.shape, batch.x.shape)
            body = self._recall(key, flat, leaves, hot)
        gradient, loss, *new = body(*leaves)
        return Gradients(gradient, loss, dict(zip(names, new, strict=True)))

    def _recall(
        self,
        key: tuple[Any, ...],
        function: Callable[..., list[Tensor]],
        leaves: tuple[Tensor, ...],
        hot: int,
    ) -> Callable[..., Any]:
        """The recorded program for these shapes, or ``function`` itself while they are rare."""
        program = self._recorded.get(key)
        if program is None:
            self._calls[key] += 1
            if self._calls[key] < hot:
                return function
            program = record(function, leaves, compiled="compiled" in key)
            self._recorded[key] = program
        return program


Body = Callable[..., Any]
"""Gradients by name, and (loss, (sum of losses, new buffers)), of all rows or of the only one."""
HOT = 128
"""Calls with the same shapes before a program is recorded: what they lost by not being so."""
DRAWS = 1 << 20
"""Random calls of curvature estimates start here, beyond those of any forward pass."""


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


def first_line(error: BaseException) -> str:
    """The first line of an error's text, enough for a log."""
    text = str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0]
