"""Puts functions of our own in place of some of PyTorch's, for a while.

The names are replaced in the module itself: a ``TorchFunctionMode`` is switched off inside
composite functions such as ``multi_head_attention_forward``, whose dropout would escape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch.nn.functional as F


@contextmanager
def replaced(ours: Mapping[str, Callable[..., Any]], module: ModuleType = F) -> Iterator[None]:
    """Within it, these names of a module are ours."""
    theirs = {name: getattr(module, name) for name in ours}
    try:
        for name, function in ours.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in theirs.items():
            setattr(module, name, function)
