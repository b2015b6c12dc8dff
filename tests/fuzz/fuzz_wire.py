"""The check of graphs: what passes it and can be read by ONNX keeps no tensor elsewhere."""

import io

import onnx

from stronglens.engine.errors import BundleError
from stronglens.engine.wire import check_whole


def read(data):
    """Check a graph; look for tensors in other files with ONNX's own reader."""
    data = bytes(data)
    try:
        check_whole(io.BytesIO(data))
    except BundleError:
        return
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # whatever it is: such a graph is not used
        return
    assert not any(is_outside(tensor) for tensor in tensors(model))


def is_outside(tensor):
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL


def tensors(message):
    """Yield the tensors in a message, at any depth."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in value if isinstance(value, list) or hasattr(value, "add") else [value]:
            if field.message_type.name == "TensorProto":
                yield each
            yield from tensors(each)
