"""What holds of outputs in every format, and what a CSV holds."""

import csv
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_rows import (
    AWKWARD,
    CLASSES,
    COLUMNS,
    ENDINGS,
    assert_same,
    joined,
    mixed,
    pieces,
    rows,
    tables,
    write,
)

from stronglens.engine.batches import Column
from stronglens.engine.errors import ConfigError, LensError
from stronglens.engine.sinks import (
    Shape,
    check_output,
    open_rejected,
    open_sink,
    read_output,
    rejected_path,
    top_path,
    write_top,
)


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def read_rows(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def number(text, kind=float):
    return text and kind(text)


def test_the_columns_and_the_rows_of_a_csv(tmp_path):
    assert write(tmp_path / "preds.csv", mixed()).read_text() == (
        "id,p_lens,p_nonlens,label,status,reason,nan_frac,flags\n"
        "a.npy,0.75,0.25,lens,ok,,0,\n"
        "b.npy,,,,rejected,missing,,missing\n"
        "c.npy,0.100000001,0.899999976,nonlens,ok,,0.125,nonfinite\n"
        "d.npy,,,,rejected,constant,0.5,nonfinite|constant\n"
        "e.npy,0.5,0.5,lens,flagged,,0,saturated\n"
    )
    assert names_in(tmp_path) == ["preds.csv"]


def test_catalogue_columns_come_last_and_never_twice(tmp_path):
    columns = [Column(name, "text") for name in ("RA", "ID", "p_lens", "catalogue_ID", "")]
    carried = [["1.50", "7", "a,b", "", "x"]]
    path = write(tmp_path / "preds.csv", rows(["a"], carried=carried), columns)
    head, row = read_rows(path)
    names = ["catalogue_ID", "catalogue_p_lens", "catalogue_catalogue_ID", "catalogue_"]
    assert head[8:] == ["RA", *names]
    assert row[8:] == carried[0]
    output = read_output(path)
    again = write(tmp_path / "again.csv", joined(output), output.columns)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
@given(table=tables())
def test_rows_come_back_as_they_were(tmp_path_factory, ending, table):
    path = tmp_path_factory.mktemp("sink") / f"preds{ending}"
    output = read_output(write(path, table, COLUMNS))
    assert output.classes == CLASSES
    assert [c.name for c in output.columns] == ["RA", "n", "catalogue_label"]
    if ending != ".csv":
        assert [c.kind for c in output.columns] == [c.kind for c in COLUMNS]
    for _ in range(2):  # as often as wanted
        found = joined(output)
        assert_same(found, table, digits=ending in (".csv", ".vot"))
        for row, expected in zip(found.carried, table.carried, strict=True):
            if ending != ".fits" or expected[0] != "nan":  # there NaN says that there is none
                assert repr(number(row[0])) == repr(number(expected[0]))
            assert number(row[1], int) == number(expected[1], int)
            assert row[2] == expected[2]


@pytest.mark.parametrize("ending", ENDINGS)
@given(table=tables())
def test_what_was_read_is_written_as_the_same_bytes(tmp_path_factory, ending, table):
    """So shards that are merged are what one run would have written."""
    folder = tmp_path_factory.mktemp("sink")
    first = write(folder / f"first{ending}", table, COLUMNS)
    output = read_output(first)
    again = write(folder / f"again{ending}", joined(output), output.columns)
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_awkward_names_are_not_altered(tmp_path, ending):
    path = write(tmp_path / f"preds{ending}", rows(AWKWARD))
    assert joined(read_output(path)).ids == AWKWARD


@pytest.mark.parametrize("ending", ENDINGS)
def test_awkward_classes_and_columns_are_not_altered(tmp_path, ending):
    path, count = tmp_path / f"preds{ending}", len(AWKWARD)
    names = [name for name in AWKWARD if name != "\\xFF"]  # there is an \xff
    columns = [Column(name, "text") for name in names]
    table = rows([str(i) for i in range(count)], carried=[names] * count)
    table.prob_BK = np.eye(count, dtype=np.float32)  # each class is the label of a row
    with open_sink(path, Shape(AWKWARD, columns, count)) as sink:
        sink.write(table)
    output = read_output(path)
    assert output.classes == AWKWARD
    assert [column.name for column in output.columns] == names
    found = joined(output)
    assert found.carried == table.carried
    assert_same(found, table)


@pytest.mark.parametrize("ending", ENDINGS)
@given(table=tables(), data=st.data())
def test_the_bytes_do_not_tell_how_the_rows_came(tmp_path_factory, ending, table, data):
    folder = tmp_path_factory.mktemp("sink")
    cuts = data.draw(st.lists(st.integers(0, len(table.ids)), max_size=4))
    longest = data.draw(st.dictionaries(st.sampled_from(["id", "label"]), st.integers(0, 50)))
    whole = write(folder / f"whole{ending}", table, COLUMNS)
    cut = write(folder / f"cut{ending}", table, COLUMNS, longest, cuts)
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_output_of_no_rows_can_be_read(tmp_path, ending):
    output = read_output(write(tmp_path / f"preds{ending}", rows([]), COLUMNS))
    assert output.classes == CLASSES
    assert list(output) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_than_the_rows_announced_are_no_output(tmp_path, ending):
    path = tmp_path / f"preds{ending}"
    with pytest.raises(LensError, match="1 rows of 2"), open_sink(path, Shape(CLASSES, [], 2)) as s:
        s.write(rows(["a"]))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("ending", [".csv", ".fits", ".vot"])
def test_memory_does_not_grow_with_the_rows(tmp_path, ending):
    """Parquet holds a row group, outside of what Python can trace."""

    def peak(count, length=8192):
        piece = rows([f"folder/{i}.npy" for i in range(length)])
        tracemalloc.start()
        with open_sink(tmp_path / f"preds{ending}", Shape(CLASSES, [], count * length)) as sink:
            for _ in range(count):
                sink.write(piece)
        assert sum(len(r.ids) for r in read_output(tmp_path / f"preds{ending}")) == count * length
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1, 1)  # what the first use imports
    assert peak(4) < 1.2 * peak(2)


