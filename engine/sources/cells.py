"""What a cell of a parquet column holds: pixels, the bytes of a picture, or an id.

Types and arrays are pyarrow's, which has no types for mypy.
"""

import json
import math
from typing import Any, Literal

from numpy.typing import NDArray

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import fits, images, npy
from stronglens.engine.sources.arrays import one_band
from stronglens.engine.sources.files import MAX_BYTES

SHAPE_KEY = b"shape"
"""of a field's metadata: a JSON list with the shape of each cell"""


def holds_cutouts(kind: Any) -> bool:
    """Return whether a column of this type can hold cutouts."""
    kind = storage(kind)
    if _is_picture(kind):
        return True
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth > 0 and _is_number(kind)


def holds_ids(kind: Any) -> bool:
    """Return whether a column of this type can hold ids: strings or integers."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_integer(kind) or _is_string(kind))


def kind_of(kind: Any) -> Literal["int", "float", "text"] | None:
    """Return what values of a type are as text; None where a cell holds several.

    Integers that int64 does not hold are text.
    """
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_uint64(kind) or _is_string(kind) or types.is_boolean(kind):
        return "text"
    if types.is_integer(kind):
        return "int"
    if types.is_floating(kind):
        return "float"
    return None if types.is_nested(kind) else "text"


def storage(kind: Any) -> Any:
    """Return the type that an extension type is stored as, or the type itself."""
    import pyarrow

    return kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind


def shape_of(field: Any) -> tuple[int, ...] | None:
    """Return the shape that a column says its cells have; None where it says nothing.

    It is a tensor's own, or a JSON list in the field's metadata under `shape`.

    Raises:
        CutoutError: MALFORMED, where the metadata are no such list.
    """
    shape = getattr(field.type, "shape", None)
    if shape is None and (text := (field.metadata or {}).get(SHAPE_KEY)):
        try:
            shape = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise CutoutError(Flag.MALFORMED, f"metadata shape: {err}") from err
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise CutoutError(Flag.MALFORMED, f"metadata shape: {text[:40]!r}")
    return None if shape is None else tuple(shape)


def pixels_of(cells: Any, i: int, shape: tuple[int, ...] | None, band: str) -> NDArray[Any]:
    """Return the pixels in one cell of a column.

    Args:
        cells: an array of cells.
        i: which of them.
        shape: what `shape_of` says; a flat list without one is a square.
        band: which band or extension to take, "" where there is one.

    Raises:
        CutoutError: MISSING where it is null, MALFORMED, DTYPE or SHAPE.
    """
    import pyarrow

    cell = cells.slice(i, 1)
    if isinstance(cell.type, pyarrow.BaseExtensionType):
        cell = cell.storage
    if pyarrow.types.is_struct(cell.type) and not cell.null_count:
        cell = cell.flatten()[cell.type.get_field_index("bytes")]
    if cell.null_count:
        raise CutoutError(Flag.MISSING, "its cell is null")
    if _is_list(cell.type):
        return one_band(_dense(cell, shape), band)
    if _is_picture(cell.type):
        return _picture(cell[0].as_py(), band)
    raise CutoutError(Flag.DTYPE, f"cells of type {cell.type}, expected lists of numbers or bytes")


def texts(values: Any) -> list[str]:
    """Return a column of scalars as text: "" for null, surrogate escapes for what is not UTF-8.

    Numbers are written with as few digits as tell them apart, times as ISO 8601.
    """
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if types.is_string(values.type) or types.is_large_string(values.type):
        large = types.is_large_string(values.type)  # bytes, since they may not be UTF-8
        values = values.view(pyarrow.large_binary() if large else pyarrow.binary())
    elif types.is_floating(values.type):
        found = values.to_numpy(zero_copy_only=False).astype(str).tolist()
        return ["" if gone else each for each, gone in zip(found, _nulls(values), strict=True)]
    return [_text(each) for each in values.to_pylist()]


def _nulls(values: Any) -> list[bool]:
    found: list[bool] = values.is_null().to_pylist()
    return found


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, bool):
        return "true" if value else "false"
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat() if isoformat else value)


def _dense(cell: Any, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Return the numbers in an array of one list, which may be one of lists, as an array."""
    values, axes = cell.flatten(), []
    while _is_list(values.type):
        count, inner = len(values), values.flatten()
        if values.null_count or len(set(values.value_lengths().to_pylist())) != 1:
            raise CutoutError(Flag.SHAPE, "rows of different lengths")
        axes.append(count)
        values = inner
    if not _is_number(values.type):
        raise CutoutError(Flag.DTYPE, f"lists of {values.type}, expected integers or floats")
    if len(values) * 8 > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{len(values)} pixels")
    if values.null_count and not str(values.type).startswith(("float", "double", "halffloat")):
        values = values.cast("float64")
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat.reshape(_full_shape(flat.size, axes, shape))


def _full_shape(size: int, axes: list[int], shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if size == 0:
        raise CutoutError(Flag.SHAPE, "an empty list")
    if axes:
        return (*axes, size // math.prod(axes))
    if shape is None:
        side = math.isqrt(size)
        shape = (side, side)
    if math.prod(shape) != size:
        raise CutoutError(
            Flag.SHAPE,
            f"{size} pixels in shape {shape}; where they are no square, the field's metadata say "
            'so: {"shape": "[H, W]"}',
        )
    return shape


def _picture(data: bytes, band: str) -> NDArray[Any]:
    """Return the pixels in the bytes of a file; its first bytes tell its format."""
    if len(data) > MAX_BYTES:
        raise CutoutError(Flag.SHAPE, f"{len(data)} bytes")
    if data.startswith(npy.MAGIC):
        return one_band(npy.parse(data, len(data)), band)
    if data.startswith((b"SIMPLE", b"\x1f\x8b")):
        return fits.decode(data, band)
    if data.startswith((b"\x89PNG", b"\xff\xd8")):
        return images.decode(data, band)
    raise CutoutError(Flag.MALFORMED, "bytes of no .npy, FITS, PNG or JPEG file")


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_picture(kind: Any) -> bool:
    """Return whether cells hold bytes, by themselves or as the field `bytes` of a struct."""
    from pyarrow import types

    if types.is_struct(kind) and (i := kind.get_field_index("bytes")) >= 0:
        kind = kind.field(i).type
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
