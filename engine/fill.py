"""Fill rows of a batch: ordinary .npy files in compiled code, everything else in Python.

The files of a catalogue mostly share one header, byte for byte, and so its meaning. Once a
header is parsed and found fit, files are opened, read into one buffer that is used again,
compared with it (the header's bytes, the file's size) and prepared by compiled code that
holds no Python lock. A file that differs in anything is left to `Cutout.read` and `prepare`,
which say what is wrong with it. Both ways give the same row.
"""

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.compiled import compiled
from stronglens.engine.errors import CutoutError
from stronglens.engine.kernels import kernel
from stronglens.engine.preprocess import KERNEL_DTYPES, PreprocessSpec, missing, prepare
from stronglens.engine.sources import Cutout
from stronglens.engine.sources.files import MAX_BYTES, OPEN_FLAGS
from stronglens.engine.sources.npy import NpyCutout, read_header

ONE_MISSING, MOST_MISSING = int(missing(2, 3)), int(missing(1, 3))
CACHE_LINE = 64
PAIRS, BYTES = np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00FF00FF00FF00FF)
"""every second pair of bytes, and every second byte, of a word"""
HALF_WORD = np.uint64(32)
"""bits"""
POSIX = os.name == "posix"
CLOCK = getattr(time, "CLOCK_MONOTONIC", 0)


class Rows(Protocol):
    """Where rows are written: x_BHW and what is to be known of each, all along B."""

    x_BHW: NDArray[np.float32]
    flags_B: NDArray[np.uint16]
    nan_frac_B: NDArray[np.float32]


