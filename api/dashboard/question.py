"""What the advisor's form asks: text fields to a configuration, a wrong one named by its field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams

from tuner import service
from tuner.advisor.families import TRAITS
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput, NotFound, UnknownName
from tuner.service import Context, StudyView
from tuner.spec.names import DEFAULT_OPTIMIZER

EXAMPLE = {"optimizer": "adam", "lr": "0.0005", "batch_size": "128", "to": "1024"}
"""What the form starts with: the question that a widely copied tutorial answers wrongly."""
MAIN = ("lr", "batch_size")
MORE = (
    "weight_decay",
    "beta1",
    "beta2",
    "eps",
    "momentum",
    "warmup_steps",
    "steps",
    "epochs",
    "clip_norm",
)
"""Hyperparameters that the form has a field for; a study's others come along unseen."""
WHOLE = ("batch_size", "to", "warmup_steps", "steps")
MOST_STUDIES = 30
PAGES_READ = 10
"""Of a hundred studies each, among which those that could be evidence are looked for."""


@dataclass
class Question:
    """A filled-in form.

    Attributes:
        values: What each field holds.
        config: The configuration that is asked about.
        batch: The new batch size.
        optimizer: Registry name.
        fixed: What both runs have the same number of.
        rule: One to insist on; empty: the best evidence decides.
        noise_scale: Where it was given.
        studies: Whose trials are evidence.
        study: The first of them.
    """

    values: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    batch: int = 0
    optimizer: str = DEFAULT_OPTIMIZER
    fixed: Fixed = "epochs"
    rule: str = ""
    noise_scale: float | None = None
    studies: list[int] = field(default_factory=list)
    study: StudyView | None = None


def started(context: Context, query: QueryParams) -> Question:
    """The form as it is to be shown, before anything in it is read as a number.

    A study that is asked about for the first time fills in the configuration of its best trial.

    Raises:
        NotFound: There is no such study.
        InvalidInput: A study's id is none.
    """
    values = {name: value.strip() for name, value in query.items() if name != "study"}
    question = Question(values)
    question.studies = [_study(text) for text in dict.fromkeys(query.getlist("study"))]
    if len(question.studies) > MOST_STUDIES:
        raise InvalidInput("study", f"at most {MOST_STUDIES} studies")
    if question.studies:
        question.study = service.show_study(context, question.studies[0])
        question.config = _best(question.study)
    if "lr" not in values:
        known = {"optimizer": DEFAULT_OPTIMIZER, **question.config} if question.study else EXAMPLE
        for name in ("optimizer", *MAIN, *MORE, "to"):
            if name in known:
                values.setdefault(name, _text(known[name]))
        size = question.config.get("batch_size")
        if isinstance(size, int):
            values.setdefault("to", str(2 * size))
    return question


def asked(question: Question) -> None:
    """Reads the form's text; the configuration is then what the form says, and what it hides.

    Raises:
        InvalidInput: A field is wrong; it is named.
    """
    values = question.values
    question.optimizer = values.get("optimizer") or DEFAULT_OPTIMIZER
    if question.optimizer not in TRAITS:
        raise UnknownName("optimizer", question.optimizer, sorted(TRAITS), "optimizer")
    fixed = values.get("fixed") or "epochs"
    if fixed not in ("epochs", "steps"):
        raise InvalidInput("fixed", f"{fixed!r} is neither epochs nor steps")
    question.fixed = "steps" if fixed == "steps" else "epochs"
    question.rule = values.get("rule", "")
    hidden = {n: v for n, v in question.config.items() if n not in (*MAIN, *MORE, "optimizer")}
    question.config = dict(hidden)
    for name in (*MAIN, *MORE):
        text = values.get(name, "")
        if text:
            question.config[name] = _number(name, text)
        elif name in MAIN:
            raise InvalidInput(name, "is missing")
    if not values.get("to"):
        raise InvalidInput("to", "is missing: which batch size is it to move to?")
    question.batch = int(_number("to", values["to"]))
    if values.get("noise_scale"):
        question.noise_scale = float(_number("noise_scale", values["noise_scale"]))


def _best(study: StudyView) -> dict[str, Any]:
    """The configuration of a study's best trial; nothing where it has none."""
    return {} if study.best is None else dict(study.best.config)


def _study(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFound("study", text[:20])
    return int(text)


def _number(name: str, text: str) -> float | int:
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidInput(name, f"{text[:40]!r} is not a number") from error
    if name not in WHOLE:
        return value
    if not math.isfinite(value) or value != int(value):
        raise InvalidInput(name, f"{text[:40]!r} is not a whole number")
    return int(value)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def known_studies(context: Context) -> list[tuple[int, str]]:
    """The newest studies whose trials could be evidence: id and name."""
    found: list[tuple[int, str]] = []
    cursor: str | None = None
    for _ in range(PAGES_READ):  # studies of other things may be many, and newer
        page = service.list_studies(context, cursor=cursor, limit=100)
        found += [
            (study.id, study.name)
            for study in page.items
            if {"lr", "batch_size"} <= _best(study).keys()
        ]
        cursor = page.next_cursor
        if cursor is None or len(found) >= MOST_STUDIES:
            break
    return found[:MOST_STUDIES]


def task_of(study: StudyView | None) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Task and objective of a study, as in a study file; digits without one."""
    if study is None or not study.spec.get("task"):
        return {"name": "digits"}, None
    objective = study.spec.get("objective") or [None]
    return study.spec["task"], objective[0]
