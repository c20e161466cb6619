"""What trials of one population share: the model's structure, without its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tuner import optimizers
from tuner.errors import InvalidInput
from tuner.tasks import Config, Task

TRAINING_NUMBERS = frozenset({"epochs", "batch_size", "warmup_fraction", "dropout", "clip_norm"})
"""Numbers that never change a model's structure, nor enter its loss; nor do an optimizer's."""
TRAINING_NAMES = frozenset({"optimizer", "schedule", "warmup"})
"""Names that belong to the optimizer or the schedule, so trials may differ in them."""


@dataclass(frozen=True)
class Span:
    """Where one parameter lies in a flat row."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    names: tuple[str, ...]
    """All that it has, where it is tied: ``name`` and then the others."""

    @property
    def dims(self) -> tuple[int, ...]:
        """The negative axes of the parameter, at least one."""
        return tuple(range(-max(1, len(self.shape)), 0))


@dataclass(frozen=True)
class Architecture:
    """A model's structure: a template, and the layout of its parameters in a flat row.

    Args:
        template: The model; only ever called through ``functional_call``, which brings all tensors.
        spans: The place in the flat row of each parameter that trains, tied ones once.
        buffers: Shape and dtype of each buffer, and of each parameter that is frozen.
        frozen: Names of the latter (``requires_grad`` is False).
        rates: Names of the buffers that :func:`build` made of dropout rates.
        structure: Of the template; see :func:`structure`.
        batch_norm: Names of modules that mix the samples of a micro-batch.
    """

    template: nn.Module
    spans: tuple[Span, ...]
    buffers: Mapping[str, tuple[torch.Size, torch.dtype]]
    frozen: frozenset[str]
    rates: frozenset[str]
    structure: Mapping[str, str]
    batch_norm: tuple[str, ...]

    @cached_property
    def size(self) -> int:
        """Parameters of one model that train."""
        return self.spans[-1].stop if self.spans else 0

    @cached_property
    def constant(self) -> frozenset[str]:
        """The buffers that no forward pass writes, which so need no copies."""
        return self.frozen | self.rates

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name as views of ``[K, P]`` (or ``[P]``): ``[K, *shape]`` each."""
        lead = flat.shape[:-1]
        return {s.name: flat[..., s.start : s.stop].view((*lead, *s.shape)) for s in self.spans}


def build(task: Task, config: Config, seed: int, dtype: torch.dtype) -> nn.Module:
    """The model of a configuration, initialised from ``seed`` on the CPU, the same on any device.

    PyTorch's generator of the CPU is borrowed and put back, since that is what modules draw from.

    Raises:
        InvalidInput: A shape is not known yet.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _uncompiled(task.model(config))
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise InvalidInput(
                f"task {task.name}",
                f"model() leaves the shape of {name} to its first batch; give the sizes, or call "
                "the model once before it is returned",
            )
    for module in model.modules():
        # As a buffer the rate becomes a number of the trial, so a population may mix rates.
        if type(module) is nn.Dropout and "p" not in module._buffers:
            rate = float(module.p)
            del module.p
            module.register_buffer("p", torch.tensor(rate))

    def cast(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    # Not by ``to``, which makes of complex numbers their real parts.
    model._apply(cast)  # type: ignore[no-untyped-call]  # torch has no types here
    return model.train()


def _uncompiled(model: nn.Module) -> nn.Module:
    """The model without ``torch.compile``, which sees one slot and names parts otherwise."""
    model = model._modules.get("_orig_mod") or model
    for module in model.modules():
        vars(module).pop("_compiled_call_impl", None)  # of ``module.compile()``
        for name, child in module._modules.items():
            if child is not None and "_orig_mod" in child._modules:
                module._modules[name] = child._modules["_orig_mod"]
    return model


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name, tied ones once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """All that a model has besides: its buffers, and the parameters that are frozen."""
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    return {**dict(model.named_buffers()), **frozen}


def flat(model: nn.Module) -> Tensor:
    """The parameters that train as one row ``[P]``."""
    return torch.cat([value.reshape(-1) for value in trained(model).values()])


def describe(model: nn.Module, task: Task) -> Architecture:
    """The structure of a model that :func:`build` made.

    Raises:
        InvalidInput: Nothing in it trains, or a parameter that does is complex or has a hook.
    """
    spans: list[Span] = []
    start = 0
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.is_complex():
            raise InvalidInput(
                f"task {task.name}",
                f"model() has the complex parameter {name}, which no optimizer here trains; keep "
                "its real and imaginary parts and join them in forward() by torch.view_as_complex",
            )
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise InvalidInput(
                f"task {task.name}",
                f"model() hangs a hook on the parameter {name}, which would not be called: what "
                "trains are rows of a population; change the weight where forward() uses it",
            )
        stop = start + parameter.numel()
        spans.append(Span(name, tuple(parameter.shape), start, stop, tuple(names[id(parameter)])))
        start = stop
    if not spans:
        raise InvalidInput(f"task {task.name}", "model() has no parameter that trains")
    buffers = {name: (b.shape, b.dtype) for name, b in buffers_of(model).items()}
    frozen = buffers.keys() - dict(model.named_buffers()).keys()
    return Architecture(
        model,
        tuple(spans),
        buffers,
        frozenset(frozen),
        rates(model),
        structure(model),
        mixing_modules(model),
    )


def rates(model: nn.Module) -> frozenset[str]:
    """Names of the buffers that :func:`build` made of dropout rates."""
    return frozenset(
        f"{name}.p" if name else "p"
        for name, module in model.named_modules()
        if type(module) is nn.Dropout
    )


def mixing_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of modules that mix the samples of a micro-batch."""
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )


def structure_key(model: nn.Module, task: Task, config: Config) -> str:
    """A digest of all that trials must share to be stacked: structure, names, and which numbers."""
    names = sorted(map(repr, loss_names(config).items()))
    parts = (task.name, list(structure(model).items()), names, sorted(loss_numbers(config)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def structure(model: nn.Module) -> dict[str, str]:
    """What models must have alike so that one can be the template of all, by name.

    With the plain values that modules keep as attributes: a program has those of its template, so a
    rate that is no buffer must be the same in all.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        extra = "" if type(module) is nn.Dropout else module.extra_repr()
        found[name] = f"{type(module).__name__}({extra})"
        for key, value in sorted(vars(module).items()):
            if isinstance(value, bool | int | float | str):
                found[f"{name}.{key}" if name else key] = repr(value)
    for name, parameter in model.named_parameters():
        frozen = "" if parameter.requires_grad else ", frozen"
        found[name] = f"of shape {list(parameter.shape)}{frozen}"
    return found


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The first thing that two structures have otherwise, in words; empty where they are alike."""
    for name in dict.fromkeys((*one, *other)):
        here, there = (each.get(name, "not there") for each in (one, other))
        if here != there:
            return f"{name or 'the model'} is {here}, not {there}"
    return "" if list(one) == list(other) else "its parts are in another order"


@cache
def optimizer_names() -> frozenset[str]:
    """Every hyperparameter of every optimizer."""
    return frozenset(name for _, rule in optimizers.registry.items() for name in rule.hyper)


def loss_numbers(config: Config) -> dict[str, float]:
    """The numbers of a config that a loss may read, as floats; they become vectors over slots."""
    numbers: dict[str, float] = {"label_smoothing": 0.0}
    others = TRAINING_NUMBERS | optimizer_names()
    for name, value in config.items():
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in others
            and not name.startswith(("model.", "schedule.", "lr_scale."))
        ):
            numbers[name] = float(value)
    return numbers


def loss_config(config: Config) -> dict[str, Any]:
    """What a loss gets of one trial's config: its numbers as 0-d tensors."""
    numbers = {name: torch.tensor(value) for name, value in loss_numbers(config).items()}
    return {**loss_names(config), **numbers}


def loss_names(config: Config) -> dict[str, Any]:
    """What a whole population has in common in its config: what a loss may branch on."""
    return {
        name: value
        for name, value in config.items()
        if name.startswith("model.")
        or (
            name not in TRAINING_NAMES
            and not name.startswith("schedule.")
            and (isinstance(value, bool) or not isinstance(value, int | float))
        )
    }
