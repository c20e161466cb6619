"""What the advisor says, with the finished trials that this service stores as its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from sqlalchemy.orm import Session

from tuner import advisor
from tuner.advisor import Advice, Fit, Observation
from tuner.advisor.noise_scale import NoiseScale
from tuner.advisor.plan import Plan, plan
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput, NotFound
from tuner.service.context import Context
from tuner.service.evidence import Setting, setting_of
from tuner.service.reporting import DIVERGED
from tuner.service.studies import best
from tuner.service.trials import show_trial
from tuner.service.views import TrialView
from tuner.spec.names import DEFAULT_OPTIMIZER
from tuner.storage import measurements, pictures, studies, trials

MOST_OBSERVATIONS = 10_000
"""More trials move no optimum, and the bootstrap pays for each."""


@dataclass(frozen=True)
class Seen:
    """The trial behind an observation."""

    trial_id: int
    number: int
    study_id: int
    value: float | None
    """Its objective as it was measured; None: it diverged."""


def advise_study(
    ctx: Context,
    study_id: int,
    batch: int,
    *,
    trial: int | None = None,
    fixed: Fixed = "epochs",
    rule: str | None = None,
) -> Advice:
    """How to move a study's best configuration to another batch size, on the study's evidence.

    Args:
        ctx: The service.
        study_id: The study.
        batch: The new batch size.
        trial: The number of the trial to move; the best one if None.
        fixed: What both runs have the same number of.
        rule: One to insist on; by default the best evidence decides.

    Raises:
        NotFound: No such study, or it has no such trial.
        InvalidInput: No trial is finished yet, or a value is impossible.
        Refusal: The ``rule`` insisted on does not hold here.
    """
    chosen = _trial(ctx, study_id, trial)
    with ctx.db.session() as session:
        config = setting_of(ctx, session, study_id).config(chosen.params)
    for name in ("lr", "batch_size"):
        if config.get(name) is None:
            raise InvalidInput(name, f"trial {chosen.number} has no {name}")
    advice = advise_config(
        ctx,
        {"optimizer": DEFAULT_OPTIMIZER, **config},
        batch,
        studies=[study_id],
        noise_scale=NoiseScale.from_metrics(chosen.last_metrics),
        fixed=fixed,
        rule=rule,
    )
    if "optimizer" in config:
        return advice
    assumed = f"trial {chosen.number} names no optimizer: {DEFAULT_OPTIMIZER} is assumed"
    return replace(advice, cautions=(assumed, *advice.cautions))


def advise_config(
    ctx: Context,
    config: Mapping[str, Any],
    batch: int,
    *,
    studies: Sequence[int] = (),
    optimizer: str | None = None,
    noise_scale: float | NoiseScale | None = None,
    fixed: Fixed = "epochs",
    rule: str | None = None,
) -> Advice:
    """How to move any configuration, with the finished trials of ``studies`` as evidence.

    Where no noise scale is given, it is that of the trial at the same batch size and the nearest
    learning rate.

    Raises:
        NotFound: No such study.
        InvalidInput: A value is impossible.
        Refusal: The ``rule`` insisted on does not hold here.
    """
    known = noise_scale if noise_scale is not None else noise_beside(ctx, studies, config)
    return advisor.advise(
        config,
        batch,
        optimizer=optimizer,
        fixed=fixed,
        noise_scale=known,
        studies=observations(ctx, studies) or None,
        rule=rule,
    )


def fit_studies(
    ctx: Context,
    study_ids: Sequence[int],
    *,
    given: Sequence[Observation] = (),
    optimizer: str | None = None,
) -> Fit:
    """The best learning rate against the batch size, from stored trials and those ``given``.

    Raises:
        NotFound: No such study.
        InvalidInput: There is no finished trial.
        Refusal: The trials are not of one setting.
    """
    seen = [*given, *observations(ctx, study_ids)]
    if not seen:
        raise InvalidInput("trials", _nothing(ctx, study_ids))
    return advisor.fit(seen, optimizer=optimizer)


def plan_study(
    ctx: Context, config: Mapping[str, Any], *, studies: Sequence[int] = (), **question: Any
) -> Plan:
    """The study that would tell the best learning rate best, given what ``studies`` tell already.

    Args:
        ctx: The service.
        config: The present configuration.
        studies: Whose finished trials narrow what is left to find out.
        question: As :func:`tuner.advisor.plan.plan` takes it.

    Raises:
        NotFound: No such study.
        InvalidInput: A value is impossible.
        Refusal: The budget cannot identify an exponent, or the trials are not of one setting.
    """
    seen = observations(ctx, studies)
    known = advisor.fit(seen, optimizer=question.get("optimizer")) if seen else None
    return plan(config, fit=known, **question)


def observations(ctx: Context, study_ids: Sequence[int]) -> list[Observation]:
    """The finished trials of studies as the advisor sees them, lower losses better.

    Pruned trials and those that patience or a target ended early are left out, since they have no
    final loss, and so are those without a learning rate or a batch size. Trials that broke the
    study's constraint count: it says which may be the best one, and nothing of their losses.

    Raises:
        NotFound: No such study.
    """
    return [observation for _, observation in observed(ctx, study_ids)]


def observed(ctx: Context, study_ids: Sequence[int]) -> list[tuple[Seen, Observation]]:
    """The same, each with the trial that it was.

    Raises:
        NotFound: No such study.
    """
    with ctx.db.session() as session:
        settings = {i: setting_of(ctx, session, i) for i in study_ids}
        every = (_of_study(session, *item) for item in settings.items())
        return [*islice(chain.from_iterable(every), MOST_OBSERVATIONS)]


def _nothing(ctx: Context, study_ids: Sequence[int]) -> str:
    """Why these studies have no observation."""
    with ctx.db.session() as session:
        for study_id in study_ids:
            setting = setting_of(ctx, session, study_id)
            done = trials.each_of_study(session, study_id, states=("complete",))
            if any(not setting.cut_short(row) for row in done):
                return "no finished trial has both lr and batch_size"
    return "there is no finished trial to fit"


def _of_study(
    session: Session, study_id: int, setting: Setting
) -> Iterator[tuple[Seen, Observation]]:
    for row in trials.each_of_study(session, study_id, states=("complete", "fail")):
        diverged = row.state == "fail" and row.reason == DIVERGED
        if not diverged and (row.state == "fail" or row.values is None):
            continue  # it ended for a reason that says nothing of its learning rate
        if not diverged and setting.cut_short(row):
            continue
        loss = None if diverged or row.values is None else setting.sign * float(row.values[0])
        config = {**setting.facts, **setting.config(row.params)}
        try:
            observation = Observation.from_config(
                config, loss, seed=row.seed, diverged=diverged, study=str(study_id)
            )
        except InvalidInput:
            continue
        value = None if loss is None else setting.sign * loss
        yield Seen(row.id, row.number, study_id, value), observation


def noise_beside(
    ctx: Context, study_ids: Sequence[int], config: Mapping[str, Any]
) -> NoiseScale | None:
    """What was measured next to a configuration; None where nothing comes near."""
    lr, size = config.get("lr"), config.get("batch_size")
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 < lr < math.inf:
        return None  # refused by its name in a moment
    near: list[tuple[float, int]] = []
    with ctx.db.session() as session:
        for study_id in dict.fromkeys(study_ids):
            setting = setting_of(ctx, session, study_id)
            for trial_id, params in pictures.params_of_complete(session, study_id).items():
                tried = setting.config(params)
                rate = tried.get("lr")
                if tried.get("batch_size") == size and isinstance(rate, int | float) and rate > 0:
                    near.append((abs(math.log(rate / lr)), trial_id))
        if not near:
            return None
        _, trial_id = min(near)
        last = measurements.last(session, [trial_id]).get(trial_id)
    return None if last is None else NoiseScale.from_metrics(measurements.numbers(last.metrics))


def _trial(ctx: Context, study_id: int, number: int | None) -> TrialView:
    """A study's trial by number, or its best.

    Raises:
        NotFound: No such study, or no such trial.
        InvalidInput: No trial is finished yet.
    """
    if number is None:
        found = best(ctx, study_id)
        if not found:
            raise InvalidInput("study", "it has no finished trial yet")
        return found[0]
    with ctx.db.session() as session:
        studies.get(session, study_id)
        rows = trials.by_numbers(session, study_id, [number])
    if number not in rows:
        raise NotFound("trial", number)
    return show_trial(ctx, rows[number].id)
