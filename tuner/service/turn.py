"""A turn: one transaction in which one or several studies and their trials change together.

Whoever changes a study's trials takes a turn: the study's lock in this process, then its row's lock
in the database. At its end the changed trials, the new points and the events are written in one
batch each, under the study's next revision, and committed; or nothing is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.queue import probes
from tuner.search import Search, Suggestion
from tuner.service.context import Context
from tuner.service.outbox import announce
from tuner.service.searches import Live, record
from tuner.spec import Checked
from tuner.storage import events, measurements, studies, trials
from tuner.storage.events import NewEvent
from tuner.storage.measurements import Point
from tuner.storage.models import FINISHED_STUDY_STATES, Study
from tuner.storage.studies import OPEN_STATES
from tuner.storage.trials import NewTrial, TrialRow

ORIGIN = "sampled"
STOPPED = "stopped"
"""Why trials and a study ended that a user let drain."""
STOPS_ALL = ("seconds", "target")
"""Bounds at which running trials stop too, not only new ones."""


@dataclass
class Turn:
    """One study's part of a transaction. The caller holds all its locks."""

    session: Session
    study: Study
    live: Live
    now: datetime
    changed: dict[int, TrialRow] = field(default_factory=dict)
    going: set[int] = field(default_factory=set)
    """Those of the changed trials that go on under the same lease."""
    points: list[Point] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)
    revised: bool = False
    deleted: bool = False
    settled: bool = False
    ended: bool = False
    """Whether the study came to its end in this turn, so that webhooks are told."""
    told: bool = False
    """Whether the search was asked in this turn, and so is told of every change by it."""

    @property
    def revision(self) -> int:
        """The study's revision after this turn."""
        return self.study.revision + 1

    @property
    def checked(self) -> Checked:
        """The study as submitted."""
        return self.live.plan(self.study)

    def join(self) -> Search:
        """Brings the search into this turn, up to date; from here on it is told of every change.

        Once something has changed it is too late: the search would miss that.
        """
        if not self.told:
            if self.changed or self.revised:
                raise RuntimeError("the search must join a turn before anything changes in it")
            self.live.synced(self.session, self.study)
            self.told = True
        if self.live.search is None:
            raise RuntimeError("the search was dropped in the middle of a turn")
        return self.live.search

    @property
    def search(self) -> Search:
        """The study's search; see :meth:`join`."""
        return self.join()

    @property
    def elapsed(self) -> float:
        """Wall seconds that the study has been running."""
        return elapsed(self.study, self.now)

    def exhausted(self) -> str | None:
        """Which budget is met, or None."""
        self.search.suggest(0, elapsed_seconds=self.elapsed)
        return self.search.exhausted

    # --- what changes ---------------------------------------------------------------------------

    def note(self, kind: str, row: TrialRow | None = None, **data: Any) -> None:
        """An event of this study."""
        if row is None:
            self.events.append(NewEvent(kind, self.study.id, data=data))
        else:
            told = {"number": row.number, "state": row.state, **data}
            self.events.append(NewEvent(kind, self.study.id, row.id, row.worker_id, told))

    def change(self, row: TrialRow) -> None:
        """The trial is to be written back."""
        self.going.discard(row.id)
        self.changed[row.id] = row

    def went_on(self, row: TrialRow) -> None:
        """The trial has advanced under the same lease; nothing else of it changed."""
        if row.id not in self.changed:
            self.going.add(row.id)
        self.changed[row.id] = row

    def moved(self, row: TrialRow, **data: Any) -> None:
        """The trial is to be written back, and its new state told."""
        self.change(row)
        if row.reason is not None:
            data["reason"] = row.reason
        if row.paused:
            data["paused"] = True
        self.note("trial.state", row, **data)

    def end(self, row: TrialRow, state: str, reason: str | None, *, told: bool = False) -> None:
        """The trial's last change; ``told``: it answers its holder, who may have to ask again."""
        row.last_token = row.lease_token if told else None
        row.end(state, reason, self.now)
        if self.told:
            values = None if row.values is None else tuple(map(float, row.values))
            self.search.finish(
                row.number,
                row.state,  # type: ignore[arg-type]  # one of Optuna's three final states
                values if state == "complete" else None,
                reason,
                row.constraint,
            )
        self.moved(row)

    def state(self, state: str, reason: str | None = None) -> None:
        """The study's new state; counts the seconds in which it ran."""
        study = self.study
        if study.state == state:
            return
        if study.probing and state in ("stopping", *FINISHED_STUDY_STATES):
            self.end_probe("skipped", f"the study is {state}")
        study.active_seconds, study.active_since = elapsed(study, self.now), None
        if state in ("running", "stopping"):
            study.active_since = self.now
            study.started_at = study.started_at or self.now
        study.state, study.reason = state, reason
        self.ended = state in FINISHED_STUDY_STATES
        study.finished_at = self.now if self.ended else None
        self.note("study.state", state=state, reason=reason)

    def end_probe(
        self,
        state: str,
        reason: str | None,
        bounds: tuple[float, float] | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """The range test's last change; trials may start, in ``bounds`` or as was submitted."""
        probe = probes.lock(self.session, self.study.id)
        if not probes.is_open(probe) or probe is None:
            return
        probes.end(self.study, probe, state, bounds, self.now, reason=reason, result=result)
        self.live.drop()  # what was built on the other range
        self.told = False
        self.revised = True
        found = {} if bounds is None else {"low": bounds[0], "high": bounds[1]}
        data = {"state": state, "reason": reason, **found}
        self.events.append(
            NewEvent("probe.state", self.study.id, worker_id=probe.worker_id, data=data)
        )

    # --- the search's suggestions ---------------------------------------------------------------

    def write_down(self, suggestions: Sequence[Suggestion], origin: str = ORIGIN) -> list[TrialRow]:
        """Stores what the search suggested: all of it waits, ready to be claimed."""
        known = [s for s in suggestions if s.number is not None]
        fresh = [s for s in suggestions if s.number is None]
        out: list[TrialRow] = []
        if known:
            wanted = {s.number: s for s in known}
            for row in trials.numbered(self.session, self.study.id, [s.number for s in known]):  # type: ignore[misc]  # None was filtered out
                row.until = wanted[row.number].until
                row.wait()
                self.moved(row)
                out.append(row)
        if fresh:
            sources = {s.copy_of for s in fresh if s.copy_of is not None}
            held = {
                row.number: row.checkpoint
                for row in (
                    trials.numbered(self.session, self.study.id, sources) if sources else []
                )
            }
            out += self.add(
                [
                    NewTrial(
                        number=self.study.next_number + i,
                        params=s.params,
                        distributions=self.distributions,
                        seed=self.checked.spec.seed,
                        origin=origin,
                        until=s.until,
                        step=s.start,
                        note=s.note,
                        checkpoint=None if s.copy_of is None else held.get(s.copy_of),
                    )
                    for i, s in enumerate(fresh)
                ]
            )
        return out

    @property
    def distributions(self) -> dict[str, Any]:
        """What is searched, as Optuna's distributions."""
        return dict(self.checked.space.distributions())

    def add(self, new: Sequence[NewTrial]) -> list[TrialRow]:
        """Stores new trials, numbered from the study's next number, and tells the search."""
        rows = trials.add(self.session, self.study.id, new, revision=self.revision, now=self.now)
        self.study.next_number += len(rows)
        self.revised = True
        if self.told:
            self.search.sync(record(row, {}) for row in rows)
        if rows:
            ids, numbers = [row.id for row in rows], [row.number for row in rows]
            self.note("trial.created", origin=rows[0].origin, trials=ids, numbers=numbers)
        return rows

    # --- the end --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Ends the study when its budget is met, or it drains and nothing runs any more."""
        study = self.study
        self.settled = True
        reason: str | None = None
        if study.state in OPEN_STATES:
            reason = self.exhausted()
            if reason is None:
                return
        elif study.state != "stopping":
            return
        self.flush()
        open_rows = trials.of_study(
            self.session, study.id, states=("waiting", "running"), lock=True
        )
        if any(row.lease_token is not None for row in open_rows):
            return
        if reason not in (None, *STOPS_ALL) and any(row.busy for row in open_rows):
            return
        self.close(open_rows, STOPPED if study.state == "stopping" else f"budget: {reason}")
        counted = studies.counts(self.session, [study.id])[study.id]
        tried = counted.finished - studies.cancelled(self.session, study.id)
        if tried and not counted.complete and not counted.pruned:
            self.state("failed", "every trial failed")
        else:
            self.state("completed", reason or STOPPED)

    def close(self, rows: Sequence[TrialRow], reason: str) -> None:
        """Ends trials that nobody holds: set aside or begun, pruned; never begun, cancelled."""
        for row in rows:
            if row.paused or row.step > 0:
                self.end(row, "pruned", reason)
            else:
                self.end(row, "fail", "cancelled")
        self.flush()

    def flush(self) -> None:
        """Writes what changed so far, in one batch each."""
        if self.changed or self.points:
            trials.save(self.session, self.changed.values(), self.revision, self.going)
            measurements.add(self.session, self.points)
            self.changed.clear()
            self.going.clear()
            self.points.clear()
            self.revised = True


def elapsed(study: Study, now: datetime) -> float:
    """Wall seconds that a study has been running."""
    running = 0.0 if study.active_since is None else (now - study.active_since).total_seconds()
    return study.active_seconds + max(running, 0.0)  # a clock that was set back takes none away


@contextmanager
def turns(
    ctx: Context, study_ids: Collection[int], *, actor: str | None = None
) -> Iterator[dict[int, Turn]]:
    """Takes a turn for each study that is there, in one transaction.

    Yields:
        The turns by study id; ids of studies that are gone are left out.
    """
    now = ctx.now()
    with ctx.searches.hold(study_ids) as lives:
        try:
            with ctx.db.write() as session:
                rows = studies.lock(session, study_ids)
                taken = {i: Turn(session, rows[i], lives[i], now) for i in sorted(rows)}
                yield taken
                new = []
                for turn in taken.values():
                    new += turn.events
                    if turn.deleted:
                        continue
                    turn.flush()
                    if turn.revised:
                        studies.revise(session, turn.study)
                    if turn.ended:
                        announce(session, turn.study, now)
                session.flush()
                events.add(session, new, actor, now)
        except BaseException:
            for live in lives.values():
                live.drop()
            raise
        for study_id, turn in taken.items():
            if turn.told:
                turn.live.revision = turn.study.revision
            if turn.settled:
                turn.live.settled_at = turn.study.revision
            if turn.deleted or turn.study.state in FINISHED_STUDY_STATES:
                ctx.searches.forget(study_id)


@contextmanager
def turn(ctx: Context, study_id: int, *, actor: str | None = None) -> Iterator[Turn]:
    """Takes a turn for one study.

    Raises:
        NotFound: It is not there.
    """
    with turns(ctx, [study_id], actor=actor) as taken:
        if study_id not in taken:
            raise NotFound("study", study_id)
        yield taken[study_id]
