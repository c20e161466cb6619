"""A table with one column to predict: CSV or Parquet, classification or regression."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.tasks import register
from tuner.tasks.losses import accuracy, cross_entropy, squared_error
from tuner.tasks.models import MLP, MLP_SETTINGS
from tuner.tasks.task import Arrays, Config, Setting, Splits, Task
from tuner.tasks.weights import Weights

if TYPE_CHECKING:
    from tuner.tasks.tables.preparing import Prepared

log = logging.getLogger(__name__)

KINDS = ("auto", "classification", "regression")


@register("tabular")
class Tabular(Task):
    """A multilayer perceptron on the other columns of a table.

    Numbers are standardised, missing ones replaced by the median and marked; text and truth values
    become one column for each value (a missing one is a value too). All of that is fitted on the
    training part alone. In regression the loss is in units of the training targets' variance, so 1
    is what predicting their mean gives, and ``absolute_error`` is in the target's own unit.

    Args:
        path: ``.csv``, ``.tsv`` (each also ``.gz``) or ``.parquet``.
        target: The column to predict; rows without it are left out.
        kind: ``auto`` decides from the target: text, truth values, or whole numbers of few values
            are classes.
        drop: Columns to leave out, such as an identifier.
        valid: The fraction that validates.
        test: The fraction kept for the end.
        checkpoint: Weights that every trial starts from, a safetensors file.
    """

    summary = "A CSV or Parquet table with a named target: classification or regression."
    settings: ClassVar[Mapping[str, Setting]] = MLP_SETTINGS
    extra_metrics: tuple[str, ...] = ("accuracy", "absolute_error")

    def __init__(
        self,
        path: str,
        target: str,
        kind: str = "auto",
        drop: list[str] | None = None,
        valid: float = 0.2,
        test: float = 0.2,
        checkpoint: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InvalidInput("task.params.kind", f"{kind!r} is none of {', '.join(KINDS)}")
        self.path = Path(path)
        self.weights = Weights(checkpoint)
        self.target = target
        self.kind = kind
        if kind != "auto":
            self._measure(regression=kind == "regression")
        self.drop = list(drop or [])
        self.valid = valid
        self.test = test

    @cached_property
    def prepared(self) -> Prepared:
        """The table, read and cut once."""
        from tuner.tasks.tables import preparing  # noqa: PLC0415  (loads pandas and scikit-learn)

        prepared = preparing.prepare(
            preparing.read_table(self.path),
            self.target,
            kind=self.kind,
            drop=self.drop,
            valid=self.valid,
            test=self.test,
        )
        log.info("%s: %s", self.path.name, prepared.decision)
        self._measure(regression=prepared.classes is None)
        return prepared

    def _measure(self, *, regression: bool) -> None:
        """Only the metrics of the kind, once that is known."""
        self.extra_metrics = ("absolute_error",) if regression else ("accuracy",)

    @override
    def data(self) -> Splits:
        return self.prepared.splits

    @override
    def model(self, config: Config) -> nn.Module:
        train = self.prepared.splits.train
        assert isinstance(train, Arrays)
        model = MLP(
            train.x.shape[1],
            1 if self.prepared.classes is None else len(self.prepared.classes),
            hidden=int(self.setting(config, "model.hidden")),
            layers=int(self.setting(config, "model.layers")),
            activation=self.setting(config, "model.activation"),
            dropout_rate=float(config.get("dropout", 0.0)),
        )
        return self.weights.into(model)

    @override
    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        if self.prepared.classes is None:
            return squared_error(output, target)
        return cross_entropy(output, target, config.get("label_smoothing", 0.0))

    @override
    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        if self.prepared.classes is None:
            return {"absolute_error": (output - target).abs().squeeze(-1) * self.prepared.scale}
        return {"accuracy": accuracy(output, target)}
