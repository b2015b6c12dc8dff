"""Files appear complete or not at all, whatever the disk does."""

import json
import os
import subprocess
import sys

import pytest
from tiny_rows import ENDINGS

from stronglens.engine.errors import LensError
from stronglens.engine.sinks import check_output
from stronglens.engine.sinks.atomic import remove_leftovers, replacing

# a file system of one megabyte, of this process and its children only
TINY = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 77
cd "$1" && exec "$2" -c "$3"
"""
PROBE = """
import json, os, sys
from pathlib import Path
import numpy as np
from stronglens.engine.batches import Rows
from stronglens.engine.errors import LensError
from stronglens.engine.sinks import Shape, check_output, open_rejected, open_sink

COUNT = 100_000
ids = [os.urandom(24).hex() for _ in range(COUNT)]  # nothing makes them smaller
table = Rows(ids, np.full((COUNT, 2), 0.5, np.float32), np.full(COUNT, %(flags)d, np.uint16),
             np.zeros(COUNT, np.float32), [])
said = {}
for ending in %(endings)s:
    path = Path("preds" + ending)
    path.write_text("older")
    try:
        with open_sink(path, Shape(["lens", "nonlens"], [], COUNT)) as sink:
            for start in range(0, COUNT, 5000):
                part = slice(start, start + 5000)
                sink.write(Rows(table.ids[part], table.prob_BK[part], table.flags_B[part],
                                table.nan_frac_B[part], []))
    except LensError as err:
        said[ending] = str(err)
    assert path.read_text() == "older"
try:
    with open_rejected(path) as rejected:
        rejected.write(table)
except LensError as err:
    said["rejected"] = str(err)
print(json.dumps([said, sorted(os.listdir())]))
"""


def in_a_tiny_file_system(tmp_path, script, *probe):
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", tmp_path]
    done = subprocess.run([*command, sys.executable, *probe], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path):
    probe = PROBE % {"endings": ENDINGS, "flags": 2}
    said, names = in_a_tiny_file_system(tmp_path, TINY, probe)
    for key, name in [*((e, f"preds{e}") for e in ENDINGS), ("rejected", "preds.rejected.csv")]:
        assert said[key].startswith(
            f"cannot write {tmp_path / name}: No space left on device: make"
        )
        assert said[key].endswith("nothing was left there, and an older file is as it was")
    assert names == sorted(f"preds{ending}" for ending in ENDINGS)


def test_a_folder_that_is_read_only_is_an_error_before_any_work(tmp_path):
    read_only = TINY.replace("cd ", "touch $1/preds.csv && mount -o remount,ro $1 && cd ")
    probe = """
import json
from pathlib import Path
from stronglens.engine.errors import LensError
from stronglens.engine.sinks import check_output, open_rejected
from stronglens.engine.sinks.atomic import replacing
said = []
for use in (check_output, lambda path: replacing(path).__enter__()):
    try:
        use(Path("preds.csv"))
    except LensError as err:
        said.append(str(err))
print(json.dumps(said))
"""
    checked, tried = in_a_tiny_file_system(tmp_path, read_only, probe)
    assert checked == f"preds.csv: you may not write in {tmp_path}: choose another folder"
    assert tried == (
        f"cannot write in {tmp_path}: Read-only file system: choose a folder that you may write in"
    )


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(LensError, match="you may not write in"):
        check_output(tmp_path / "preds.csv")
    with (
        pytest.raises(LensError, match="Permission denied: choose a folder"),
        replacing(tmp_path / "a"),
    ):
        pass


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("older")
    with replacing(path) as file:
        file.write(b"newer")
        assert path.read_text() == "older"
        assert [name for name in names_in(tmp_path) if not name.startswith(".")] == ["a.txt"]
    assert path.read_text() == "newer"
    assert names_in(tmp_path) == ["a.txt"]


def test_what_is_written_can_be_read_and_changed(tmp_path):
    with replacing(tmp_path / "a") as file:
        file.write(b"0123456789")
        file.seek(2)
        assert file.read(3) == b"234"
        file.seek(0)
        file.write(b"ab")
    assert (tmp_path / "a").read_bytes() == b"ab23456789"


@pytest.mark.parametrize("error", [KeyboardInterrupt, LensError, OSError])
def test_an_error_leaves_what_was_there_and_is_not_altered(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("older")
    mine = error("of the block")
    with pytest.raises(error) as caught, replacing(path) as file:
        file.write(b"x" * (3 << 20))
        raise mine
    assert caught.value is mine
    assert path.read_text() == "older"
    assert names_in(tmp_path) == ["a.txt"]


def test_the_file_is_replaced_and_not_the_link_to_it(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.write_text("older")
    link.symlink_to(real)
    with replacing(link) as file:
        file.write(b"newer")
    assert link.is_symlink()
    assert real.read_text() == "newer"
    assert names_in(tmp_path / "disk") == ["real"]


def test_the_file_has_the_usual_permissions(tmp_path):
    with replacing(tmp_path / "a"):
        pass
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_as_long_as_may_be_can_be_replaced(tmp_path):
    for name in ("a" * 255, "🔭" * 63):
        with replacing(tmp_path / name) as file:
            file.write(b"x")
    assert len(names_in(tmp_path)) == 2


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    mine, others = tmp_path / f"{'a' * 60}.csv", tmp_path / f"{'a' * 60}.csv.json"
    for path in (mine, others):
        before = names_in(tmp_path)
        with replacing(path):
            (hidden,) = {*names_in(tmp_path)} - {*before}
        (tmp_path / hidden).touch()  # as SIGKILL would have left it
    remove_leftovers(mine)
    assert names_in(tmp_path) == [hidden, mine.name, others.name]
    remove_leftovers(others)
    assert names_in(tmp_path) == [mine.name, others.name]
