"""Puts functions of our own in place of some of ``torch.nn.functional``, for a while.

The names are replaced in the module itself: a ``TorchFunctionMode`` is switched off inside
composite functions such as ``multi_head_attention_forward``, whose dropout would escape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F


@contextmanager
def replaced(ours: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Within it, these names of ``torch.nn.functional`` are ours."""
    theirs = {name: getattr(F, name) for name in ours}
    try:
        for name, function in ours.items():
            setattr(F, name, function)
        yield
    finally:
        for name, function in theirs.items():
            setattr(F, name, function)
