"""Population-based training: the worst of a population go on from the best, with changed settings.

Jaderberg et al., "Population Based Training of Neural Networks", 2017,
https://arxiv.org/abs/1711.09846: truncation selection, explore by factors of 0.8 and 1.2 or a fresh
draw.

At every interval a trial is set aside with its checkpoint. Once the whole population is there, each
of the worst is replaced: a new trial starts from the checkpoint of one of the best (exploit), with
some of its hyperparameters perturbed (explore); the others are resumed. Everyone waits for
everyone, which a population that trains in lockstep does anyway, and in exchange a copy is always
made of what is stored, and a restarted server decides the same. What shapes the network, its
optimizer or its schedule is never changed: the copied state would not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from tuner.pruners import Board, Decision, Pruner, Spawn, Track, register
from tuner.spaces import Categorical, Option, Space

FIXED = ("optimizer", "schedule", "warmup_fraction", "warmup", "epochs")
PREFIXES = ("model.", "schedule.")
FACTORS = (0.8, 1.2)


@register("pbt")
class PbtPruner(Pruner):
    """Exploits and explores at equal steps."""

    summary = "Population-based training: the worst copy the best and change their settings."
    copies = True
    options: ClassVar[Mapping[str, Option]] = {
        "population": Option(
            16,
            "int",
            low=2,
            high=10_000,
            doc="Trials that train side by side. Each copy is one more trial of the budget: "
            "`quantile` of these at every exchange.",
        ),
        "interval_steps": Option(
            None,
            "int",
            low=1,
            high=1_000_000,
            doc="Epochs between exchanges; by default a tenth of a training.",
        ),
        "quantile": Option(
            0.25,
            "float",
            low=0.0,
            high=0.5,
            open_low=True,
            doc="The share that is replaced, and the share that is copied.",
        ),
        "resample": Option(
            0.25, "float", low=0.0, high=1.0, doc="How often a setting is drawn anew, not scaled."
        ),
    }

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__(settings, max_step, space, seed)
        self.interval = self.settings["interval_steps"] or max(1, round(max_step / 10))
        self.population = int(self.settings["population"])

    def idle(self, trials: int | None) -> tuple[str, str] | None:
        """Copies are trials too, and none is made at the last step."""
        if trials is not None and trials <= self.population:
            return (
                "budget.trials",
                f"{trials} leaves none for copies, which are trials too: the population alone is "
                f"{self.population} (pruner.population)",
            )
        if self.interval >= self.max_step:
            return (
                "pruner.interval_steps",
                f"{self.interval} leaves no exchange before a training's end, step {self.max_step}",
            )
        return None

    def next_stop(self, step: int, lane: int) -> int:
        """The next multiple of the interval."""
        return min((step // self.interval + 1) * self.interval, self.max_step)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Always waits for the others."""
        return Decision("pause", f"waits for the population at step {track.step}")

    def room(self, board: Board, offered: int) -> int:
        """What the population lacks; a new one begins when all of it has ended."""
        wave = self._wave(board)
        if len(wave) + offered < self.population:
            return self.population - len(wave) - offered
        over = all(t.ended or t.number in self._replaced(board) for t in self._members(board))
        return self.population if over and not offered else 0

    def promotable(self, board: Board, last_call: bool) -> Iterator[Track]:
        """Whoever was not replaced, once everyone has arrived."""
        replaced = self._replaced(board)
        for step, losers in self._exchanges(board, last_call):
            for _, number in board.ranking(step):
                track = board.tracks[number]
                waits = track.paused and not track.busy and track.step == step
                lost = number in losers and not last_call
                if waits and not lost and number not in replaced:
                    yield track

    def spawn(self, board: Board, params: Mapping[int, Mapping[str, Any]]) -> Iterator[Spawn]:
        """A changed copy of one of the best for each of the worst that has none yet."""
        replaced = self._replaced(board)
        for step, losers in self._exchanges(board, False):
            arrived = [n for v, n in board.ranking(step) if math.isfinite(v) and n not in losers]
            if not arrived:
                continue
            count = max(1, math.ceil(self.settings["quantile"] * len(arrived)))
            best = [n for n in arrived if n not in replaced][:count]
            for loser in losers:
                if loser in replaced or not best:
                    continue
                rng = np.random.default_rng([self.seed, loser, step, 6])
                parent = best[int(rng.integers(len(best)))]
                changed = self.explore(params[parent], rng)
                note = {"start": step, "parent": parent, "replaces": loser}
                yield Spawn(changed, parent, step, note)

    def explore(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Each setting that may change: scaled by 0.8 or 1.2, or drawn anew."""
        out: dict[str, Any] = {}
        for name in self.space.searched:
            if name not in self.space.active(out):
                continue
            p = self.space.parameter(name)
            u, factor, fresh = rng.random(), FACTORS[int(rng.integers(2))], rng.random()
            keep = name in FIXED or name.startswith(PREFIXES) or self._is_parent(name)
            if name in params and keep:
                out[name] = params[name]
            elif name not in params or fresh < self.settings["resample"]:
                out[name] = p.from_unit(u)
            elif isinstance(p, Categorical):
                out[name] = params[name]
            elif params[name] == 0 and p.step is None:
                out[name] = p.from_unit(u)  # no factor moves it
            else:
                out[name] = p.nearest(float(params[name]) * factor)
                if p.step is not None and out[name] == p.nearest(params[name]):
                    move = p.step if factor > 1 else -p.step  # within its cell: one up or down
                    out[name] = p.nearest(float(params[name] + move))
        return out

    def _is_parent(self, name: str) -> bool:
        return any(name in p.when for p in self.space.parameters.values())

    # --- who is in the population, and who has arrived

    def _wave(self, board: Board) -> list[Track]:
        """The members that the sampler chose, of the present population."""
        first = [t for t in board.tracks.values() if "parent" not in t.note]
        begun = max(len(first) - 1, 0) // self.population * self.population
        return sorted(first, key=lambda t: t.number)[begun:]

    def _members(self, board: Board) -> list[Track]:
        wave = self._wave(board)
        if not wave:
            return []
        return [t for t in board.tracks.values() if t.number >= wave[0].number]

    def _replaced(self, board: Board) -> set[int]:
        return {t.note["replaces"] for t in board.tracks.values() if "replaces" in t.note}

    def _exchanges(self, board: Board, last_call: bool) -> Iterator[tuple[int, list[int]]]:
        """Steps at which everyone has arrived, with those to be replaced there, worst first."""
        wave = self._wave(board)
        if len(wave) < self.population and not last_call:
            return
        replaced = self._replaced(board)
        members = self._members(board)
        for step in range(self.interval, self.max_step, self.interval):
            entries = [e for e in board.ranking(step) if e[1] >= wave[0].number] if wave else []
            arrived = {n for _, n in entries}
            here = [t for t in members if t.note.get("start", 0) < step]
            late = [
                t
                for t in here
                if t.number not in arrived
                and not t.ended
                and not (t.number in replaced and t.step < step)
            ]
            if late or not entries:
                return
            count = math.ceil(self.settings["quantile"] * len(entries))
            worst = [n for _, n in reversed(entries)][:count]
            lost = [n for v, n in entries if not math.isfinite(v) and n not in worst]
            yield step, worst + lost
