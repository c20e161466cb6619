"""What a user does with trials: look, enqueue, stop, retry; and their curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tuner.errors import Conflict, InvalidInput
from tuner.service import cursor as cursors
from tuner.service.context import Context
from tuner.service.receipts import Receipt
from tuner.service.studies import plan_of
from tuner.service.turn import Turn
from tuner.service.turns import turn, turn_of
from tuner.service.views import (
    MeasurementView,
    Page,
    TrialView,
    measurement_views,
    trial_view,
)
from tuner.spaces import Categorical, Scalar, Space
from tuner.storage import listing, studies, trials
from tuner.storage import measurements as stored
from tuner.storage.models import FINISHED_STUDY_STATES, TRIAL_STATES
from tuner.storage.studies import REOPENED_STATES
from tuner.storage.trials import NewTrial, TrialRow

LARGEST_LIST = 10_000
MOST_ENQUEUED = 10_000


def list_trials(
    ctx: Context,
    study_id: int,
    *,
    state: str | None = None,
    sort: str = "number",
    order: str = "asc",
    filters: Mapping[str, Sequence[str]] | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[TrialView]:
    """A study's trials, a page at a time.

    Args:
        ctx: The service.
        study_id: Whose.
        state: Only those in this state; ``paused``: only those set aside.
        sort: number, state, step, created_at, device_seconds, attempt, value (of several
            objectives the first; ``value.1`` is the second), or ``params.NAME``.
        order: asc or desc; trials without the value come last either way.
        filters: ``params.NAME`` or ``value`` to what it must be: a number or ``LOW..HIGH``, the
            last one given; or any of the choices given, which may have bars between them.
        cursor: Where the page before ended.
        limit: Rows of a page.

    Raises:
        NotFound: No such study.
        InvalidInput: An argument is wrong.
    """
    if order not in ("asc", "desc"):
        raise InvalidInput("order", f"{order!r} is neither asc nor desc")
    if not 1 <= limit <= LARGEST_LIST:
        raise InvalidInput("limit", f"{limit} is outside [1, {LARGEST_LIST}]")
    if state is not None and state not in (*TRIAL_STATES, "paused"):
        known = ", ".join((*TRIAL_STATES, "paused"))
        raise InvalidInput("state", f"{state!r} is none of {known}")
    descending = order == "desc"
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        space = None if checked is None else checked.space
        column, kind = _sorted_by(sort, space, len(study.directions), descending)
        chosen, within = _filters(filters or {}, space)
        rows = listing.trials(
            session,
            study_id,
            state=state,
            chosen=chosen,
            within=within,
            column=column,
            descending=descending,
            after=cursors.read(cursor, [kind, (int,)]),
            limit=limit + 1,
        )
        more, rows = len(rows) > limit, rows[:limit]
        last = stored.last(session, [row.id for row, _ in rows])
    now = ctx.now()
    return Page(
        items=[trial_view(row, checked, last.get(row.id), now) for row, _ in rows],
        next_cursor=cursors.write([rows[-1][1], rows[-1][0].number]) if more else None,
    )


def _sorted_by(
    sort: str, space: Space | None, objectives: int, descending: bool
) -> tuple[Any, listing.Kind]:
    if sort in listing.TRIAL_SORTS:
        return listing.TRIAL_SORTS[sort]
    for place in range(objectives):
        if sort == f"value.{place}" or (sort == "value" and place == 0):
            return listing.by_value(descending, place)
    name = sort.removeprefix("params.")
    if sort.startswith("params.") and space is not None and name in space.searched:
        text = isinstance(space.parameters[name], Categorical)
        return listing.by_parameter(name, text=text, descending=descending)
    known = ", ".join((*listing.TRIAL_SORTS, "value", "params.NAME"))
    raise InvalidInput("sort", f"{sort!r} is none of {known}")


def _filters(
    given: Mapping[str, Sequence[str]], space: Space | None
) -> tuple[dict[str, list[str]], dict[str | None, tuple[float, float]]]:
    """What categorical parameters may be, and the ranges of numbers; None: the objective's."""
    chosen: dict[str, list[str]] = {}
    within: dict[str | None, tuple[float, float]] = {}
    for name, wanted in given.items():
        short = name.removeprefix("params.")
        if name == "value":
            within[None] = _range(name, wanted[-1])
        elif not name.startswith("params.") or space is None or short not in space.searched:
            raise InvalidInput(f"filters.{name}", "names no parameter that is searched")
        elif isinstance(parameter := space.parameters[short], Categorical):
            chosen[short] = _chosen(name, wanted, parameter.choices)
        else:
            within[short] = _range(name, wanted[-1])
    return chosen, within


def _chosen(name: str, wanted: Sequence[str], choices: Sequence[Scalar]) -> list[str]:
    found: list[str] = []
    for text in wanted:
        if text in choices:  # the whole text first: a choice may hold a bar or dots itself
            found.append(text)
        elif ".." in text:
            known = ", ".join(map(str, choices))
            raise InvalidInput(f"filters.{name}", f"has no range, but choices: {known}")
        else:
            found += text.split("|")
    return found


def _range(name: str, value: str) -> tuple[float, float]:
    low, dots, high = value.partition("..")
    try:
        return float(low), float(high if dots else low)
    except ValueError as error:
        raise InvalidInput(
            f"filters.{name}", f"{value!r} is neither a number nor LOW..HIGH"
        ) from error


def show_trial(ctx: Context, trial_id: int) -> TrialView:
    """One trial.

    Raises:
        NotFound: It is not there.
    """
    with ctx.db.session() as session:
        row = trials.get(session, trial_id)
        checked = plan_of(ctx, studies.get(session, row.study_id))
        last = stored.last(session, [trial_id])
    return trial_view(row, checked, last.get(trial_id), ctx.now())


