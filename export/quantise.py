"""The int8 graph: the body's convolutions in eight bits, all else as it was.

    x ─ front ─ first convolution ─ … ─ Q ─ DQ ─ convolution ─ + ─ ReLU ─ Q ─ DQ ─ … ─ pool ─ head
             float32                            int8 weights   │                       float32
                                        Q ─ DQ (shortcut) ─────┘

A pair of QuantizeLinear and DequantizeLinear stands before what a convolution reads and on the
shortcut of a sum, never behind a convolution: so a runtime can fuse convolution, sum and ReLU into
one step that reads and writes bytes. Zero points are 0; weights are stored as int8, each output
channel with its own scale; bias stays float. TensorRT, OpenVINO and ONNX Runtime take this file.

The first convolution is never int8: pixels span from the faintest sky to bright cores, which 127
steps cannot, and it is 1 % of the work. The head is not either.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stronglens.engine.errors import BackendError
from stronglens.export import equalise
from stronglens.export.parity import Floats, Parity
from stronglens.export.ranges import Histogram, measure

BODY = "body."
"""begins the names of the weights that may be quantised: those of `ServingGraph.body`"""
INT8, DEQUANTISED = "_int8", "_dequantised"
"""behind the name of a tensor: its steps, and what they stand for"""
TOP = 127
"""largest step either side of 0"""
CALIBRATIONS = {
    "min-max": (100.0, 100.0),
    "percentile 99.999": (99.999, 99.999),
    "percentile 99.95, later 99.99": (99.95, 99.99),
}
"""percent of a tensor's values that its scale reaches, in the first EARLY of the maps and in the
others; what is beyond is clipped. On a trained ResNet-18 coarse steps over faint sky harmed early
maps, and clipping the later ones; weights in int8 hardly changed a score. No entropy calibration:
it clips near what most pixels hold, the sky (a sketch of it took a trained ResNeXt50's ROC AUC
from 0.9998 to 0.5). No bias correction: it moves the sky of all cutouts as the average one needs,
and where some are padded and some are not, it scattered scores more than it took away"""
EARLY = 0.3
OBSERVED = 32
"""training cutouts that the channels' peaks and sky are taken from"""
REMEDIES = ((0.0, True), (1 / 8, True), (1 / 8, False), (1 / 4, False), (1 / 2, False))
"""which share of the convolutions, the first ones, stay float32, and whether the shortcuts of sums
are int8; the fastest first. The first layers do most of the harm, as their maps are still images,
bright cores over faint sky: on a trained ResNeXt50, one layer at a time, the first seven outweighed
the rest. Rounded shortcuts add up through the net. With the last remedy int8 is still the fastest
on a CPU"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to quantise."""

    calibration: str
    layers: tuple[str, ...]
    """the body's convolutions, in the order they run"""
    kept: int
    """how many of them, the first ones, stay float32"""
    shortcuts: bool
    """whether sums read their shortcuts as int8"""

    def __str__(self) -> str:
        sums = "" if self.shortcuts else " and all sums"
        return (
            f"{self.calibration}, {self.kept} of {len(self.layers)} convolutions{sums} in float32"
        )


def attempts(content: bytes) -> list[Attempt]:
    """Return the ways to quantise a graph, the fastest to run first.

    Raises:
        BackendError: it has no convolution that could be.
    """
    layers = tuple(_layer(conv) for conv in _convolutions(onnx.load_from_string(content)))
    if len(layers) < 2:
        raise BackendError("int8: the net has nothing to quantise: fewer than two convolutions")
    return [
        Attempt(calibration, layers, max(1, math.ceil(share * len(layers))), shortcuts)
        for (share, shortcuts), calibration in product(REMEDIES, CALIBRATIONS)
    ]


