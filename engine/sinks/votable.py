"""VOTable 1.4 with its rows as TABLEDATA, written and read as a stream.

Text is Unicode; what XML cannot hold is escaped, see `escape`. What is not there is an empty cell.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal
from xml.sax.saxutils import escape as entities
from xml.sax.saxutils import quoteattr

from stronglens.engine.batches import Column, Rows
from stronglens.engine.sinks.escape import DESCRIPTION, XML, escape, escaping, unescape
from stronglens.engine.sinks.table import Output, Shape, not_ours, parsed, split_names
from stronglens.engine.sinks.text import Cell, Lines, read_rows

SPECIAL = escaping(XML)
SPACE = "http://www.ivoa.net/xml/VOTable/v1.3"  # 1.4 has kept the name
HEAD = f"""<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns="{SPACE}">
<RESOURCE type="results">
<TABLE name="stronglens" nrows="{{}}">
<DESCRIPTION>Scores of cutouts by lens-infer; {DESCRIPTION}</DESCRIPTION>
"""
FOOT = "</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"

TEXT = 'datatype="unicodeChar" arraysize="*"'
TYPES = {"int": 'datatype="long"', "float": 'datatype="double"', "text": TEXT}
KINDS: dict[str, Literal["int", "float", "text"]] = {
    "long": "int",
    "double": "float",
    "unicodeChar": "text",
}
WORDS = {
    "id": f'{TEXT} ucd="meta.id;meta.main"',
    "label": f'{TEXT} ucd="meta.code.class"',
    "nan_frac": 'datatype="float"',
}


class VotableWriter:
    """Writes rows as TR elements."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        self._file = file
        self._lines = Lines(
            shape.classes,
            cell,
            carried=[_carried(column) for column in shape.columns],
            begin="<TR><TD>",
            between="</TD><TD>",
            end="</TD></TR>\n",
        )
        file.write(HEAD.format(shape.count).encode())
        fields = "".join(map(_field, shape.names, _types(shape)))
        file.write(f"{fields}<DATA><TABLEDATA>\n".encode())

    def write(self, rows: Rows) -> None:
        """Write rows."""
        self._file.write(self._lines(rows).encode())

    def finish(self) -> None:
        """Close all elements."""
        self._file.write(FOOT.encode())

    def close(self) -> None:
        """Do nothing."""


def _types(shape: Shape) -> list[str]:
    types = [WORDS.get(name, TEXT) for name in shape.names]
    end = 1 + len(shape.classes)
    types[1:end] = ['datatype="float" ucd="stat.probability"'] * len(shape.classes)
    if shape.columns:
        types[-len(shape.columns) :] = [TYPES[column.kind] for column in shape.columns]
    return types


def _field(name: str, kind: str) -> str:
    return f"<FIELD name={quoteattr(escape(name, SPECIAL))} {kind}/>\n"


def cell(text: str) -> str:
    """Return text as a TD element holds it."""
    return entities(escape(text, SPECIAL))


def _carried(column: Column) -> Cell:
    if column.kind == "text":
        return cell
    kind = int if column.kind == "int" else float
    # whatever the catalogue's spelling, the one that every reader knows
    return lambda text: "" if (v := parsed(text, kind, column.name)) is None else _spelt(v)


def _spelt(number: int | float) -> str:
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(number), text)


def open_writer(file: BinaryIO, shape: Shape) -> VotableWriter:
    """Begin a VOTable."""
    return VotableWriter(file, shape)


def read(path: Path) -> Output:
    """Open a VOTable that was written here; its rows are read as they are asked for."""
    fields = list(_fields(path))
    classes, carried = split_names([unescape(field.get("name", "")) for field in fields], path)
    kinds = [KINDS.get(field.get("datatype", ""), "text") for field in fields]
    kinds = kinds[len(kinds) - len(carried) :]
    columns = [Column(name, kind) for name, kind in zip(carried, kinds, strict=True)]
    return Output(classes, columns, lambda: _chunks(path, classes, len(fields)))


def _fields(path: Path) -> Iterator[ET.Element]:
    for event, element in _elements(path):
        if element.tag == f"{{{SPACE}}}FIELD" and event == "end":
            yield element
        if element.tag == f"{{{SPACE}}}TABLEDATA":
            return


def _elements(path: Path) -> Iterator[tuple[str, ET.Element]]:
    with path.open("rb") as file:
        try:
            yield from ET.iterparse(file, ("start", "end"))
        except (ET.ParseError, LookupError, ValueError) as err:  # the latter: an encoding unknown
            raise not_ours(path, err) from err


def _chunks(path: Path, classes: list[str], width: int) -> Iterator[Rows]:
    return read_rows(_lines(path), classes, width, path)


def _lines(path: Path) -> Iterator[list[str]]:
    table = None
    for event, element in _elements(path):
        if element.tag == f"{{{SPACE}}}TABLEDATA":
            table = element
        elif element.tag == f"{{{SPACE}}}TR" and event == "end" and table is not None:
            yield [unescape(each.text or "") for each in element]
            table.clear()  # else the whole file stays in memory
