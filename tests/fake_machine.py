"""A machine with a fake GPU on which TensorRT runs, and backends opened on fake GPUs."""

import sys
from types import SimpleNamespace

import fake_cuda
import fake_tensorrt

from stronglens.engine.backends import tensorrt, tensorrt_open
from stronglens.engine.backends.cuda import Cuda
from stronglens.engine.backends.ort import OrtBackend
from stronglens.engine.backends.tensorrt_open import open_tensorrt

PARITY = {"float32": {"max_abs_dp": 1e-6}, "float16": {"max_abs_dp": 1e-3}}
HALF_LAYERS = {
    "Layers": [
        {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Float"}]},
        {"Name": "conv2", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half"}]},
        {"Name": "conv3", "LayerType": "CaskConvolution",
         "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
        {"Name": "softmax", "LayerType": "kgen", "Inputs": [{"Format/Datatype": "Float"}]},
    ]
}  # fmt: skip


class Machine:
    """A fake GPU with TensorRT and cuda-python on it, and what was said."""

    def __init__(self, monkeypatch, version="11.4"):
        self.gpu = fake_cuda.FakeCuda()
        self.trt = fake_tensorrt.load(version, self.gpu)
        self.trt.information = HALF_LAYERS
        self.said = []
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=self.gpu))
        monkeypatch.setattr(tensorrt_open, "count_gpus", lambda: 1)
        monkeypatch.setattr(tensorrt_open, "gpu_name", lambda number: self.gpu.name)

    def open(self, bundle, **options):
        self.said.clear()
        self.trt.log.clear()
        return open_tensorrt(bundle, say=self.said.append, **options)

    @property
    def builds(self):
        return sum(call == "Builder.build_serialized_network" for call, _ in self.trt.log)


def opened(trt, plan, module=tensorrt, **options):
    """A backend on a plan, on the GPU of a fake TensorRT."""
    return module.TensorRtBackend(trt, Cuda(trt.gpu), plan, **options)


def open_cuda(bundle, **options):
    """ONNX Runtime on the `FakeGpu` that is installed."""
    return OrtBackend(bundle.graph("float32"), device="cuda", **options)
