"""When Python looks for unreachable cycles among objects.

It stops all threads while it looks at every object there is. Loading torch and the service makes
half a million objects that last, and by default is a quarter longer for looking through them again
and again; the searches of a hundred studies at hand take a second, every few seconds under load.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (50_000, 50, 400)
"""For ``gc.set_threshold``: new objects, then collections of those that survived one, then two."""


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Lets Python look seldom while the block runs."""
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def sparing_what_is_loaded() -> Iterator[None]:
    """Lets Python never look at the objects that there are now, while the block runs.

    Within another such block, or where a worker trains in this process, it looks at none later too.
    """
    outer = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not outer:
            gc.unfreeze()
