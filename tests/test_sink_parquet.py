"""What other readers find in a parquet file."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny_rows import COLUMNS, rows, write

from stronglens.engine.batches import Flag
from stronglens.engine.errors import InputError, LensError
from stronglens.engine.sinks import read_output


def test_what_is_not_there_is_null(tmp_path):
    carried = [["1.5", "-7", "a"], ["", "", ""]]
    table = rows(["a", "b\udcff"], None, [0, Flag.MISSING], [0.25, np.nan], carried)
    found = parquet.read_table(write(tmp_path / "preds.parquet", table, COLUMNS))
    first, second = found.to_pylist()
    assert list(first.values()) == [
        *("a", 0.75, 0.25, "lens", "ok", "", 0.25, ""),
        *(1.5, -7, "a"),
    ]
    assert list(second.values()) == [
        *("b\\xff", None, None, None, "rejected", "missing", None, "missing"),
        *(None, None, None),
    ]
    assert list(first)[-3:] == ["RA", "n", "catalogue_label"]
    kinds = ["string", "float", "float", "string", "string", "string", "float", "string"]
    assert [str(kind) for kind in found.schema.types] == [*kinds, "double", "int64", "string"]
    assert b"\\xNN" in found.schema.metadata[b"stronglens"]


def test_row_groups_have_65536_rows_however_the_rows_come(tmp_path, rng):
    count = 3 * 65536 + 10
    first_B = rng.random(count, np.float32)
    prob_BK = np.stack([first_B, 1 - first_B], 1)
    flags_B = rng.choice([0, Flag.NONFINITE, Flag.MISSING], count)
    table = rows([f"cutout_{i}.npy" for i in range(count)], prob_BK, flags_B)
    whole = write(tmp_path / "whole.parquet", table)
    cut = write(tmp_path / "cut.parquet", table, cuts=[1, 70_000, 140_000, 140_001])
    file = parquet.ParquetFile(whole)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [65536, 65536, 65536, 10]
    assert whole.read_bytes() == cut.read_bytes()


def test_columns_of_other_types_are_refused(tmp_path):
    path = write(tmp_path / "preds.parquet", rows(["a"]))
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "p_lens", pa.array([0.75], pa.float64())), path)
    with pytest.raises(InputError, match="its columns are of other types"):
        read_output(path)


@pytest.mark.parametrize("ending", [".parquet", ".fits", ".vot"])
@pytest.mark.parametrize("value", ["x", "1.5", str(1 << 63)])
def test_a_value_that_its_column_cannot_hold_ends_the_run(tmp_path, ending, value):
    table = rows(["a"], carried=[["1", value, ""]])
    with pytest.raises(LensError, match=rf"column n of the catalogue: '{value}' is no int of 64"):
        write(tmp_path / f"preds{ending}", table, COLUMNS)
    assert list(tmp_path.iterdir()) == []
