"""What a study file may say: the same fields in YAML, in a JSON body and on a form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tuner.errors import UNKNOWN_FIELD, InvalidInput
from tuner.spec.files import read_yaml

LARGEST_SEED = 2**31 - 1
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Part(BaseModel):
    """A frozen part of a study file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskSpec(Part):
    """What to train."""

    name: Name = Field(
        examples=["digits"], description="Of a built-in task, your own, or a script."
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the task, such as the path of its data."
    )


class ObjectiveSpec(Part):
    """What is optimised."""

    metric: Name = Field(examples=["val_loss"], description="One that the task measures.")
    direction: Literal["minimize", "maximize"] = Field("minimize", description="Which way is good.")


class SamplerSpec(BaseModel):
    """How configurations are proposed; further keys are the sampler's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Name = Field(examples=["tpe"], description="Of a sampler.")
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = Field(
        None, description="The study's seed unless given."
    )


class PrunerSpec(BaseModel):
    """How trials are stopped early; further keys are the pruner's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Name = Field(examples=["asha"], description="Of a pruner.")


class BudgetSpec(Part):
    """What ends the study. Each bound is exact: never one trial or one epoch more."""

    trials: int | None = Field(None, ge=1, le=10**9, description="Trials, whatever their end.")
    epochs: int = Field(20, ge=1, le=10**6, description="Epochs of one full training.")
    total_epochs: int | None = Field(None, ge=1, le=10**12, description="Epochs of all trials.")
    seconds: float | None = Field(
        None, gt=0, le=10**9, description="Wall time in which somebody had trials of it."
    )
    target: float | None = Field(
        None, description="End once a trial is this good, by the first objective."
    )


class ConstraintSpec(Part):
    """A bound that a good trial must keep, such as the size or the latency of its model."""

    metric: Name = Field(description="One that the task measures.")
    max: float = Field(description="A trial above it is never the best.")


class StudySpec(Part):
    """A study as a user asks for it.

    ``task`` may be missing in a study whose trials are run by the user's own loop (ask and tell).
    """

    name: Name = Field(examples=["digits-adamw"], description="No other study may have it.")
    task: TaskSpec | None = Field(
        None, description="What to train; missing where your own loop asks and tells."
    )
    objective: tuple[ObjectiveSpec, ...] = Field(
        (), max_length=8, description="One or several; the task's own unless given."
    )
    space: dict[str, Any] | Literal["auto"] = Field(
        "auto", description="Name to constant or range; auto takes the defaults of the optimizer."
    )
    range_test: bool | None = Field(
        None,
        description="Whether a worker measures the range of lr first, in one short run that counts "
        "neither as a trial nor as epochs. By default where the space is auto.",
    )
    sampler: SamplerSpec | None = Field(None, description="How configurations are proposed.")
    pruner: PrunerSpec | None = Field(None, description="How trials are stopped early.")
    budget: BudgetSpec | None = Field(None, description="What ends the study.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Initialisation and order of data.")
    priority: int = Field(0, ge=-1000, le=1000, description="Higher ones are served first.")
    max_concurrent: int | None = Field(None, ge=1, le=65536, description="Trials at once.")
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (), max_length=50, fail_fast=True, description="To find studies by."
    )
    description: str = Field("", max_length=10_000, description="For people.")
    warm_start: tuple[Annotated[int, Field(ge=1, lt=2**31)], ...] = Field(
        (),
        max_length=20,
        fail_fast=True,
        description="Ids of studies whose finished trials inform the sampler.",
    )
    constraint: ConstraintSpec | None = Field(None, description="A bound that good trials keep.")
    eval_every: float = Field(1.0, gt=0, le=10**6, description="Epochs between evaluations.")

    @field_validator("task", mode="before")
    @classmethod
    def _named_task(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping | ObjectiveSpec) else value

    @field_validator("space", mode="before")
    @classmethod
    def _mapping(cls, value: object) -> object:
        # Checked here, so that the message is one sentence and not one for each form there is.
        if value == "auto":
            return value
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError("is neither auto nor a mapping of names to values or ranges")
        return dict(value)

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Reads the form of a study file that YAML or JSON gave.

        Raises:
            InvalidInput: For the first thing that is wrong, naming its field.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInput("", "a study is a mapping of fields such as name, task and space")
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise refused(error) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Reads a study file.

        Raises:
            InvalidInput: The file cannot be read, is no YAML, or holds a wrong value.
        """
        return cls.parse(read_yaml(path))

    def to_dict(self) -> dict[str, Any]:
        """The study file's form, without what was left out."""
        return self.model_dump(mode="json", exclude_none=True)


def refused(error: ValidationError) -> InvalidInput:
    """The first thing that pydantic refused, in this package's words."""
    first = error.errors()[0]
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    if first["type"] == "missing":
        return InvalidInput(field, "is missing")
    if first["type"] == "extra_forbidden":
        return InvalidInput(field, UNKNOWN_FIELD)
    message = first["msg"].removeprefix("Value error, ")
    given = repr(first["input"])
    if first["type"] != "value_error" and len(given) <= 60:
        message = f"{given}: {message[:1].lower()}{message[1:]}"
    return InvalidInput(field, message)
