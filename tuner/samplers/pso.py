"""Particle swarm optimisation, as an Optuna sampler and on top of it ours.

Kennedy and Eberhart, "Particle Swarm Optimization", 1995, with the inertia of Shi and Eberhart,
1998, and the constants of Clerc and Kennedy, 2002 (0.729 and 1.494). Asynchronous (Carlisle and
Dozier, 2001): a particle moves as soon as its turn comes, from whatever is known then.

A particle's position has one axis in [0, 1] for each number and one for each choice of a
categorical parameter, of which the highest wins; so a swarm can lean towards a choice by degrees.
Positions and velocities are on the trials, so the swarm lives as long as the study, whichever
process asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.samplers import register
from tuner.samplers.bridge import OptunaSampler
from tuner.samplers.history import Floats
from tuner.spaces import Categorical, Float, Int, Option, Searched

KEY = "pso"
FASTEST = 0.5
"""Of the unit interval a step, in each axis."""


@dataclass
class Particle:
    """Where it is, how it moves, and the best place it was at, with what that was worth.

    Worth less is better: how far the constraints are broken there, then the value.
    """

    position: Floats
    velocity: Floats
    best: Floats
    worth: tuple[float, float]


class PsoSampler(BaseSampler):
    """A swarm over the parameters that all trials of a study share; others are drawn at random.

    Args:
        particles: How many; the first position of each is random.
        inertia: How much of its velocity a particle keeps.
        cognitive: How strongly it is drawn to the best place it was at.
        social: How strongly it is drawn to the best place any was at.
        seed: Of all random numbers.
    """

    def __init__(
        self,
        *,
        particles: int = 10,
        inertia: float = 0.729,
        cognitive: float = 1.494,
        social: float = 1.494,
        seed: int | None = None,
    ) -> None:
        self._particles = particles
        self._inertia, self._cognitive, self._social = inertia, cognitive, social
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Fresh entropy, for a copy of the sampler in another process."""
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What all finished trials share and is more than one value."""
        shared = self._space.calculate(study)
        return {name: dist for name, dist in shared.items() if not dist.single()}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for a parameter outside the swarm's space."""
        _single(study)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Moves the particle whose turn it is and writes down where to."""
        _single(study)
        if not search_space:
            return {}
        axes = {name: _axis(dist) for name, dist in search_space.items()}
        turn, swarm = self._swarm(study, trial.number, axes)
        size = sum(p.size if isinstance(p, Categorical) else 1 for p in axes.values())
        me = swarm.get(turn)
        if me is None or len(swarm) < min(self._particles, 2):
            position = self._rng.random(size)
            velocity = self._rng.uniform(-0.1, 0.1, size)
        else:
            leader = min(swarm.values(), key=lambda p: p.worth)
            own, others = self._rng.random((2, size))
            velocity = (
                self._inertia * me.velocity
                + self._cognitive * own * (me.best - me.position)
                + self._social * others * (leader.best - me.position)
            )
            velocity = np.clip(velocity, -FASTEST, FASTEST)
            position = me.position + velocity
            outside = (position < 0) | (position > 1)
            velocity = np.where(outside, -0.5 * velocity, velocity)  # it bounces, damped
            position = np.clip(position, 0.0, 1.0)
        state = {"particle": turn, "position": position.tolist(), "velocity": velocity.tolist()}
        study._storage.set_trial_system_attr(trial._trial_id, KEY, state)
        return _decoded(position, axes)

    def _swarm(
        self, study: Study, number: int, axes: Mapping[str, Searched]
    ) -> tuple[int, dict[int, Particle]]:
        """Whose turn it is, and every particle that has been somewhere."""
        lower = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        swarm: dict[int, Particle] = {}
        moves = np.zeros(self._particles, dtype=int)
        size = sum(p.size if isinstance(p, Categorical) else 1 for p in axes.values())
        for t in study.get_trials(deepcopy=False):
            if t.number == number:
                continue
            finished = t.state == TrialState.COMPLETE and t.value is not None
            worth = (np.inf, np.inf)
            if finished:
                worth = (
                    sum(max(v, 0.0) for v in t.constraints.values()),
                    lower * cast("float", t.value),
                )
            state = t.system_attrs.get(KEY)
            if state is None or len(state["position"]) != size:
                # sampled otherwise (at random, enqueued): a place like any other, for whom it may
                # help
                if not finished or not axes.keys() <= t.params.keys():
                    continue
                which = t.number % self._particles
                position = _encoded(t.params, axes)
                velocity = np.zeros(size)
            else:
                which = int(state["particle"]) % self._particles
                position, velocity = np.array(state["position"]), np.array(state["velocity"])
            moves[which] += 1
            old = swarm.get(which)
            if old is None or worth < old.worth:
                swarm[which] = Particle(position, velocity, position, worth)
            else:
                swarm[which] = Particle(position, velocity, old.best, old.worth)
        return int(np.argmin(moves)), swarm

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Nothing: all it knows is on the trials."""


def _single(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError("a particle swarm takes one objective")


def _axis(dist: BaseDistribution) -> Searched:
    if isinstance(dist, FloatDistribution):
        return Float(dist.low, dist.high, dist.log, dist.step)
    if isinstance(dist, IntDistribution):
        return Int(dist.low, dist.high, dist.log, dist.step)
    return Categorical(cast("CategoricalDistribution", dist).choices)


def _encoded(params: Mapping[str, Any], axes: Mapping[str, Searched]) -> Floats:
    out: list[float] = []
    for name, p in axes.items():
        if isinstance(p, Categorical):
            out.extend(float(i == p.index(params[name])) for i in range(p.size))
        else:
            out.append(p.to_unit(params[name]))
    return np.clip(out, 0.0, 1.0)


def _decoded(position: Floats, axes: Mapping[str, Searched]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    at = 0
    for name, p in axes.items():
        if isinstance(p, Categorical):
            params[name] = p.at(int(np.argmax(position[at : at + p.size])))
            at += p.size
        else:
            params[name] = p.from_unit(float(position[at]))
            at += 1
    return params


@register("pso")
class ParticleSwarm(OptunaSampler):
    """The swarm, driven by a study's history."""

    summary = "Particle swarm; cheap, and good at following a smooth landscape in parallel."
    most_objectives = 1
    options: ClassVar[Mapping[str, Option]] = {
        "particles": Option(10, "int", low=2, high=10_000, doc="How many points move."),
        "inertia": Option(
            0.729, "float", low=0.0, high=1.0, doc="How much of its velocity a particle keeps."
        ),
        "cognitive": Option(
            1.494, "float", low=0.0, high=4.0, doc="The pull of the best place a particle was at."
        ),
        "social": Option(
            1.494, "float", low=0.0, high=4.0, doc="The pull of the best place any particle was at."
        ),
    }

    def make(self, seed: int) -> BaseSampler:
        """The Optuna face of it."""
        return PsoSampler(**self.settings, seed=seed)