def _system(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of the C library that compiled code can call."""
    if not POSIX:
        return None
    function = ctypes.CDLL(None)[name]
    function.argtypes, function.restype = arguments, result
    return function


_open = _system("open", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_read = _system("read", ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_close = _system("close", ctypes.c_int, ctypes.c_int)
_clock_gettime = _system("clock_gettime", ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_FLAGS = OPEN_FLAGS | getattr(os, "O_CLOEXEC", 0)


@compiled
def _now(clock_2: NDArray[np.int64]) -> Any:
    """Return seconds since some moment; `clock_2` is room for a C timespec."""
    _clock_gettime(CLOCK, clock_2.ctypes.data)
    return clock_2[0] + clock_2[1] * 1e-9


@compiled
def swap_bytes(words_P: NDArray[np.uint64]) -> None:
    """Reverse the bytes of each word of 2, 4 or 8, in place: halves, quarters, then bytes."""
    for i in range(words_P.size):
        w = np.uint64(words_P[i])
        if words_P.itemsize == 8:
            w = (w >> np.uint64(32)) | (w << np.uint64(32))
        if words_P.itemsize >= 4:
            w = ((w >> np.uint64(16)) & PAIRS) | ((w & PAIRS) << np.uint64(16))
        words_P[i] = ((w >> np.uint64(8)) & BYTES) | ((w & BYTES) << np.uint64(8))


@compiled
def transpose(
    in_P: NDArray[np.float32], room_P: NDArray[np.float32], out_P: NDArray[np.float32], side: int
) -> None:
    """Write the transpose of a square image; `room_P`, as large, is overwritten.

    Pixels of an even side move in pairs: two rows become one of words, each with what lies below
    each other, in a vector loop; then there are half as many words as pixels to be moved one by
    one, in the order of the memory that is written.
    """
    if side % 2:
        for row in range(side):
            for column in range(side):
                out_P[row * side + column] = in_P[column * side + row]
        return
    half, bits_P = side // 2, in_P.view(np.uint32)
    pairs_P, words_P = room_P.view(np.uint64)[: side * half], out_P.view(np.uint64)
    for row in range(half):
        upper, lower = bits_P[2 * row * side :], bits_P[(2 * row + 1) * side :]
        pairs = pairs_P[row * side : (row + 1) * side]
        for column in range(side):
            pairs[column] = np.uint64(upper[column]) | (np.uint64(lower[column]) << HALF_WORD)
    for column in range(side):
        for row in range(half):
            words_P[column * half + row] = pairs_P[row * side + column]


@compiled
def _same(file_P: NDArray[np.uint8], header_P: NDArray[np.uint8]) -> bool:
    differing = 0
    for i in range(header_P.size):
        differing += file_P[i] != header_P[i]
    return differing == 0


@compiled
def _missing(n_finite: int, size: int) -> int:
    """Return what `preprocess.missing` does."""
    return (MOST_MISSING if 2 * n_finite < size else ONE_MISSING) if n_finite < size else 0


@compiled
def _fill_files(
    prepare_mode: Any,
    softening: float,
    names_P: NDArray[np.uint8],
    starts_N: NDArray[np.int64],
    header_P: NDArray[np.uint8],
    file_P: NDArray[np.uint8],
    pixels_P: NDArray[Any],
    words_P: NDArray[Any] | None,
    turned_2P: NDArray[np.float32] | None,
    side: int,
    x_BP: NDArray[np.float32],
    flags_B: NDArray[np.uint16],
    nan_frac_B: NDArray[np.float32],
    first: int,
    seconds_2: NDArray[np.float64],
) -> int:
    """Fill rows from `first` on, one a name; return how many, up to a file that is not alike.

    Args:
        prepare_mode: of `kernels`.
        names_P: the files' names, each with its NUL; starts_N says where they begin.
        header_P: what a file must begin with.
        file_P: room for one file and one byte more, so that a longer one is noticed.
        pixels_P: its pixels.
        words_P: the same as unsigned integers, where their bytes are in the other order. What
            is None is not compiled.
        turned_2P: room for two images, where they are stored column by column.
        seconds_2: gets the time spent reading and preparing added.
    """
    clock_2 = np.empty(2, np.int64)
    start = _now(clock_2)
    for n in range(starts_N.size):
        b = first + n
        fd = _open(names_P.ctypes.data + starts_N[n], _FLAGS)
        if fd < 0:
            return n
        got = _read(fd, file_P.ctypes.data, file_P.size)
        _close(fd)
        if got != file_P.size - 1 or not _same(file_P, header_P):
            return n
        read = _now(clock_2)
        if words_P is not None:
            swap_bytes(words_P)
        if turned_2P is None:
            n_finite, found = prepare_mode(pixels_P, softening, x_BP[b])
        else:
            n_finite, found = prepare_mode(pixels_P, softening, turned_2P[0])
            transpose(turned_2P[0], turned_2P[1], x_BP[b], side)
        flags_B[b] = found | _missing(n_finite, pixels_P.size)
        nan_frac_B[b] = 1.0 - n_finite / pixels_P.size
        end = _now(clock_2)
        seconds_2[0] += read - start
        seconds_2[1] += end - read
        start = end
    return starts_N.size


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A header that files share, and the buffers to read such files into."""

    header: bytes
    file_P: NDArray[np.uint8]
    pixels_P: NDArray[Any]
    words_P: NDArray[Any] | None
    turned_2P: NDArray[np.float32] | None


def ordinary(path: bytes, spec: PreprocessSpec) -> Ordinary | None:
    """Return how to read files like this one in compiled code; None where that cannot be done."""
    try:
        text, header = read_header(os.fsdecode(path))
    except CutoutError:
        return None
    pixels, native = spec.size**2, header.dtype.newbyteorder("=")
    length = header.offset + pixels * native.itemsize
    fits = header.shape in ((spec.size, spec.size), (1, spec.size, spec.size))
    aligned = header.offset % native.itemsize == 0
    if not (POSIX and fits and aligned and native in KERNEL_DTYPES and length <= MAX_BYTES):
        return None
    room = np.empty(length + 1 + CACHE_LINE, np.uint8)
    skip = -(room.ctypes.data + header.offset) % CACHE_LINE  # the pixels begin a cache line
    file_P = room[skip : skip + length + 1]
    pixels_P = file_P[header.offset : length].view(native)
    return Ordinary(
        header=text,
        file_P=file_P,
        pixels_P=pixels_P,
        words_P=None if header.dtype == native else pixels_P.view(f"u{native.itemsize}"),
        turned_2P=np.empty((2, pixels), np.float32) if header.order == "F" else None,
    )


class Filler:
    """Fills rows for one thread, which keeps the last header and its buffers."""

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        self.seconds_2 = np.zeros(2)
        """spent reading and preparing so far"""
        self._ordinary: Ordinary | None = None

    def fill(self, cutouts: Sequence[Cutout], rows: Rows, start: int) -> None:
        """Fill the rows of `cutouts`, which begin at `start`.

        A CutoutError becomes the row's flag; any other exception is the caller's.
        """
        names = [_name(cutout) for cutout in cutouts]
        done = 0
        while done < len(cutouts):
            if self._ordinary is not None:
                done = self._fill_files(self._ordinary, names, done, rows, start)
            if done < len(cutouts) and not self._learn(names[done]):
                self._fill_one(cutouts[done], rows, start + done)
                done += 1

    def _learn(self, name: bytes) -> bool:
        """Take a file's header for the next ones; False where it is the known one, or unfit."""
        found = ordinary(name[:-1], self.spec) if name else None
        if found is None or (self._ordinary and found.header == self._ordinary.header):
            return False
        self._ordinary = found
        return True

    def _fill_files(
        self, known: Ordinary, names: list[bytes], done: int, rows: Rows, start: int
    ) -> int:
        """Fill rows as long as the files are like the known one; return the next one to do."""
        left = names[done:]
        ends = list(accumulate(map(len, left), initial=0))
        filled = _fill_files(
            kernel(self.spec.mode, known.pixels_P.dtype),
            self.spec.softening,
            np.frombuffer(b"".join([*left, b"\0"]), np.uint8),
            np.array(ends[:-1]),
            np.frombuffer(known.header, np.uint8),
            known.file_P,
            known.pixels_P,
            known.words_P,
            known.turned_2P,
            self.spec.size,
            rows.x_BHW.reshape(len(rows.x_BHW), -1),
            rows.flags_B,
            rows.nan_frac_B,
            start + done,
            self.seconds_2,
        )
        return done + filled

    def _fill_one(self, cutout: Cutout, rows: Rows, b: int) -> None:
        start = time.perf_counter()
        read = None
        try:
            raw = cutout.read()
            read = time.perf_counter()
            rows.flags_B[b], rows.nan_frac_B[b] = prepare(raw, self.spec, rows.x_BHW[b])
        except CutoutError as err:
            rows.x_BHW[b] = 0.0
            rows.flags_B[b], rows.nan_frac_B[b] = err.flag, np.nan
        end = time.perf_counter()
        read = read or end
        self.seconds_2 += read - start, end - read


def _name(cutout: Cutout) -> bytes:
    """Return the name of a .npy file as C wants it; nothing where only Python can read it."""
    if not isinstance(cutout, NpyCutout) or "\0" in cutout.path:
        return b""
    try:
        return os.fsencode(cutout.path) + b"\0"
    except ValueError:
        return b""
