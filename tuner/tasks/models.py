"""The models of the built-in tasks: a multilayer perceptron, a small CNN, a causal transformer.

Plain modules without branches on tensor values, so that ``vmap`` stacks them over trials. Dropout
is a module of its own where its rate is above 0, so that trials of one population may differ in it;
parameters have the same names with and without, so that weights go from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.tasks.task import Setting

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
ACTIVATION = Setting(
    "relu",
    "nonlinearity",
    search={"type": "categorical", "choices": list(ACTIVATIONS)},
    choices=tuple(ACTIVATIONS),
)
MLP_SETTINGS: Mapping[str, Setting] = {
    "model.hidden": Setting(
        64,
        "units of a hidden layer",
        {"type": "int", "low": 16, "high": 256, "log": True},
        1,
        65536,
    ),
    "model.layers": Setting(2, "hidden layers", {"type": "int", "low": 1, "high": 3}, 0, 64),
    "model.activation": ACTIVATION,
}
CNN_SETTINGS: Mapping[str, Setting] = {
    "model.width": Setting(
        16,
        "channels of the first convolution",
        {"type": "categorical", "choices": [8, 16, 32]},
        1,
        4096,
    ),
    "model.layers": Setting(2, "convolutions, each with a pooling", None, 1, 8),
    "model.hidden": Setting(
        64,
        "units of the dense layer",
        {"type": "int", "low": 32, "high": 256, "log": True},
        1,
        65536,
    ),
    "model.activation": ACTIVATION,
}


def dropout(rate: float) -> list[nn.Module]:
    """A dropout layer, or none where the rate is 0."""
    if not 0.0 <= rate <= 1.0:
        raise InvalidInput("dropout", f"{rate!r} is outside [0, 1]")
    return [nn.Dropout(rate)] if rate > 0.0 else []


def _activation(name: str, rate: float) -> nn.Module:
    """A nonlinearity, and dropout after it, as one module."""
    both = [ACTIVATIONS[name](), *dropout(rate)]
    return nn.Sequential(*both) if len(both) > 1 else both[0]


class MLP(nn.Sequential):
    """Dense layers of equal width: ``[m, ...]`` flattened in, ``[m, outputs]`` out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        layers: int,
        activation: str = "relu",
        dropout_rate: float = 0.0,
    ) -> None:
        parts: list[nn.Module] = [nn.Flatten()]
        for i in range(layers):
            parts.append(nn.Linear(inputs if i == 0 else hidden, hidden))
            parts.append(_activation(activation, dropout_rate))
        parts.append(nn.Linear(hidden if layers else inputs, outputs))
        super().__init__(*parts)


class ConvNet(nn.Module):
    """3x3 convolutions with pooling, the channels doubling, then one dense layer.

    Args:
        shape: Channels, height and width of an input.
        outputs: Classes.
        width: Channels of the first convolution.
        layers: Convolutions, each followed by a pooling that halves the sides while there is
            anything to halve.
        hidden: Units of the dense layer.
        activation: A name in ``ACTIVATIONS``.
        dropout_rate: Before the last layer.
        mean: What is taken from each input value, such as the training part's mean.
        scale: What it is then divided by.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        *,
        width: int,
        layers: int,
        hidden: int,
        activation: str = "relu",
        dropout_rate: float = 0.0,
        mean: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        channels, height, side = shape
        self.mean = mean
        self.scale = scale
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [
                nn.Conv2d(channels, width << i, 3, padding=1),
                ACTIVATIONS[activation](),
            ]
            channels = width << i
            if min(height, side) > 1:
                parts.append(nn.MaxPool2d(2))
                height, side = height // 2, side // 2
        self.features = nn.Sequential(*parts)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * side, hidden),
            _activation(activation, dropout_rate),
            nn.Linear(hidden, outputs),
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        # Bytes stay bytes in memory until here; all slots share this, since it has no parameters.
        x = (x.to(next(self.parameters()).dtype) - self.mean) / self.scale
        logits: Tensor = self.head(self.features(x))
        return logits


class Attention(nn.Module):
    """Causal self-attention with several heads: ``[..., length, width]`` to the same.

    A head has ``width // heads`` features, at least one, so any two numbers go together.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * max(1, width // heads)
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)

    @override
    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [..., length, 3, heads, size]
        q, k, v = split.movedim(-3, 0).transpose(-3, -2)
        # Looked up at each call: the population engine puts its own in this place.
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(-3, -2).flatten(-2))
        return out


class Block(nn.Module):
    """One layer of a transformer, normalised before each half."""

    def __init__(self, width: int, heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(width), Attention(width, heads), *dropout(dropout_rate)
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            *dropout(dropout_rate),
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out


class Transformer(nn.Module):
    """A causal language model: tokens ``[m, window]`` to logits ``[m, window, vocabulary]``.

    A window is read as pieces of ``sequence`` tokens, each without knowledge of the others: so the
    sequence length is a hyperparameter while every trial still predicts the same tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        sequence: int,
        width: int,
        layers: int,
        heads: int,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.sequence = sequence
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(sequence, width) * 0.02)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.dropout = nn.Sequential(*dropout(dropout_rate))
        self.layers = nn.Sequential(*(Block(width, heads, dropout_rate) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    @override
    def forward(self, x: Tensor) -> Tensor:
        m, window = x.shape
        # Axis 0 stays the samples: dropout in a population is drawn by sample.
        pieces = x.long().reshape(m, window // self.sequence, self.sequence)
        hidden = self.layers(self.dropout(self.tokens(pieces) + self.positions))
        logits: Tensor = self.head(hidden).reshape(m, window, -1)
        return logits
