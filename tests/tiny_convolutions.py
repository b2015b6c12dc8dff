"""A row of convolutions small enough to quantise by hand."""

import onnx
import torch
from torch import nn

from stronglens.export.graph import ClassifierTail, ServingGraph

SIDE = 24


class Convolutions(nn.Sequential):
    """Four convolutions in a row, each with its ReLU."""

    def __init__(self, channels=8):
        torch.manual_seed(2)
        layers = []
        for i in range(4):
            layers += [nn.Conv2d(channels if i else 1, channels, 3), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
        super().__init__(*layers)


def served(body):
    torch.manual_seed(5)
    head = nn.Linear(8, 2)
    with torch.no_grad():
        head.weight.normal_(std=1.0)
    return ServingGraph(nn.Identity(), body, ClassifierTail(head)).eval()


def inner(content):
    """Every tensor that a node of the graph makes, the outputs aside."""
    graph = onnx.load_from_string(content).graph
    outputs = {each.name for each in graph.output}
    floats = {
        each.name
        for each in graph.value_info
        if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    made = {name for node in graph.node for name in node.output}
    return sorted((made & floats) - outputs)