def measurements(ctx: Context, trial_id: int, *, after_step: int = 0) -> list[MeasurementView]:
    """A trial's points by step, the last attempt's word where several measured one.

    Raises:
        NotFound: No such trial.
    """
    with ctx.db.session() as session:
        trials.study_of(session, trial_id)
        return measurement_views(stored.of_trial(session, trial_id, after_step))


def enqueue(
    ctx: Context,
    study_id: int,
    configs: Sequence[Mapping[str, Any]],
    *,
    actor: str | None = None,
    key: str | None = None,
) -> list[TrialView]:
    """Adds given configurations; they run before anything that is suggested.

    They count towards the study's budget of trials.

    Args:
        ctx: The service.
        study_id: To which study.
        configs: The configurations.
        actor: Who wants them.
        key: The sender's name for this request: said again, it is answered with the same trials.

    Raises:
        NotFound: No such study.
        InvalidInput: A configuration is no point of the space; nothing is stored.
        Conflict: The study is over, or its budget of trials has no room.
    """
    if not configs or len(configs) > MOST_ENQUEUED:
        raise InvalidInput("configs", f"give 1 to {MOST_ENQUEUED} configurations")
    said = [dict(config) for config in configs]
    with turn(ctx, study_id, actor=actor) as this:
        who = (actor, study_id)
        receipt = Receipt.of(this.session, this.now, "enqueue", who, key, said)
        if receipt.fresh:
            _open(this, "enqueue trials in")
            checked = this.checked
            params = [checked.space.check(c, f"configs[{i}]") for i, c in enumerate(configs)]
            _within_budget(this, len(params))
            rows = _add(this, params, "enqueued")
            this.flush()
            receipt.fill({"trials": [row.id for row in rows]})
    return _shown(ctx, study_id, receipt.made["trials"])


def _shown(ctx: Context, study_id: int, trial_ids: Sequence[int]) -> list[TrialView]:
    """Trials of one study as they are now."""
    now = ctx.now()
    with ctx.db.session() as session:
        checked = plan_of(ctx, studies.get(session, study_id))
        rows = trials.by_ids(session, trial_ids)
        last = stored.last(session, list(rows))
    return [trial_view(rows[i], checked, last.get(i), now) for i in trial_ids if i in rows]


def _add(this: Turn, params: Sequence[Mapping[str, Any]], origin: str) -> list[TrialRow]:
    """New trials for the search to release: it says how far each may run."""
    this.join()
    rows = this.add(
        [
            NewTrial(
                number=this.study.next_number + i,
                params=one,
                distributions=this.distributions(one),
                seed=this.checked.spec.seed,
                origin=origin,
            )
            for i, one in enumerate(params)
        ]
    )
    this.flush()
    return rows


def _open(this: Turn, what: str, also: Collection[str] = ()) -> None:
    if this.study.state in {*FINISHED_STUDY_STATES, "stopping"}.difference(also):
        raise Conflict(f"cannot {what} a study that is {this.study.state}", state=this.study.state)
    if not this.study.spec:
        raise Conflict("a study that Optuna made runs its trials through Optuna")


def _reopen(this: Turn) -> None:
    """Lets a study that has ended go on, unless it would end again at once."""
    bound = this.exhausted()
    if bound not in (None, "grid"):
        raise Conflict(f"the study's budget is met: {bound}; give it more to go on", budget=bound)
    this.state("queued")


def _within_budget(this: Turn, more: int) -> None:
    budget = this.checked.budget.trials
    if budget is not None and this.study.next_number + more > budget:
        raise Conflict(
            f"the study's budget of {budget} trials has room for "
            f"{max(budget - this.study.next_number, 0)} more",
            budget=budget,
        )


def stop_trial(ctx: Context, trial_id: int, *, actor: str | None = None) -> TrialView:
    """Ends a trial now: with points it counts as pruned, without as cancelled.

    Its holder is told to drop it.

    Raises:
        NotFound: No such trial.
        Conflict: It has ended already.
    """
    with turn_of(ctx, trial_id, actor=actor) as this:
        if this.study.spec:
            this.join()
        row = this.rows([trial_id])[trial_id]
        if row.finished:
            raise Conflict(f"trial {trial_id} has ended already", state=row.state)
        if row.step > 0:
            this.end(row, "pruned", "stopped")
        else:
            this.end(row, "fail", "cancelled")
        if this.study.spec:
            this.settle()
    return show_trial(ctx, trial_id)


def retry_trial(
    ctx: Context, trial_id: int, *, actor: str | None = None, key: str | None = None
) -> TrialView:
    """Runs a failed trial's configuration again, as a new trial within the study's budget.

    A study that has completed or failed goes on for it.

    Args:
        ctx: The service.
        trial_id: The trial that failed.
        actor: Who wants it.
        key: The sender's name for this request: said again, it is answered with the same trial.

    Raises:
        NotFound: No such trial.
        Conflict: It did not fail, the study stops or was cancelled, or its budget has no room.
    """
    with turn_of(ctx, trial_id, actor=actor) as this:
        receipt = Receipt.of(this.session, this.now, "retry", (actor, trial_id), key)
        if receipt.fresh:
            _open(this, "retry a trial of", also=REOPENED_STATES)
            row = this.rows([trial_id])[trial_id]
            if row.state != "fail":
                raise Conflict(
                    f"trial {trial_id} is {row.state}, it has not failed", state=row.state
                )
            _within_budget(this, 1)
            if this.study.state in REOPENED_STATES:
                _reopen(this)
            (new,) = _add(this, [row.params], "retried")
            this.flush()
            receipt.fill({"trial": new.id})
    return show_trial(ctx, receipt.made["trial"])
