"""Asynchronous successive halving in its promotion form.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
https://arxiv.org/abs/1810.05934, algorithm 2.

A trial that reaches a rung is set aside unless it is among the best ``1/reduction_factor`` there; a
free slot takes up the best promotable trial of the highest rung before it starts a new one. Nothing
is killed: as the rungs fill, a trial set aside early may still be promoted. Two differences from
the paper: a trial that is promotable the moment it reaches a rung goes on without leaving its slot,
and when no new trial will start, the promoted share is rounded up, so that a small study also
brings trials to the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register
from tuner.spaces import Constant, Option, Space

SCHEDULED = ("schedule", "warmup_fraction")


def rungs(first: int, factor: float, max_step: int) -> tuple[int, ...]:
    """``first * factor**i`` below ``max_step``, then ``max_step``.

    A rung that would leave less than a third of a training above it is left out: it would decide
    next to nothing.
    """
    out: list[int] = []
    at = float(first)
    while round(at) * 1.5 <= max_step:
        if not out or round(at) > out[-1]:
            out.append(round(at))
        at *= factor
    return (*out, max_step)


def first_rung(space: Space, max_step: int, of: int = 20) -> int:
    """One ``of`` equal parts of a training; a tenth where the schedule or its warm-up is searched.

    The early epochs of a long schedule say less about its end than those of a constant one.
    """
    searched = any(
        n in space.parameters and not isinstance(space.parameters[n], Constant) for n in SCHEDULED
    )
    return max(1, round(max_step / (10 if searched else of)))


@register("asha")
class AshaPruner(Pruner):
    """Pauses at rungs, promotes the best."""

    summary = "Asynchronous successive halving: pauses trials at rungs and resumes the best."
    options: ClassVar[Mapping[str, Option]] = {
        "reduction_factor": Option(
            3.0, "float", low=1.5, high=100.0, doc="One in so many is promoted from each rung."
        ),
        "min_resource": Option(
            None,
            "int",
            low=1,
            high=1_000_000,
            doc="The first rung, in epochs; by default 1/20 of a training, "
            "1/10 where the schedule is searched.",
        ),
    }

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__(settings, max_step, space, seed)
        self.factor = float(self.settings["reduction_factor"])
        first = self.settings["min_resource"] or first_rung(space, max_step)
        self.rungs = {0: rungs(first, self.factor, max_step)}

    def next_stop(self, step: int, lane: int) -> int:
        """The next rung."""
        return next((r for r in self.rungs[lane] if r > step), self.max_step)

    def _share(self, count: int, last_call: bool) -> int:
        return -int(-count // self.factor) if last_call else int(count // self.factor)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Goes on when it is among the best share of its rung, else steps aside."""
        count = len(board.ranking(track.step, track.lane))
        rank = board.rank(track.number, track.step)
        if rank < self._share(count, last_call):
            return CONTINUE
        return Decision("pause", f"rank {rank + 1} of {count} at step {track.step}")

    def promotable(self, board: Board, last_call: bool) -> Iterator[Track]:
        """Paused trials within the best share of their rung, highest rung first."""
        places = [(rung, lane) for lane, steps in self.rungs.items() for rung in steps[:-1]]
        for rung, lane in sorted(places, key=lambda place: (-place[0], place[1])):
            column = board.ranking(rung, lane)
            for _, number in column[: self._share(len(column), last_call)]:
                track = board.tracks[number]
                if track.paused and not track.busy and track.step == rung:
                    yield track
