"""Open files and decoded blocks, kept for the next cutout within a bound.

The cutouts of one file are read one after another, and by several threads. What was opened or
decoded for one of them is there for the next; what has not been used longest goes first.
"""

import os
import stat
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.files import reasons

OPEN_FILES = 16
"""of one format are kept open at once"""
BLOCK_BYTES = 1 << 26
"""of decoded blocks of one format are kept at once, or one block where that is larger"""
LARGEST_BLOCK = 1 << 30
"""bytes; a file whose blocks are larger has to be written anew with smaller ones"""

Identity = tuple[str, int, int, int, int]
Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A few values by key; each is made when it is first asked for.

    Args:
        most: bound on the sum of what `weigh` says of the values; one value may exceed it.
        weigh: says how much of the bound a value takes.
        drop: takes leave of a value that goes.
    """

    def __init__(
        self,
        most: int,
        *,
        weigh: Callable[[Value], int] = lambda value: 1,
        drop: Callable[[Value], object] = lambda value: None,
    ) -> None:
        self.lock = threading.RLock()
        """held while a value is made; hold it too while using one that `drop` would spoil"""
        self._most, self._weigh, self._drop = most, weigh, drop
        self._values: dict[Hashable, Value] = {}  # the longest unused first
        self._weight = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made by `make` where it is not kept."""
        with self.lock:
            if key in self._values:
                value = self._values.pop(key)
            else:
                value = make()
                self._weight += self._weigh(value)
            self._values[key] = value
            self._make_room()
            return value

    def _make_room(self) -> None:
        while self._weight > self._most and len(self._values) > 1:
            value = self._values.pop(next(iter(self._values)))
            self._weight -= self._weigh(value)
            self._drop(value)


def identity(path: str) -> Identity:
    """Return what tells a regular file from another of that name, or from itself once written anew.

    Raises:
        CutoutError: MISSING or UNREADABLE.
    """
    with reasons():
        status = os.stat(path)  # noqa: PTH116 - Path would alter the name
    if not stat.S_ISREG(status.st_mode):
        raise CutoutError(Flag.UNREADABLE, "not a regular file")
    return (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
