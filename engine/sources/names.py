"""Lists of names as long as may be, in little memory: what does not fit lies in a temporary file.

The files have no name and vanish with the process. They lie where Python's `tempfile` puts
them: in the folder that TMPDIR names, else in /tmp.
"""

import hashlib
import heapq
import re
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice, pairwise
from threading import Lock
from typing import BinaryIO, cast

from stronglens.engine.errors import InputError

CHUNK = 1 << 16
"""names that are sorted at once, in some 12 MB; a longer list takes two passes over the disk"""
IN_MEMORY = 1 << 20
"""bytes of a list that are kept in memory"""
BLOCK = 1 << 16
"""bytes that are read at once"""
PART = 1 << 12
"""names that are written at once"""

END = "\0/"
"""ends each string in a file: names hold no NUL, and a NUL of ours is followed by no slash"""

_READING = Lock()
"""held between a move to a place in a file and the read there, which any thread may do"""

DIGITS = re.compile("[0-9]+")


def natural(name: str) -> str:
    """Return a string that sorts as people number names: 2 before 10, 02 beside 2.

    Each run of digits loses its zeros and is led by its length, so that strings compare as the
    numbers do, and by a NUL, so that a number comes before any letter. Then follows the name
    itself, which tells 02 from 2; see `named`.
    """
    return f"{DIGITS.sub(_by_length, name)}\0\0{name}"


def _by_length(run: re.Match[str]) -> str:
    digits = run[0].lstrip("0")
    return f"\0{chr(ord('0') + len(digits))}{digits}"


def named(key: str) -> str:
    """Return the name that `natural` made a key of."""
    return key.rpartition("\0\0")[2]


def in_order(strings: Iterable[str]) -> Iterator[str]:
    """Yield strings sorted; no more than CHUNK of them are held at once, and a little of each run.

    Args:
        strings: without END in any; all are taken before the first is yielded.

    Raises:
        InputError: there is no room for the temporary file.
    """
    strings = iter(strings)
    chunk = sorted(islice(strings, CHUNK))
    if len(chunk) < CHUNK:
        yield from chunk
        return
    file = _temporary()
    try:
        ends = [0]
        while chunk:
            ends.append(_append(file, chunk))
            chunk = sorted(islice(strings, CHUNK))
        runs = [_read(file, start, end) for start, end in pairwise(ends)]
        yield from heapq.merge(*runs)
    finally:
        _discard(file)


class Names:
    """A list of strings that is written once and read as often as wanted, from anywhere in it.

    Raises:
        InputError: there is no room for the temporary file.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._file = _temporary(IN_MEMORY)
        weakref.finalize(self, _discard, self._file)
        self._part, self._count = PART, 0
        self._ends = array("Q", [0])
        hashed = hashlib.sha256()
        names = iter(names)
        while part := list(islice(names, self._part)):
            self._ends.append(_append(self._file, part, hashed.update))
            self._count += len(part)
        self.digest = hashed.hexdigest()
        """sha256 of all strings, in order"""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return self.between(0)

    def between(self, start: int, stop: int | None = None) -> Iterator[str]:
        """Yield the strings from number `start` on, and before `stop`."""
        stop = self._count if stop is None else min(stop, self._count)
        if start < stop:  # a method that yields, so that the object keeps the file open
            whole, skip = divmod(start, self._part)
            found = _read(self._file, self._ends[whole], self._ends[-1])
            yield from islice(found, skip, skip + stop - start)


def _temporary(in_memory: int = 0) -> BinaryIO:
    try:
        if in_memory:
            return cast(BinaryIO, tempfile.SpooledTemporaryFile(in_memory))
        return cast(BinaryIO, tempfile.TemporaryFile())
    except OSError as err:
        raise _no_room(err) from err


def _discard(file: BinaryIO) -> None:
    with suppress(OSError):  # a full disk has been reported already
        file.close()


def _append(
    file: BinaryIO, strings: list[str], note: Callable[[bytes], None] = lambda data: None
) -> int:
    """Write strings at the end of a file, noting the bytes; return where it ends now, in bytes."""
    # surrogatepass: any string comes back as it was, whatever the names' encoding
    data = END.join([*strings, ""]).encode("utf-8", "surrogatepass")
    note(data)
    try:
        file.seek(0, 2)
        file.write(data)
        file.flush()
    except OSError as err:
        raise _no_room(err) from err
    return file.tell()


def _no_room(err: OSError) -> InputError:
    return InputError(
        f"no room for the list of names in a temporary file: {err.strerror}; "
        "name a folder that has room with TMPDIR"
    )


def _read(file: BinaryIO, start: int, end: int) -> Iterator[str]:
    """Yield the strings between two bytes of a file; others may read it meanwhile."""
    mark, rest = END.encode(), b""
    while start < end:
        with _READING:
            file.seek(start)
            data = file.read(min(BLOCK, end - start))
        start += len(data)
        whole, found, rest = (rest + data).rpartition(mark)
        if found:
            yield from whole.decode("utf-8", "surrogatepass").split(END)
