"""The form of an optimizer: names, ranges and two pure functions.

A rule is written once. With 0-d coefficients it is one model's optimizer
(``tuner.optimizers.torch`` makes it a ``torch.optim.Optimizer``); with coefficients shaped
``[K, 1, ...]`` it is that of a population of K trials, whose hyperparameters are vectors
(``tuner.training``).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tuner.errors import InvalidInput

Dims = tuple[int, ...]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Prior:
    """General knowledge of where good values lie, for the default search (``SEARCH``).

    ``center`` is in the hyperparameter's own unit. ``spread`` is one standard deviation: in decades
    where the hyperparameter is searched on a log scale, else in the unit of the search range
    (0..1). ``of`` says which transform the log is taken of: ``1 - value`` for decay rates.
    """

    center: float
    spread: float
    source: str
    of: Literal["value", "complement"] = "value"


@dataclass(frozen=True)
class Hyper:
    """One hyperparameter of a rule: its default, its legal range, and where to search.

    Args:
        default: The value an ordinary optimizer takes when none is given.
        low: The least legal value; ``open_low`` excludes it.
        high: The greatest legal value; ``open_high`` excludes it.
        search: The default search range, or None where it is not searched by default.
        log: Whether the search is on a log scale.
        complement: Whether the log scale is that of ``1 - value`` (decay rates).
        prior: General knowledge of good values, with its source.
        doc: What it does, in a few words.
    """

    default: float
    low: float = float("-inf")
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False
    search: tuple[float, float] | None = None
    log: bool = False
    complement: bool = False
    prior: Prior | None = None
    doc: str = ""

    def check(self, name: str, value: float) -> None:
        """Raises InvalidInput, naming ``name`` and the legal range, unless ``value`` is legal."""
        legal = (value > self.low if self.open_low else value >= self.low) and (
            value < self.high if self.open_high else value <= self.high
        )
        if not legal:  # NaN fails both comparisons
            left, right = "(["[not self.open_low], ")]"[not self.open_high]
            raise InvalidInput(name, f"{value!r} is outside {left}{self.low}, {self.high}{right}")


class Rule(ABC):
    """An optimizer as data. Instances hold no numbers of a run; those are arguments.

    ``granularity`` says what one call of :meth:`update` needs to see:

    - ``element``: each coordinate by itself; any view will do, best one flat ``[K, P]`` buffer;
    - ``tensor``: one parameter tensor at a time, with its shape (norms, matrix factors);
    - ``model``: all coordinates of a model at once as ``[K, P]``, since it reduces over the model.
    """

    name: ClassVar[str]
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "element"
    hyper: ClassVar[Mapping[str, Hyper]]
    """Per class; a subclass that differs in defaults alone (a preset) overrides only this."""
    state: tuple[str, ...] = ()
    """Names of the state tensors that :meth:`init` makes, in order; an option may add to them."""
    summary: ClassVar[str] = ""
    """One sentence for a list of optimizers."""
    when: ClassVar[str] = ""
    """When to use it, for the same list."""
    formula: ClassVar[str] = ""
    """The step in one line of plain text; the docstring has it in full."""
    reference: ClassVar[tuple[str, int, str]] = ("", 0, "")
    """Title, year, address."""
    needs: ClassVar[Literal["", "gnb", "hutchinson"]] = ""
    """What :meth:`refresh` wants every ``hessian_every`` steps."""
    hessian_every: ClassVar[int] = 10
    flags: ClassVar[tuple[str, ...]] = ()
    """Coefficients that say what to compute for which slot. They stay on the host, where they can
    be looked at: to read them from a GPU is to wait for it, for each parameter at each step."""
    eval_mode: ClassVar[bool] = False
    """Whether the weights to evaluate differ from those trained (see :meth:`eval_params`)."""

    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        """Fresh state for ``p``, by name; each tensor keeps the leading (slot) axes of ``p``.

        Args:
            p: ``[*lead, *shape]``, where ``lead`` is ``()`` or ``(K,)``.
            dims: The negative axes of ``shape``, never empty (a 0-d parameter comes as ``[1]``).

        A buffer is shaped as ``p``, or, where one number a slot will do, ``[*lead, 1, ...]`` with
        ``p``'s number of axes; matrix rules also keep factors ``[*lead, n, n]``.
        """
        return {name: torch.zeros_like(p) for name in self.state}

    @abstractmethod
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        """All that depends on hyperparameters and step alone, such as bias corrections.

        Tiny, in float64, outside the kernel (with ``beta**t`` inside, a compiled kernel is 5x
        slower). Broadcasts over any shape, so that a whole round's ``[steps, K]`` is one call.

        Args:
            h: Hyperparameters by name, float64; ``lr`` (and ``momentum``) already scheduled.
            step: int64, counted from 0, broadcastable with the values of ``h``.
        """

    @abstractmethod
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mathematics: new parameters and new state. Pure, never in place.

        Args:
            p: Parameters ``[*lead, *shape]``.
            g: Their gradient, same shape (mean over the batch).
            state: As made by :meth:`init`.
            c: Coefficients in ``p``'s dtype, 0-d or ``[K, 1, ...]`` with ``p``'s number of axes,
                where ``p`` is, but for :attr:`flags`.
            dims: The negative axes of ``shape``, for reductions.
        """

    def refresh(self, state: Tensors, estimate: Tensor, c: Tensors) -> dict[str, Tensor]:
        """New state from a curvature estimate; only rules that say so in ``needs`` have it.

        Args:
            state: As made by :meth:`init`.
            estimate: Of the Hessian's diagonal, shaped as the parameters: ``B * ghat**2`` for
                ``gnb``, where ghat is the gradient of the mean loss of a batch of B under labels
                drawn from the model; ``v * (H v)`` for ``hutchinson``, with v of random signs.
            c: Coefficients as in :meth:`update`.
        """
        raise NotImplementedError(f"{self.name} takes no curvature estimate")

    def eval_params(self, p: Tensor, state: Tensors, c: Tensors) -> Tensor:
        """The weights to evaluate and ship; ``p`` itself unless ``eval_mode``."""
        return p

    @property
    def options(self) -> dict[str, object]:
        """The constructor's options: what no group, and no slot of a population, has otherwise."""
        names = inspect.signature(type(self)).parameters
        return {name: value for name, value in vars(self).items() if name in names}

    @property
    def key(self) -> tuple[object, ...]:
        """What tells two forms of one rule apart: the class and its constructor's options."""
        return (type(self), *sorted(vars(self).items()))

    def state_bytes_per_parameter(self, itemsize: int = 4) -> float:
        """Bytes of optimizer state per parameter, counted on a 256 x 256 matrix."""
        p = torch.empty(256, 256)
        if self.granularity == "model":
            p = p.flatten()
        state = self.init(p, (-2, -1)[-p.ndim :])
        return sum(s.numel() for s in state.values()) * itemsize / p.numel()

    def check(self, values: Mapping[str, float]) -> None:
        """Refuses unknown names and illegal values, by name.

        Raises:
            InvalidInput: One value is unknown or outside its range.
        """
        for name, value in values.items():
            if name not in self.hyper:
                known = ", ".join(self.hyper)
                raise InvalidInput(name, f"{self.name} has no such setting; it has {known}")
            self.hyper[name].check(name, value)
