"""ONNX → plan: what TensorRT compiles a graph to, for one GPU and one version of itself.

The module is an argument: TensorRT 10.13 to 11.x, TensorRT-RTX and the tests' strict fake all
have the names that are used here. How precisely a plan computes is in the graph and nowhere
else: the flags for it were removed in 10.16, and a build that looked for them would be float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stronglens.engine.backends.tensorrt_log import explained, failure, log_of
from stronglens.engine.errors import BackendError

SLICE = 128
"""Cutouts that one inference takes, always: the shape that the kernels are chosen for."""
BATCH = (1, SLICE, SLICE)
"""Fewest, usual and most cutouts of a plan. Fewer than usual only where those do not fit."""

LEVEL = 3
"""how long the builder searches: TensorRT's default; higher levels take many times as long"""
WHAT = "TensorRT cannot compile the graph"


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, and what building it measured."""

    plan: bytes
    timing: bytes
    """how long each kernel takes on this GPU: makes the next build short"""


def build_plan(
    trt: Any,
    onnx: bytes,
    *,
    batch: tuple[int, int, int] = BATCH,
    timing: bytes = b"",
    check: Callable[[], None] = lambda: None,
) -> Built:
    """Compile a graph with an input x (batch, H, W) and an output prob (batch, K), both float32.

    Args:
        trt: the module tensorrt, or one like it.
        onnx: the graph, weights inside; its types are the plan's.
        batch: fewest, usual and most cutouts at once.
        timing: an earlier `Built.timing`; one from elsewhere is ignored.
        check: called many times; what it raises stops the build and is raised here.

    Raises:
        OutOfMemoryError: the GPU is too small for so many cutouts.
        BackendError: TensorRT refuses the graph, or cannot compile it; in its own words.
    """
    with explained(trt, WHAT):
        builder = _made(trt, trt.Builder(log_of(trt)))
        # Never a literal: the bit moved between 10 and 11. Without it 10 chooses the types.
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = _made(trt, builder.create_network(strongly_typed))
        parser = _made(trt, trt.OnnxParser(network, log_of(trt)))
        if not parser.parse(onnx):
            raise BackendError(f"TensorRT cannot read the graph: {_parser_errors(parser)}")
        side_HW = _check(network)
        config = _made(trt, builder.create_builder_config())
        _configure(trt, config, timing)
        profile = _made(trt, builder.create_optimization_profile())
        profile.set_shape("x", *((n, *side_HW) for n in batch))
        if config.add_optimization_profile(profile) < 0:
            raise failure(trt, f"TensorRT refuses batches of {batch}")
        config.progress_monitor = monitor = _monitor(trt, check)
        plan = builder.build_serialized_network(network, config)
        if monitor.raised is not None:
            raise monitor.raised
        _made(trt, plan)
        return Built(bytes(plan), bytes(config.get_timing_cache().serialize()))


def _configure(trt: Any, config: Any, timing: bytes) -> None:
    """Set what does not depend on the graph.

    No limit of workspace: it is the GPU's memory, and with 4 GiB batches of 1,024 failed.
    """
    config.builder_optimization_level = LEVEL
    # else the inspector would tell only names, and not what a convolution computes in
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_flag(trt.BuilderFlag.STRICT_NANS)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no float32: 10 bits of 23
    for measured in (timing, b""):
        if config.set_timing_cache(config.create_timing_cache(measured), ignore_mismatch=False):
            return


def _monitor(trt: Any, check: Callable[[], None]) -> Any:
    """Return what TensorRT asks, at each step of a build, whether to go on.

    It is also when Python gets to handle a signal.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Stops the build when `check` raises."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            """Do nothing."""

        def phase_finish(self, phase_name: str) -> None:
            """Do nothing."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Return whether to go on."""
            try:
                check()
            except BaseException as err:  # it must not pass through TensorRT
                self.raised = err
            return self.raised is None

    return Monitor()


def _check(network: Any) -> tuple[int, int]:
    """Return H and W of the graph's only input, which must be x, beside an output prob."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i).name for i in range(network.num_outputs)]
    shapes = [(each.name, tuple(each.shape)) for each in inputs]
    if [name for name, _ in shapes] != ["x"] or len(shapes[0][1]) != 3 or "prob" not in outputs:
        raise BackendError(
            f"the graph's inputs are {shapes} and its outputs {outputs}, "
            "expected x (batch, H, W) and prob: export it again"
        )
    _, height, width = shapes[0][1]
    return int(height), int(width)


def _parser_errors(parser: Any) -> str:
    found = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
    return "; ".join(found) or "it gives no reason"


def _made(trt: Any, thing: Any) -> Any:
    """Return `thing`, which is None where TensorRT failed."""
    if thing is None:
        raise failure(trt, WHAT)
    return thing
