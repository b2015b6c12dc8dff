"""What the classes of `fake_tensorrt` do that turn a graph into a plan."""

import json

import onnx
from fake_bindings import Behaviour


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
