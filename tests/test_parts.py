"""Finished rows on disk: kept through any end, and nothing but whole parts of the same run."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag, Scores
from stronglens.engine.errors import LensError
from stronglens.engine.runs import parts as parts_module
from stronglens.engine.runs.parts import Parts, record_type, records_of

RUN = {"model": "m", "rows": [0, 1000]}
DTYPE = record_type(3)


def some(first, count, width=0):
    rng = np.random.default_rng(first)
    scores = Scores(
        [str(first + i) for i in range(count)],
        rng.random((count, 3), np.float32),
        np.arange(first, first + count).astype(np.uint16) % 5,
        rng.random(count, np.float32),
        rng.random((count, width), np.float32) if width else None,
    )
    return records_of(scores)


def begun(out, run=RUN, dtype=DTYPE, **options):
    parts = Parts(out, **options)
    parts.__enter__()
    parts.agree(run, dtype)
    return parts


def killed(parts):
    """Let go of a run as the system does when its process dies."""
    os.close(parts._lock)


def all_records(parts):
    return np.concatenate([*parts.records(), np.empty(0, parts.dtype)])


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from(["", "end", "kill", "leave"])), max_size=12
    )
)
def test_what_was_ended_is_kept_and_the_rest_done_again(tmp_path_factory, steps):
    out = tmp_path_factory.mktemp("parts") / "preds.csv"
    parts, sure, done = begun(out, seconds=3600), 0, 0
    for count, then in steps:
        parts.add(some(done, count))
        done += count
        if then == "end":
            parts.end_part()
            sure = done
        elif then:
            if then == "kill":
                killed(parts)
            else:
                parts.__exit__(None, None, None)
                sure = done
            parts = begun(out, seconds=3600)
            assert parts.done == sure
            done = sure
    parts.end_part()
    expected = [some(first, 1)["flags"] for first in range(done)]
    np.testing.assert_array_equal(
        all_records(parts)["flags"], np.concatenate([*expected, np.empty(0, "u2")])
    )
    parts.remove()
    parts.__exit__(None, None, None)
    assert list(out.parent.iterdir()) == []


def test_a_part_ends_when_it_is_old_or_large(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(parts_module.time, "monotonic", lambda: now[0])
    parts = begun(tmp_path / "a.csv", seconds=10)
    parts.add(some(0, 4))
    now[0] = 9.9
    parts.add(some(4, 4))
    assert parts.done == 0
    now[0] = 10.0
    parts.add(some(8, 4))
    assert parts.done == 12
    now[0] = 1000.0  # 2 % of it are more than ten seconds
    parts.end_part()
    now[0] = 1019.9
    parts.add(some(12, 1))
    assert parts.done == 12
    now[0] = 1020.5
    parts.add(some(13, 1))
    assert parts.done == 14
    monkeypatch.setattr(parts_module, "PART_BYTES", 10 * DTYPE.itemsize)
    parts.add(some(14, 10))
    assert parts.done == 24
    killed(parts)


def names(out):
    return sorted(path.name for path in (out.parent / f"{out.name}.parts").glob("*.part"))


def three_parts(out):
    parts = begun(out, seconds=3600)
    for first in (0, 10, 20):
        parts.add(some(first, 10))
        parts.end_part()
    killed(parts)
    return out.parent / f"{out.name}.parts", names(out)


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda folder, found: (folder / found[1]).unlink(), 10),
        (lambda folder, found: (folder / found[1]).write_bytes(b""), 10),
        (lambda folder, found: _flip(folder / found[2]), 20),
        (lambda folder, found: _flip(folder / found[0]), 0),
        (lambda folder, found: (folder / "stray.part").touch(), 30),
        (lambda folder, found: (folder / ".x.npy.ab.partial").touch(), 30),
    ],
)
def test_a_damaged_part_and_all_after_it_are_done_again(tmp_path, damage, kept):
    out = tmp_path / "preds.csv"
    damage(*three_parts(out))
    parts = begun(out)
    assert parts.done == kept == len(all_records(parts))
    np.testing.assert_array_equal(
        all_records(parts),
        np.concatenate([some(0, 10), some(10, 10), some(20, 10)])[:kept],
    )
    killed(parts)


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_a_part_that_is_changed_while_the_run_goes_on_is_noticed(tmp_path):
    folder, found = three_parts(tmp_path / "preds.csv")
    parts = begun(tmp_path / "preds.csv")
    _flip(folder / found[1])
    with pytest.raises(LensError, match="was changed while the run went on"):
        list(parts.records())
    killed(parts)


def test_another_run_is_refused_and_loses_nothing(tmp_path):
    out = tmp_path / "preds.csv"
    _, found = three_parts(out)
    differs = r"another run; it differs in model\. .* remove that"
    with pytest.raises(LensError, match=differs), Parts(out) as parts:
        parts.agree({**RUN, "model": "other"}, DTYPE)
    assert names(out) == found
    (out.parent / "preds.csv.parts" / "run.json").write_text("{")
    with pytest.raises(LensError, match="another run"), Parts(out) as parts:
        parts.agree(RUN, DTYPE)
    assert names(out) == found


def test_a_run_without_a_row_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), Parts(tmp_path / "preds.csv"):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), Parts(tmp_path / "preds.csv") as parts:
        parts.agree(RUN, DTYPE)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_runs_on_one_output(tmp_path):
    out = tmp_path / "preds.csv"
    first = begun(out)
    with pytest.raises(LensError, match=rf"another run .*\(process {os.getpid()} on .*--out"):
        Parts(out)
    Parts(tmp_path / "other.csv").__exit__(None, None, None)
    first.add(some(0, 3))
    first.__exit__(None, None, None)
    assert begun(out).done == 3


HOLDER = """
import sys
from pathlib import Path
from stronglens.engine.runs.parts import Parts
parts = Parts(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_dies_with_its_process(tmp_path):
    out = tmp_path / "preds.csv"
    command = [sys.executable, "-c", HOLDER, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LensError, match=f"process {holder.pid} on"):
            Parts(out)
        holder.kill()
    Parts(out).__exit__(None, None, None)


def test_retried_rows_take_the_place_of_the_old_ones(tmp_path):
    out = tmp_path / "preds.csv"
    three_parts(out)
    parts = begun(out)
    before = all_records(parts)
    seen = []
    for first, records in parts.retry():
        seen.append(first)
        if first == 10:
            records["flags"][records["flags"] == Flag.MISSING] = Flag.OK
    assert seen == [0, 10, 20]
    expected = before.copy()
    expected["flags"][10:20][expected["flags"][10:20] == Flag.MISSING] = Flag.OK
    np.testing.assert_array_equal(all_records(parts), expected)
    assert parts.count_rejected() == int(np.isin(expected["flags"], [2, 3, 4]).sum())
    killed(parts)
    parts = begun(out)
    np.testing.assert_array_equal(all_records(parts), expected)
    assert len(names(out)) == 3
    killed(parts)


def test_encodings_are_kept_too(tmp_path):
    dtype = record_type(3, 4)
    parts = begun(tmp_path / "preds.csv", dtype=dtype)
    parts.add(some(0, 5, width=4))
    parts.end_part()
    np.testing.assert_array_equal(all_records(parts)["encoding"], some(0, 5, width=4)["encoding"])
    killed(parts)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "preds.csv.parts").touch()
    with pytest.raises(LensError, match="cannot write in"):
        Parts(tmp_path / "preds.csv")
    with pytest.raises(LensError, match="no folder"):
        Parts(tmp_path / "absent" / "preds.csv")
