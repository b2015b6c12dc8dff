"""`cuda.bindings.runtime` for tests: a GPU that does nothing before it is waited for.

Work on a stream is only noted, and done when its stream or an event behind it is waited for: a
result that is read too early, or memory that is reused or freed too early, shows. Device memory
is the host's, at its true addresses; what is copied is checked to come from and go to the kind
of memory that the call says.
"""

import bisect
import ctypes
import enum

import numpy as np


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorECCUncorrectable = 214
    cudaErrorHostMemoryAlreadyRegistered = 712
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class Stream:
    """Work that was put in and not yet done, in order."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.work = []
        self.captured = None

    def __int__(self):
        return id(self)

    def put(self, what, action, uses=()):
        """Note some work, and the addresses that it reads and writes."""
        if self.captured is not None:
            self.captured.append((what, action, uses))
            return
        self.gpu.events.append((what, self))
        self.work.append((what, action, uses))

    def do(self, until=None):
        while self.work:
            what, action, _ = self.work.pop(0)
            if action is not None:
                action()
            if what is until:
                return


class FakeCuda:
    """The runtime's functions as methods: each returns a tuple, its status first."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2

    def __init__(self, capacity=1 << 40, name="Fake 1"):
        self.name = name
        self.capacity = capacity
        self.largest_build = 1 << 30
        """most cutouts at once that a plan can be built for"""
        self.spoil = lambda prob: prob
        self.memory = {}
        """of the device: address and its bytes"""
        self.locked = {}
        self.streams = {}
        self.held = set()
        """streams, events and graphs"""
        self.events = []
        """what was put on which stream, and what was waited for, in order"""
        self.calls = []
        """every call: name and arguments"""
        self.fail = {}
        """function: the error that it gives from now on"""
        self.error = cudaError_t.cudaSuccess
        self.faults = []

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or isinstance(found, type) or not callable(found):
            return found

        def call(*args):
            self.calls.append((name, args))
            if name in self.fail:
                self.error = self.fail[name]
                values = len(RETURNS.get(name, ()))
                return (self.error, *[None] * values)
            status, *values = found(*args) or (cudaError_t.cudaSuccess,)
            if name != "cudaGetLastError":
                self.error = status or self.error
            return status, *values

        call.__name__ = name
        return call

    # what the fake TensorRT needs

    def room_at(self, address):
        """How many bytes of the device's there are from an address on; 0: not the device's."""
        starts = sorted(self.memory)
        i = bisect.bisect_right(starts, address) - 1
        if i < 0:
            return 0
        return max(0, starts[i] + len(self.memory[starts[i]]) - address)

    def array(self, address, shape):
        size = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)

    def stream(self, handle):
        assert type(handle) is int
        return self.streams[handle]

    def in_locked(self, address, size):
        return any(a <= address and address + size <= a + n for a, n in self.locked.items())

    @property
    def idle(self):
        return not any(stream.work for stream in self.streams.values())

    def in_use(self, address, size):
        work = [each for stream in self.streams.values() for each in stream.work]
        return any(address <= used < address + size for _, _, uses in work for used in uses)

    # the runtime

    def cudaSetDevice(self, device):
        assert device == 0

    def cudaDeviceGetAttribute(self, attr, device):
        assert device == 0
        return cudaError_t.cudaSuccess, {75: 8, 76: 9}[attr]

    def cudaGetErrorName(self, error):
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error):
        return cudaError_t.cudaSuccess, b"words on " + error.name.encode()

    def cudaGetLastError(self):
        error, self.error = self.error, cudaError_t.cudaSuccess
        return (error,)

    def cudaMalloc(self, size):
        assert type(size) is int
        assert size > 0
        if sum(map(len, self.memory.values())) + size > self.capacity:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size, 0xFF, np.uint8)  # NaN, as float32
        self.memory[block.ctypes.data] = block
        return cudaError_t.cudaSuccess, block.ctypes.data

    def cudaFree(self, devPtr):
        assert not self.in_use(devPtr, len(self.memory[devPtr])), "freed while it is in use"
        del self.memory[devPtr]

    def cudaHostRegister(self, ptr, size, flags):
        assert flags == 1
        self.locked[ptr] = size

    def cudaHostUnregister(self, ptr):
        if self.in_use(ptr, self.locked[ptr]):  # the caller may be a finaliser, which nobody hears
            self.faults.append("unlocked while it is in use")
        del self.locked[ptr]

    def _new(self, thing):
        self.held.add(thing)
        return cudaError_t.cudaSuccess, thing

    def _destroy(self, thing):
        assert not getattr(thing, "work", None) or isinstance(thing, Graph)
        self.held.remove(thing)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == 1, "it would wait for the default stream"
        stream = Stream(self)
        self.streams[int(stream)] = stream
        return self._new(stream)

    def cudaStreamDestroy(self, stream):
        self._destroy(stream)

    def cudaStreamSynchronize(self, stream):
        self.events.append(("wait", stream))
        stream.do()

    def cudaEventCreateWithFlags(self, flags):
        assert flags == 3
        return self._new(Event())

    def cudaEventDestroy(self, event):
        self._destroy(event)

    def cudaEventRecord(self, event, stream):
        event.stream = stream
        stream.put(event, None)

    def cudaEventSynchronize(self, event):
        self.events.append(("wait", event.stream))
        event.stream.do(until=event)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        assert type(dst) is type(src) is type(count) is int
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        assert self.room_at(dst if to_device else src) >= count
        assert self.room_at(src if to_device else dst) == 0, "both are the device's"
        if not to_device:
            assert self.in_locked(dst, count), "would wait until it is done"
        name = "upload" if to_device else "download"
        stream.put(name, lambda: ctypes.memmove(dst, src, count), (dst, src))

    def cudaMemsetAsync(self, devPtr, value, count, stream):
        assert self.room_at(devPtr) >= count
        stream.put("clear", lambda: ctypes.memset(devPtr, value, count), (devPtr,))

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert stream.captured is None
        stream.captured = []

    def cudaStreamEndCapture(self, stream):
        graph, stream.captured = Graph(stream.captured), None
        return self._new(graph)

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return self._new(Graph(graph.work))

    def cudaGraphLaunch(self, graphExec, stream):
        assert graphExec in self.held
        for each in graphExec.work:
            stream.put(*each)

    def cudaGraphDestroy(self, graph):
        self._destroy(graph)

    def cudaGraphExecDestroy(self, graphExec):
        self._destroy(graphExec)


class Event:
    stream = None


class Graph:
    def __init__(self, work):
        self.work = work


RETURNS = {
    name: (1,)
    for name in (
        "cudaMalloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags",
        "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaDeviceGetAttribute",
        "cudaGetErrorName", "cudaGetErrorString",
    )
}  # fmt: skip
"""functions that give something beside their status"""
