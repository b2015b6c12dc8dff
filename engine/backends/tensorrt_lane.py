"""One of the inferences that TensorRT has in flight."""

import math
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.backends.cuda import Cuda
from stronglens.engine.backends.pinned import PinnedMemory
from stronglens.engine.backends.tensorrt_log import explained, failure, log_of
from stronglens.engine.errors import BackendError

Floats = NDArray[np.float32]


class Lane:
    """One inference at a time: a stream, TensorRT's context, and memory for `size` cutouts."""

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, size: int, pinned: PinnedMemory) -> None:
        """Take the memory for `size` cutouts.

        Raises:
            OutOfMemoryError: there is not so much.
            BackendError: TensorRT refuses.
        """
        self.size = size
        self.side_HW: tuple[int, ...] = ()
        self.num_classes = 0
        self._trt, self._cuda = trt, cuda
        self._stream: Any = None
        self._context: Any = None
        self._busy: tuple[Floats, int] | None = None
        self._graph: Any = None
        self._held = ExitStack()
        try:
            self._stream = self._hold(
                cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), cuda.cudaStreamDestroy
            )
            # Blocking: waiting must not keep a core from the threads that read and prepare.
            flags = cuda.cudaEventBlockingSync | cuda.cudaEventDisableTiming
            self._done = self._hold(cuda.cudaEventCreateWithFlags(flags), cuda.cudaEventDestroy)
            with explained(trt, "TensorRT cannot run the plan"):
                self._context = self._make_context(engine)
            self._prob_SK = pinned.array((size, self.num_classes))
        except BaseException:
            self.close()
            raise

    def _make_context(self, engine: Any) -> Any:
        """Return a context for `size` cutouts, every tensor of which has memory."""
        trt, cuda = self._trt, self._cuda
        # Memory of its own choice would be for the plan's largest batch, whatever is asked for.
        context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise failure(trt, "TensorRT cannot run the plan")
        _, *side = engine.get_tensor_shape("x")
        if not context.set_input_shape("x", (self.size, *side)):
            raise failure(trt, f"TensorRT refuses {self.size} cutouts at once")
        if unknown := context.infer_shapes():
            raise BackendError(f"the plan's shapes are unknown: {', '.join(unknown)}")
        addresses = {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            shape = tuple(context.get_tensor_shape(name))
            if (dtype := engine.get_tensor_dtype(name)) != trt.DataType.FLOAT:
                raise BackendError(f"the plan's {name} is {dtype}, expected float32")
            addresses[name] = self._allocate(4 * math.prod(shape))
            if not context.set_tensor_address(name, addresses[name]):
                raise failure(trt, f"TensorRT refuses the memory for {name}")
        if scratch := context.update_device_memory_size_for_shapes():
            context.set_device_memory(self._allocate(scratch), scratch)
        self._x, self._prob = addresses["x"], addresses["prob"]
        self.side_HW = tuple(context.get_tensor_shape("x"))[1:]
        self.num_classes = tuple(context.get_tensor_shape("prob"))[1]
        # Rows that no cutout ever filled are computed too.
        cuda.cudaMemsetAsync(self._x, 0, 4 * self.size * math.prod(self.side_HW), self._stream)
        return context

    def _allocate(self, size: int) -> int:
        """Return the address of so many bytes on the GPU."""
        return int(self._hold(self._cuda.cudaMalloc(size), self._cuda.cudaFree))

    def _hold(self, thing: Any, give_back: Any) -> Any:
        self._held.callback(give_back, thing)
        return thing

    def record(self) -> None:
        """Record the inference as a CUDA graph: one call starts all its kernels.

        The threads that feed hold Python's lock for much of the time, and each call waits for
        it. A plan that cannot be recorded is run kernel by kernel.
        """
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with suppress(BackendError):
            cuda.cudaStreamBeginCapture(self._stream, mode)
            try:
                complete = self._context.execute_async_v3(int(self._stream))
            finally:
                graph = cuda.cudaStreamEndCapture(self._stream)
            self._hold(graph, cuda.cudaGraphDestroy)
            if complete:
                self._graph = self._hold(
                    cuda.cudaGraphInstantiate(graph, 0), cuda.cudaGraphExecDestroy
                )
        log_of(self._trt).lines.clear()

    def start(self, x_BHW: Floats, start: int) -> None:
        """Begin with the slice of x_BHW at `start`; returns before it is done.

        Of a slice that is short the missing rows are what they were in the last one: nothing
        that is read depends on them.
        """
        cuda, to = self._cuda, self._cuda.cudaMemcpyKind
        x_SHW = np.ascontiguousarray(x_BHW[start : start + self.size])
        self._busy = x_SHW, start  # keeps its memory
        cuda.cudaMemcpyAsync(
            self._x, x_SHW.ctypes.data, x_SHW.nbytes, to.cudaMemcpyHostToDevice, self._stream
        )
        if self._graph is not None:
            cuda.cudaGraphLaunch(self._graph, self._stream)
        elif not self._context.execute_async_v3(int(self._stream)):
            raise failure(self._trt, "TensorRT could not start")
        cuda.cudaMemcpyAsync(
            self._prob_SK.ctypes.data, self._prob, self._prob_SK.nbytes,
            to.cudaMemcpyDeviceToHost, self._stream,
        )  # fmt: skip
        cuda.cudaEventRecord(self._done, self._stream)

    def collect(self, prob_BK: Floats) -> None:
        """Wait for what was begun, if anything was, and copy it to its rows of prob_BK."""
        if self._busy is None:
            return
        self._cuda.cudaEventSynchronize(self._done)
        (x_SHW, start), self._busy = self._busy, None
        prob_BK[start : start + len(x_SHW)] = self._prob_SK[: len(x_SHW)]

    def drain(self) -> None:
        """Wait for what was begun and forget it; also where the GPU has failed."""
        if self._stream is not None:
            with suppress(BackendError):
                self._cuda.cudaStreamSynchronize(self._stream)
        self._busy = None

    def close(self) -> None:
        """Free everything; a GPU that has failed refuses that, and has said so before."""
        self.drain()
        self._context = self._graph = None
        with suppress(BackendError):
            self._held.close()
        self._stream = None
