"""Read one whole file, and say in the vocabulary of `Flag` why it could not be read."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError

MAX_BYTES = 1 << 28
"""No cutout is larger than this; of a larger file only HEAD_BYTES are read"""
HEAD_BYTES = 1 << 14

# Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def reasons() -> Iterator[None]:
    """Turn what the system says of a file into a CutoutError: MISSING or UNREADABLE."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CutoutError(Flag.MISSING, f"{err.strerror}") from err
    except OSError as err:
        raise CutoutError(Flag.UNREADABLE, f"{err.strerror}") from err
    except ValueError as err:  # a NUL, or a character that the file system's encoding lacks
        raise CutoutError(Flag.MISSING, f"no file can have this name: {err}") from err


def read_file(path: str, *, most: int = MAX_BYTES) -> tuple[bytes, int]:
    """Return the file's bytes and its size; only its first HEAD_BYTES where it exceeds `most`.

    Raises:
        CutoutError: MISSING, UNREADABLE (also what is no regular file), or MALFORMED where
            the file shrank while it was read.
    """
    with reasons():
        fd = os.open(path, OPEN_FLAGS)
        try:
            size = regular_size(fd)
            return _read_open_file(fd, size if size <= most else HEAD_BYTES), size
        finally:
            os.close(fd)


def regular_size(fd: int) -> int:
    """Return the bytes of an open file; raise CutoutError, UNREADABLE, if it is no regular file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise CutoutError(Flag.UNREADABLE, "not a regular file")
    return status.st_size


def _read_open_file(fd: int, wanted: int) -> bytes:
    data = os.read(fd, wanted)
    while len(data) < wanted:  # only network file systems return less than asked
        more = os.read(fd, wanted - len(data))
        if not more:
            raise CutoutError(Flag.MALFORMED, "shrank while it was read")
        data += more
    return data
