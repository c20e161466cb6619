"""Records of tensor programs: taken once, tidied, and run as one Python function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from tuner.training.tape.compiling import compiled
from tuner.training.tape.emit import Program
from tuner.training.tape.graphs import graphed
from tuner.training.tape.passes import tidy
from tuner.training.tape.plan import Spans
from tuner.training.tape.recorder import NotRecordable, record

__all__ = ["NotRecordable", "Program", "compiled", "graphed", "record", "recorded", "tidy"]


def recorded(
    function: Callable[..., list[Tensor]], arguments: Sequence[Tensor], spans: Spans = ()
) -> Program:
    """A function as a recorded program.

    Args:
        function: Takes tensors and gives a list of tensors.
        arguments: What to record it on; of each, the program keeps shape and strides.
        spans: Columns and shape of each of the first results in a flat row; see ``Program``.

    Raises:
        NotRecordable: The function reads values of tensors, or draws random numbers of its own.
    """
    tape, _ = record(function, arguments)
    tidy(tape)
    return Program(tape, spans)
