"""Files that are read again and again, a part at a time, with few of them open at once.

Nothing is mapped into memory: a file that shrinks under a map kills the process, while a read
comes back short and says so.
"""

import os
import weakref

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import OPEN_FLAGS, reasons, regular_size
from stronglens.engine.sources.kept import OPEN_FILES, Identity, Kept, identity


class OpenFile:
    """A file open for reading; it is closed once nobody holds this object."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self.size = regular_size(fd)
        """bytes, when it was opened"""

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on; any thread may.

        Raises:
            CutoutError: MALFORMED where the file ends before, or UNREADABLE.
        """
        if start + count > self.size:  # before any memory is taken
            raise CutoutError(Flag.MALFORMED, f"{self.size} bytes, {start + count} expected")
        with reasons():
            data = os.pread(self._fd, count, start)
            while len(data) < count:  # only network file systems return less than asked
                more = os.pread(self._fd, count - len(data), start + len(data))
                if not more:
                    raise CutoutError(Flag.MALFORMED, "shrank while it was read")
                data += more
        return data


_FILES: Kept[OpenFile] = Kept(OPEN_FILES)


def opened(path: str) -> tuple[OpenFile, Identity]:
    """Return a file, open, and what changes when the file does.

    Raises:
        CutoutError: MISSING or UNREADABLE.
    """
    key = identity(path)
    return _FILES.get(key, lambda: _open(path)), key


def _open(path: str) -> OpenFile:
    with reasons():
        return OpenFile(os.open(path, OPEN_FLAGS))
