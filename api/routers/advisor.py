"""The advisor: values in, advice out; nothing is stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.problems import documented, finite
from api.security import Ctx, TokenFirst, require
from tuner import advisor, service
from tuner.advisor import memory
from tuner.errors import NotFound, Refusal, UnknownName
from tuner.protocol import Config, Id

router = APIRouter(
    route_class=TokenFirst,
    prefix="/advisor",
    tags=["advisor"],
    dependencies=[Depends(require("read"))],
)

LARGEST_BATCH = 2**31

Studies = Annotated[
    list[Id],
    Field(default_factory=list, max_length=100, description="Ids; their trials are evidence."),
]


class Question(BaseModel):
    """A body of the advisor's routes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Scale(Question):
    """A configuration that works, and the batch size it is to move to."""

    config: Config = Field(examples=[{"lr": 5e-4, "batch_size": 128, "optimizer": "adamw"}])
    batch: int = Field(ge=1, le=LARGEST_BATCH, examples=[1024])
    optimizer: str | None = Field(
        default=None, max_length=64, description="That of the configuration unless given."
    )
    rule: str | None = Field(
        default=None, max_length=64, description="Insists on one; else the best evidence decides."
    )
    fixed: Literal["epochs", "steps"] = Field(
        default="epochs", description="What both runs have the same number of."
    )
    noise_scale: float | None = Field(
        default=None, gt=0, description="Gradient noise scale in samples, where it is known."
    )
    studies: Studies


class Seen(Question):
    """One finished trial."""

    lr: float = Field(gt=0)
    batch_size: int = Field(ge=1, le=LARGEST_BATCH)
    loss: float
    seed: int = 0
    diverged: bool = False
    facts: Config = Field(default_factory=dict, description="All else that could differ.")
    study: str = Field(default="", max_length=255)


class FitTrials(Question):
    """Finished trials at several learning rates and batch sizes."""

    trials: list[Seen] = Field(default_factory=list, max_length=10_000)
    studies: Studies
    optimizer: str | None = Field(default=None, max_length=64)


class Critical(Question):
    """Studies whose trials differ in batch size, and how good is good enough."""

    studies: list[Id] = Field(min_length=1, max_length=100, description="Ids.")
    target: float = Field(examples=[0.2], description="Of the objective, in its own sense.")


class Plan(Question):
    """A configuration, and what may be spent on learning how its learning rate scales."""

    config: Config = Field(examples=[{"lr": 1e-3, "batch_size": 64, "optimizer": "adamw"}])
    task: dict[str, Any] = Field(examples=[{"name": "digits"}], description="As in a study.")
    objective: dict[str, Any] = Field(
        default={"metric": "val_loss", "direction": "minimize"}, description="As in a study."
    )
    trials: int = Field(ge=1, le=10_000, examples=[60], description="The most it may take.")
    epochs: int = Field(ge=1, le=10**6, examples=[5], description="Of each trial.")
    optimizer: str | None = Field(default=None, max_length=64)
    target: int | None = Field(
        default=None, ge=1, le=LARGEST_BATCH, description="The batch size to predict."
    )
    smallest: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    largest: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    noise: float = Field(
        default=0.7,
        ge=1e-6,
        le=1e6,
        description="Standard deviation of a loss over its curvature, in squared octaves of lr.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    name: str = Field(default="scaling", min_length=1, max_length=255)
    studies: Studies


class Line(Question):
    """Bytes as a line in the batch size: ``fixed + per_sample batch_size``."""

    fixed: float = Field(ge=0, le=1e18)
    per_sample: float = Field(ge=0, le=1e18)


class Memory(Question):
    """A model and a device."""

    optimizer: str = Field(max_length=64, examples=["adamw"])
    parameters: int = Field(ge=1, le=10**13, examples=[25_000_000])
    precision: Literal["fp32", "autocast", "mixed", "bf16"] = "fp32"
    batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    capacity: float | None = Field(default=None, gt=0, description="The device's memory in bytes.")
    activations: Line | None = Field(default=None, description="Alone, of one trial.")
    peaks: Line | None = Field(
        default=None, description="The allocator's, of one whole trial; they win over the rest."
    )
    context: float = Field(
        default=0.0, ge=0, le=1e18, description="Bytes that a process takes before any tensor."
    )
    headroom: float = Field(default=0.9, gt=0, le=1, description="Share of capacity to plan on.")


@router.post(
    "/scale",
    summary="Move to another batch size",
    responses=documented(NotFound, Refusal, UnknownName),
)
def scale(context: Ctx, question: Scale) -> dict[str, Any]:
    """The configuration at the new batch size, with its range, reasons, and what else was said."""
    advice = service.advise_config(
        context,
        question.config,
        question.batch,
        optimizer=question.optimizer,
        rule=question.rule,
        fixed=question.fixed,
        noise_scale=question.noise_scale,
        studies=question.studies,
    )
    return dict(finite(advice.to_dict()))


@router.post("/fit", summary="Fit the best learning rate", responses=documented(NotFound, Refusal))
def fit(context: Ctx, question: FitTrials) -> dict[str, Any]:
    """The best learning rate as a function of the batch size, or why the trials do not tell."""
    given = [advisor.Observation(**trial.model_dump()) for trial in question.trials]
    found = service.fit_studies(
        context, question.studies, given=given, optimizer=question.optimizer
    )
    return dict(finite(found.to_dict()))


@router.post(
    "/critical",
    summary="Find the critical batch size",
    responses=documented(NotFound, Refusal),
)
def critical(context: Ctx, question: Critical) -> dict[str, Any]:
    """Where more samples a step stop saving steps, by how soon trials come down to a target."""
    found = service.critical_batch(context, question.studies, question.target)
    return dict(finite(found.to_dict()))


@router.post(
    "/plan",
    summary="Plan the study that would tell",
    responses=documented(NotFound, Refusal, UnknownName),
)
def plan(context: Ctx, question: Plan) -> dict[str, Any]:
    """The study, ready to submit, that tells the best learning rate at any batch size best."""
    found = service.plan_study(context, **question.model_dump())
    return dict(finite(found.to_dict()))


@router.post("/memory", summary="Memory of a training", responses=documented(UnknownName))
def fits(question: Memory) -> dict[str, Any]:
    """Bytes of weights, gradients and optimizer state, and how many trials a device holds."""
    lines = {
        name: None if line is None else memory.Footprint(line.fixed, line.per_sample)
        for name, line in (("activations", question.activations), ("peaks", question.peaks))
    }
    return dict(finite(memory.memory(**(question.model_dump() | lines)).to_dict()))
