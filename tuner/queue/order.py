"""Whose turn it is when a worker asks: priority first, then the smaller share of the devices."""

from __future__ import annotations

from collections.abc import Iterable

from tuner.storage.tallies import Queued

HORIZON_SECONDS = 60.0
"""A study's share counts as what it holds now until it has run about this long."""
PREFERENCE = 0.5
"""A worker whose population has room for a study stays with it up to twice another's share."""


def share(study: Queued) -> float:
    """Devices that a study has had on average since it runs, in trials at once.

    At first that is what it holds; later, device seconds used per second. So a study that comes
    late is served like the others, not until it has caught up with all that they used before.
    """
    used = study.device_seconds + HORIZON_SECONDS * study.leased
    return used / (study.active_seconds + HORIZON_SECONDS)


def order(studies: Iterable[Queued], prefer: int | None = None) -> list[Queued]:
    """The studies in the order of service, without those that hold all they may.

    Args:
        studies: All that are open.
        prefer: The study that the asking worker trains already.
    """

    def key(study: Queued) -> tuple[float, float, int]:
        weight = PREFERENCE if study.id == prefer else 1.0
        return (-study.priority, share(study) * weight, study.id)

    return sorted((s for s in studies if room(s) != 0), key=key)


def room(study: Queued) -> int | None:
    """How many more trials it may hold; None: as many as there are."""
    if study.max_concurrent is None:
        return None
    return max(study.max_concurrent - study.leased, 0)
