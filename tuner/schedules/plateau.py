"""Reduce on plateau: the one schedule that follows what was measured.

torch's ``ReduceLROnPlateau`` and Keras's disagree in when they cut, what counts as better, how long
they cool down, and what a NaN does; ``semantics`` says whose rules hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import Option, Schedule, Tensors


def _monitor(value: object, field: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 255:
        raise InvalidInput(field, f"{value!r} is no name of a metric")
    return value


@dataclass(frozen=True)
class PlateauState:
    """What plateaus remember, one element a trial; never changed in place.

    Args:
        best: The best metric so far, float64; means nothing while ``seen`` is 0.
        bad: Observations in a row without improvement, int64.
        cooldown: Observations still to be ignored, int64.
        seen: Observations so far, int64.
        factor: The present multiplier, float64.
    """

    best: Tensor
    bad: Tensor
    cooldown: Tensor
    seen: Tensor
    factor: Tensor

    @classmethod
    def fresh(cls, shape: tuple[int, ...] = ()) -> PlateauState:
        """The state before the first observation."""
        whole = torch.zeros(shape, dtype=torch.int64)
        real = torch.zeros(shape, dtype=torch.float64)
        return cls(real, whole, whole, whole, torch.ones_like(real))

    def to_dict(self) -> dict[str, Tensor]:
        """The tensors by name, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, tensors: Mapping[str, Tensor]) -> PlateauState:
        """The inverse of :meth:`to_dict`."""
        return cls(**tensors)


@register("plateau")
class Plateau(Schedule):
    """Cuts the learning rate by ``factor`` when a metric has stopped improving.

    ``semantics: torch``: cuts at more than ``patience`` bad observations in a row; ``threshold`` is
    relative to the best unless ``threshold_mode: abs``; ignores bad observations through
    ``cooldown`` of them; skips a cut that changes the rate by 1e-8 or less; a first NaN is
    forgotten. ``semantics: keras``: cuts at ``patience`` bad observations; the threshold is
    absolute (``min_delta``); a cooldown of c ignores c - 1, so 1 does nothing; a first NaN stays
    the best for ever, so that every later observation is bad.

    One deviation: torch's relative threshold is ``best * (1 - threshold)``, which for a negative
    best lets a metric *worsen* forever without a cut; ours is ``best - threshold * |best|``, the
    same number wherever the metric is positive.
    """

    summary = "Cuts the rate when a metric has stopped improving."
    formula = "factor^(cuts so far), not below min_lr"
    reference = "https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html"
    stateful = True
    jumps = True
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "factor": Hyper(
            0.1, 0.0, 1.0, True, True, (0.1, 0.7), doc="what each cut multiplies the rate by"
        ),
        "patience": Hyper(10.0, 0.0, 1e9, search=(1.0, 10.0), doc="bad observations borne"),
        "threshold": Hyper(1e-4, 0.0, 1e9, doc="least change that counts as better"),
        "cooldown": Hyper(0.0, 0.0, 1e9, doc="observations to ignore after a cut"),
        "min_lr": Hyper(0.0, 0.0, 1e9, doc="no cut goes below this learning rate"),
    }
    options: ClassVar[Mapping[str, Option]] = {
        "semantics": Option("torch", "whose rules hold", ("torch", "keras")),
        "mode": Option(
            "auto", "whether less is better; auto: unless it is an accuracy", ("auto", "min", "max")
        ),
        "threshold_mode": Option(
            "rel", "threshold relative or absolute; Keras knows absolute only", ("rel", "abs")
        ),
        "monitor": Option("val_loss", "the metric observed", parse=_monitor),
    }

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        return h["plateau"] * torch.ones_like(t * T)

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        auto = "acc" in self.chosen["monitor"] or "auc" in self.chosen["monitor"]
        return bool(auto if self.chosen["mode"] == "auto" else self.chosen["mode"] == "max")

    def observe(self, state: PlateauState, metric: Tensor, h: Tensors) -> PlateauState:
        """The state after one more observation of each trial.

        Args:
            state: The state so far.
            metric: The monitored metric, float64, of the state's shape; NaN and infinity may occur.
            h: The settings and ``lr0`` (for ``min_lr``), float64, broadcastable.
        """
        metric = torch.as_tensor(metric, dtype=torch.float64)
        cost = -metric if self.maximize else metric
        best = -state.best if self.maximize else state.best
        keras = self.chosen["semantics"] == "keras"
        better = self._better(cost, best, state.seen == 0, h["threshold"], keras)
        cooling = state.cooldown > 0
        cooldown = state.cooldown - cooling.long()
        # torch ignores an observation that begins in a cooldown, Keras one that does not end it.
        ignored = cooldown > 0 if keras else cooling
        bad = torch.where(better | ignored, 0, torch.where(cooling, 0, state.bad) + 1)
        due = (bad >= h["patience"]) & (bad > 0) if keras else bad > h["patience"]
        if not keras:
            best = torch.where(state.seen == 0, torch.inf, best)
        best = torch.where(better, cost, best)
        lr = state.factor * h["lr0"]
        lower = torch.maximum(lr * h["factor"], h["min_lr"])
        cut = due & (lr > h["min_lr"]) if keras else due
        moves = cut if keras else cut & (lr - lower > 1e-8)
        safe = torch.where(h["lr0"] > 0, h["lr0"], 1.0)
        factor = torch.where(moves & (h["lr0"] > 0), lower / safe, state.factor)
        return PlateauState(
            best=-best if self.maximize else best,
            bad=torch.where(cut, 0, bad),
            cooldown=torch.where(cut, h["cooldown"].long(), cooldown),
            seen=state.seen + 1,
            factor=factor,
        )

    def _better(
        self, cost: Tensor, best: Tensor, first: Tensor, threshold: Tensor, keras: bool
    ) -> Tensor:
        absolute = keras or self.chosen["threshold_mode"] == "abs"
        margin = threshold if absolute else threshold * best.abs()
        improved = cost < torch.where(best.isfinite(), best - margin, best)
        # Keras takes the first observation for the best, whatever it is; torch starts at infinity.
        return torch.where(first, torch.ones_like(first) if keras else cost < torch.inf, improved)

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        epochs = T / h["steps_per_epoch"] if h["steps_per_epoch"] > 1.0 else float("inf")
        bear = h["patience"] + (1.0 if self.chosen["semantics"] == "torch" else 0.0)
        if 1.0 + max(bear, 1.0) >= epochs:
            raise InvalidInput(
                f"{prefix}patience",
                f"{h['patience']:g} epochs of patience in {epochs:g} epochs: it never cuts",
            )
