"""The advisor: values in, advice out; nothing is stored."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.problems import documented, finite
from api.security import require
from tuner import advisor
from tuner.advisor import memory
from tuner.errors import Refusal, UnknownName
from tuner.protocol import Config

router = APIRouter(prefix="/advisor", tags=["advisor"], dependencies=[Depends(require("read"))])

LARGEST_BATCH = 2**31


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


class Seen(Question):
    """One finished trial."""

    lr: float = Field(gt=0)
    batch_size: int = Field(ge=1, le=LARGEST_BATCH)
    loss: float
    seed: int = 0
    diverged: bool = False
    facts: dict[str, Any] = Field(default_factory=dict, description="All else that could differ.")
    study: str = Field(default="", max_length=255)


class FitTrials(Question):
    """Finished trials at several learning rates and batch sizes."""

    trials: list[Seen] = Field(min_length=1, max_length=10_000)
    optimizer: str | None = Field(default=None, max_length=64)


class Memory(Question):
    """A model and a device."""

    optimizer: str = Field(max_length=64, examples=["adamw"])
    parameters: int = Field(ge=1, le=10**13, examples=[25_000_000])
    precision: Literal["fp32", "autocast", "mixed", "bf16"] = "fp32"
    batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    capacity: float | None = Field(default=None, gt=0, description="The device's memory in bytes.")


@router.post(
    "/scale", summary="Move to another batch size", responses=documented(Refusal, UnknownName)
)
def scale(question: Scale) -> dict[str, Any]:
    """The configuration at the new batch size, with its range, reasons, and what else was said."""
    advice = advisor.advise(
        question.config,
        question.batch,
        optimizer=question.optimizer,
        rule=question.rule,
        fixed=question.fixed,
        noise_scale=question.noise_scale,
    )
    return dict(finite(advice.to_dict()))


@router.post("/fit", summary="Fit the best learning rate", responses=documented(Refusal))
def fit(question: FitTrials) -> dict[str, Any]:
    """The best learning rate as a function of the batch size, or why the trials do not tell."""
    observations = [advisor.Observation(**trial.model_dump()) for trial in question.trials]
    return dict(finite(advisor.fit(observations, optimizer=question.optimizer).to_dict()))


@router.post("/memory", summary="Memory of a training", responses=documented(UnknownName))
def fits(question: Memory) -> dict[str, Any]:
    """Bytes of weights, gradients and optimizer state, and how many trials a device holds."""
    return dict(finite(memory.memory(**question.model_dump()).to_dict()))
