"""The float16 graph: half precision in the body only, and proof that nothing overflows there.

    x ─ front ─ first convolution ─┤Cast├─ rest of the body ─┤Cast├─ pool ─ head ─ softmax
             float32                          float16                    float32

Pixels are never half: a bright survey cutout may exceed what half can hold, and the first
convolution (1 % of the work) brings it into range. Batch norm is fused in float32 before
anything is rounded.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from stronglens.engine.errors import BackendError
from stronglens.export.graph import BATCH, ServingGraph
from stronglens.export.parity import ROUNDED, Parity, Reference

HALF_MAX = 65504.0
"""largest finite float16"""
HALF_LIMIT = HALF_MAX / 2
"""largest activation accepted at export: catalogues hold brighter cutouts than were tried"""


@dataclass(frozen=True, slots=True)
class HalfBody:
    """A serving graph whose body has its batch norm fused and its weights rounded to half."""

    graph: ServingGraph
    """still float32 in type, so that it runs anywhere"""
    entry: str
    """node of the body whose output is cast to half"""
    inner: frozenset[str]
    """nodes after it: they compute in half"""

    @property
    def body(self) -> fx.GraphModule:
        """The traced body."""
        assert isinstance(self.graph.body, fx.GraphModule)
        return self.graph.body


class _Rounding(fx.Interpreter):
    """Run the body as half hardware would: every value it stores is rounded to half."""

    def __init__(self, half: HalfBody) -> None:
        super().__init__(half.body)
        self.rounded = half.inner | {half.entry}
        self.largest = torch.zeros(())

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.rounded:
            return value
        self.largest = torch.maximum(self.largest, value.abs().max())  # keeps a NaN
        return value.half().float()


@torch.no_grad()
def halve(graph: ServingGraph) -> HalfBody:
    """Fuse batch norm, then round the weights behind the first convolution; `graph` stays.

    Raises:
        BackendError: the body doesn't begin with one convolution that all else depends on.
    """
    body = fuse(graph.eval().body)
    assert isinstance(body, fx.GraphModule)
    entry, inner = _split(body)
    half = HalfBody(ServingGraph(graph.front, body, graph.tail), entry, frozenset(inner))
    for layer in _inner_layers(half):
        for weight in layer.parameters():
            weight.copy_(weight.half())
    return half


def half_graph(half: HalfBody) -> ServingGraph:
    """Return the graph to export: the body's weights in half, and exactly two casts.

    The second cast is the pool's own: it averages in float32.
    """
    half = copy.deepcopy(half)
    for layer in _inner_layers(half):
        layer.half()
    nodes = half.body.graph
    entry = next(node for node in nodes.nodes if node.name == half.entry)
    with nodes.inserting_after(entry):
        cast = nodes.call_method("half", (entry,))
    entry.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)
    half.body.recompile()
    return half.graph


@torch.no_grad()
def run_rounded(half: HalfBody, x_BHW: Tensor) -> tuple[Tensor, float]:
    """Return prob_BK as half hardware computes it, and the body's largest |activation|.

    ONNX Runtime runs a half graph in float32 on a CPU, so it can't show what this shows.
    Where an activation overflowed, probabilities are NaN or wrong and the figure says so.
    """
    interpreter = _Rounding(half)
    out = half.graph.tail(interpreter.run(half.graph.front(x_BHW.unsqueeze(1))))
    return (out[0] if isinstance(out, tuple) else out), float(interpreter.largest)


def check_half(half: HalfBody, reference: Reference) -> Parity:
    """Compare the rounded body with torch float32, and see that no activation nears overflow.

    Raises:
        BackendError: one does.
    """
    parts, largest = [], 0.0
    for start in range(0, len(reference.x_NHW), BATCH):
        x_BHW = torch.from_numpy(reference.x_NHW[start : start + BATCH])
        prob_BK, batch_largest = run_rounded(half, x_BHW)
        check_range(batch_largest)
        parts.append(prob_BK.numpy())
        largest = max(largest, batch_largest)
    found = reference.compare(ROUNDED, np.concatenate(parts), "torch")
    return replace(found, max_abs_activation=largest)


def check_range(largest: float) -> None:
    """Raise BackendError if activations come too near to what half can hold."""
    if not largest <= HALF_LIMIT:  # NaN is refused too
        raise BackendError(
            f"float16 could overflow: activations reach {largest:,.0f} on this run's cutouts, "
            f"the limit is {HALF_LIMIT:,.0f} (half of float16's {HALF_MAX:,.0f}, a margin for "
            "brighter cutouts); export without --fp16. No bundle was written"
        )


def _split(body: fx.GraphModule) -> tuple[str, list[str]]:
    """Return the node after which the body is half (first convolution, its ReLU), and the rest."""
    nodes = [node for node in body.graph.nodes if node.op != "output"]
    if [node.op for node in nodes[:2]] != ["placeholder", "call_module"]:
        raise BackendError("float16: the net's body does not begin with a layer")
    entry = 1 if not isinstance(_layer(body, nodes[2]), nn.ReLU) else 2
    before, after = nodes[: entry + 1], nodes[entry + 1 :]
    if any(used in before[:-1] for node in after for used in node.all_input_nodes):
        raise BackendError("float16: the net's body uses its input in more than one place")
    return before[-1].name, [node.name for node in after]


def _inner_layers(half: HalfBody) -> list[nn.Module]:
    found = [_layer(half.body, n) for n in half.body.graph.nodes if n.name in half.inner]
    return [layer for layer in found if layer is not None]


def _layer(body: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return body.get_submodule(str(node.target)) if node.op == "call_module" else None
