"""Two slots in double precision: do fast forms, and parts of a batch, give what plain ones do?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import NotVmappable
from tuner.tasks import Config, Task
from tuner.training.architecture import (
    buffers_of,
    build,
    describe,
    flat,
    loss_names,
    loss_numbers,
    mixing_modules,
)
from tuner.training.batch import Batch, Gradients, Tensors
from tuner.training.engine import AGREEMENT, Verdict
from tuner.training.one_slot import OneSlot
from tuner.training.program import Backend, Form, Programs, first_line
from tuner.training.source import Source

SAMPLES = 8
RATE = 0.5
"""Of dropout while it is checked: the first trial's may be 0, and hide what the next one's does."""
PLAIN = Form(False, "eager")
SLOW_UNDER_VMAP: Mapping[type[nn.Module], str] = {
    nn.LSTM: "its kernel has no batching rule",
    nn.GRU: "its kernel has no batching rule",
    nn.RNN: "its kernel has no batching rule",
    nn.EmbeddingBag: "its kernel has no batching rule",
}


def self_check(
    task: Task, config: Config, source: Source, *, fuse: bool = True, check: bool = True
) -> Verdict:
    """Compares gradients of two slots between the looped, fused and recorded forms, on the CPU.

    Args:
        task: Model and loss.
        config: A configuration of the architecture.
        source: Samples to compare on.
        fuse: Whether to try ``vmap`` at all.
        check: Whether to compare; else every form is trusted.

    Returns:
        Which forms may be used, and why not the others; whether batches may be cut.
    """
    models = [build(task, config, seed, torch.float64) for seed in (0, 1)]
    images = any(isinstance(module, nn.Conv2d) for module in models[0].modules())
    if not check:
        mixing = bool(mixing_modules(models[0]))
        return Verdict(fuse, recorded=True, images=images, whole=mixing, halvable=not mixing)
    dtype = torch.float64
    architecture = describe(models[0], task)
    rows = torch.stack([flat(model) for model in models])
    owned = [buffers_of(model) for model in models]
    buffers = {name: torch.stack([own[name] for own in owned]) for name in architecture.buffers}
    for name in architecture.rates:
        buffers[name].fill_(RATE)
    programs = Programs(OneSlot(task, architecture, loss_names(config)))
    batches = [_batch(source, config, start, dtype) for start in (0, SAMPLES)]
    # Trials of different epochs look at different samples.
    both = ((batch.x, batch.y) for batch in batches)
    x, y = (torch.stack(parts) for parts in zip(*both, strict=True))
    batches.append(replace(batches[0], x=x, y=y, shared=False))
    plain = [programs.gradients(rows, buffers, batch, PLAIN) for batch in batches]
    whole, halvable = _cut(programs, rows, buffers, batches[0], plain[0])

    def differs(fused: bool, backend: Backend, *, last: bool = False) -> str:
        """Why a form is no candidate, or an empty string."""
        form = Form(fused, backend, channels_last=last)
        recorded = backend == "recorded"
        try:
            # Recorded on the first batch, compared on the second: a branch taken by luck shows.
            # The last is of other shapes, so it would be another record.
            for batch, expected in zip(batches[:2] if recorded else batches, plain, strict=False):
                found = programs.gradients(rows, buffers, batch, form, at_once=True)
                if not agree(found, expected):
                    return "its gradients differ from the plain ones"
            return programs.refused
        except NotVmappable as error:
            return error.message
        except Exception as error:  # whatever a model raises while it is recorded
            return first_line(error)

    reason = differs(True, "eager") if fuse else "asked for"
    fused = not reason
    refusal = differs(fused, "recorded", last=images)
    if refusal and images:
        images = False  # it may be the layout of the images alone
        programs.refused = ""
        refusal = differs(fused, "recorded")
    if fused:
        reason = suspects(models[0]).removeprefix("; ")
    elif fuse:
        reason += suspects(models[0])
    return Verdict(fused, not refusal, reason, images, whole, halvable)


def _cut(
    programs: Programs, rows: Tensor, buffers: Tensors, batch: Batch, plain: Gradients
) -> tuple[bool, bool]:
    """Whether a batch must stay whole, and whether a micro-batch may be halved to measure noise.

    Whole where its parts add up to something else: samples meet each other, buffers count
    micro-batches, or draws go by them. Halves are taken now and then, and only the second's buffers
    are kept; that they draw otherwise does no harm.
    """
    middle = batch.count // 2
    first = programs.gradients(rows, buffers, batch.samples(slice(0, middle)), PLAIN)
    second = programs.gradients(
        rows, {**buffers, **first.buffers}, batch.samples(slice(middle, None)), PLAIN
    )
    both = Gradients(first.flat + second.flat, first.loss + second.loss, second.buffers)
    whole = not agree(both, plain)
    again = replace(batch, seed=batch.seed + 1, offset=batch.offset + batch.count)
    random = not agree(programs.gradients(rows, buffers, again, PLAIN), plain)
    writes = any(not torch.equal(new, buffers[name]) for name, new in plain.buffers.items())
    mixing = writes or bool(programs.architecture.batch_norm)
    return whole, not mixing and (random or not whole)


def agree(found: Gradients, expected: Gradients) -> bool:
    """Whether two forms gave the same, to rounding."""
    pairs = [(found.flat, expected.flat), (found.loss, expected.loss)]
    pairs += [(found.buffers[name], value) for name, value in expected.buffers.items()]
    return all(_close(a, b) for a, b in pairs)


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point() or torch.equal(found, expected):
        return torch.equal(found, expected)  # a mask of infinities has no difference to measure
    finite = expected.isfinite()
    difference = (found - expected)[finite].norm()
    return torch.allclose(found[~finite], expected[~finite], equal_nan=True) and bool(
        difference <= AGREEMENT * (expected[finite].norm() + 1e-30)
    )


def suspects(model: nn.Module) -> str:
    """Names of modules known to be slow or impossible under ``vmap``, for the message."""
    found = [
        f"{name or 'the model'} ({type(module).__name__}: {why})"
        for name, module in model.named_modules()
        for kind, why in SLOW_UNDER_VMAP.items()
        if isinstance(module, kind)
    ]
    return "; see " + ", ".join(found) if found else ""


def _batch(source: Source, config: Mapping[str, Any], start: int, dtype: torch.dtype) -> Batch:
    index = torch.arange(start, start + SAMPLES) % len(source)
    x, y = source.take(index)
    x, y = x.cpu(), y.cpu()
    two = torch.ones(2, dtype=dtype)
    return Batch(
        x.to(dtype) if x.is_floating_point() else x,
        y.to(dtype) if y.is_floating_point() else y,
        shared=True,
        numbers={name: value * two for name, value in loss_numbers(config).items()},
        scale=two / SAMPLES,
        seed=torch.tensor([1, 2], dtype=torch.int32),
        offset=torch.zeros(2, dtype=torch.int32),
    )
