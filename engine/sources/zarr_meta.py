"""Read what a zarr store on disk says of its arrays (format 2 and 3), and where chunks lie.

A chunk that is absent reads as fill values in zarr, which are no pixels. So each is looked up
before it is read: as a file, and within one that holds many (a shard) in the shard's own index.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources.arrays import MAX_ARRAYS, Stored
from stronglens.engine.sources.chunks import CHECKED, HEAD, check_head, most_stored
from stronglens.engine.sources.files import reasons
from stronglens.engine.sources.handles import OpenFile, opened

MAX_JSON = 1 << 24
"""bytes of a file of metadata"""
MAX_DEPTH = 32
"""of groups within groups, and of codecs within codecs"""
CHECKSUMS = ("crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3")
CODECS = (
    *("bytes", "transpose", "sharding_indexed", "vlen-utf8", "vlen-bytes"),
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "zfpy", "pcodec", "packbits"),
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "astype"),
    *CHECKSUMS,
)
"""What may decode a chunk. Any other is refused unseen: `pickle` runs what a file tells it to."""


@dataclass(frozen=True, slots=True)
class Meta:
    """An array's metadata."""

    folder: str
    stored: Stored
    chunk: tuple[int, ...]
    """shape of what is decoded at once"""
    shard: tuple[int, ...] | None
    """shape of what one file holds, where that is many chunks"""
    separator: str
    prefix: str
    """of the chunks' names"""
    index_first: bool
    """whether a shard begins with its index"""

    codec: str
    """the last that a chunk went through, so that its first bytes are its own"""

    def check(self, place: tuple[int, ...]) -> None:
        """Look at the chunk that begins at `place`, in elements, without expanding it.

        Raises:
            CutoutError: MISSING where it is absent, MALFORMED where its size cannot be.
        """
        outer = self.shard or self.chunk
        steps = self.separator.join(str(n // c) for n, c in zip(place, outer, strict=True))
        name = self.prefix + steps
        try:
            self._check(os.path.join(self.folder, name), place)  # noqa: PTH118
        except CutoutError as err:
            raise CutoutError(err.flag, f"chunk {name}: {err}") from err

    def _check(self, path: str, place: tuple[int, ...]) -> None:
        file, _ = opened(path)
        offset, stored = self._inside(file, place) if self.shard else (0, file.size)
        size = math.prod(self.chunk) * self.stored.dtype.itemsize
        if stored > most_stored(size):
            raise CutoutError(Flag.MALFORMED, f"{stored} bytes, {size} when expanded")
        if self.codec in CHECKED:
            check_head(self.codec, file.read(offset, min(stored, HEAD)), stored, size)

    def _inside(self, file: OpenFile, place: tuple[int, ...]) -> tuple[int, int]:
        """Return where in a shard a chunk lies, and its bytes."""
        shard = self.shard or self.chunk
        grid = tuple(s // c for s, c in zip(shard, self.chunk, strict=True))
        length = 16 * math.prod(grid) + 4  # an offset and a size each, and a checksum
        within = [n % s // c for n, s, c in zip(place, shard, self.chunk, strict=True)]
        at = 16 * int(np.ravel_multi_index(within, grid))
        start = 0 if self.index_first else file.size - length
        if start < 0:
            raise CutoutError(Flag.MALFORMED, "a shard smaller than its index")
        entry = file.read(start + at, 16)
        if entry == b"\xff" * 16:
            raise CutoutError(Flag.MISSING, f"nothing was written at {place}")
        return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")


def arrays_in(folder: str) -> dict[str, Meta]:
    """Return the arrays of a store by their paths in it, "" where it is itself one.

    What cannot be understood is left out; links to other folders are not followed.

    Raises:
        CutoutError: MISSING, UNREADABLE, or MALFORMED where it is no store.
    """
    with reasons():
        os.scandir(folder).close()
    found = dict(_below(folder, "", 0))
    if not found and not _is_group(folder):
        raise CutoutError(Flag.MALFORMED, "not a zarr store: neither zarr.json nor .zarray in it")
    return found


def meta_of(folder: str) -> Meta | None:
    """Return the metadata of the array in a folder; None where there is no array.

    Raises:
        CutoutError: MALFORMED; DTYPE where the elements are of no type that numpy has;
            UNREADABLE where a codec is not known, or of a kind that is not read.
    """
    for name, parse in (("zarr.json", _version_3), (".zarray", _version_2)):
        path = os.path.join(folder, name)  # noqa: PTH118
        if os.path.lexists(path):
            fields = _json(path)
            if name == "zarr.json" and fields.get("node_type") != "array":
                return None
            try:
                return parse(folder, fields)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
                raise CutoutError(Flag.MALFORMED, f"{name}: {err!r}") from err
    return None


def key_file(folder: str) -> str:
    """Return the file that changes when an array is written anew."""
    path = os.path.join(folder, "zarr.json")  # noqa: PTH118
    return path if os.path.lexists(path) else os.path.join(folder, ".zarray")  # noqa: PTH118


def _below(folder: str, name: str, depth: int) -> Iterator[tuple[str, Meta]]:
    try:
        if meta := meta_of(folder):
            yield name, meta
            return
    except CutoutError:
        return
    with reasons(), os.scandir(folder) as entries:
        inner = sorted(
            each.name
            for each in entries
            if not each.name.startswith(".") and each.is_dir(follow_symlinks=False)
        )
    for each in inner[:MAX_ARRAYS] if depth < MAX_DEPTH else ():
        path = os.path.join(folder, each)  # noqa: PTH118
        yield from _below(path, f"{name}/{each}" if name else each, depth + 1)


def _is_group(folder: str) -> bool:
    names = ("zarr.json", ".zgroup")
    return any(os.path.lexists(os.path.join(folder, name)) for name in names)  # noqa: PTH118


def _json(path: str) -> dict[str, Any]:
    file, _ = opened(path)
    if file.size > MAX_JSON:
        raise CutoutError(Flag.MALFORMED, f"{file.size} bytes of metadata")
    try:
        found = json.loads(file.read(0, file.size))
    except (ValueError, RecursionError) as err:
        raise CutoutError(Flag.MALFORMED, f"metadata: {err}") from err
    if not isinstance(found, dict):
        raise CutoutError(Flag.MALFORMED, "metadata that are no JSON object")
    return found


def _version_2(folder: str, fields: dict[str, Any]) -> Meta:
    codecs = [fields.get("compressor"), *(fields.get("filters") or [])]
    names = [_known(codec["id"]) for codec in reversed(codecs) if codec is not None]
    separator = fields.get("dimension_separator", ".")
    stored = Stored(_sizes(fields["shape"], 0), _dtype(fields["dtype"]))
    chunk, last = _sizes(fields["chunks"], 1), _last(names)
    return Meta(folder, stored, chunk, None, _of(separator), "", False, last)


def _version_3(folder: str, fields: dict[str, Any]) -> Meta:
    codecs = fields["codecs"]
    names = _names(codecs)
    stored = Stored(_sizes(fields["shape"], 0), _dtype(fields["data_type"]))
    if fields["chunk_grid"]["name"] != "regular" or fields.get("storage_transformers"):
        raise CutoutError(Flag.UNREADABLE, "a chunk grid that is not regular")
    outer = _sizes(fields["chunk_grid"]["configuration"]["chunk_shape"], 1)
    naming = fields["chunk_key_encoding"]
    plain = naming["name"] == "default"
    separator = naming.get("configuration", {}).get("separator", "/" if plain else ".")
    prefix = f"c{separator}" if plain and outer else "c" if plain else ""
    if "sharding_indexed" not in names:
        last = _last(names)
        return Meta(folder, stored, outer, None, _of(separator), prefix, False, last)
    if names[0] != "sharding_indexed" or len(codecs) > 1:
        raise CutoutError(Flag.UNREADABLE, "shards behind another codec")
    inner, first, last = _shards(codecs[0]["configuration"])
    return Meta(folder, stored, inner, outer, _of(separator), prefix, first, last)


def _shards(fields: dict[str, Any]) -> tuple[tuple[int, ...], bool, str]:
    """Return the shape of the chunks in shards, whether the index is in front, and the codec."""
    names = _names(fields["codecs"])
    if "sharding_indexed" in names:
        raise CutoutError(Flag.UNREADABLE, "shards within shards")
    codecs = fields["index_codecs"]
    little = codecs[0].get("configuration", {}).get("endian", "little") == "little"
    if [codec["name"] for codec in codecs] != ["bytes", "crc32c"] or not little:
        raise CutoutError(Flag.UNREADABLE, "shards whose index is not plain")
    first = fields.get("index_location") == "start"
    return _sizes(fields["chunk_shape"], 1), first, _last(names)


def _known(name: object) -> str:
    """Return the plain name of a codec, if it may be used."""
    plain = str(name).removeprefix("numcodecs.")
    if plain not in CODECS:
        raise CutoutError(Flag.UNREADABLE, f"the codec {name!r} is not used here")
    return plain


def _last(names: list[str]) -> str:
    """Return the codec whose bytes are those that are stored; checksums only stand around them.

    Those that have to be checked may not be where they cannot be: behind others or a checksum.
    """
    if set(names[:-1]) & {*CHECKED}:
        raise CutoutError(Flag.UNREADABLE, f"{', '.join(names)}: one compression behind another")
    return names[-1] if names else ""


def _names(codecs: list[dict[str, Any]], depth: int = 0) -> list[str]:
    """Return the names of codecs and of those within them."""
    if depth > MAX_DEPTH:
        raise CutoutError(Flag.MALFORMED, "codecs within codecs within codecs")
    found = []
    for codec in codecs:
        found.append(_known(codec["name"]))
        inner = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):
            found += _names(inner.get(key, []), depth + 1)
    return found


def _sizes(found: object, least: int) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(n) is int and n >= least for n in found):
        raise CutoutError(Flag.MALFORMED, f"shape {found!r}")
    return tuple(found)


def _dtype(found: object) -> np.dtype[Any]:
    """Return numpy's dtype of format 2 (`<f4`) or 3 (`float32`, `string`)."""
    if isinstance(found, dict):  # format 3: strings of fixed length, say
        name, fields = found["name"], found.get("configuration", {})
        units = {"fixed_length_utf32": ("U", 4), "null_terminated_bytes": ("S", 1)}
        if name in units:
            letter, width = units[name]
            return np.dtype(f"{letter}{int(fields['length_bytes']) // width}")
    if found == "string" or (isinstance(found, str) and found.endswith("O")):
        return np.dtype(object)
    if isinstance(found, str):
        return np.dtype(found)
    raise CutoutError(Flag.DTYPE, f"data type {found!r}")


def _of(separator: object) -> str:
    if separator not in ("/", "."):
        raise CutoutError(Flag.MALFORMED, f"separator {separator!r}")
    return str(separator)
