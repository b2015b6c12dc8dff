"""TensorRT for tests: names, signatures and types as the real bindings list them, on a fake GPU.

trt_api/*.json were read off the real packages. An unknown name, a write to a read-only member,
a wrong number or type of arguments is an error, as it is there. A plan is a note of what it was
built for, and the graph: it runs by ONNX Runtime, on the CPU, in the memory of a `FakeCuda`.
"""

import ctypes
import enum
import json
import re
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

VERSIONS = ("10.13", "11.4")
API = Path(__file__).parent / "trt_api"
SCRATCH = 1000
"""bytes that a plan needs beside its tensors, for each cutout"""
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


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


class Behaviour:
    """A class of the bindings: its table decides what there is, its methods what it does."""

    def __setattr__(self, name, value):
        if type(self) is self.table_class and not name.startswith("_"):
            kind = self.members.get(name)
            if kind != "rw":
                raise AttributeError(f"{self.kind}.{name} is {kind or 'unknown'}, not writeable")
            self.trt.log.append((f"{self.kind}.{name}", value))
        object.__setattr__(self, name, value)

    def __getattribute__(self, name):
        get = object.__getattribute__
        if name.startswith("_") or name in ("members", "kind", "trt", "table_class"):
            return get(self, name)
        members = get(self, "members")
        if name not in members and type(self) is get(self, "table_class"):
            raise AttributeError(f"{get(self, 'kind')} has no attribute {name}")
        if not isinstance(members.get(name), list) or name in type(self).__dict__:
            return get(self, name)
        return lambda *args, **kwargs: get(self, "_call")(name, args, kwargs)

    def _call(self, name, args, kwargs):
        full, signatures = f"{self.kind}.{name}", self.members[name]
        if not any(_fits(self.trt, each, args, kwargs) for each in signatures):
            raise TypeError(f"{full}: {args} {kwargs} do not fit {signatures}")
        self.trt.log.append((full, args))
        if full in self.trt.fail:
            value, words = self.trt.fail[full]
            self._say(words)
            return value
        return object.__getattribute__(self, name)(*args, **kwargs)

    def _say(self, words):
        self._logger.log(self.trt.ILogger.ERROR, words)

    def _make(self, kind, **state):
        made = object.__new__(getattr(self.trt, kind))
        for name, value in {"_logger": self._logger, **state}.items():
            object.__setattr__(made, name, value)
        return made


def _fits(trt, signature, args, kwargs):
    """Whether arguments fit one signature, in number, names and types."""
    bare = re.sub(r"<[^<>]*>", "default", signature)
    wanted = [re.match(r"(\w+)(?:: ([\w.:]+))?(.*)", p.strip()) for p in bare.split(",")][1:]
    if len(args) > len(wanted):
        return False
    given = dict(zip((each[1] for each in wanted), args, strict=False))
    if given.keys() & kwargs.keys():
        return False
    given |= kwargs
    if given.keys() - {each[1] for each in wanted}:
        return False
    return all(
        _is_a(trt, given[name], kind) if name in given else "=" in rest
        for name, kind, rest in (each.groups() for each in wanted)
    )


def _is_a(trt, value, kind):
    kind = re.split(r"[.:]+", kind)[-1]
    plain = {"int": int, "SupportsInt": int, "str": str, "bool": bool, "tuple": tuple,
             "list": list, "buffer": bytes, "Buffer": bytes, "Dims": (tuple, list)}  # fmt: skip
    expected = plain.get(kind) or getattr(trt, kind)
    return isinstance(value, expected) and (expected is not int or type(value) is int)


class Log(Behaviour):
    def __init__(self):
        pass


class ProgressMonitor(Behaviour):
    def __init__(self):
        pass


class Builder(Behaviour):
    def __init__(self, logger):
        assert isinstance(logger, self.trt.ILogger)
        self._logger = logger

    def create_network(self, flags=0):
        strongly = 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert flags == strongly, f"weakly typed, or more than that: {flags}"
        return self._make("INetworkDefinition", _model=None)

    def create_builder_config(self):
        return self._make("IBuilderConfig", _flags={self.trt.BuilderFlag.TF32}, _profiles=[])

    def create_optimization_profile(self):
        return self._make("IOptimizationProfile", _shapes={})

    def build_serialized_network(self, network, config):
        flags = self.trt.BuilderFlag
        assert config._flags == {flags.STRICT_NANS}
        assert config.profiling_verbosity == self.trt.ProfilingVerbosity.DETAILED
        (profile,) = config._profiles
        batch = [shape[0] for shape in profile._shapes["x"]]
        if batch[-1] > self.trt.gpu.largest_build:
            return self._say("Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
        for step in range(self.trt.steps):
            if not config.progress_monitor.step_complete("Timing tactics", step):
                return self._say("Error Code 7: BuildCanceled (Build canceled by user)")
        about = {"version": self.trt.__version__, "gpu": self.trt.gpu.name, "batch": batch}
        content = json.dumps(about).encode() + b"\n" + network._model
        return self._make("IHostMemory", _content=content)


class Network(Behaviour):
    @property
    def _values(self):
        graph = onnx.load_from_string(self._model).graph if self._model else onnx.GraphProto()
        return [
            [self._make("ITensor", _value=value) for value in values]
            for values in (graph.input, graph.output)
        ]

    num_inputs = property(lambda self: len(self._values[0]))
    num_outputs = property(lambda self: len(self._values[1]))

    def get_input(self, index):
        return self._values[0][index]

    def get_output(self, index):
        return self._values[1][index]


class Tensor(Behaviour):
    name = property(lambda self: self._value.name)
    shape = property(
        lambda self: tuple(d.dim_value or -1 for d in self._value.type.tensor_type.shape.dim)
    )


class Parser(Behaviour):
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def parse(self, model, path=None):
        try:
            onnx.checker.check_model(onnx.load_from_string(model))
        except Exception as err:
            self._errors.append(self._make("ParserError", _words=f"parser: {err}"))
            return False
        object.__setattr__(self._network, "_model", model)
        return True

    def get_error(self, index):
        return self._errors[index]


class ParserError(Behaviour):
    def desc(self):
        return self._words


class Config(Behaviour):
    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def create_timing_cache(self, serialized_timing_cache):
        return self._make("ITimingCache", _content=serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self._timing = cache
        return cache._content in (b"", b"measured")

    def get_timing_cache(self):
        return self._make("ITimingCache", _content=b"measured")

    def add_optimization_profile(self, profile):
        least, usual, most = profile._shapes["x"]
        if not 1 <= least[0] <= usual[0] <= most[0]:
            self._say("please ensure that the optimization profiles satisfy MIN<=OPT<=MAX")
            return -1
        self._profiles.append(profile)
        return 0


class Profile(Behaviour):
    def set_shape(self, input, min, opt, max):
        self._shapes[input] = (min, opt, max)


class TimingCache(Behaviour):
    def serialize(self):
        return self._make("IHostMemory", _content=self._content)


class HostMemory(Behaviour):
    def __bytes__(self):
        return self._content


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


BEHAVIOURS = {
    "ILogger": Log, "IProgressMonitor": ProgressMonitor, "Builder": Builder,
    "INetworkDefinition": Network, "ITensor": Tensor,
    "OnnxParser": Parser, "ParserError": ParserError, "IBuilderConfig": Config,
    "IOptimizationProfile": Profile, "ITimingCache": TimingCache, "IHostMemory": HostMemory,
    "Runtime": Runtime, "ICudaEngine": Engine, "EngineInspector": Inspector,
    "IExecutionContext": Context,
}  # fmt: skip
