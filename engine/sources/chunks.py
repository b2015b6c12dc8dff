"""Check a compressed chunk by its first bytes before a library expands it.

numcodecs believes what these say: of a truncated blosc chunk it returns the memory behind it as
pixels, and it takes as much memory as a zstd or lz4 chunk claims to need.
"""

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError

HEAD = 18
"""bytes that are looked at"""
CHECKED = ("blosc", "zstd", "lz4")

ZSTD = b"\x28\xb5\x2f\xfd"
ZSTD_SIZES = (0, 2, 4, 8)
ZSTD_IDS = (0, 1, 2, 4)
"""bytes of the content's size and of the dictionary's id, by their bits in the descriptor"""


def most_stored(size: int) -> int:
    """Return how many bytes a chunk may have when stored, of `size` when expanded."""
    return size + size // 8 + (1 << 12)


def check_head(codec: str, head: bytes, stored: int, size: int) -> None:
    """Raise CutoutError, MALFORMED, where a chunk contradicts its size or claims too much.

    Args:
        codec: the compression it was stored with.
        head: its first HEAD bytes; fewer where it is shorter.
        stored: its bytes as they are.
        size: its bytes when expanded.
    """
    claimed = size
    if codec == "blosc":
        claimed, own = _integer(head[4:8]), _integer(head[12:16])
        if len(head) < 16 or own != stored:
            raise CutoutError(Flag.MALFORMED, f"blosc: {stored} bytes where it says {own}")
    elif codec == "lz4":
        claimed = _integer(head[:4])
    elif codec == "zstd":
        claimed = _zstd(head)
    if claimed > most_stored(size):
        raise CutoutError(Flag.MALFORMED, f"{codec}: claims {claimed} bytes, expected {size}")


def _zstd(head: bytes) -> int:
    """Return the content's size that a frame claims; 0 where it claims none (RFC 8878, 3.1.1.1)."""
    if len(head) < 6 or not head.startswith(ZSTD):
        raise CutoutError(Flag.MALFORMED, "zstd: not a frame")
    descriptor = head[4]
    single = bool(descriptor & 0x20)
    width = ZSTD_SIZES[descriptor >> 6] or int(single)
    start = 5 + (not single) + ZSTD_IDS[descriptor & 3]
    return _integer(head[start : start + width]) + (256 if width == 2 else 0)


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")
