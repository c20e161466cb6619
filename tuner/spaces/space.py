"""The search space: named parameters, of which some are active only under a condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from tuner.errors import InvalidInput
from tuner.spaces.parameters import (
    Categorical,
    Constant,
    Float,
    Int,
    Parameter,
    Prior,
    Scalar,
    Searched,
)
from tuner.spaces.parse import NAME, parse_parameter
from tuner.spaces.terms import distribution, legal, said, written

MOST_PARAMETERS = 200
Key = tuple[tuple[str, str, Scalar], ...]


@dataclass(frozen=True)
class Space:
    """Named parameters in the order they were written.

    *Params* are the values that a sampler chose: searched parameters that are active. A *config* is
    what a trial runs with: the params and the active constants. Build one with :meth:`parse`.

    Args:
        parameters: By name.
        priors: Where good values are expected when a parameter names no prior of its own, by
            optimizer (see :meth:`with_priors`).
    """

    parameters: Mapping[str, Parameter]
    priors: Mapping[str | None, Mapping[str, Prior]] = field(default_factory=dict)
    order: tuple[str, ...] = field(init=False, compare=False)
    """All names, parents before children, and the optimizer before what does not decide on it."""
    searched: tuple[str, ...] = field(init=False, compare=False)
    """The names of what is searched, parents before children: the axes of the unit cube."""
    conditional: bool = field(init=False, compare=False)
    """Whether any parameter has a condition."""
    conditions: Mapping[str, tuple[tuple[str, Categorical], ...]] = field(
        init=False, compare=False, repr=False
    )
    """By name, its parents, each with the values among which it has to be."""

    def __post_init__(self) -> None:
        order = _parents_first(self.parameters)
        object.__setattr__(self, "order", order)
        searched = tuple(n for n in order if not isinstance(self.parameters[n], Constant))
        object.__setattr__(self, "searched", searched)
        conditional = any(p.when for p in self.parameters.values())
        object.__setattr__(self, "conditional", conditional)
        conditions = {
            name: tuple((parent, Categorical(wanted)) for parent, wanted in p.when.items())
            for name, p in self.parameters.items()
        }
        object.__setattr__(self, "conditions", conditions)

    @classmethod
    def parse(cls, raw: object, prefix: str = "space") -> Space:
        """Reads the study file's form.

        Raises:
            InvalidInput: For the first thing that is wrong, naming it, such as ``space.lr.low``.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInput(prefix, "is not a mapping of names to values or ranges")
        if not raw:
            raise InvalidInput(prefix, "names no parameter")
        if len(raw) > MOST_PARAMETERS:
            raise InvalidInput(prefix, f"has {len(raw)} parameters; at most {MOST_PARAMETERS}")
        parameters: dict[str, Parameter] = {}
        for name, value in raw.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise InvalidInput(
                    f"{prefix}.{name}"[:200],
                    "is not a name: a letter or _, then letters, digits, _ . -, at most 100",
                )
            parameters[name] = parse_parameter(value, f"{prefix}.{name}")
        for name, parameter in parameters.items():
            _check_when(name, parameter, parameters, prefix)
        return cls(parameters)

    def to_dict(self) -> dict[str, Any]:
        """The study file's form; :meth:`parse` of it gives an equal space."""
        return {name: written(parameter) for name, parameter in self.parameters.items()}

    def parameter(self, name: str) -> Searched:
        """A searched parameter by name."""
        parameter = self.parameters[name]
        if isinstance(parameter, Constant):
            raise KeyError(name)
        return parameter

    def distributions(self) -> dict[str, BaseDistribution]:
        """What is searched, as Optuna's distributions, parents first."""
        return {name: distribution(self.parameter(name)) for name in self.searched}

    # --- configurations -------------------------------------------------------------------------

    def active(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The names active given ``config``, parents first; constants need not be in it."""
        if not self.conditional:
            return self.order
        out: list[str] = []
        values: dict[str, Any] = {}
        for name in self.order:
            parameter = self.parameters[name]
            if self._holds(name, values):
                out.append(name)
                if isinstance(parameter, Constant):
                    values[name] = parameter.value
                elif name in config:
                    values[name] = config[name]
                elif parameter.default is not None:
                    values[name] = parameter.default
        return tuple(out)

    def _holds(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the conditions of ``name`` are met by the values of what is active."""
        for parent, wanted in self.conditions[name]:
            if parent not in values or wanted.index(values[parent]) < 0:
                return False
        return True

    def chosen(
        self, choose: Callable[[str, Searched, Mapping[str, Any]], Scalar]
    ) -> dict[str, Any]:
        """The params whose values are chosen one by one, parents first, where they are active.

        Args:
            choose: Gives the value of a parameter; it is told its name, what it is, and the params
                chosen before.
        """
        values: dict[str, Any] = {}
        params: dict[str, Any] = {}
        for name in self.order:
            if not self._holds(name, values):
                continue
            parameter = self.parameters[name]
            if isinstance(parameter, Constant):
                values[name] = parameter.value
            else:
                params[name] = values[name] = choose(name, parameter, params)
        return params

    def fill(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The config of ``params``: active constants added, inactive values dropped, in order."""
        active = set(self.active(params))
        config: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name not in active:
                continue
            if isinstance(parameter, Constant):
                config[name] = parameter.value
            elif name in params:
                config[name] = params[name]
            elif parameter.default is not None:
                config[name] = parameter.default
        return config

    def check(self, config: Mapping[str, Any], prefix: str = "params") -> dict[str, Any]:
        """The params of a configuration given from outside, such as an enqueued trial.

        Constants may be left out or repeated. Inactive values are refused: they would do nothing.

        Raises:
            InvalidInput: A name is unknown, inactive or missing, or a value illegal.
        """
        for name in config:
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise InvalidInput(f"{prefix}.{name}", f"is not in the space; it has {known}")
        active = self.active(config)
        params: dict[str, Any] = {}
        for name in self.order:
            parameter = self.parameters[name]
            if name not in active:
                if name in config:
                    raise InvalidInput(f"{prefix}.{name}", f"is active only {said(parameter)}")
                continue
            if isinstance(parameter, Constant):
                if name in config and config[name] not in parameter:
                    raise InvalidInput(f"{prefix}.{name}", f"is the constant {parameter.value!r}")
                continue
            if name not in config:
                raise InvalidInput(f"{prefix}.{name}", "is missing")
            value = config[name]
            if isinstance(parameter, Int) and isinstance(value, float) and value.is_integer():
                value = int(value)
            if value not in parameter:
                raise InvalidInput(f"{prefix}.{name}", f"{value!r} is not {legal(parameter)}")
            # 0.3 is what people write for the third step of 0.1, which is 0.30000000000000004
            if isinstance(parameter, Float):
                value = parameter.nearest(float(value))
            params[name] = value
        return params

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether ``params`` is a point of this space: every active value legal, nothing unknown.

        A parameter that a wider space added with a ``default`` may be missing.
        """
        if any(name not in self.parameters for name in params):
            return False
        for name in self.active(params):
            parameter = self.parameters[name]
            if isinstance(parameter, Constant):
                if name in params and params[name] not in parameter:
                    return False
            elif name in params:
                if params[name] not in parameter:
                    return False
            elif parameter.default is None:
                return False
        return True

    def key(self, params: Mapping[str, Any]) -> Key:
        """What makes two points the same: the active values that are searched, hashable."""
        config = self.fill(params)
        parts: list[tuple[str, str, Scalar]] = []
        for name in self.searched:
            if name in config:
                p, value = self.parameters[name], config[name]
                if isinstance(p, Float) and p.step is not None:
                    value = p.nearest(value)
                parts.append((name, "bool" if isinstance(value, bool) else "", value))
        return tuple(parts)

    # --- grids ----------------------------------------------------------------------------------

    @property
    def grid_size(self) -> int | None:
        """How many distinct points there are; None: a continuum is among them."""
        if any(self.parameter(n).size is None for n in self.searched):
            return None
        if not self.conditional:
            return math.prod(self.parameter(n).size or 1 for n in self.searched)
        return _count(self, 0, {})

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point once, the first parameter slowest; an inactive one takes no part.

        Raises:
            InvalidInput: A parameter is a continuum; names it.
        """
        for name in self.searched:
            if self.parameter(name).size is None:
                raise InvalidInput(
                    f"space.{name}", "is a continuum: a grid needs a step, choices or whole numbers"
                )
        return self._points(0, {})

    def _points(self, i: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if i == len(self.searched):
            yield dict(chosen)
            return
        name = self.searched[i]
        if name not in self.active(chosen):
            yield from self._points(i + 1, chosen)
            return
        parameter = self.parameter(name)
        for index in range(parameter.size or 1):
            yield from self._points(i + 1, {**chosen, name: parameter.at(index)})

    # --- the unit cube --------------------------------------------------------------------------

    def to_unit(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        """``[D]`` in [0, 1], one axis for each of ``searched``; NaN where inactive."""
        config = self.fill(params)
        return np.array(
            [self.parameter(n).to_unit(config[n]) if n in config else np.nan for n in self.searched]
        )

    def from_unit(self, u: NDArray[np.float64]) -> dict[str, Any]:
        """The params at ``u``; axes of inactive parameters are not read."""
        at = dict(zip(self.searched, u.tolist(), strict=True))
        return self.chosen(lambda name, parameter, _: parameter.from_unit(at[name]))

    def prior(self, name: str, config: Mapping[str, Any]) -> Prior | None:
        """What is believed about ``name`` in ``config``: its own prior, else the optimizer's."""
        parameter = self.parameters[name]
        if not isinstance(parameter, Float | Int):
            return None
        if parameter.prior == "none":
            return None
        if parameter.prior is not None:
            return parameter.prior
        if not self.priors:
            return None
        return self.priors.get(self._optimizer(config), {}).get(name)

    def _optimizer(self, config: Mapping[str, Any]) -> Any:
        """That of a config, or of params; None where it has none."""
        optimizer = self.parameters.get("optimizer")
        if optimizer is None:
            return None
        if optimizer.when:
            return self.fill(config).get("optimizer")
        if isinstance(optimizer, Constant):
            return optimizer.value
        return config.get("optimizer", optimizer.default)

    def with_priors(self, priors: Mapping[str | None, Mapping[str, Prior]]) -> Space:
        """This space, told where good values lie: ``{optimizer: {hyperparameter: prior}}``.

        Under None are those of a configuration that names no optimizer. A prior whose scale the
        range cannot take (a logarithm at 0) is left out.
        """
        kept: dict[str | None, dict[str, Prior]] = {}
        for optimizer, of in priors.items():
            for name, prior in of.items():
                parameter = self.parameters.get(name)
                if not isinstance(parameter, Float | Int):
                    continue
                if prior.scale == "log" and parameter.low <= 0:
                    continue
                if prior.scale == "complement" and parameter.high > 1:
                    continue
                kept.setdefault(optimizer, {})[name] = prior
        return replace(self, priors=kept)


def _parents_first(parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    order: list[str] = []
    # Where good values of the others lie depends on the optimizer, wherever it was written.
    early = ["optimizer"] if "optimizer" in parameters else []
    for name in early:
        early += [parent for parent in parameters[name].when if parent not in early]
    waiting = sorted(parameters, key=lambda name: name not in early)
    while waiting:
        ready = [n for n in waiting if all(p in order for p in parameters[n].when)]
        if not ready:
            raise InvalidInput(f"space.{waiting[0]}.when", "the conditions form a circle")
        # one at a time, so that the written order is kept wherever the conditions allow it
        order.append(ready[0])
        waiting.remove(ready[0])
    return tuple(order)


def _check_when(
    name: str, parameter: Parameter, parameters: Mapping[str, Parameter], prefix: str
) -> None:
    for parent, wanted in parameter.when.items():
        at = f"{prefix}.{name}.when.{parent}"
        if parent not in parameters:
            raise InvalidInput(at, "is not in the space")
        above = parameters[parent]
        if isinstance(above, Float):
            raise InvalidInput(at, "is a float; a condition needs a parameter with distinct values")
        for value in wanted:
            if value not in above:
                raise InvalidInput(at, f"never takes the value {value!r}")
    seen = [name]
    frontier = list(parameter.when)
    while frontier:
        at_name = frontier.pop()
        if at_name == name:
            raise InvalidInput(f"{prefix}.{name}.when", "depends on itself, in a circle")
        if at_name not in seen and at_name in parameters:
            seen.append(at_name)
            frontier.extend(parameters[at_name].when)


def _count(space: Space, i: int, chosen: dict[str, Any]) -> int:
    """The size of a conditional grid; values that no condition reads are multiplied, not walked."""
    if i == len(space.searched):
        return 1
    name = space.searched[i]
    if name not in space.active(chosen):
        return _count(space, i + 1, chosen)
    parameter = space.parameter(name)
    size = parameter.size or 1
    read = {v for p in space.parameters.values() for v in p.when.get(name, ())}
    if not read:
        return size * _count(space, i + 1, chosen)
    total = 0
    told = [v for v in read if v in parameter]
    for value in told:
        total += _count(space, i + 1, {**chosen, name: value})
    if size > len(told):
        silent = object()  # equals no value that a condition asks for
        total += (size - len(told)) * _count(space, i + 1, {**chosen, name: silent})
    return total
