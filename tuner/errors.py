"""Every error this package raises on purpose: one tree, a stable code each, typed facts.

The domain knows no HTTP. ``api/problems.py`` maps each class to a status in one table, and the
command line prints ``str(error)``; a test walks this tree, so that no class lacks a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, cast

UNKNOWN_FIELD = "there is no such field"
"""What is said of a field that nobody reads; a newer program may send one to an older server."""

LONGEST_REASON = 2000
"""Characters that are kept of why something ended, in somebody else's words."""


class TunerError(Exception):
    """The root. ``code`` never changes once released; ``facts`` is JSON-able and safe to show.

    Args:
        message: One sentence for the person who can act on it.
        **facts: What a program needs to act on it: names, ids, limits.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[Callable[..., TunerError], tuple[object, ...]]:
        """How it crosses from process to process: classes word their messages themselves."""
        return remade, (type(self), self.message, self.facts)


def remade(kind: type[TunerError], message: str, facts: Mapping[str, object]) -> TunerError:
    """An error of a class as it was raised elsewhere: worded already, with its facts."""
    error = kind.__new__(kind)
    TunerError.__init__(error, message, **facts)
    if isinstance(error, InvalidInput):
        error.field = str(facts.get("field", ""))
    return error


class InvalidInput(TunerError):
    """A value from outside is wrong. ``field`` is its dotted path, such as ``space.lr.low``."""

    code = "invalid_input"

    def __init__(self, field: str, message: str, **facts: object) -> None:
        super().__init__(f"{field}: {message}" if field else message, field=field, **facts)
        self.field = field


class UnknownName(InvalidInput):
    """A name that no registry entry has. ``known`` lists those that exist."""

    code = "unknown_name"

    def __init__(self, kind: str, name: object, known: list[str], field: str = "") -> None:
        super().__init__(
            field, f"there is no {kind} named {name!r}; known: {', '.join(known)}", known=known
        )


class NotFound(TunerError):
    """A study, trial, worker, dataset or token that is not there (any more)."""

    code = "not_found"

    def __init__(self, kind: str, key: object) -> None:
        super().__init__(f"there is no {kind} {key}", kind=kind, key=str(key))


class Conflict(TunerError):
    """The request does not fit the present state, such as resuming a study that has completed."""

    code = "conflict"


class LeaseLost(Conflict):
    """The lease token is not the trial's present one: another attempt owns it. Drop the slot."""

    code = "lease_lost"

    def __init__(self, trial: int) -> None:
        super().__init__(f"trial {trial} is no longer held under this lease", trial=trial)


class SearchFailed(Conflict):
    """A study's sampler or pruner raised, or cannot be built; the study has failed for it."""

    code = "search_failed"

    def __init__(self, study: int, cause: Exception) -> None:
        what = str(cause) if isinstance(cause, TunerError) else f"{type(cause).__name__}: {cause}"
        # Somebody else's words, which go into the database.
        clean = "".join(c if c.isprintable() else " " for c in what)[:LONGEST_REASON]
        super().__init__(f"the study's search failed: {clean}", study=study)

    @property
    def study(self) -> int:
        """Whose."""
        return cast("int", self.facts["study"])


class Refusal(InvalidInput):
    """A rule does not hold for these values: says which value, why, and what to do instead."""

    code = "refusal"


class NotVmappable(TunerError):
    """``vmap`` refuses the model; the population falls back to the looped engine."""

    code = "not_vmappable"


class OutOfMemory(TunerError):
    """The device's memory does not hold the population even with a single slot."""

    code = "out_of_memory"


class SchemaOutdated(TunerError):
    """The database was made by another version; the message names the command that mends it."""

    code = "schema_outdated"


class Unauthorized(TunerError):
    """No token, or one that is wrong, expired or revoked."""

    code = "unauthorized"


class Forbidden(TunerError):
    """The token is good but lacks the scope that this needs."""

    code = "forbidden"


class TooLarge(TunerError):
    """A body or a file above its limit."""

    code = "too_large"


class TooManyRequests(TunerError):
    """A limit on rate was met; ``retry_after_seconds`` says when to come back."""

    code = "too_many_requests"


class Unavailable(TunerError):
    """A part that this needs (the database, the server) cannot be reached now; try again."""

    code = "unavailable"


class Uninstalled(Unavailable):
    """A study names what is not installed on this server; another one may have it."""

    code = "uninstalled"

    def __init__(self, study: int, cause: TunerError) -> None:
        super().__init__(f"study {study} cannot be served here: {cause}", study=study)


class Locked(Unavailable):
    """Somebody else holds what this would change, and has not let go of it; try again."""

    code = "locked"
