"""Tidies a recorded program: what costs a call and changes nothing is taken out.

``vmap`` and autograd record many reshapes to the shape a tensor already has, pairs of transposes
that cancel, and products with one. At the sizes of a small model each costs about as much as real
work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

log = logging.getLogger(__name__)
aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
_COPIES = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}


def record(
    function: Callable[..., list[torch.Tensor]],
    arguments: tuple[torch.Tensor, ...],
    *,
    compiled: bool = False,
) -> Callable[..., Any]:
    """``function`` as a list of ATen calls, good for arguments of these shapes.

    Args:
        function: Takes tensors and gives a list of tensors; its Python runs once, here.
        arguments: An example.
        compiled: Whether to pass the list on to ``torch.compile``.
    """
    graph = make_fx(lambda leaves: function(*leaves), tracing_mode="fake")(list(arguments))
    # Without the pytree code generator a call passes tensors straight through.
    graph.graph.set_codegen(CodeGen())
    graph = simplify(graph)
    plain: Callable[..., Any] = graph.forward
    return _compiled(graph) if compiled else plain


def _compiled(graph: GraphModule) -> Callable[..., Any]:
    """The compiled program, or the plain one where no compiler works; that is found out once."""
    chosen: list[Callable[..., Any]] = [torch.compile(graph, dynamic=False)]
    tried = False

    def run(*leaves: torch.Tensor) -> Any:
        nonlocal tried
        if tried:
            return chosen[0](*leaves)
        tried = True
        start = time.perf_counter()
        try:
            result = chosen[0](*leaves)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any backend's own kind
            log.warning("not compiled: %s", str(error).strip().partition("\n")[0])
            chosen[0] = graph.forward
            return chosen[0](*leaves)
        log.info("compiled a program in %.1f s", time.perf_counter() - start)
        return result

    return run


def simplify(graph: GraphModule) -> GraphModule:
    """The same function with fewer calls; results are bit-identical."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        source = _same_as(node)
        if source is not None:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _same_as(node: Node) -> Node | None:
    """A node with the same value, strides included, if there is one further up."""
    source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if source is None:
        return None
    if node.target in _COPIES:
        return source
    if node.target in _RESHAPES and _layout(node) == _layout(source) and _layout(node):
        return source
    if node.target is aten.mul.Scalar and node.args[1] == 1 and _layout(node) == _layout(source):
        return source
    if (
        node.target is aten.transpose.int
        and source.target is aten.transpose.int
        and _axes(node) == _axes(source)
        and isinstance(source.args[0], Node)
    ):
        return source.args[0]
    return None


def _layout(node: Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    return (tuple(value.shape), value.stride(), value.dtype)


def _axes(node: Node) -> set[int] | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    return {axis % value.ndim for axis in node.args[1:3] if isinstance(axis, int)}
