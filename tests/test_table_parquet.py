"""Catalogues in Parquet: rows as they stand in the table."""

from pathlib import Path

import pytest
from catalogue_files import COLUMNS, KINDS, TEXT, csv, kinds, rows

from stronglens.engine.errors import InputError
from stronglens.engine.sources.tables import is_catalogue, open_catalogue

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("folder")


def test_parquet():
    columns = {"a": COLUMNS["id"], "path": ["é.npy", "b#2"], **COLUMNS, "spectrum": [[[["x"]]]] * 2}
    pq.write_table(pa.table(columns), "cat.parquet")
    assert is_catalogue("cat.parquet")
    assert kinds("cat.parquet") == {"a": "int", **KINDS}
    expected = zip(TEXT["id"], *TEXT.values(), strict=True)
    assert [row[1:] for row in rows("cat.parquet")] == list(expected)
    assert [row[0] for row in rows("cat.parquet")] == ["é.npy", "b#2"]


def test_parquet_values_of_every_type():
    import datetime
    from decimal import Decimal

    columns = {
        "path": pa.array(["a", "b"]).dictionary_encode(),
        "word": pa.array(["x", None]).dictionary_encode(),
        "small": pa.array([1, None], pa.int8()),
        "large": pa.array([2**64 - 1, None], pa.uint64()),
        "float": pa.array([float("nan"), None]),
        "time": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5, 600), None]),
        "day": pa.array([datetime.date(2026, 1, 2), None]),
        "decimal": pa.array([Decimal("1.50"), None]),
        "null": pa.nulls(2),
        "big": pa.array(["x" * 10, ""], pa.large_string()),
    }
    pq.write_table(pa.table(columns), "cat.parquet")
    first, second = rows("cat.parquet")
    assert first == ("a", "x", "1", "18446744073709551615", "nan", "2026-01-02T03:04:05.000600",
                     "2026-01-02", "1.50", "", "x" * 10)  # fmt: skip
    assert second == ("b", *[""] * 9)
    assert kinds("cat.parquet")["large"] == kinds("cat.parquet")["decimal"] == "text"


def test_parquet_strings_that_are_not_utf8():
    raw = pa.array([b"\xff.npy"])
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    pq.write_table(pa.table({"path": text, "note": text}), "cat.parquet")
    assert rows("cat.parquet") == [("\udcff.npy", "\udcff.npy")]


def test_parquet_with_cutouts_is_no_catalogue():
    pq.write_table(pa.table({"path": ["a"], "cutout": [[1.0] * 4]}), "cat.parquet")
    assert not is_catalogue("cat.parquet")
    pq.write_table(pa.table({"name": ["a"], "ra": [1.0]}), "cat.parquet")
    assert is_catalogue("cat.parquet")
    with pytest.raises(InputError, match="0 columns of paths"):
        open_catalogue("cat.parquet")
    data = Path("cat.parquet").read_bytes()
    csv(data[:-20], "cut.parquet")
    assert not is_catalogue("cut.parquet")
