"""A net small enough to check by hand, and a bundle that holds it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stronglens.engine.bundle import Golden, write_bundle
from stronglens.engine.preprocess import PreprocessSpec, prepare

SIZE = 12
X_BYTES = 4 * SIZE * SIZE
"""of one cutout"""
CLASSES = ["no", "sphere", "vort"]
SPEC = PreprocessSpec(size=SIZE, mode="minmax")
WEIGHT_PK = np.random.default_rng(7).normal(size=(SIZE * SIZE, len(CLASSES))).astype(np.float32)


def twin(x_BHW):
    """What the net gives: softmax of a matrix product."""
    logits_BK = x_BHW.reshape(len(x_BHW), -1).astype(np.float64) @ WEIGHT_PK
    e_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return e_BK / e_BK.sum(axis=1, keepdims=True)


def graph(nan_above=None, size=SIZE):
    """ONNX bytes; with `nan_above`, NaN for every cutout whose first pixel exceeds it."""
    weight_PK = np.resize(WEIGHT_PK, (size * size, len(CLASSES)))
    constants = {"w": weight_PK, "flat": np.array([0, size * size], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "w"], ["encoding"]),
    ]
    logits = "encoding"
    if nan_above is not None:
        constants |= {"limit": np.float32([[nan_above]]), "first": np.array([0], np.int64)}
        nodes += [
            helper.make_node("Gather", ["pixels", "first"], ["corner"], axis=1),
            helper.make_node("Sub", ["limit", "corner"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),  # NaN below 0
            helper.make_node("Add", ["encoding", "root"], ["logits"]),
        ]
        logits = "logits"
    nodes.append(helper.make_node("Softmax", [logits], ["prob"], axis=1))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size, size])],
            [
                helper.make_tensor_value_info("encoding", TensorProto.FLOAT, ["batch", 3]),
                helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["batch", 3]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_bundle(
    path, *, onnx_bytes=None, parity=None, golden=None, classes=CLASSES, files=None, metrics=None
):
    """Write a bundle that holds the net; its golden batch is right unless one is given."""
    return write_bundle(
        path,
        {"model.onnx": onnx_bytes or graph(), **(files or {})},
        golden=golden or make_golden(),
        task="substructure",
        classes=classes,
        preprocess=SPEC,
        outputs=["prob", "encoding"],
        metrics=metrics or {},
        data={},
        recipe={},
        versions={},
        parity=parity if parity is not None else {"float32": {"max_abs_dp": 1e-6}},
    )


def make_golden():
    raw_NHW = np.random.default_rng(3).random((5, SIZE, SIZE))
    raw_NHW[:, 0, 0] = 0.0  # far from any `nan_above`
    x_NHW = np.empty(raw_NHW.shape, np.float32)
    for raw_HW, x_HW in zip(raw_NHW, x_NHW, strict=True):
        prepare(raw_HW, SPEC, x_HW)
    return Golden(raw_NHW, x_NHW, twin(x_NHW).astype(np.float32))
