"""A schedule the user writes: one arithmetic expression, parsed and evaluated without ``eval``.

The expression is parsed to Python's syntax tree, every node of which must be on a short list; then
it is interpreted on float64 tensors. No names but those listed, no attributes, no calls but to the
functions listed, no integers of unbounded size: nothing in it can do more than arithmetic.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.schedules import register
from tuner.schedules.schedule import CONTEXT, Option, Schedule, Tensors

LONGEST = 500
"""Characters of an expression."""
DEEPEST = 40
"""Levels of its syntax tree."""
MOST_STEPS = 1 << 24
"""Steps at which a formula is checked before a study is accepted."""
BLOCK = 1 << 18

NAMES = ("t", "T", "W", "lr0", "lr", "epoch", "pi")

Binary = Callable[[Tensor, Tensor], Tensor]

OPERATORS: Mapping[type[ast.operator], Binary] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.FloorDiv: torch.floor_divide,
    ast.Mod: torch.remainder,
    ast.Pow: torch.pow,
}
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
}
EXTREMES: Mapping[str, Binary] = {"min": torch.minimum, "max": torch.maximum}


def _refuse(field: str, message: str) -> InvalidInput:
    names = ", ".join([*NAMES, *FUNCTIONS, *EXTREMES])
    return InvalidInput(field, f"{message}; a formula knows {names} and + - * / // % **")


def _constant(node: ast.Constant, field: str) -> None:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise _refuse(field, f"{node.value!r} is not a number")
    try:
        finite = math.isfinite(float(node.value))
    except OverflowError:
        finite = False
    if not finite:
        raise _refuse(field, "a number is too large")


def _check(node: ast.expr, field: str, depth: int = 0) -> None:
    """Walks the tree; raises InvalidInput at the first node that is not on the list."""
    if depth > DEEPEST:
        raise _refuse(field, f"more than {DEEPEST} levels deep")
    children: list[ast.expr] = []
    match node:
        case ast.Constant():
            _constant(node, field)
        case ast.Name(id=name):
            if name not in NAMES:
                raise _refuse(field, f"there is no {name!r}")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            children = [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            children = [left, right]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if len(args) != 1:
                raise _refuse(field, f"{name} takes one argument")
            children = args
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in EXTREMES:
            if len(args) < 2:
                raise _refuse(field, f"{name} takes two arguments or more")
            children = args
        case _:
            raise _refuse(field, f"{ast.unparse(node)[:60]!r} is not allowed")
    for child in children:
        _check(child, field, depth + 1)


def _parse(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(field, "an expression is needed, such as '1 - t/T'")
    if len(value) > LONGEST:
        raise _refuse(field, f"longer than {LONGEST} characters")
    try:
        tree = ast.parse(value.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refuse(field, f"cannot be read: {getattr(error, 'msg', error)}") from None
    _check(tree.body, field)
    return value.strip()


def _evaluate(node: ast.AST, values: Tensors) -> Tensor:
    match node:
        case ast.Constant(value=int() | float() as value):
            return torch.tensor(float(value), dtype=torch.float64)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            result = _evaluate(operand, values)
            return -result if isinstance(op, ast.USub) else result
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.Call(func=ast.Name(id=name), args=args):
            given = [_evaluate(arg, values) for arg in args]
            return FUNCTIONS[name](given[0]) if name in FUNCTIONS else reduce(EXTREMES[name], given)
        case _:  # _check refused everything else
            raise TypeError(ast.dump(node))


@register("formula")
class Formula(Schedule):
    """An expression of the step.

    Names: ``t`` (all steps from 0, warm-up included), ``T`` (their number), ``W`` (those of the
    warm-up), ``epoch`` (a fraction), ``lr`` or ``lr0`` (the trial's) and ``pi``. An expression that
    names ``lr`` gives the learning rate itself, any other its multiplier. Through a warm-up the
    value at ``t = W`` is scaled, as with every schedule. Every step is checked before a study is
    accepted: finite and not negative.
    """

    summary = "An expression of the step, such as 1 - t/T or lr * exp(-3 * t / T)."
    formula = "yours"
    jumps = True
    options: ClassVar[Mapping[str, Option]] = {
        "expression": Option("1 - t/T", "the expression", parse=_parse)
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tree = ast.parse(self.chosen["expression"], mode="eval").body
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        self.absolute = bool(names & {"lr0", "lr"})
        self._epochs = "epoch" in names

    @property
    @override
    def counts_epochs(self) -> bool:
        return self._epochs

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        W = h["warmup_steps"]
        values = {
            "t": t + W,
            "T": T + W,
            "W": W,
            "epoch": (t + W) / h["steps_per_epoch"],
            "lr0": h["lr0"],
            "lr": h["lr0"],
            "pi": torch.tensor(math.pi, dtype=torch.float64),
        }
        result = _evaluate(self.tree, values)
        if self.absolute:
            result = result / h["lr0"]
        return result * torch.ones_like(t * T)

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        field = f"{prefix}expression"
        if T > MOST_STEPS:
            raise InvalidInput(
                field, f"{T} steps are too many to check every one; the most is {MOST_STEPS}"
            )
        context = {name: torch.tensor(h[name], dtype=torch.float64) for name in CONTEXT}
        total = torch.tensor(float(T), dtype=torch.float64)
        for start in range(0, T, BLOCK):
            t = torch.arange(start, min(start + BLOCK, T), dtype=torch.float64)
            value = self.multiplier(t, total, context)
            wrong = (~value.isfinite() | (value < 0)).nonzero()
            if len(wrong):
                at = int(wrong[0])
                step = start + at + int(h["warmup_steps"])
                raise InvalidInput(
                    field, f"gives {float(value[at]):g} at step {step}; it must be finite and >= 0"
                )
