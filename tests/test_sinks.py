"""What a CSV holds, and that it appears complete or not at all."""

import csv
import errno
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag, Scores
from stronglens.engine.errors import ConfigError, LensError
from stronglens.engine.sinks import check_output, open_sink

CLASSES = ["lens", "nonlens"]


def scores(ids, prob_BK, flags=None, nan_frac=None):
    n = len(ids)
    return Scores(
        list(ids),
        np.asarray(prob_BK, np.float32).reshape(n, 2),
        np.zeros(n, np.uint16) if flags is None else np.asarray(flags, np.uint16),
        np.zeros(n, np.float32) if nan_frac is None else np.asarray(nan_frac, np.float32),
    )


def names_in(folder):
    return [entry.name for entry in folder.iterdir()]


def read_rows(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def test_the_columns_and_the_rows(tmp_path):
    path = tmp_path / "preds.csv"
    with open_sink(path, CLASSES) as sink:
        sink.write(
            scores(
                ["a.npy", "b.npy", "c.npy", "d.npy"],
                [[0.75, 0.25], [np.nan] * 2, [0.1, 0.9], [np.nan] * 2],
                [0, Flag.MISSING, Flag.NONFINITE, Flag.CONSTANT | Flag.NONFINITE],
                [0, np.nan, 0.125, 0.5],
            )
        )
    assert path.read_text() == (
        "id,p_lens,p_nonlens,label,status,reason,nan_frac\n"
        "a.npy,0.75,0.25,lens,ok,,0\n"
        "b.npy,,,,rejected,missing,\n"
        "c.npy,0.100000001,0.899999976,nonlens,ok,,0.125\n"
        "d.npy,,,,rejected,constant,0.5\n"
    )
    assert names_in(tmp_path) == ["preds.csv"]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40).filter(lambda p: len(p) % 2 == 0)
)
def test_a_probability_comes_back_as_the_same_float32(tmp_path_factory, probabilities):
    path = tmp_path_factory.mktemp("sink") / "preds.csv"
    prob_BK = np.float32(probabilities).reshape(-1, 2)
    with open_sink(path, CLASSES) as sink:
        sink.write(scores([str(i) for i in range(len(prob_BK))], prob_BK))
    found_BK = np.array([[np.float32(p) for p in row[1:3]] for row in read_rows(path)[1:]])
    np.testing.assert_array_equal(found_BK, prob_BK)


NAMES = st.binary(min_size=1, max_size=30).map(lambda b: os.fsdecode(b.replace(b"\0", b"0")))


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_ids_come_back_as_the_same_bytes(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("sink") / "preds.csv"
    with open_sink(path, CLASSES) as sink:
        sink.write(scores(ids, [[0.5, 0.5]] * len(ids)))
    assert [row[0] for row in read_rows(path)[1:]] == ids


@pytest.mark.parametrize(
    "name", ["a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "=cmd|' /C calc'!A0", "🔭", "-x", " a "]
)
def test_awkward_names_are_not_altered(tmp_path, name):
    path = tmp_path / "preds.csv"
    with open_sink(path, CLASSES) as sink:
        sink.write(scores([name], [[1, 0]]))
    assert read_rows(path)[1][0] == name


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "preds.csv"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt), open_sink(path, CLASSES) as sink:
        sink.write(scores(["a"], [[1, 0]]))
        raise KeyboardInterrupt
    assert path.read_text() == "older"
    assert names_in(tmp_path) == ["preds.csv"]


def test_a_run_replaces_the_file_and_not_the_link_to_it(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.csv", tmp_path / "preds.csv"
    real.write_text("older")
    link.symlink_to(real)
    with open_sink(link, CLASSES) as sink:
        sink.write(scores(["a"], [[1, 0]]))
    assert link.is_symlink()
    assert len(read_rows(real)) == 2


def test_the_file_has_the_usual_permissions(tmp_path):
    with open_sink(tmp_path / "preds.csv", CLASSES):
        pass
    (tmp_path / "plain").touch()
    assert (tmp_path / "preds.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["preds.txt", "preds", "preds.csv.gz", "/dev/null"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"no format for this ending, choose \.csv"):
        check_output(tmp_path / name)


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_output(tmp_path / "folder.csv")
    with pytest.raises(ConfigError, match="there is no folder"):
        check_output(tmp_path / "absent" / "preds.csv")
    with pytest.raises(LensError, match="cannot write in /proc"):
        open_sink(type(tmp_path)("/proc/preds.csv"), CLASSES)


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "preds.csv"
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(LensError, match="No space left on device"),
        open_sink(path, CLASSES) as sink,
    ):
        sink.write(scores(["a"], [[1, 0]]))
    assert names_in(tmp_path) == []
