"""What a recorded program needs not do: views to make once, results to write where they go.

The argument that keeps its place in memory (the parameters) is looked at through views that are
made once. The first results go to places that the caller brings, and are written there by the
operation that gives them where it can be told to. An operation by element may take the memory of
an argument that nobody reads after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tuner.training.tape.calls import Call, Tape

aten = torch.ops.aten

Spans = Sequence[tuple[slice, tuple[int, ...]]]
"""Columns and shape of each of the first outputs in a flat row."""

VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.transpose.int,
    aten.t.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.select.int,
    aten.slice.Tensor,
    aten.expand.default,
}
BY_ELEMENT = {
    aten.tanh.default,
    aten.sigmoid.default,
    aten.exp.default,
    aten.log.default,
    aten.neg.default,
    aten.rsqrt.default,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
}
"""Operations that may write over what they read, by ``out``."""
INTO = BY_ELEMENT | {aten.sum.dim_IntList, aten.bmm.default, aten.mm.default}
"""Operations whose binding takes ``out``."""


class Plan:
    """Who makes what, where, and for how long.

    Args:
        tape: The record.
        spans: Where its first outputs go.

    Attributes:
        body: The calls that run each time.
        viewed: Views of the first argument that they read.
        written_by: By value, the span that a call writes it into.
        copied: Span and value of the outputs that must be copied there.
        returned: The outputs after those.
    """

    def __init__(self, tape: Tape, spans: Spans) -> None:
        self.tape = tape
        self.spans = spans
        self.makers = {r: call for call in tape.calls for r in call.results if r is not None}
        self._plan_views()
        self._plan_places()
        self._plan_memory()

    def _plan_views(self) -> None:
        """Which calls only look at the first argument; they run once for each place of it."""
        seen = {0}
        self.view_calls: list[Call] = []
        for call in self.tape.calls:
            if call.target in VIEWS and call.source in seen:
                self.view_calls.append(call)
                seen.add(call.result)
        early = {id(call) for call in self.view_calls}
        self.body = [call for call in self.tape.calls if id(call) not in early]
        used = {index for call in self.body for index in call.uses} | set(self.tape.outputs)
        self.viewed = [call.result for call in self.view_calls if call.result in used]

    def views(self, first: Tensor) -> list[Tensor]:
        """The views that the body reads, of an argument at its present place."""
        values = {0: first}
        for call in self.view_calls:
            (found,) = call.run(values.__getitem__)
            if found is not None:
                values[call.result] = found
        return [values[index] for index in self.viewed]

    def _plan_places(self) -> None:
        """For each placed output: the call that can write it, and how its place looks to it."""
        self.written_by: dict[int, int] = {}
        self.undo: list[list[Callable[[Tensor], Tensor]]] = []
        for i, ((_, shape), output) in enumerate(zip(self.spans, self.tape.outputs, strict=False)):
            steps: list[Callable[[Tensor], Tensor]] = []
            index = output
            while (maker := self.makers.get(index)) is not None:
                step = _undone(maker, self.tape)
                if step is None:
                    break
                steps.append(step)
                index = maker.source if maker.source is not None else index
            rows = self.tape.values[output].shape[0]
            direct = (
                maker is not None
                and maker.target in INTO
                and index not in self.written_by
                and self._fits(steps, (rows, *shape), self.tape.values[index].shape)
            )
            if direct:
                self.written_by[index] = i
            self.undo.append(steps if direct else [])
        placed = len(self.spans)
        self.copied = [
            (i, output)
            for i, output in enumerate(self.tape.outputs[:placed])
            if i not in self.written_by.values()
        ]
        self.returned = self.tape.outputs[placed:]
        self._drop_unread()

    @staticmethod
    def _fits(
        steps: Sequence[Callable[[Tensor], Tensor]],
        shape: tuple[int, ...],
        wanted: tuple[int, ...],
    ) -> bool:
        width = torch.Size(shape[1:]).numel()
        place = torch.empty(shape[0], 2 * width + 1, device="meta")[:, :width].view(shape)
        try:
            for step in steps:
                place = step(place)
        except RuntimeError:  # no view of it looks like that
            return False
        return tuple(place.shape) == wanted

    def places(self, flat: Tensor) -> list[Tensor]:
        """Where the placed outputs go, each as the call that writes it wants it."""
        found = []
        for (columns, shape), steps in zip(self.spans, self.undo, strict=True):
            place = flat[:, columns].view(len(flat), *shape)
            for step in steps:
                place = step(place)
            found.append(place)
        return found

    def _drop_unread(self) -> None:
        """Views that only led to an output that is now written directly."""
        used = {*self.returned, *(index for _, index in self.copied), *self.written_by}
        kept = []
        for call in reversed(self.body):
            if call.writes or any(r in used for r in call.results):
                kept.append(call)
                used.update(call.uses)
        self.body = kept[::-1]

    def _plan_memory(self) -> None:
        """The last call that looks at each value and at each storage."""
        end = len(self.body)
        values = self.tape.values
        self.last_read: dict[int, int] = {}
        self.last_seen: dict[int, int] = {}
        for at, call in enumerate(self.body):
            for index in (*call.uses, *(r for r in call.results if r is not None)):
                self.last_read[index] = at
                self.last_seen[values[index].storage] = at
        kept = [*range(self.tape.inputs), *self.tape.constants, *self.viewed]
        kept += [*self.returned, *(index for _, index in self.copied), *self.written_by]
        for index in kept:
            self.last_read[index] = self.last_seen[values[index].storage] = end

    def overwritten(self, at: int, call: Call) -> int | None:
        """An argument of an operation by element whose memory its result may take."""
        if call.target not in BY_ELEMENT and call.target is not aten.relu.default:
            return None
        result = self.tape.values[call.result]
        for index in call.uses:
            value = self.tape.values[index]
            sides = zip(value.shape, value.stride, strict=True)
            dense = all(step != 0 for size, step in sides if size > 1)
            if (
                value.layout == result.layout
                and dense
                and self.last_seen[value.storage] == at
                and index in self.makers
            ):
                return index
        return None


def _undone(call: Call, tape: Tape) -> Callable[[Tensor], Tensor] | None:
    """How the place of a view's result looks as the place of what it is a view of."""
    if call.source is None:
        return None
    shape = tape.values[call.source].shape
    if call.target is aten.transpose.int:
        axes = call.args[1:3]
        return lambda place: place.transpose(*axes)
    if call.target is aten.t.default:
        return lambda place: place.t()
    if call.target in {
        aten.view.default,
        aten._unsafe_view.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }:
        return lambda place: place.view(shape)
    return None
