"""Widening a space while its study lives, so that every earlier trial stays a point of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tuner.errors import InvalidInput
from tuner.spaces.parameters import (
    Categorical,
    Constant,
    Float,
    Int,
    Parameter,
    Scalar,
    Searched,
)
from tuner.spaces.space import Space


def widen(old: Space, new: Space, *, known: Mapping[str, Scalar] | None = None) -> Space:
    """``new`` as the later, larger form of ``old``, in which every earlier trial is valid.

    Ranges may grow, choices may be added, a constant may become a range that holds it, and a new
    parameter may join when it says, as ``default``, what earlier trials ran with. A new constant
    says nothing of earlier trials, so it must be what they had. Choices keep their earlier order,
    new ones last.

    Args:
        old: What trials were drawn from.
        new: What is wanted.
        known: What trials run with where the space does not say.

    Raises:
        InvalidInput: Some earlier trial would not be a point of ``new``; names the parameter.
    """
    merged: dict[str, Parameter] = {}
    for name, before in old.parameters.items():
        if name not in new.parameters:
            raise InvalidInput(f"space.{name}", "is missing: earlier trials have it")
        merged[name] = _widened(before, new.parameters[name], f"space.{name}")
    for name, added in new.parameters.items():
        if name in merged:
            continue
        if _was_reachable(added, old, new):
            _check_added(name, added, known or {}, f"space.{name}")
        merged[name] = added
    return Space({name: merged[name] for name in new.parameters}, new.priors or old.priors)


def _check_added(name: str, added: Parameter, known: Mapping[str, Scalar], field: str) -> None:
    """Refuses a parameter that earlier trials are then read as having with no word of theirs."""
    if not isinstance(added, Constant):
        if added.default is None:
            raise InvalidInput(f"{field}.default", "is missing: what did earlier trials run with?")
    elif name not in known or known[name] not in added:
        had = f"earlier trials had {known[name]!r}" if name in known else "what had earlier trials?"
        raise InvalidInput(field, f"is a new constant: {had}; give choices with that as default")


def _was_reachable(added: Parameter, old: Space, new: Space) -> bool:
    """Whether an earlier trial can meet the condition of a parameter that did not exist then."""
    return all(_was_among(parent, wanted, old, new) for parent, wanted in added.when.items())


def _was_among(parent: str, wanted: tuple[Scalar, ...], old: Space, new: Space) -> bool:
    """Whether an earlier trial can have one of these values, or is read as having it."""
    if parent in old.parameters:
        return any(value in old.parameters[parent] for value in wanted)
    added = new.parameters[parent]
    read = added.value if isinstance(added, Constant) else added.default
    return Categorical(wanted).index(read) >= 0 and _was_reachable(added, old, new)


def _widened(old: Parameter, new: Parameter, field: str) -> Parameter:
    if dict(old.when) != dict(new.when):
        raise InvalidInput(f"{field}.when", "cannot change while the study lives")
    if isinstance(old, Constant):
        return _from_constant(old, new, field)
    if isinstance(old, Categorical) and isinstance(new, Categorical):
        for choice in old.choices:
            if choice not in new:
                raise InvalidInput(f"{field}.choices", f"lacks {choice!r}, which trials have")
        extra = tuple(c for c in new.choices if c not in old)
        return replace(new, choices=old.choices + extra, default=_kept(old, new))
    if isinstance(old, Float) and isinstance(new, Float):
        _check_range(old, new, field)
        return replace(new, default=_kept(old, new))  # type: ignore[arg-type]  # both floats
    if isinstance(old, Int) and isinstance(new, Int):
        _check_range(old, new, field)
        return replace(new, default=_kept(old, new))  # type: ignore[arg-type]  # both ints
    raise InvalidInput(f"{field}.type", "cannot change while the study lives")


def _from_constant(old: Constant, new: Parameter, field: str) -> Parameter:
    if isinstance(new, Constant):
        if new.value not in old:
            raise InvalidInput(field, f"was the constant {old.value!r} in earlier trials")
        return new
    if old.value is None:
        raise InvalidInput(field, "was null in earlier trials, which a range cannot widen")
    if old.value not in new:
        raise InvalidInput(field, f"does not hold {old.value!r}, which earlier trials have")
    return replace(new, default=old.value)  # type: ignore[arg-type]  # a value of the new one


def _check_range(old: Float | Int, new: Float | Int, field: str) -> None:
    if old.log != new.log:
        raise InvalidInput(f"{field}.log", "cannot change while the study lives")
    if new.low > old.low:
        raise InvalidInput(f"{field}.low", f"{new.low!r} leaves out values from {old.low!r}")
    if new.high < old.high:
        raise InvalidInput(f"{field}.high", f"{new.high!r} leaves out values to {old.high!r}")
    if new.step is not None and (
        old.step is None
        or old.low not in new
        or (old.low != old.high and old.low + old.step not in new)
    ):
        raise InvalidInput(f"{field}.step", f"{new.step!r} leaves out earlier values")


def _kept(old: Searched, new: Searched) -> Scalar:
    """The default of the earlier space holds: trials before it were read with that value."""
    return old.default if old.default is not None else new.default