def find_int8(
    content: bytes,
    x_NHW: Floats,
    compare: Callable[[bytes], Parity],
    say: Callable[[str], None],
) -> tuple[bytes, Parity]:
    """Return the first int8 graph that passes its gate, and how it compared.

    Args:
        content: the float32 graph.
        x_NHW: prepared training cutouts, to take the scales from.
        compare: holds a graph against torch float32.
        say: gets a line before each attempt, and one after each that missed.

    Raises:
        BackendError: none passes; with the figures of all.
    """
    ways = attempts(content)
    say(f"calibrating int8 on {len(x_NHW):,} training cutouts")
    float32 = level(content, x_NHW)
    misses: list[str] = []
    for way in ways:
        say(f"comparing int8: {way}")
        graph = float32.quantise(way)
        found = compare(graph)
        if found.passed:
            return graph, replace(
                found,
                calibration=way.calibration,
                calibrated_on=len(x_NHW),
                float_layers=list(way.layers[: way.kept]),
                float_sums=not way.shortcuts,
            )
        misses.append(f"{way}: {found.figures}")
        say(f"int8 missed: {found.figures}")
    raise BackendError(
        f"int8 differs too much from torch float32 on {found.count} cutouts, however it was "
        "quantised:\n  " + "\n  ".join(misses) + f"\nallowed are {found.gate}; "
        "export without --int8. No bundle was written"
    )


@dataclass(frozen=True, slots=True)
class Levelled:
    """A float32 graph whose channels have one range each, and what is known of its maps."""

    content: bytes
    """of the graph as it was"""
    channels: dict[str, equalise.Channels]
    factors: equalise.Factors
    ranges: dict[str, Histogram]
    """of every tensor that some attempt quantises, its channels times `factors`"""

    def quantise(self, way: Attempt) -> bytes:
        """Return the graph quantised in one way, its sky on the steps of the maps read as int8."""
        read = {conv.input[0] for conv in _chosen(onnx.load_from_string(self.content), way)}
        # 0 where a map is nothing but zeros
        limits = _limits(self.content, self.ranges, way)
        steps = {name: limits[name] / TOP for name in read if limits[name]}
        factors = equalise.nudging(self.content, self.channels, self.factors, steps)
        return quantise(equalise.rescaled(self.content, factors), self.ranges, way)


def level(content: bytes, x_NHW: Floats) -> Levelled:
    """Return a float32 graph made ready to be quantised, by training cutouts x_NHW."""
    tensors = _all_tensors(content)
    channels = equalise.observe(content, tensors, x_NHW[:: math.ceil(len(x_NHW) / OBSERVED)])
    factors = equalise.equalising(content, channels)
    return Levelled(
        content, channels, factors, measure(equalise.rescaled(content, factors), tensors, x_NHW)
    )


def quantise(content: bytes, ranges: dict[str, Histogram], way: Attempt) -> bytes:
    """Return a float32 graph quantised in one way, checked by onnx.

    Args:
        content: the graph.
        ranges: of every tensor that `way` quantises.
        way: from `attempts`.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    chosen = _chosen(model, way)
    read = _read_as_int8(graph, chosen, shortcuts=way.shortcuts)
    limits = _limits(content, ranges, way)
    values = {name: _pair_of_values(name, limits[name]) for name in _tensors(read)}
    filters = {conv.input[1] for conv in chosen}
    weights = [_pair_of_weights(each) for each in graph.initializer if each.name in filters]
    nodes = [node for pair in weights for node in pair.nodes]
    for node in graph.node:
        node.input[:] = [
            name + DEQUANTISED if name in filters or (node.output[0], name) in read else name
            for name in node.input
        ]
        nodes.append(node)
        for name in values.keys() & node.output:
            nodes += values[name].nodes
    constants = [each for each in graph.initializer if each.name not in filters]
    constants += [each for pair in (*weights, *values.values()) for each in pair.constants]
    graph.CopyFrom(
        helper.make_graph(
            nodes, graph.name, graph.input, graph.output, constants, value_info=graph.value_info
        )
    )
    onnx.checker.check_model(model, full_check=True)
    quantised: bytes = model.SerializeToString(deterministic=True)
    return quantised


@dataclass(frozen=True, slots=True)
class _Pair:
    """QuantizeLinear and DequantizeLinear, or the latter alone, and what they need."""

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]


def _pair_of_values(name: str, limit: float) -> _Pair:
    """Return the pair behind a tensor whose values reach `limit` on either side of 0."""
    scale = np.array(limit / TOP if limit else 1.0, np.float32)
    constants = _scale_and_zero(name, scale)
    inputs = [each.name for each in constants]
    quantise = helper.make_node("QuantizeLinear", [name, *inputs], [name + INT8], name + "_Q")
    return _Pair([quantise, _dequantise(name, inputs)], constants)


def _pair_of_weights(weight: onnx.TensorProto) -> _Pair:
    """Return a convolution's weights as int8, each output channel with its own scale."""
    w_OIHW = numpy_helper.to_array(weight)
    peak_O = np.abs(w_OIHW).max(axis=(1, 2, 3))
    scale_O = np.where(peak_O > 0, peak_O / TOP, 1).astype(np.float32)
    steps_OIHW = np.rint(w_OIHW / scale_O[:, None, None, None]).clip(-TOP, TOP).astype(np.int8)
    constants = _scale_and_zero(weight.name, scale_O)
    dequantise = _dequantise(weight.name, [each.name for each in constants], axis=0)
    return _Pair(
        [dequantise], [numpy_helper.from_array(steps_OIHW, weight.name + INT8), *constants]
    )


