"""A GPU for tests: ONNX Runtime's classes as they are with CUDA, and strict about their use.

What is computed is right: by the real runtime, on the CPU. What is checked: names, types, shapes,
addresses, where memory lies, what is in flight at once, and what is still held afterwards.
"""

import ctypes
import threading
import weakref

import numpy as np
import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
REAL_SESSION = onnxruntime.InferenceSession


class FakeGpu:
    """A device with so many bytes, and the list of what was done to it."""

    def __init__(self, capacity=1 << 40, bytes_per_cutout=0):
        self.capacity = capacity
        self.bytes_per_cutout = bytes_per_cutout
        self.used = 0
        self.sources = []
        """address and bytes of everything that was copied to the device"""
        self.slices = []
        """cutouts in each inference"""
        self.sessions = []
        """slice, providers and whether it may fall back, of each session"""
        self.meeting = None
        """a barrier: inferences that must be in flight at once"""
        self.short = False
        """whether something did not fit"""
        self.spoil = None
        """changes what comes out"""
        self._lock = threading.Lock()

    def take(self, size):
        with self._lock:
            if self.used + size > self.capacity:
                self.short = True
                if self.meeting:
                    self.meeting.abort()
                raise RuntimeError(
                    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned "
                    "while running Conv node. Status Message: bfc_arena.cc:376 "
                    f"Failed to allocate memory for requested buffer of size {size}"
                )
            self.used += size

    def give(self, size):
        with self._lock:
            self.used -= size

    def meet(self):
        """Wait for the others that must be in flight, unless they did not fit."""
        try:
            if self.meeting:
                self.meeting.wait(timeout=20)
        except threading.BrokenBarrierError:
            assert self.short, "the others were not in flight"

    def install(self, monkeypatch, *, gpus=1, cudart=None):
        """Put this GPU into the installed onnxruntime, and a driver that counts it beside it."""

        class Session(FakeSession):
            gpu = self

        class OrtValue(FakeOrtValue):
            gpu = self

        patch = monkeypatch.setattr
        patch(onnxruntime, "InferenceSession", Session)
        patch(onnxruntime, "OrtValue", OrtValue)
        patch(
            onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider", CUDA, CPU]
        )
        patch(onnxruntime, "preload_dlls", lambda: print("noise about what is missing"))
        patch(onnxruntime, "cuda_version", "13.0")
        patch("stronglens.engine.backends.count_gpus", lambda: gpus)
        patch("stronglens.engine.backends.ort.count_gpus", lambda: gpus)
        patch("stronglens.engine.backends.ort.gpu_name", lambda number: f"Fake {number}")
        patch("stronglens.engine.backends.ort.load_cudart", {"13.0": cudart}.get)
        return self


class FakeOrtValue:
    """A tensor on the device: bytes come and go by copies only."""

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape, element_type, device_type="cpu", device_id=0, vendor_id=-1, memory_info=None
    ):
        assert (device_type, device_id, vendor_id, memory_info) == ("cuda", 0, -1, None)
        assert element_type is np.float32
        assert all(type(n) is int and n > 0 for n in shape)
        value = cls()
        value.on_device = np.full(shape, np.nan, np.float32)
        cls.gpu.take(value.on_device.nbytes)
        weakref.finalize(value, cls.gpu.give, value.on_device.nbytes)
        return value

    def update_inplace(self, data):
        assert isinstance(data, np.ndarray)
        assert data.dtype == np.float32
        assert data.flags.c_contiguous, "would be copied on the host first"
        if data.size != self.on_device.size:
            raise RuntimeError("The input size of numpy arrays does not match the OrtValue's")
        self.gpu.sources.append((data.ctypes.data, data.nbytes))
        self.on_device[:] = data.reshape(self.on_device.shape)


class FakeBinding:
    """Input and output of one session."""

    def __init__(self, session):
        self.session = session
        self.x = None
        self.prob = None

    def bind_ortvalue_input(self, name, ortvalue):
        assert name == "x"
        assert list(ortvalue.on_device.shape) == self.session.get_inputs()[0].shape
        self.x = ortvalue

    def bind_output(
        self, name, device_type="cpu", device_id=0, element_type=None, shape=None, buffer_ptr=None
    ):
        assert (name, device_type, device_id, element_type) == ("prob", "cpu", 0, np.float32)
        assert list(shape) == self.session.get_outputs()[-1].shape
        assert isinstance(buffer_ptr, int)
        self.prob = buffer_ptr


class FakeSession:
    """A session whose every inference runs on the device, from bound memory."""

    def __init__(
        self, path_or_bytes, sess_options=None, providers=None, provider_options=None, **kwargs
    ):
        (cuda, options), cpu = providers
        assert (cuda, cpu, provider_options) == (CUDA, CPU, None)
        assert all(isinstance(each, str) for pair in options.items() for each in pair)
        assert kwargs == {"enable_fallback": False}, "it would print, and go on on the CPU"
        assert sess_options.log_severity_level == 4
        self._real = REAL_SESSION(path_or_bytes, sess_options, providers=[CPU])
        self._busy = set()
        if self.gpu.meeting:
            self.gpu.meeting.reset()
        self.gpu.sessions.append((self.get_inputs()[0].shape[0], options))

    def get_providers(self):
        return [CUDA, CPU]

    def get_inputs(self):
        return self._real.get_inputs()

    def get_outputs(self):
        return self._real.get_outputs()

    def io_binding(self):
        return FakeBinding(self)

    def run_with_iobinding(self, iobinding, run_options=None):
        assert iobinding.session is self
        assert iobinding not in self._busy, "two threads in one binding"
        self._busy.add(iobinding)
        try:
            self._compute(iobinding.x.on_device, iobinding.prob)
        finally:
            self._busy.remove(iobinding)

    def _compute(self, x_BHW, address):
        self.gpu.slices.append(len(x_BHW))
        working = self.gpu.bytes_per_cutout * len(x_BHW)
        self.gpu.take(working)
        try:
            self.gpu.meet()
            prob_BK = self._real.run(["prob"], {"x": x_BHW})[0]
        finally:
            self.gpu.give(working)
        if self.gpu.spoil:
            prob_BK = np.ascontiguousarray(self.gpu.spoil(prob_BK), np.float32)
        ctypes.memmove(address, prob_BK.ctypes.data, prob_BK.nbytes)


class FakeCudart:
    """CUDA's runtime library: page locking, as its header declares it."""

    def __init__(self, refuse=False):
        self.refuse = refuse
        self.locked = {}
        """address: bytes"""
        self.error = 0

    def cudaHostRegister(self, address, size, flags):
        assert address % 4096 == 0
        assert size % 4096 == 0
        assert flags == 1
        assert self.error == 0
        if self.refuse:
            self.error = 2
            return 2
        for start, length in self.locked.items():
            assert address + size <= start or start + length <= address, "locked twice"
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address):
        del self.locked[address]
        return 0

    def cudaGetLastError(self):
        error, self.error = self.error, 0
        return error

    def holds(self, address, size):
        """Whether all of it lies in locked pages."""
        return any(a <= address and address + size <= a + n for a, n in self.locked.items())