def test_the_rejected_rows_have_a_file_of_their_own(tmp_path):
    out = tmp_path / "preds.fits"
    assert rejected_path(out).name == "preds.rejected.csv"
    with open_rejected(out) as rejected:
        for piece in pieces(mixed(), [2, 3]):
            rejected.write(piece)
    assert (tmp_path / "preds.rejected.csv").read_text() == (
        "id,reason,nan_frac,flags\nb.npy,missing,,missing\nd.npy,constant,0.5,nonfinite|constant\n"
    )
    with pytest.raises(KeyboardInterrupt), open_rejected(out) as rejected:
        rejected.write(mixed())
        raise KeyboardInterrupt
    assert names_in(tmp_path) == ["preds.rejected.csv"]
    with open_rejected(out) as rejected:
        rejected.write(rows(["a"]))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_best_rows_are_a_table_like_the_output(tmp_path, ending):
    path = top_path(tmp_path / f"preds{ending}")
    assert path.name == f"preds.top{ending}"
    write_top(path, Shape(CLASSES, [], 1_000_000, {"id": 40}), mixed())
    assert_same(joined(read_output(path)), mixed())


@pytest.mark.parametrize("name", ["preds.txt", "preds", "preds.csv.gz", "/dev/null"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    for use in (check_output, read_output):
        with pytest.raises(
            ConfigError, match=r"no format for this ending, choose \.csv, \.parquet"
        ):
            use(tmp_path / name)


@pytest.mark.parametrize(("ending", "library"), [(".parquet", "pyarrow"), (".fits", "astropy")])
def test_a_missing_library_is_named_before_any_work(tmp_path, monkeypatch, ending, library):
    monkeypatch.setattr("stronglens.engine.sinks.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"needs {library}: pip install 'stronglens\[formats\]'"):
        check_output(tmp_path / f"preds{ending}")
    check_output(tmp_path / "preds.vot")


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_output(tmp_path / "folder.csv")
    with pytest.raises(ConfigError, match="there is no folder"):
        check_output(tmp_path / "absent" / "preds.csv")
