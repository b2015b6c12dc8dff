"""What the classes of `fake_tensorrt` do that run a plan: by ONNX Runtime, in a `FakeCuda`."""

import ctypes
import json

import numpy as np
import onnxruntime
from fake_bindings import Behaviour

SCRATCH = 1000
"""bytes that a plan needs beside its tensors, for each cutout"""


class Runtime(Behaviour):
    def __init__(self, logger):
        assert isinstance(logger, self.trt.ILogger)
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        about, _, model = plan.partition(b"\n")
        try:
            about = json.loads(about)
        except ValueError:
            return self._say("Serialization assertion magicTagRead == kMAGIC_TAG failed.")
        if (about["version"], about["gpu"]) != (self.trt.__version__, self.trt.gpu.name):
            return self._say("The engine plan file is generated on an incompatible device")
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        values = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
        shapes = {name: [-1, *shape[1:]] for name, shape in values.items()}
        return self._make("ICudaEngine", _session=session, _shapes=shapes, _batch=about["batch"])


class Engine(Behaviour):
    num_io_tensors = property(lambda self: len(self._shapes))

    def get_tensor_name(self, index):
        return list(self._shapes)[index]

    def get_tensor_shape(self, name):
        return self._shapes[name]

    def get_tensor_dtype(self, name):
        return self.trt.DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile_index):
        return [[n, *self._shapes[name][1:]] for n in self._batch]

    def create_execution_context(self, strategy):
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._make("IExecutionContext", _engine=self, _n=0, _at={}, _scratch=0, _ran=False)

    def create_engine_inspector(self):
        return self._make("EngineInspector")


class Inspector(Behaviour):
    def get_engine_information(self, format):
        assert format == self.trt.LayerInformationFormat.JSON
        return json.dumps(self.trt.information)


class Context(Behaviour):
    def set_input_shape(self, name, shape):
        least, _, most = self._engine._batch
        if name != "x" or list(shape[1:]) != self._engine._shapes["x"][1:]:
            return False
        self._n = shape[0]
        return least <= shape[0] <= most

    def get_tensor_shape(self, name):
        return [self._n or -1, *self._engine._shapes[name][1:]]

    def infer_shapes(self):
        return [] if self._n else ["x"]

    def set_tensor_address(self, name, memory):
        shape = self.get_tensor_shape(name)
        assert self.trt.gpu.room_at(memory) >= 4 * np.prod(shape), "not the GPU's, or too small"
        self._at[name] = memory
        return True

    def update_device_memory_size_for_shapes(self):
        assert self._n
        return SCRATCH * self._n

    def set_device_memory(self, memory, size):
        assert size >= SCRATCH * self._n
        assert self.trt.gpu.room_at(memory) >= size
        self._scratch = memory

    def execute_async_v3(self, stream_handle):
        assert self._at.keys() == self._engine._shapes.keys(), "a tensor has no memory"
        assert self._scratch
        stream = self.trt.gpu.stream(stream_handle)
        assert stream.captured is None or self._ran, "recorded before it ever ran"
        self._ran = True
        stream.put("compute", self._compute, (*self._at.values(), self._scratch))
        return True

    def _compute(self):
        gpu = self.trt.gpu
        x_BHW = gpu.array(self._at["x"], self.get_tensor_shape("x"))
        assert np.isfinite(x_BHW).all(), "rows that no cutout ever filled"
        outputs = [name for name in self._at if name != "x"]
        for name, value in zip(
            outputs, self._engine._session.run(outputs, {"x": x_BHW}), strict=True
        ):
            value = np.ascontiguousarray(gpu.spoil(value) if name == "prob" else value)
            ctypes.memmove(self._at[name], value.ctypes.data, value.nbytes)
