"""What to try, what to pause, what to stop: a pure object over a sampler and a pruner.

No database, no clock, no global random state: everything a search knows came in through
:meth:`Search.sync`, :meth:`Search.observe` and :meth:`Search.finish`, and a fresh search told the
same records answers the same. The service drives it with stored trials, a benchmark with recorded
curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tuner.pruners import Track
from tuner.pruners.auto import AutoPruner
from tuner.samplers import PENDING, Proposal, untaken
from tuner.samplers.auto import AutoSampler
from tuner.search.memory import DIVERGED_REASON, Memory, locked
from tuner.search.race import Race
from tuner.search.records import Budget, Objective, Record, Suggestion, Verdict
from tuner.spaces import Space


class Search(Memory):
    """One study's search. Calls from several threads follow one another; a fit runs beside them.

    Args:
        space: What is searched.
        sampler: ``name`` and settings, as in a study file.
        pruner: ``name`` and settings.
        objectives: What is optimised; pruners and curves go by the first.
        max_step: The step at which a trial is complete.
        budget: What ends the study.
        seed: Of all random draws.
        constraint: The study's, if it has one; records carry by how much it is broken.
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
        constraint: object = None,
        warm_start: Iterable[Record] = (),
    ) -> None:
        super().__init__(
            space,
            sampler,
            pruner,
            objectives,
            max_step=max_step,
            budget=budget,
            seed=seed,
            constraint=constraint,
            warm_start=warm_start,
        )
        self._race: Race | None = None
        if isinstance(self.sampler, AutoSampler) and isinstance(self.pruner, AutoPruner):
            self._race = Race(self.sampler, self.pruner, max_step)

    @locked
    def observe(self, number: int, step: int, value: float) -> Verdict:
        """One report of a running trial; what it is to do next.

        Args:
            number: The trial.
            step: Completed periods, 1..max_step.
            value: The primary objective there, in the user's own sense; NaN or inf: it diverged.
        """
        track = self._board.tracks[number]
        if not math.isfinite(value):
            return Verdict("stop", track.until, DIVERGED_REASON)
        self._spent += max(step - track.step, 0)
        self._board.report(number, step, self._sign * value)
        self._progress(track)
        if self._reaches(self._sign * value):
            self._hit = True
            return Verdict("finish", step, "target")
        if step >= self.max_step:
            return Verdict("finish", self.max_step, "complete")
        return self._decide(track, step)

    def _decide(self, track: Track, step: int) -> Verdict:
        """Below the last step, and not there yet."""
        if self._hit:
            return Verdict("stop", step, "target")
        if step < track.until:
            return Verdict("continue", track.until)
        decision = self.pruner.decide(self._board, track, not self._may_start)
        if decision.action == "pause":
            self._set_aside(track)
        if decision.action != "continue":
            return Verdict(decision.action, step, decision.reason)
        self._busy.discard(track.number)  # its own promise is spent: what is left for the others?
        until = self._granted(step, self.pruner.next_stop(step, track.lane))
        self._busy.add(track.number)
        if until <= step:
            return Verdict("stop", step, "total_epochs")
        track.until = until
        return Verdict("continue", until)

    def _set_aside(self, track: Track) -> None:
        track.paused, track.busy = True, False
        self._busy.discard(track.number)
        self._progress(track)

    # --- what is left ---------------------------------------------------------------------------

    @property
    def _may_start(self) -> bool:
        """Whether a new trial may still start, now or later."""
        trials = self.budget.trials
        if trials is not None and self._count >= trials:
            return False
        return not self.sampler.exhausted(self._history)

    @property
    @locked
    def exhausted(self) -> str | None:
        """Which budget is met, or ``grid`` when its points are used up; None: more may come.

        Trials still set aside then are the service's to prune.
        """
        bound = self._bound_met()
        if bound is not None:
            return bound
        if self._busy or self._offered or self._loose or self._may_start:
            return None
        if next(self.pruner.promotable(self._board, True), None) is not None:
            return None
        trials = self.budget.trials
        return "trials" if trials is not None and self._count >= trials else "grid"

    def _bound_met(self) -> str | None:
        """The bound that ends the study whatever is still set aside."""
        budget = self.budget
        if self._hit:
            return "target"
        if budget.seconds is not None and self._elapsed >= budget.seconds:
            return "seconds"
        if budget.total_epochs is not None:
            moving = bool(self._busy or self._offered)
            if self._spent >= budget.total_epochs or (not moving and self._granted(0, 1) < 1):
                return "total_epochs"
        return None

    # --- what to do -----------------------------------------------------------------------------

    @locked
    def suggest(self, k: int, *, elapsed_seconds: float = 0.0) -> list[Suggestion]:
        """At most ``k`` trials to run now; none when there is nothing to do at present.

        Waiting trials come first (enqueued, retried, or lost by their worker), then paused trials
        that deserve another stretch, then new ones. What is suggested counts as busy from here on.
        """
        self._elapsed = max(self._elapsed, elapsed_seconds)
        if self._hit or (self.budget.seconds is not None and self._elapsed >= self.budget.seconds):
            return []
        out: list[Suggestion] = []
        for number in sorted(self._loose):
            if len(out) >= k or not self._resume(self._board.tracks[number], out):
                break
        if self._race is not None:
            self._run_race(self._race, k, out)
            return out
        last_call = not self._may_start
        if len(out) < k:
            for track in self.pruner.promotable(self._board, last_call):
                if not self._resume(track, out) or len(out) >= k:
                    break
        if len(out) < k and not last_call:
            self._copy(k, out)
        if len(out) < k and self._may_start:
            self._start(k - len(out), out)
        return out

    def _copy(self, k: int, out: list[Suggestion]) -> None:
        """New trials that begin where another stands."""
        for spawn in list(self.pruner.spawn(self._board, self._params)):
            draw = -1 - spawn.note["replaces"]  # no draw of the sampler's
            until = self._granted(spawn.start, self.pruner.next_stop(spawn.start, 0))
            if draw in self._offered:
                continue
            if len(out) >= k or until <= spawn.start or not self._may_start:
                return
            self._offered[draw] = until - spawn.start
            note = {"draw": draw, **spawn.note}
            out.append(
                Suggestion(None, spawn.params, spawn.start, until, note, copy_of=spawn.copy_of)
            )

    def _resume(self, track: Track, out: list[Suggestion]) -> bool:
        """Hands out a trial that exists; False: the epochs left do not allow it."""
        until = self._granted(track.step, self.pruner.next_stop(track.step, track.lane))
        if until <= track.step:
            return False
        track.busy, track.paused, track.until = True, False, until
        self._busy.add(track.number)
        self._loose.discard(track.number)
        self._history.put(
            self._warm + track.number,
            PENDING,
            step=track.step,
            last=track.curve.get(track.step, math.nan),
        )
        params = dict(self._params[track.number])
        out.append(Suggestion(track.number, params, track.step, until, dict(track.note)))
        return True

    def _run_race(self, race: Race, k: int, out: list[Suggestion]) -> None:
        """Fills the slots one by one: the race's turn, a promotion, or a new trial."""
        going = True
        while going and len(out) < k:
            may_start = self._may_start
            choice = race.choose(
                self._board, self._history, self._warm, self._draws, may_start=may_start
            )
            if choice is None:
                choice = next(self.pruner.promotable(self._board, not may_start), None)
            if isinstance(choice, Track):
                going = self._resume(choice, out)
            elif choice is not None:
                going = self._add(choice, out)
            else:
                going = may_start and self._start(1, out)

    def _start(self, k: int, out: list[Suggestion]) -> bool:
        """New trials, as many as the budget allows; one call of the sampler for all of them."""
        if self.budget.trials is not None:
            k = min(k, self.budget.trials - self._count)
        room = self.pruner.room(self._board, sum(d >= 0 for d in self._offered))
        if room is not None:
            k = min(k, room)
        proposals = self.sampler.suggest(self._history, k, self._draws) if k else []
        return bool(proposals) and all(self._add(p, out) for p in proposals)

    def _add(self, proposal: Proposal, out: list[Suggestion]) -> bool:
        """One new trial; False: the epochs left do not allow it."""
        draw = self._draws
        note: dict[str, Any] = {"draw": draw, **self.pruner.enter(draw)}
        if proposal.note:
            note["sampler"] = proposal.note
        until = self._granted(0, self.pruner.next_stop(0, self.pruner.lane(note)))
        if until < 1:
            return False
        params = proposal.params
        if self.space.key(params) in self._history.taken:
            # the sampler met a point of this very batch, or knows no other
            params = untaken(self._history, np.random.default_rng([self.seed, draw, 1]))
        self._history.taken.add(self.space.key(params))
        self._history.offered[draw] = self.space.to_unit(params)
        self._draws += 1
        self._offered[draw] = until
        out.append(Suggestion(None, params, 0, until, note))
        return True

    # --- what is slow ---------------------------------------------------------------------------

    @property
    @locked
    def stale(self) -> bool:
        """Whether :meth:`refit` would improve what :meth:`suggest` goes by."""
        return self.sampler.stale(self._history)

    def refit(self) -> None:
        """Fits the sampler's model anew in the caller's thread, beside other calls."""
        self.prepare_refit()()

    @locked
    def prepare_refit(self) -> Callable[[], None]:
        """The same in two halves: this one is quick and belongs to whoever holds the search.

        Returns:
            The slow half, for another thread. It works on a copy and swaps the result in at once,
            so the search may be used meanwhile; suggestions go by the last fit.
        """
        return self.sampler.refit(self._history)
