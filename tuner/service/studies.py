"""Studies as a user meets them: submitted and looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from tuner.errors import Conflict, InvalidInput, NotFound, TunerError
from tuner.queue import probes
from tuner.service import cursor as cursors
from tuner.service.context import Context
from tuner.service.datasets import hold_datasets, located, pinned
from tuner.service.files import check_files
from tuner.service.front import comparable, front_of
from tuner.service.names import check_name
from tuner.service.offers import form_of
from tuner.service.receipts import Receipt
from tuner.service.turn import elapsed
from tuner.service.views import Page, StudyView, TrialView, progress, study_view, trial_view
from tuner.spec import Checked, StudySpec, check
from tuner.storage import events, listing, measurements, pictures, studies, trials
from tuner.storage.events import NewEvent
from tuner.storage.models import STUDY_STATES
from tuner.storage.studies import StudyRow

LARGEST_LIST = 1000


def submit(
    ctx: Context, spec: StudySpec, *, actor: str | None = None, key: str | None = None
) -> StudyView:
    """Queues a study.

    Args:
        ctx: The service.
        spec: The study file.
        actor: Who submits it.
        key: The sender's name for this request: said again, it is answered with the same study.

    Raises:
        InvalidInput: A value is wrong; nothing is stored.
        Conflict: The name is taken.
    """
    said, written = spec.to_dict(), spec.space != "auto"
    checked = accepted(ctx, spec)
    spec = checked.spec
    now = ctx.now()
    study = {
        "name": spec.name,
        "state": "queued",
        "spec": spec.to_dict(),
        "directions": [o.direction for o in checked.objectives],
        "owner": actor,
        "tags": list(spec.tags),
        "priority": spec.priority,
        "max_concurrent": spec.max_concurrent,
        "created_at": now,
    }
    with ctx.db.write() as session:
        receipt = Receipt.of(session, now, "submit", actor, key, said)
        if receipt.fresh:
            made = _add(session, study, spec)
            if spec.range_test:
                probes.add(session, made, within=written)
            told = {"name": spec.name}
            events.add(session, [NewEvent("study.created", made, data=told)], actor, now)
            receipt.fill({"study": made})
    return show_study(ctx, receipt.made["study"])


def _add(session: Session, study: Mapping[str, Any], spec: StudySpec) -> int:
    """Stores a study that contradicts nothing; its id."""
    for i, other in enumerate(spec.warm_start):
        try:
            earlier = studies.get(session, other)
        except NotFound as error:
            raise InvalidInput(f"warm_start[{i}]", error.message) from error
        _check_comparable(earlier, spec, f"warm_start[{i}]")
    if studies.by_name(session, spec.name) is not None:
        raise Conflict(f"there is a study named {spec.name!r} already", name=spec.name)
    hold_datasets(session, spec)
    return studies.add(session, study)


def _check_comparable(earlier: StudyRow, spec: StudySpec, field: str) -> None:
    """Whether the results of an earlier study are those that a new one wants to be good."""
    theirs = [("", direction) for direction in earlier.directions]
    ours = [(o.metric, o.direction) for o in spec.objective]
    if earlier.spec:
        theirs = [(o.metric, o.direction) for o in StudySpec.parse(earlier.spec).objective]
    else:  # Optuna itself ran it, and has no names for what it measures
        ours = [("", direction) for _, direction in ours]
    if theirs != ours:
        goals = [", ".join(" ".join(one).strip() for one in goal) for goal in (theirs, ours)]
        raise InvalidInput(field, f"study {earlier.id} has {goals[0]}; this one has {goals[1]}")


def accepted(ctx: Context, spec: StudySpec) -> Checked:
    """A study that somebody wants, checked as far as this server can, its datasets pinned."""
    # Here, not where study files are read: what is stored under another name stays readable.
    check_name("name", spec.name)
    with ctx.db.session() as session:
        form = form_of(session, spec)
    spec = pinned(ctx, spec, form)
    check_files(ctx, spec, form)
    return check(spec, form, partial(located, ctx))


def list_studies(
    ctx: Context,
    *,
    state: str | None = None,
    tag: str | None = None,
    text: str | None = None,
    sort: str = "-created_at",
    cursor: str | None = None,
    limit: int = 50,
) -> Page[StudyView]:
    """Studies, a page at a time.

    Args:
        ctx: The service.
        state: Only those in this state.
        tag: Only those with this tag.
        text: Only those whose name holds this, whatever its case.
        sort: created_at, name, priority or id; a minus before it reverses.
        cursor: Where the page before ended.
        limit: Rows of a page.

    Raises:
        InvalidInput: An argument is wrong.
    """
    key = sort.removeprefix("-")
    if key not in listing.STUDY_SORTS:
        known = ", ".join(listing.STUDY_SORTS)
        raise InvalidInput("sort", f"{sort!r} is none of {known}, or one with a minus")
    if state is not None and state not in STUDY_STATES:
        raise InvalidInput("state", f"{state!r} is none of {', '.join(STUDY_STATES)}")
    if not 1 <= limit <= LARGEST_LIST:
        raise InvalidInput("limit", f"{limit} is outside [1, {LARGEST_LIST}]")
    after = cursors.read(cursor, [listing.STUDY_SORTS[key][1], (int,)])
    with ctx.db.session() as session:
        rows = listing.studies(
            session,
            state=state,
            tag=tag,
            text=text,
            sort=key,
            descending=sort.startswith("-"),
            after=after,
            limit=limit + 1,
        )
        more, rows = len(rows) > limit, rows[:limit]
        items = _views(ctx, session, rows)
    ends = cursors.write([getattr(rows[-1], key), rows[-1].id]) if more else None
    return Page(items=items, next_cursor=ends)


def show_study(ctx: Context, study_id: int) -> StudyView:
    """One study.

    Raises:
        NotFound: It is not there.
    """
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        view = _views(ctx, session, [study])[0]
        if study.state not in ("running", "stopping"):
            return view
        now = {
            "throughput": _throughput(session, study_id),
            "workers": pictures.holders(session, study_id),
        }
        return view.model_copy(update=now)


def find_study(ctx: Context, name: str) -> StudyView | None:
    """The study of that name, if there is one."""
    with ctx.db.session() as session:
        study = studies.by_name(session, name)
        return None if study is None else _views(ctx, session, [study])[0]


def _throughput(session: Session, study_id: int) -> float | None:
    """Training samples a second over the trials that run now."""
    held = trials.leased_ids(session, study_id)
    rates = [
        p.samples / p.seconds
        for p in measurements.last(session, held).values()
        if p.samples and p.seconds
    ]
    return sum(rates) if rates else None


def plan_of(ctx: Context, study: StudyRow) -> Checked | None:
    """A study as submitted; None for one that Optuna made, or whose parts are not here."""
    if not study.spec:
        return None
    try:
        return ctx.searches.plans.of(study)
    except TunerError:
        return None


def metrics_of(checked: Checked | None, count: int = 1) -> list[str]:
    """What is optimised, by name; of a study that Optuna made, the names of ``count`` values."""
    if checked is not None:
        return [objective.metric for objective in checked.objectives]
    return ["value"] if count == 1 else [f"value_{i}" for i in range(count)]


def _views(ctx: Context, session: Session, rows: Iterable[StudyRow]) -> list[StudyView]:
    """Studies as shown, in a few statements whatever their number."""
    rows = list(rows)
    now = ctx.now()
    standings = ctx.standings.of(session, rows)
    best_rows = trials.by_ids(session, [s.best_id for s in standings.values() if s.best_id])
    last = measurements.last(session, list(best_rows))
    probed = probes.of(session, [study.id for study in rows if study.spec.get("range_test")])
    out = []
    for study in rows:
        checked = plan_of(ctx, study)
        standing = standings[study.id]
        winner = best_rows.get(standing.best_id or -1)
        shown = None if winner is None else trial_view(winner, checked, last.get(winner.id), now)
        seconds = elapsed(study, now)
        out.append(
            study_view(
                study,
                checked,
                standing.counts,
                shown,
                active_seconds=seconds,
                progress=progress(checked, standing.counts, standing.steps, seconds),
                probe=probed.get(study.id),
            )
        )
    return out


def best(ctx: Context, study_id: int, *, k: int | None = None) -> list[TrialView]:
    """The best complete trials that keep the constraint; several objectives: the Pareto front.

    Args:
        ctx: The service.
        study_id: Of which study.
        k: How many at most; the best one, or the whole front, unless given. Those of the front that
            are best by the first objective come first.

    Raises:
        NotFound: No such study.
    """
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        if len(study.directions) == 1:
            rows = listing.best(session, study_id, study.directions[0], k or 1)
        else:
            ids = _front(ctx, session, study)[:k]
            known = trials.by_ids(session, ids)
            rows = [known[trial_id] for trial_id in ids if trial_id in known]
        last = measurements.last(session, [row.id for row in rows])
    now = ctx.now()
    return [trial_view(row, checked, last.get(row.id), now) for row in rows]


def _front(ctx: Context, session: Session, study: StudyRow) -> list[int]:
    """The ids on the Pareto front, found once a revision."""

    def found() -> list[int]:
        rows = pictures.outcomes(session, study.id, len(study.directions))
        return [row.id for row in front_of(list(filter(comparable, rows)), study.directions)]

    return ctx.memo.get(("front", study.id), study.revision, found)
