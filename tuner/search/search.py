"""What to try, what to pause, what to stop: a pure object over a sampler and a pruner.

No database, no clock, no global random state: everything a search knows came in through
:meth:`Search.sync`, :meth:`Search.report` and :meth:`Search.finish`. Verdicts and budgets are those
of any fresh search told the same records; suggestions too, once both are fitted to them
(:meth:`Search.refit`): in between, the default sampler's model has the hyperparameters of its last
fit, and when that was is not stored. The service drives it with stored trials, a benchmark with
recorded curves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from tuner import pruners, samplers
from tuner.errors import InvalidInput
from tuner.pruners import Track
from tuner.pruners.auto import AutoPruner
from tuner.samplers import Proposal, untaken
from tuner.samplers.auto import AutoSampler
from tuner.search.memory import DIVERGED_REASON, Memory
from tuner.search.race import Race
from tuner.search.records import Budget, Objective, Record, State, Suggestion, Verdict
from tuner.spaces import Space

P = ParamSpec("P")
R = TypeVar("R")


def locked(
    method: Callable[Concatenate[Search, P], R],
) -> Callable[Concatenate[Search, P], R]:
    """One caller at a time: a fit may be prepared from another thread than the one that drives."""

    def wrapper(self: Search, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = method.__doc__, method.__name__
    return wrapper


class Search:
    """One study's search. Calls from several threads follow one another; a fit runs beside them.

    Args:
        space: What is searched.
        sampler: ``name`` and settings, as in a study file.
        pruner: ``name`` and settings.
        objectives: What is optimised; pruners and curves go by the first.
        max_step: The step at which a trial is complete.
        budget: What ends the study.
        seed: Of all random draws.
        warm_start: Finished trials of earlier studies, for the sampler only.

    Raises:
        InvalidInput: A name, a setting or a combination is wrong; names the field.
    """

    def __init__(
        self,
        space: Space,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        objectives: Sequence[Objective],
        *,
        max_step: int,
        budget: Budget,
        seed: int = 0,
        warm_start: Iterable[Record] = (),
    ) -> None:
        if not objectives:
            raise InvalidInput("objective", "names no metric")
        if max_step < 1:
            raise InvalidInput("budget.epochs", f"{max_step} is not above 0")
        if seed < 0:
            raise InvalidInput("sampler.seed", f"{seed} is below 0")
        if len(objectives) > 1:
            if pruner.get("name") not in ("none", "auto"):
                raise InvalidInput("pruner.name", "several objectives have no order; use none")
            pruner = {"name": "none"}
        self.space = space
        self.max_step = max_step
        self.budget = budget
        self.seed = seed
        self.sampler = samplers.create(
            sampler, space=space, objectives=len(objectives), seed=seed, max_step=max_step
        )
        self.pruner = pruners.create(
            pruner, max_step=max_step, space=space, seed=seed, sign=objectives[0].sign
        )
        self._memory = Memory(space, objectives, self.pruner, warm_start, budget.target)
        self._race: Race | None = None
        if isinstance(self.sampler, AutoSampler) and isinstance(self.pruner, AutoPruner):
            self._race = Race(self.sampler, self.pruner, max_step)
        self._lock = threading.RLock()
        self._elapsed = 0.0

    # --- what happened --------------------------------------------------------------------------

    @locked
    def sync(self, records: Iterable[Record]) -> None:
        """Takes in new or changed trials, in any order; the same record twice changes nothing."""
        self._memory.sync(records)

    @locked
    def report(self, number: int, step: int, value: float, violation: float | None = None) -> None:
        """A point of a running trial's curve. :meth:`decide` says what follows.

        Whoever has points of several trials reports them all before it asks about the first: what
        becomes of a trial then depends on all of them, not on their order.

        Args:
            number: The trial.
            step: Completed periods, 1..max_step.
            value: The primary objective there, in the user's own sense; NaN or inf: it diverged.
            violation: By how much the study's constraint is broken there; 0 or below: it holds.
        """
        self._memory.report(number, step, value, violation)

    @locked
    def decide(self, number: int, last_step: int | None = None) -> Verdict:
        """What a running trial is to do after its last report.

        Args:
            number: The trial.
            last_step: Of its own training, where that is shorter than ``max_step``.
        """
        track = self._memory.track(number)
        if track.diverged:
            return Verdict("stop", track.until, DIVERGED_REASON)
        step = track.step
        if number in self._memory.met:
            return Verdict("finish", step, "target")
        if step >= (self.max_step if last_step is None else last_step):
            return Verdict("finish", step, "complete")
        if self._memory.met:
            return Verdict("stop", step, "target")
        return self._prune(track) if step >= track.until else Verdict("continue", track.until)

    def _prune(self, track: Track) -> Verdict:
        """At a step of decision: goes on, or steps aside, or ends."""
        step = track.step
        decision = self.pruner.decide(self._memory.board, track, not self._may_start)
        if decision.action == "pause":
            self._memory.set_aside(track)
        if decision.action != "continue":
            return Verdict(decision.action, step, decision.reason)
        self._memory.busy.discard(track.number)  # its own promise is spent
        until = self._granted(step, self.pruner.next_stop(step, track.lane))
        self._memory.busy.add(track.number)
        if until <= step:
            return Verdict("stop", step, "total_epochs")
        track.until = until
        return Verdict("continue", until)

    def observe(
        self, number: int, step: int, value: float, violation: float | None = None
    ) -> Verdict:
        """One report of one trial, and at once what it is to do next."""
        with self._lock:
            self.report(number, step, value, violation)
            return self.decide(number)

    @locked
    def finish(
        self,
        number: int,
        state: State,
        values: tuple[float, ...] | None,
        reason: str | None = None,
        constraint: float | None = None,
    ) -> None:
        """A trial ended; a later record of it may say so again.

        Args:
            number: The trial.
            state: ``complete``, ``pruned`` or ``fail``.
            values: Of a complete trial, in the user's own sense.
            reason: ``diverged`` makes the sampler count it as the worst there is.
            constraint: By how much the study's constraint is broken.
        """
        self._memory.finish(number, state, values, reason, constraint)

    # --- what is left ---------------------------------------------------------------------------

    @property
    def _late(self) -> bool:
        return self.budget.seconds is not None and self._elapsed >= self.budget.seconds

    @property
    def _may_start(self) -> bool:
        """Whether a new trial may still start, now or later."""
        trials = self.budget.trials
        if trials is not None and self._memory.count >= trials:
            return False
        return not self.sampler.exhausted(self._memory.history)

    def _granted(self, start: int, until: int) -> int:
        """``until``, or as much of it as the epochs left allow."""
        total = self.budget.total_epochs
        if total is None:
            return until
        return min(until, start + max(total - self._memory.spent - self._memory.promised, 0))

    @property
    @locked
    def exhausted(self) -> str | None:
        """Which budget is met, or ``grid`` when its points are used up; None: more may come.

        Trials still set aside then are the service's to prune.
        """
        bound = self._bound_met()
        if bound is not None:
            return bound
        memory = self._memory
        if memory.busy or memory.offered or memory.loose or self._may_start:
            return None
        if next(self.pruner.promotable(memory.board, True), None) is not None:
            return None
        trials = self.budget.trials
        return "trials" if trials is not None and memory.count >= trials else "grid"

    def _bound_met(self) -> str | None:
        """The bound that ends the study whatever is still set aside."""
        if self._memory.met:
            return "target"
        if self._late:
            return "seconds"
        if self.budget.total_epochs is not None:
            moving = bool(self._memory.busy or self._memory.offered)
            spent = self._memory.spent >= self.budget.total_epochs
            if spent or (not moving and self._granted(0, 1) < 1):
                return "total_epochs"
        return None

    # --- what to do -----------------------------------------------------------------------------

    @locked
    def elapse(self, seconds: float) -> None:
        """The study has been running for so many wall seconds; it never takes any back."""
        self._elapsed = max(self._elapsed, seconds)

    @locked
    def suggest(self, k: int) -> list[Suggestion]:
        """At most ``k`` trials to run now; none when there is nothing to do at present.

        Waiting trials come first (enqueued, retried, or lost by their worker), then paused trials
        that deserve another stretch, then new ones. What is suggested counts as busy from here on.
        """
        if self._memory.met or self._late:
            return []
        out: list[Suggestion] = []
        for number in sorted(self._memory.loose):
            if len(out) >= k or not self._resume(self._memory.track(number), out):
                break
        if self._race is not None:
            self._run_race(self._race, k, out)
            return out
        last_call = not self._may_start
        sources = set() if last_call else self._copy(k, out)
        for track in self.pruner.promotable(self._memory.board, last_call):
            if track.number in sources:
                continue
            if len(out) >= k or not self._resume(track, out):
                break
        if len(out) < k and self._may_start:
            self._start(k - len(out), out)
        return out

    def _copy(self, k: int, out: list[Suggestion]) -> set[int]:
        """New trials that begin where another stands; which others are still to be copied from.

        Those must stay where they are: going on, they would replace the checkpoint.
        """
        memory = self._memory
        sources: set[int] = set()
        for spawn in list(self.pruner.spawn(memory.board, memory.params)):
            draw = -1 - spawn.note["replaces"]  # no draw of the sampler's
            if draw in memory.offered or not self._may_start:
                continue
            until = self._granted(spawn.start, self.pruner.next_stop(spawn.start, 0))
            if len(out) >= k or until <= spawn.start:
                sources.add(spawn.copy_of)
                continue
            memory.offer(draw, until - spawn.start)
            note = {"draw": draw, **spawn.note}
            out.append(
                Suggestion(None, spawn.params, spawn.start, until, note, copy_of=spawn.copy_of)
            )
        return sources

    def _resume(self, track: Track, out: list[Suggestion]) -> bool:
        """Hands out a trial that exists; False: the epochs left do not allow it."""
        until = self._granted(track.step, self.pruner.next_stop(track.step, track.lane))
        if until <= track.step:
            return False
        self._memory.hand_out(track, until)
        params = dict(self._memory.params[track.number])
        out.append(Suggestion(track.number, params, track.step, until, dict(track.note)))
        return True

    def _run_race(self, race: Race, k: int, out: list[Suggestion]) -> None:
        """Fills the slots one by one: the race's turn, a promotion, or a new trial."""
        memory = self._memory
        going = True
        while going and len(out) < k:
            may_start = self._may_start
            choice = race.choose(memory, may_start=may_start)
            if choice is None:
                choice = next(self.pruner.promotable(memory.board, not may_start), None)
            if isinstance(choice, Track):
                going = self._resume(choice, out)
            elif choice is not None:
                going = self._add(choice, out)
            else:
                going = may_start and self._start(1, out)

    def _start(self, k: int, out: list[Suggestion]) -> bool:
        """New trials, as many as the budget allows; one call of the sampler for all of them."""
        memory = self._memory
        if self.budget.trials is not None:
            k = min(k, self.budget.trials - memory.count)
        room = self.pruner.room(memory.board, sum(d >= 0 for d in memory.offered))
        if room is not None:
            k = min(k, room)
        proposals = self.sampler.suggest(memory.history, k, memory.draws) if k else []
        return bool(proposals) and all(self._add(p, out) for p in proposals)

    def _add(self, proposal: Proposal, out: list[Suggestion]) -> bool:
        """One new trial; False: the epochs left do not allow it."""
        memory, draw = self._memory, self._memory.draws
        note: dict[str, Any] = {"draw": draw, **self.pruner.enter(draw)}
        if proposal.note:
            note["sampler"] = proposal.note
        until = self._granted(0, self.pruner.next_stop(0, self.pruner.lane(note)))
        if until < 1:
            return False
        params = proposal.params
        if self.space.key(params) in memory.history.taken:
            # the sampler met a point of this very batch, or knows no other
            params = untaken(memory.history, np.random.default_rng([self.seed, draw, 1]))
        memory.history.taken.add(self.space.key(params))
        memory.offer(draw, until, self.space.to_unit(params))
        memory.draws += 1
        out.append(Suggestion(None, params, 0, until, note))
        return True

    # --- what is slow ---------------------------------------------------------------------------

    @property
    @locked
    def stale(self) -> bool:
        """Whether :meth:`refit` would improve what :meth:`suggest` goes by."""
        return self.sampler.stale(self._memory.history)

    def refit(self) -> None:
        """Fits the sampler's model anew in the caller's thread, beside other calls.

        It works on a copy and swaps the result in at once; meanwhile suggestions go by the last
        fit.
        """
        with self._lock:
            fit = self.sampler.refit(self._memory.history)
        fit()
