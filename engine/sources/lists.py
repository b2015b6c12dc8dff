"""Names from a list: `@list.txt`, or standard input."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stronglens.engine.errors import InputError

BLOCK = 1 << 16
"""bytes that are read at once"""
LONGEST = 1 << 16
"""bytes of a name; sixteen times what systems allow a path"""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def names_in(given: str, *, null_separated: bool, stdin: BinaryIO | None) -> Iterator[str]:
    """Yield the names in a list, in order; blank lines are left out.

    Args:
        given: "-" for standard input, or "@" and a file's name.
        null_separated: a NUL ends each name, which may then hold any other byte; else a
            newline does, with or without a carriage return before it.
        stdin: None: the process's own.

    Raises:
        InputError: it cannot be read, or is no list of names.
    """
    where = "standard input" if given == "-" else given[1:]
    try:
        if given == "-":
            yield from _names(stdin or sys.stdin.buffer, where, null_separated)
        else:
            with Path(where).open("rb") as file:
                yield from _names(file, where, null_separated)
    except OSError as err:
        raise InputError(f"{where}: cannot read this list of names: {err.strerror}") from err


def _names(stream: BinaryIO, where: str, null_separated: bool) -> Iterator[str]:
    parts = _parts(stream, where, b"\0" if null_separated else b"\n")
    for number, part in enumerate(parts, 1):
        if null_separated:
            name = part
        elif b"\0" in part:
            raise InputError(f"{where}: line {number} holds a NUL: give -0 if NULs part the names")
        else:
            name = part.removesuffix(b"\r")
            name = name.removeprefix(BYTE_ORDER_MARK) if number == 1 else name
        if name:
            yield os.fsdecode(name)


def _parts(stream: BinaryIO, where: str, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK):
        *whole, rest = (rest + block).split(separator)
        yield from whole
        if len(rest) > LONGEST:
            raise InputError(f"{where}: no list of names: one is longer than {LONGEST} bytes")
    yield rest
