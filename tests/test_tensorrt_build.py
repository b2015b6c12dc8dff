"""ONNX → plan, on a strict fake of TensorRT 10.13 and 11.4."""

import fake_cuda
import fake_tensorrt
import pytest
import tiny_model
from planted import planted

from stronglens.engine.backends import tensorrt_build
from stronglens.engine.backends.cuda import OutOfMemoryError
from stronglens.engine.backends.tensorrt_build import BATCH, build_plan
from stronglens.engine.errors import BackendError

pytest_plugins = ["gpu_fixtures"]


def test_a_plan_is_built_as_it_must_be(trt):
    built = build_plan(trt, tiny_model.graph())
    assert built.plan.endswith(tiny_model.graph())
    assert built.timing == b"measured"
    flag = 2 if trt.__version__.startswith("10.13.") else 1
    assert ("Builder.create_network", (flag,)) in trt.log
    side = (tiny_model.SIZE, tiny_model.SIZE)
    shapes = [(n, *side) for n in BATCH]
    assert ("IOptimizationProfile.set_shape", ("x", *shapes)) in trt.log
    assert not [call for call, _ in trt.log if "memory_pool" in call]


def test_what_was_measured_is_used_again_and_what_is_foreign_is_not(trt):
    for timing, tried in ((b"measured", [b"measured"]), (b"foreign", [b"foreign", b""])):
        trt.log.clear()
        assert build_plan(trt, tiny_model.graph(), timing=timing).timing == b"measured"
        found = [args for call, args in trt.log if call == "IBuilderConfig.create_timing_cache"]
        assert found == [(each,) for each in tried]


MISTAKES = {
    "a removed flag": ("    config.set_flag(trt", "    config.set_flag(trt.BuilderFlag.FP16)\n"),
    "a literal bit": ("1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)", "{bit}"),
    "no flag": ("create_network(strongly_typed)", "create_network()"),
    "the flag's number": ("= 1 << int(", "= int("),
    "a wrong argument count": ("parse(onnx)", "parse(onnx, None, 0)"),
    "a wrong type": ("parse(onnx)", "parse(list(onnx))"),
    "a wrong keyword": ("ignore_mismatch=False", "ignore=False"),
    "a missing argument": (", ignore_mismatch=False)", ")"),
    "a read-only member": ("builder.create_builder_config())\n",
                           "builder.create_builder_config())\n"
                           "        config.num_optimization_profiles = 1\n"),
    "a name that does not exist": ("config.builder_optimization_level", "config.opt_level"),
    "TensorRT's float32": ("config.clear_flag", "config.get_flag"),
    "NaN as the GPU likes": ("config.set_flag(trt.BuilderFlag.STRICT_NANS)", "pass"),
    "names only": ("config.profiling_verbosity = ", "_ = "),
    "no profile": ("config.add_optimization_profile(profile) < 0", "False"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake):
    right, wrong = MISTAKES[mistake]
    caught = []
    for version, other_bit in (("10.13", "1"), ("11.4", "2")):
        trt = fake_tensorrt.load(version, fake_cuda.FakeCuda())
        wrong_here = wrong.format(bit=other_bit)
        if mistake == "a removed flag":
            wrong_here += right
        made = planted(tensorrt_build, right, wrong_here)
        try:
            made.build_plan(trt, tiny_model.graph())
        except (AttributeError, AssertionError, BackendError) as err:
            caught.append((version, str(err)))
    assert [version for version, _ in caught] == list(fake_tensorrt.VERSIONS), caught


@pytest.mark.parametrize(
    ("call", "returned"),
    [
        ("Builder.create_network", None),
        ("Builder.create_builder_config", None),
        ("Builder.create_optimization_profile", None),
        ("Builder.build_serialized_network", None),
        ("IBuilderConfig.add_optimization_profile", -1),
    ],
)
def test_what_fails_is_an_error_in_tensorrts_words(trt, call, returned):
    trt.fail = {call: (returned, "Error Code 10: no   implementation\n for node conv1")}
    with pytest.raises(BackendError, match=r"TensorRT .*: Error Code 10: no implementation for"):
        build_plan(trt, tiny_model.graph())


def test_an_error_that_was_said_is_not_said_of_the_next(trt):
    trt.fail = {"Builder.build_serialized_network": (None, "the first")}
    with pytest.raises(BackendError, match="the first"):
        build_plan(trt, tiny_model.graph())
    trt.fail = {"Builder.build_serialized_network": (None, "the second")}
    with pytest.raises(BackendError, match=r"compile the graph: the second$"):
        build_plan(trt, tiny_model.graph())


def test_a_builder_that_raises(trt, monkeypatch):
    def start(self, logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Builder, "__init__", start)
    with pytest.raises(BackendError, match=r"cannot compile the graph \(pybind11.*no reason"):
        build_plan(trt, tiny_model.graph())


@pytest.mark.parametrize("broken", [b"no graph", tiny_model.graph()[:500]])
def test_a_broken_graph_is_refused_in_the_parsers_words(trt, broken):
    with pytest.raises(BackendError, match="cannot read the graph: parser: "):
        build_plan(trt, broken)


def test_a_foreign_graph_is_refused(trt):
    import onnx

    model = onnx.load_from_string(tiny_model.graph())
    model.graph.output[1].name = model.graph.node[-1].output[0] = "scores"
    with pytest.raises(BackendError, match=r"expected x \(batch, H, W\) and prob: export it again"):
        build_plan(trt, model.SerializeToString())


def test_batches_the_wrong_way_round(trt):
    with pytest.raises(BackendError, match=r"refuses batches of \(4, 2, 1\): .*MIN<=OPT<=MAX"):
        build_plan(trt, tiny_model.graph(), batch=(4, 2, 1))


def test_a_build_can_be_stopped(trt):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, tiny_model.graph(), check=check)
    assert len(calls) == 2
    assert build_plan(trt, tiny_model.graph(), check=lambda: None).plan


def test_memory_that_runs_out_is_told_from_other_failures(trt):
    trt.gpu.largest_build = 16
    with pytest.raises(OutOfMemoryError, match="OutOfMemory"):
        build_plan(trt, tiny_model.graph())
    assert build_plan(trt, tiny_model.graph(), batch=(1, 16, 16)).plan
