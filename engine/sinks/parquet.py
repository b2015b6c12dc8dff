"""Parquet by pyarrow: float32 probabilities, text as strings, null for what is not there.

Bytes of a name that are not UTF-8 are escaped, see `escape`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from stronglens.engine.batches import Column, Rows, flag_words, reason, status
from stronglens.engine.sinks.escape import DESCRIPTION, PARQUET, escape, escaping, unescape
from stronglens.engine.sinks.table import (
    CHUNK,
    TAIL,
    Output,
    Shape,
    best_class,
    bits,
    check_rows,
    not_ours,
    parsed,
    split_names,
)

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 1 << 16
"""rows of a row group; the last has fewer"""
SPECIAL = escaping(PARQUET)


class ParquetWriter:
    """Writes rows in groups of GROUP, however they come."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        from pyarrow import parquet

        self._shape, self._schema = shape, _schema(shape)
        self._classes = _strings(shape.classes)
        self._pending: list[pa.RecordBatch] = []
        self._count = 0
        self._writer = parquet.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=["label", "status", "reason", "flags"],
        )

    def write(self, rows: Rows) -> None:
        """Write rows."""
        import pyarrow as pa

        self._pending.append(pa.record_batch(self._arrays(rows), schema=self._schema))
        self._count += len(rows.ids)
        while self._count >= GROUP:
            self._write_group(GROUP)

    def _write_group(self, count: int) -> None:
        import pyarrow as pa

        table = pa.Table.from_batches(self._pending)
        self._writer.write_table(table[:count].combine_chunks(), row_group_size=GROUP)
        self._pending = table[count:].to_batches()
        self._count -= count

    def _arrays(self, rows: Rows) -> list["pa.Array"]:
        import pyarrow as pa

        best_B = best_class(rows)
        rejected_B = best_B < 0
        shares_B = rows.nan_frac_B
        return [
            _strings(rows.ids),
            *(pa.array(prob_B, mask=rejected_B) for prob_B in rows.prob_BK.T),
            self._classes.take(pa.array(best_B, mask=rejected_B)),
            *(_spelled(rows, word) for word in (status, reason)),
            pa.array(shares_B, mask=np.isnan(shares_B)),
            _spelled(rows, flag_words),
            *(
                _carried(column, [row[i] for row in rows.carried])
                for i, column in enumerate(self._shape.columns)
            ),
        ]

    def finish(self) -> None:
        """Write the last group and what readers begin with."""
        if self._count:
            self._write_group(self._count)
        self._writer.close()

    def close(self) -> None:
        """Let go of the file, whatever it holds."""
        self._writer.is_open = False  # else it writes once more when it is collected


def _schema(shape: Shape) -> "pa.Schema":
    import pyarrow as pa

    end = 1 + len(shape.classes)
    kinds = {"int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    types = [pa.string()] * (end + len(TAIL)) + [kinds[column.kind] for column in shape.columns]
    types[1:end] = [pa.float32()] * len(shape.classes)
    types[end + 3] = pa.float32()
    always = {"id", "status", "reason", "flags"}
    fields = [
        pa.field(escape(name, SPECIAL), kind, nullable=name not in always)
        for name, kind in zip(shape.names, types, strict=True)
    ]
    return pa.schema(fields, {"stronglens": DESCRIPTION})


def _strings(texts: Sequence[str]) -> "pa.Array":
    import pyarrow as pa

    return pa.array([escape(text, SPECIAL) for text in texts], pa.string())


def _spelled(rows: Rows, word: Callable[[int], str]) -> "pa.Array":
    import pyarrow as pa

    found, index_B = np.unique(rows.flags_B, return_inverse=True)
    return pa.array([word(int(flags)) for flags in found], pa.string()).take(pa.array(index_B))


def _carried(column: Column, texts: list[str]) -> "pa.Array":
    import pyarrow as pa

    if column.kind == "text":
        return pa.array([escape(text, SPECIAL) or None for text in texts], pa.string())
    kind = int if column.kind == "int" else float
    numbers = [parsed(text, kind, column.name) for text in texts]
    return pa.array(numbers, pa.int64() if kind is int else pa.float64())


def open_writer(file: BinaryIO, shape: Shape) -> ParquetWriter:
    """Begin a parquet file."""
    return ParquetWriter(file, shape)


def read(path: Path) -> Output:
    """Open a parquet file that was written here; its rows are read as they are asked for."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return _output(path, file.schema_arrow)
    except (pa.ArrowException, ValueError) as err:
        raise not_ours(path, err) from err


def _output(path: Path, schema: "pa.Schema") -> Output:
    classes, carried = split_names([unescape(name) for name in schema.names], path)
    kinds = schema.types[len(schema) - len(carried) :]
    columns = [Column(name, _kind(kind)) for name, kind in zip(carried, kinds, strict=True)]
    if schema.types != _schema(Shape(classes, columns, 0)).types:
        raise ValueError("its columns are of other types")
    return Output(classes, columns, lambda: _chunks(path, classes))


def _kind(kind: "pa.DataType") -> Any:
    return {"int64": "int", "double": "float"}.get(str(kind), "text")


def _chunks(path: Path, classes: list[str]) -> Iterator[Rows]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                yield _rows(batch, classes)
    except (pa.ArrowException, OSError, ValueError) as err:
        raise not_ours(path, err) from err


def _rows(batch: "pa.RecordBatch", classes: list[str]) -> Rows:
    end = 1 + len(classes)
    texts = [_texts(batch.column(i)) for i in (0, end, end + 1, end + 2, end + 4)]
    prob_KB = [batch.column(i).to_numpy(zero_copy_only=False) for i in range(1, end)]
    carried = [_texts(column) for column in batch.columns[end + len(TAIL) :]]
    rows = Rows(
        texts[0],
        np.column_stack(prob_KB),
        np.array([bits(words) for words in texts[4]], np.uint16),
        batch.column(end + 3).to_numpy(zero_copy_only=False),
        [list(row) for row in zip(*carried, strict=True)],
    )
    check_rows(rows, classes, texts[1:4])
    return rows


def _texts(array: "pa.Array") -> list[str]:
    return ["" if v is None else unescape(str(v)) for v in array.to_pylist()]
