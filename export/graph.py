"""The net that serves: prepared pixels in, probabilities out, in one graph.

x_BHW ─ front ─ body ─ tail ─ prob_BK [, encoding_BD]
        resize  convolutions  pool, head, softmax
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stronglens.training.models import Classifier, LensFinder, pool

Floats = NDArray[np.float32]
BATCH = 32


class ServingGraph(nn.Module):
    """A net in three parts that share weights with the net it was made of."""

    def __init__(self, front: nn.Module, body: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.front = front
        """float32 always: resize, fixed stretch"""
        self.body = body
        """(B, C, H, W) → feature maps; the part that may run in half precision"""
        self.tail = tail
        """feature maps → prob_BK or (prob_BK, encoding_BD); float32 always"""

    def forward(self, x_BHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return prob_BK float32 for prepared cutouts x_BHW; with encoding_BD if it has one."""
        out: Tensor | tuple[Tensor, Tensor] = self.tail(self.body(self.front(x_BHW.unsqueeze(1))))
        return out


class ClassifierTail(nn.Module):
    """Pool, linear head, softmax."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps_BDHW: Tensor) -> Tensor:
        """Return prob_BK."""
        return torch.softmax(self.head(pool(maps_BDHW)), dim=1)


class LensFinderTail(nn.Module):
    """Pool, projection, and scikit-learn's logistic regression as a layer of two outputs."""

    def __init__(self, projection: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.projection = projection
        self.head = fold_logistic(head)

    def forward(self, maps_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return prob_BK and the encodings it is made of, encoding_BD."""
        encoding_BD = self.projection(pool(maps_BDHW))
        return torch.softmax(self.head(encoding_BD), dim=1), encoding_BD


def fold_logistic(head: nn.Linear) -> nn.Linear:
    """Return the layer whose softmax is (1 - s, s), with s the sigmoid of `head`'s one output.

    scikit-learn gives a binary regression one row of coefficients, those of class 1; a row of
    zeros for class 0 makes softmax the same function.
    """
    folded = nn.Linear(head.in_features, 2).requires_grad_(False)
    folded.weight.copy_(torch.cat([torch.zeros_like(head.weight), head.weight]))
    folded.bias.copy_(torch.cat([torch.zeros_like(head.bias), head.bias]))
    return folded


@dataclass(frozen=True, slots=True)
class Serving:
    """What is exported: the graph, and the names of its outputs."""

    graph: ServingGraph
    outputs: list[str]


def serving(net: nn.Module) -> Serving:
    """Return the graph that serves a trained net, in eval mode."""
    if isinstance(net, LensFinder):
        tail: nn.Module = LensFinderTail(net.projection, net.head)
        graph = ServingGraph(nn.Identity(), net.encoder.get_submodule("body"), tail)
        outputs = ["prob", "encoding"]
    else:
        assert isinstance(net, Classifier)
        graph = ServingGraph(net.front, net.body, ClassifierTail(net.head))
        outputs = ["prob"]
    return Serving(graph.eval(), outputs)


@torch.no_grad()
def run_graph(graph: nn.Module, x_NHW: Floats) -> tuple[Floats, Floats | None]:
    """Return prob_NK in torch float32, and encoding_ND where the graph gives one."""
    parts = [graph(torch.from_numpy(x_NHW[i : i + BATCH])) for i in range(0, len(x_NHW), BATCH)]
    if isinstance(parts[0], tuple):
        prob_NK, encoding_ND = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return prob_NK, encoding_ND
    return torch.cat(parts).numpy(), None


def count_flop(graph: nn.Module, size: int) -> float:
    """Return the floating-point operations that one cutout costs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph(torch.zeros(1, size, size))
    return float(counter.get_total_flops())
