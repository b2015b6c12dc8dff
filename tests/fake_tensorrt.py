"""TensorRT for tests: names, signatures and types as the real bindings list them, on a fake GPU.

trt_api/*.json were read off the real packages. An unknown name, a write to a read-only member,
a wrong number or type of arguments is an error, as it is there. A plan is a note of what it was
built for, and the graph: it runs by ONNX Runtime, on the CPU, in the memory of a `FakeCuda`.
"""

import enum
import json
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import fake_tensorrt_build as build
import fake_tensorrt_run as run
from fake_bindings import Behaviour

VERSIONS = ("10.13", "11.4")
API = Path(__file__).parent / "trt_api"
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
BEHAVIOURS = {
    "ILogger": build.Log, "IProgressMonitor": build.ProgressMonitor, "Builder": build.Builder,
    "INetworkDefinition": build.Network, "ITensor": build.Tensor,
    "OnnxParser": build.Parser, "ParserError": build.ParserError, "IBuilderConfig": build.Config,
    "IOptimizationProfile": build.Profile, "ITimingCache": build.TimingCache,
    "IHostMemory": build.HostMemory,
    "Runtime": run.Runtime, "ICudaEngine": run.Engine, "EngineInspector": run.Inspector,
    "IExecutionContext": run.Context,
}  # fmt: skip


def load(version, gpu):
    """Return a module like tensorrt of a version, on a `FakeCuda`."""
    api = json.loads((API / f"{version}.json").read_text())
    trt = types.ModuleType("tensorrt")
    trt.__spec__ = ModuleSpec("tensorrt", None)  # torch looks for it
    trt.__version__, trt.gpu, trt.log = api["version"], gpu, []
    trt.fail = {}
    """what a call returns instead, and what it logs: {"Class.method": (value, words)}"""
    trt.information = {"Layers": []}
    trt.steps = 3
    """after which a build asks whether to go on"""
    for name, members in api["enums"].items():
        setattr(trt, name, enum.Enum(name, members, type=_Intable))
    for name, members in api["classes"].items():
        setattr(trt, name, _make_class(trt, name, members))
    for each in SEVERITIES:
        setattr(trt.ILogger, each, each)
    return trt


class _Intable:
    """Of pybind's enums: an int only when asked for."""

    def __int__(self):
        return self.value


def _make_class(trt, name, members):
    behaviour = BEHAVIOURS.get(name, Behaviour)
    namespace = {"members": members, "kind": name, "trt": trt}
    made = type(name, (behaviour,), namespace)
    made.table_class = made
    return made
