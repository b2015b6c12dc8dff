"""The float32 ONNX file: pixels in, probabilities out, one file, nothing of the machine in it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import nn

MIN_OPSET = 18
"""torch exports to an older one only by a converter that fails quietly"""


def to_onnx(graph: nn.Module, size: int, *, outputs: list[str]) -> bytes:
    """Return `graph` as a serialised ONNX model with its weights inside.

    Args:
        graph: takes x_BHW float32, returns one tensor per name in `outputs`; put in eval mode.
        size: side of the prepared cutout, pixels: H and W are fixed, only "batch" is free.

    Returns:
        Bytes that depend on the weights and on the versions of torch and onnxscript only.
    """
    graph.eval()
    # two rows: an axis of length 1 would be taken for a constant
    example_BHW = torch.zeros(2, size, size)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example_BHW,),
            None,
            dynamo=True,
            input_names=["x"],
            output_names=outputs,
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _check(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _strip(model: onnx.ModelProto) -> None:
    """Take out the traces torch leaves: they name the files of whoever exported."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for weight in model.graph.initializer:
        del weight.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    assert opset >= MIN_OPSET, f"torch exported opset {opset}, need {MIN_OPSET} or newer"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of its own insides from the user; its errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
