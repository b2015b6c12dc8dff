"""Files that appear complete or not at all."""

import errno
import io
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from stronglens.engine.errors import LensError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BUFFER = 1 << 20
"""bytes that are written at once"""
SUFFIX = ".partial"

ROOM = "make room there, or choose another place"
PLACE = "choose a folder that you may write in"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: PLACE,
    errno.EACCES: PLACE,
    errno.EPERM: PLACE,
}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, open to write and read, that becomes `path` if the block ends well.

    It is a hidden file in the same folder, flushed to disk and renamed at the end: a reader
    sees the older file or the whole new one. Where the block raises, it is removed, and what
    was there before is untouched. What a link points to is replaced, not the link. Of two
    writers of one path the later to end wins, whole.

    Raises:
        LensError: the file cannot be made, or the system would not write it; any write to the
            file raises it too. The message names `path` and says what to do.
    """
    target = path.resolve()
    temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{SUFFIX}")
    try:
        raw = _Raw(target, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as err:
        raise LensError(f"cannot write in {target.parent}: {_explained(err)}") from err
    file = io.BufferedRandom(raw, BUFFER)
    try:
        yield cast(BinaryIO, file)
        _keep(file, temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError, LensError):  # what could not be written has been reported
            file.close()
        raw.close()


def _keep(file: io.BufferedRandom, temporary: Path, target: Path) -> None:
    file.flush()
    try:
        os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as err:
        raise failed(target, err) from err
    with suppress(OSError):  # some network file systems cannot; the file is whole all the same
        _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    """See to it that a rename too outlives a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Raw(io.FileIO):
    """A file whose failed writes say what was being written.

    The error is turned here and not around the block, whose other errors are its own.
    """

    def __init__(self, target: Path, fd: int) -> None:
        super().__init__(fd, "r+")
        self._target = target

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as err:
            raise failed(self._target, err) from err


def failed(target: Path, err: OSError) -> LensError:
    """Return the error for a file that the system would not write."""
    return LensError(
        f"cannot write {target}: {_explained(err)}; nothing was left there, and an older file "
        "is as it was"
    )


def _explained(err: OSError) -> str:
    remedy = REMEDIES.get(err.errno or 0, "")
    return f"{err.strerror or err}: {remedy}" if remedy else f"{err.strerror or err}"


def _prefix(target: Path) -> str:
    # a name has at most 255 bytes, and a character at most four of them
    number = zlib.crc32(os.fsencode(target.name))
    return f".{target.name[:50]}.{number:08x}."


def remove_leftovers(path: Path) -> None:
    """Remove the hidden files of runs that were killed while they wrote `path`.

    Only for whoever knows that nobody else writes `path` now, by holding a lock.
    """
    target = path.resolve()
    for name in os.listdir(target.parent):  # noqa: PTH208 - names only: the folder may be large
        if name.startswith(_prefix(target)) and name.endswith(SUFFIX):
            with suppress(OSError):  # not worth an end: it is hidden, and the next run tries again
                (target.parent / name).unlink()
