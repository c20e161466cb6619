"""Fine-tuning: every trial starts from the weights in one file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tuner.errors import InvalidInput

FIELD = "task.params.checkpoint"

Model = TypeVar("Model", bound=nn.Module)


class Weights:
    """Weights of a safetensors file, read once, that models start from; or none.

    The file may hold a part of the model, such as its body: what it does not hold keeps its fresh
    values. What it does hold must be there, in the same shape.

    Args:
        path: The file, or None to start fresh.
    """

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else Path(path)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors by name."""
        if self.path is None:
            return {}
        try:
            return dict(load_file(self.path))
        except OSError as error:
            raise InvalidInput(FIELD, f"cannot be read: {error.strerror or error}") from error
        except SafetensorError as error:
            raise InvalidInput(FIELD, f"is no safetensors file: {error}") from error

    def into(self, model: Model) -> Model:
        """``model`` itself, with the weights that the file holds.

        Raises:
            InvalidInput: The file cannot be read, or holds a tensor that the model has not.
        """
        own = model.state_dict()
        for name, tensor in self.tensors.items():
            if name not in own:
                raise InvalidInput(
                    FIELD, f"the model has no {name!r}; it has {', '.join(own)}"[:500]
                )
            if own[name].shape != tensor.shape:
                raise InvalidInput(
                    FIELD, f"{name} is {tuple(tensor.shape)}, the model's {tuple(own[name].shape)}"
                )
            with torch.no_grad():
                own[name].copy_(tensor)
        return model
