"""Rows of a file made wider or narrower where they lie."""

from typing import Any, BinaryIO

import numpy as np

STEP = 1 << 13
"""rows that are moved at once"""


def restripe(
    file: BinaryIO, begin: int, count: int, old: np.dtype[Any], new: np.dtype[Any]
) -> None:
    """Give each of `count` rows that start at byte `begin` another width; end behind the last.

    Args:
        file: open to read and write, of nothing but these rows from `begin` on.
        begin: bytes before the rows.
        count: rows.
        old: what a row is now.
        new: what it shall be: fields of the same names, all wider or all narrower, or the same.
    """
    starts = range(0, count, STEP)
    # wider rows from the last, narrower ones from the first: none is overwritten before its turn
    for start in reversed(starts) if new.itemsize > old.itemsize else starts:
        file.seek(begin + start * old.itemsize)
        data = file.read(min(STEP, count - start) * old.itemsize)
        table_B = np.frombuffer(data, old)
        moved_B = np.zeros(len(table_B), new)
        for name in new.names or ():
            moved_B[name] = table_B[name]
        file.seek(begin + start * new.itemsize)
        file.write(moved_B.tobytes())
    file.seek(begin + count * new.itemsize)
    file.truncate()
