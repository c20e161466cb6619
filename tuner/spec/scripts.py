"""Studies of a script: any name will do that can be told to it, and its own words stay its own."""

from __future__ import annotations

from dataclasses import replace

from tuner.errors import InvalidInput
from tuner.spaces import Float, Int, Space
from tuner.spec.names import always
from tuner.trial import variable


def of_script(space: Space) -> Space:
    """The space as it is stored.

    Nobody but the script knows what ``lr`` means to it, so unless every trial names its optimizer,
    no optimizer's prior holds for it. That is written down, as a server may not know the script
    later.
    """
    if always(space, "optimizer"):
        return space
    silent = {
        name: replace(parameter, prior="none")
        if isinstance(parameter, Float | Int) and parameter.prior is None
        else parameter
        for name, parameter in space.parameters.items()
    }
    return Space(silent)


def check(space: Space) -> None:
    """Refuses what cannot be told to a script.

    Raises:
        InvalidInput: Names the field.
    """
    known: dict[str, str] = {}
    for name in space.parameters:
        other = known.setdefault(variable(name), name)
        if other != name:
            raise InvalidInput(
                f"space.{name}",
                f"a script could not tell it from {other}: both are {variable(name)}",
            )