def _scale_and_zero(name: str, scale: Floats) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(scale, name + "_scale"),
        numpy_helper.from_array(np.zeros_like(scale, np.int8), name + "_zero"),
    ]


def _dequantise(name: str, inputs: list[str], axis: int | None = None) -> onnx.NodeProto:
    outputs = [name + DEQUANTISED]
    return helper.make_node(
        "DequantizeLinear", [name + INT8, *inputs], outputs, name + "_DQ", axis=axis
    )


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the body's convolutions, in the order they run: the front's stay float32 always."""
    return [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1].startswith(BODY)
    ]


def _chosen(model: onnx.ModelProto, way: Attempt) -> list[onnx.NodeProto]:
    """Return the convolutions that are int8 in one way."""
    return _convolutions(model)[way.kept :]


def _limits(content: bytes, ranges: dict[str, Histogram], way: Attempt) -> dict[str, float]:
    """Return what the scale of each tensor in `ranges` reaches in one way."""
    convs = _convolutions(onnx.load_from_string(content))[1:]
    maps = list(dict.fromkeys(conv.input[0] for conv in convs))
    early = set(maps[: math.ceil(EARLY * len(maps))])
    first, later = CALIBRATIONS[way.calibration]
    return {name: ranges[name].limit(first if name in early else later) for name in sorted(ranges)}


def _layer(conv: onnx.NodeProto) -> str:
    name: str = conv.input[1]
    return name.removeprefix(BODY).removesuffix(".weight")


def _read_as_int8(
    graph: onnx.GraphProto, chosen: Sequence[onnx.NodeProto], *, shortcuts: bool
) -> set[tuple[str, str]]:
    """Return the first output of each node that reads a tensor as int8, and that tensor.

    The convolutions chosen do, and with `shortcuts` the sums behind them, of whose operands the
    second is the shortcut: where that is a convolution too, or is read as int8 in any case.
    """
    made = {conv.output[0] for conv in chosen}
    read = {(conv.output[0], conv.input[0]) for conv in chosen}
    if not shortcuts:
        return read
    tensors = made | {tensor for _, tensor in read}
    sums = [node for node in graph.node if node.op_type == "Add" and node.input[0] in made]
    return read | {(node.output[0], node.input[1]) for node in sums if node.input[1] in tensors}


def _all_tensors(content: bytes) -> list[str]:
    """Return every tensor that some attempt quantises."""
    model = onnx.load_from_string(content)
    return _tensors(_read_as_int8(model.graph, _convolutions(model)[1:], shortcuts=True))


def _tensors(read: set[tuple[str, str]]) -> list[str]:
    return sorted({tensor for _, tensor in read})
