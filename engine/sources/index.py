"""Find members of an archive by name, in sixteen bytes of memory each."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError

INDICES = 2
"""archives of one format whose members can be found by name at once"""


class Index:
    """Where the members of an archive lie, by a hash of their names.

    Args:
        members: names and places. Where a CutoutError ends them, those before it are found.
    """

    def __init__(self, members: Iterable[tuple[str, int]]) -> None:
        hashes, places = array("q"), array("q")
        self._damage: CutoutError | None = None
        try:
            for name, place in members:
                hashes.append(hash(name))
                places.append(place)
        except CutoutError as err:
            self._damage = err
        hash_N = np.frombuffer(hashes, np.int64)
        order_N = np.argsort(hash_N, kind="stable")  # members of one name keep their order
        self._hash_N = hash_N[order_N]
        self._place_N = np.frombuffer(places, np.int64)[order_N]

    def places(self, name: str) -> Iterator[int]:
        """Yield where members of that name lie, or of another one with the same hash."""
        start, stop = (
            np.searchsorted(self._hash_N, hash(name), side) for side in ("left", "right")
        )
        yield from self._place_N[start:stop].tolist()

    def error(self, name: str) -> CutoutError:
        """Return why there is no member of that name: what ended the members, or MISSING."""
        if self._damage:
            return CutoutError(self._damage.flag, str(self._damage))
        return CutoutError(Flag.MISSING, f"no {name} in it")
