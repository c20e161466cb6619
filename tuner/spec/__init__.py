"""The study file: its form, its defaults, and every check that a value in it must pass."""

from tuner.spec.built import facts, freeze
from tuner.spec.check import Checked, check, resolve
from tuner.spec.names import optimizer_steps, unsaid
from tuner.spec.study import (
    BudgetSpec,
    ConstraintSpec,
    ObjectiveSpec,
    PrunerSpec,
    SamplerSpec,
    StudySpec,
    TaskSpec,
)

__all__ = [
    "BudgetSpec",
    "Checked",
    "ConstraintSpec",
    "ObjectiveSpec",
    "PrunerSpec",
    "SamplerSpec",
    "StudySpec",
    "TaskSpec",
    "check",
    "facts",
    "freeze",
    "optimizer_steps",
    "resolve",
    "unsaid",
]
