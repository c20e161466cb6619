"""A turn: one study's part of a transaction in which it and its trials change together.

What changes is gathered, and written at the end in one batch each, under the study's next revision.
Once the search has joined, trials are those at hand in this process, not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy.orm import Session

from tuner.queue import leases, probes
from tuner.queue.leases import Lease
from tuner.search import Search, Suggestion
from tuner.service.outbox import announce
from tuner.service.searches import Live, record, searching
from tuner.spec import Checked
from tuner.storage import events, measurements, studies, tallies, trials, writing
from tuner.storage.events import NewEvent
from tuner.storage.measurements import Point
from tuner.storage.models import FINISHED_STUDY_STATES
from tuner.storage.prepared import Executing
from tuner.storage.receipts import NewReceipt
from tuner.storage.studies import OPEN_STATES, StudyRow
from tuner.storage.trials import NewTrial, TrialRow

ORIGIN = "sampled"
STOPPED = "stopped"
"""Why trials and a study ended that a user let drain."""
STOPS_ALL = ("seconds", "target")
"""Bounds at which running trials stop too, not only new ones."""


@dataclass
class Turn:
    """One study's part of a transaction. The caller holds all its locks."""

    open: Callable[[], Session]
    """Locks the study in the database, unless it is locked already."""
    study: StudyRow
    live: Live
    now: datetime
    new: list[tuple[TrialRow, NewTrial]] = field(default_factory=list)
    """Trials to be stored; they get their ids then."""
    changed: dict[int, TrialRow] = field(default_factory=dict)
    going: bool = True
    """Whether the changed trials have only advanced under the same leases."""
    points: list[Point] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)
    receipt: NewReceipt | None = None
    """That a request is given something in this turn."""
    revised: bool = False
    """Whether the study's row has changed."""
    flushed: bool = False
    """Whether the database has the next revision already."""
    deleted: bool = False
    settled: bool = False
    asked: bool = False
    """Whether the search was asked for suggestions that are not written down yet."""
    ended: bool = False
    """Whether the study came to its end in this turn, so that webhooks are told."""
    told: bool = False
    """Whether search and rows have joined this turn, and so are told of every change by it."""

    @property
    def session(self) -> Session:
        """Where to read what is not at hand."""
        return self.open()

    @property
    def revision(self) -> int:
        """The study's revision after this turn."""
        return self.study.revision + 1

    @cached_property
    def checked(self) -> Checked:
        """The study as submitted."""
        return self.live.plan(self.study)

    def join(self) -> Search:
        """Brings the search into this turn, up to date; from here on it is told of every change.

        Once something has changed it is too late: the search would miss that.
        """
        if not self.told:
            if self.touched:
                raise RuntimeError("the search must join a turn before anything changes in it")
            if not self.live.holds(self.study):
                self.live.synced(self.session, self.study)
            self.told = True
        if self.live.search is None:
            raise RuntimeError("the search was dropped in the middle of a turn")
        return self.live.search

    @contextmanager
    def searching(self) -> Iterator[Search]:
        """The joined search; see :meth:`join`, and :func:`searching` for what it raises."""
        search = self.join()
        with searching(self.study.id):
            yield search

    @property
    def touched(self) -> bool:
        """Whether anything has changed in it, so that it must be committed or forgotten."""
        return bool(
            self.asked or self.revised or self.flushed or self.changed or self.points or self.events
        )

    @property
    def elapsed(self) -> float:
        """Wall seconds that the study has been running."""
        return elapsed(self.study, self.now)

    def suggest(self, k: int) -> list[Suggestion]:
        """Up to ``k`` suggestions of the search, which are to be written down in this turn."""
        with self.searching() as search:
            search.elapse(self.elapsed)
            found = search.suggest(k)
        self.asked = self.asked or bool(found)
        return found

    def exhausted(self) -> str | None:
        """Which budget is met, or None."""
        with self.searching() as search:
            search.elapse(self.elapsed)
            return search.exhausted

    # --- the trials -----------------------------------------------------------------------------

    def rows(self, trial_ids: Collection[int]) -> dict[int, TrialRow]:
        """Trials of this study by id, to change or to look at; those that are gone are left out."""
        if not self.told:
            return self._read(trial_ids)
        at_hand = self.live.rows
        found = {i: at_hand[i] for i in trial_ids if i in at_hand}
        if len(found) < len(trial_ids):
            found.update(self._read([i for i in trial_ids if i not in found]))
        return found

    def _read(self, trial_ids: Collection[int]) -> dict[int, TrialRow]:
        found = trials.by_ids(self.session, trial_ids)
        return {i: row for i, row in found.items() if row.study_id == self.study.id}

    def open_rows(self) -> list[TrialRow]:
        """The trials that may still change."""
        if self.new or not self.told:
            self.flush()
        if self.told:
            return list(self.live.rows.values())
        return trials.of_study(self.session, self.study.id, states=("waiting", "running"))

    def numbered(self, numbers: Collection[int]) -> dict[int, TrialRow]:
        """Trials by number; those that are not there are left out."""
        found = {row.number: row for row in self.live.rows.values() if row.number in numbers}
        missing = [n for n in numbers if n not in found]
        if missing:
            found.update(trials.by_numbers(self.session, self.study.id, missing))
        return found

    def last_point(self, row: TrialRow) -> Point | None:
        """The last point of a trial, if it has one."""
        if row.heard is None and (row.step or row.attempt > 1):
            row.heard = measurements.last(self.session, [row.id]).get(row.id)
        return row.heard

    # --- what changes ---------------------------------------------------------------------------

    def note(self, kind: str, row: TrialRow | None = None, **data: Any) -> None:
        """An event of this study."""
        if row is None:
            self.events.append(NewEvent(kind, self.study.id, data=data))
        else:
            told = {"number": row.number, "state": row.state, "attempt": row.attempt, **data}
            self.events.append(NewEvent(kind, self.study.id, row.id, row.worker_id, told))

    def change(self, row: TrialRow) -> None:
        """The trial is to be written back; a new one is written anyway."""
        if row.id:
            self.changed[row.id] = row
            self.going = False

    def went_on(self, row: TrialRow) -> None:
        """The trial has advanced under the same lease; nothing else of it changed."""
        self.changed[row.id] = row

    def measured(self, row: TrialRow, point: Point) -> None:
        """A point of a trial is to be stored, unless it is already."""
        self.points.append(point)
        if point.step > row.step:
            row.heard = point

    def moved(self, row: TrialRow, **data: Any) -> None:
        """The trial is to be written back, and its new state told."""
        self.change(row)
        if row.reason is not None:
            data["reason"] = row.reason
        if row.paused:
            data["paused"] = True
        self.note("trial.state", row, **data)

    def hand_back(self, row: TrialRow) -> None:
        """The trial waits for another holder; see :func:`leases.hand_back`, and :meth:`rest`."""
        leases.hand_back(row)
        self.moved(row, returned=True)

    def end(self, row: TrialRow, state: str, reason: str | None, *, told: bool = False) -> None:
        """The trial's last change; ``told``: it answers its holder, who may have to ask again."""
        row.last_token = row.lease_token if told else None
        row.end(state, reason, self.now)
        if self.told:
            self.live.rows.pop(row.id, None)
            values = None if row.values is None else tuple(map(float, row.values))
            with self.searching() as search:
                search.finish(
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
        self.revised = True
        self.note("study.state", state=state, reason=reason)

    def rest(self, since: datetime | None = None) -> None:
        """Stops the clock while nobody holds a trial, whose holders were stopped or fell silent.

        Args:
            since: The last moment at which they may have been at work, unless a word came later;
                now unless given.
        """
        study = self.study
        if study.state != "running" or study.active_since is None:
            return
        if not any(row.lease_token is not None for row in self.open_rows()):
            ended = self.now
            if since is not None:  # others may have reported after that
                heard = events.last_heard(self.session, study.id) or since
                ended = min(max(since, heard), self.now)
            study.active_seconds, study.active_since = elapsed(study, ended), None
            self.revised = True

    def go_on(self) -> None:
        """Lets the clock go on as somebody is given a trial; see :meth:`rest`."""
        if self.study.state == "running" and self.study.active_since is None:
            self.study.active_since = self.now
            self.revised = True

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
        studies.amend(self.session, self.study)
        self.revised = True
        found = {} if bounds is None else {"low": bounds[0], "high": bounds[1]}
        data = {"state": state, "reason": reason, **found}
        self.events.append(
            NewEvent("probe.state", self.study.id, worker_id=probe.worker_id, data=data)
        )

    # --- the search's suggestions ---------------------------------------------------------------

    def write_down(
        self,
        suggestions: Sequence[Suggestion],
        origin: str = ORIGIN,
        lease: Lease | None = None,
    ) -> list[TrialRow]:
        """Stores what the search suggested: all of it waits, or is held from the start."""
        known = {s.number: s for s in suggestions if s.number is not None}
        fresh = [s for s in suggestions if s.number is None]
        out: list[TrialRow] = []
        resumed = self.numbered(known) if known else {}
        for number, row in resumed.items():
            row.until = known[number].until
            row.wait()
            self.moved(row)
            if lease is not None:
                row.hold(lease.worker_id, lease.token, lease.expires_at, self.now)
            out.append(row)
        if fresh:
            sources = self.numbered({s.copy_of for s in fresh if s.copy_of is not None})
            new = []
            for i, s in enumerate(fresh):
                source = None if s.copy_of is None else sources.get(s.copy_of)
                saved = None if source is None else source.checkpoint
                # What could not be saved is not copied.
                start = 0 if saved is None else min(s.start, int(saved["step"]))
                new.append(
                    NewTrial(
                        number=self.study.next_number + i,
                        params=s.params,
                        distributions=self.distributions(s.params),
                        seed=self.checked.spec.seed,
                        origin=origin,
                        until=s.until,
                        step=start,
                        note={**s.note, "start": start} if start != s.start else s.note,
                        checkpoint=saved,
                    )
                )
            out += self.add(new, lease)
        return out

    def distributions(self, params: Iterable[str]) -> dict[str, str]:
        """Of these parameters, as Optuna writes them."""
        written = self.checked.distributions
        return {name: written[name] for name in params}

    def add(self, new: Sequence[NewTrial], lease: Lease | None = None) -> list[TrialRow]:
        """New trials, numbered from the study's next number; the search is told of them.

        They are stored, and get their ids, with what else has changed: see :meth:`flush`.
        """
        rows = [one.row(self.study.id, self.now) for one in new]
        if lease is not None:
            for row in rows:
                row.hold(lease.worker_id, lease.token, lease.expires_at, self.now)
        self.new += zip(rows, new, strict=True)
        self.study.next_number += len(rows)
        self.revised = True
        if self.told:
            with self.searching() as search:
                search.sync(record(row, {}) for row in rows)
        if rows:
            data = {"origin": rows[0].origin}
            self.events.append(NewEvent("trial.created", self.study.id, data=data, of=rows))
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
        open_rows = self.open_rows()
        if any(row.lease_token is not None for row in open_rows):
            return
        if reason not in (None, *STOPS_ALL) and any(row.busy for row in open_rows):
            return
        self.close(open_rows, STOPPED if study.state == "stopping" else f"budget: {reason}")
        counted = tallies.counts(self.session, [study.id])[study.id]
        tried = counted.finished - tallies.cancelled(self.session, study.id)
        if tried and not counted.complete and not counted.pruned:
            self.state("failed", "every trial failed")
        else:
            self.state("completed", reason or STOPPED)

    def close(self, rows: Sequence[TrialRow], reason: str) -> None:
        """Ends trials, held or not: set aside or begun, pruned; never begun, cancelled."""
        for row in rows:
            if row.paused or row.step > 0:
                self.end(row, "pruned", reason)
            else:
                self.end(row, "fail", "cancelled")
        self.flush()

    def flush(self) -> None:
        """Writes what changed so far, for a statement that is to find it in the database."""
        if self.new or self.changed or self.points:
            self._write(self.session.connection())

    def conclude(self) -> None:
        """Leaves word of the study's end for webhooks; call it before the rest is written."""
        if self.ended and not self.deleted:
            self.flush()
            announce(self.session, self.study, self.now)

    def write(self, connection: Executing, actor: str | None) -> bool:
        """Writes all that is left, and counts the study's revision up; call it last.

        Returns:
            False when nothing was written, as the study is not as it was at hand.
        """
        if self.deleted:
            events.store(connection, self.events, actor, self.now)
            return True
        written = self._write(connection, self.events, actor, self.receipt)
        self.study.revision = self.revision
        return written

    def _write(
        self,
        connection: Executing,
        told: Sequence[NewEvent] = (),
        actor: str | None = None,
        receipt: NewReceipt | None = None,
    ) -> bool:
        written = writing.write(
            connection,
            self.study,
            known=self.revision if self.flushed else self.study.revision,
            revision=self.revision,
            new=self.new,
            rows=list(self.changed.values()),
            going=self.going,
            points=self.points,
            told=told,
            receipt=receipt,
            actor=actor,
            now=self.now,
        )
        if self.told:
            self.live.rows.update((row.id, row) for row, _ in self.new)
        self.flushed = self.going = True
        self.new.clear()
        self.changed.clear()
        self.points.clear()
        return written


def elapsed(study: StudyRow, now: datetime) -> float:
    """Wall seconds that a study has been running, those left out in which it rested."""
    running = 0.0 if study.active_since is None else (now - study.active_since).total_seconds()
    return study.active_seconds + max(running, 0.0)  # a clock that was set back takes none away
