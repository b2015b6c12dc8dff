"""The reader of .npy: whatever the bytes, an array that numpy reads alike, or a CutoutError."""

import io
import math
import warnings

import numpy as np

from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.npy import MAGIC, header_bytes, parse, parse_header


def read(data):
    """Read the bytes as a file; and as the text of a header, with the pixels it announces."""
    data = bytes(data)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_both(data)
    assert not said, said[0]


def read_both(data):
    read_file(data)
    text = data[:10_000]
    header = MAGIC + bytes([1 + len(data) % 3, 0])
    header += len(text).to_bytes(2 if header[6] == 1 else 4, "little") + text
    if (found := read_header(header)) is not None:
        pixels = math.prod(found.shape) * found.dtype.itemsize
        read_file(header + bytes(range(256)) * (min(pixels, 4096) // 256) + bytes(pixels % 256))


def read_header(data):
    try:
        found = parse_header(header_bytes(data))
    except CutoutError as err:
        assert err.flag.name in ("MALFORMED", "DTYPE")
        return None
    assert 10 <= found.offset <= 12 + 10_000
    assert found.dtype.kind in "biuf"
    return found


def read_file(data):
    """Compare with numpy what is read."""
    read_header(data)
    try:
        array = parse(data, len(data))
    except CutoutError as err:
        assert err.flag.name in ("MALFORMED", "DTYPE", "SHAPE")
        return
    assert array.ndim in (2, 3) and 0 < array.nbytes < len(data)
    try:
        with warnings.catch_warnings(action="ignore"):
            expected = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, TypeError, UnicodeError, SyntaxError):
        return  # it is stricter about the header's spaces, say
    assert expected.dtype == array.dtype and expected.shape == array.shape
    assert expected.tobytes() == array.tobytes()
