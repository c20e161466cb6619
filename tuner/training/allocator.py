"""Keeps the memory of a training process in the process.

By default glibc gives large blocks back to the system as soon as they are freed. A training step
frees and asks for the same blocks thousands of times a second, and each time the system must find
and clear their pages: a third of the time of a small convolutional network.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
LARGE = (1 << 30, 1 << 25)
"""Largest block to keep: as much as there is, or what older versions of glibc allow."""


def keep_memory() -> bool:
    """Asks the C library not to give freed memory back; False where it cannot be asked.

    For processes that do nothing but train: what they have taken once they hold to their end.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, or no C library to look into
        return False
    kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGE)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(M_TOP_PAD, 1 << 26))
