"""The cache of plans: what is kept, for whom, and what is never read."""

import os
import stat
import sys

import pytest

from stronglens.engine.backends.plans import cache_folder, contents, keep, recall
from stronglens.engine.errors import BackendError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's"),
    pytest.mark.usefixtures("cache"),
]

KEY = {
    "kind": "plan",
    "onnx_sha256": "ab" * 32,
    "tensorrt": "11.4.0",
    "gpu": "Fake 1",
    "compute_capability": "8.9",
    "precision": "float16",
    "profile": (1, 128, 128),
}
PLAN = bytes(range(256)) * 10


def test_what_was_kept_is_recalled(cache):
    assert recall(KEY) is None
    assert keep(KEY, PLAN) == cache
    assert recall(KEY) == PLAN
    keep(KEY, PLAN[::-1])
    assert recall(KEY) == PLAN[::-1]
    assert len(list(cache.iterdir())) == 1


def test_the_folder_and_its_files_are_private(cache):
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        keep(KEY, PLAN)
    finally:
        os.umask(old)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in cache.iterdir()] == [0o600]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("onnx_sha256", "cd" * 32),
        ("tensorrt", "11.4.1"),
        ("gpu", "Fake 2"),
        ("compute_capability", "9.0"),
        ("precision", "float32"),
        ("profile", (1, 64, 64)),
        ("kind", "timing"),
    ],
)
def test_each_part_of_the_key_counts(name, other):
    keep(KEY, PLAN)
    assert recall({**KEY, name: other}) is None


def only(cache):
    (file,) = cache.iterdir()
    return file


def test_a_plan_under_a_foreign_name_is_not_used(cache):
    """It fits the name, and not the GPU: a cache that was copied, or tampered with."""
    keep(KEY, PLAN)
    name = only(cache).name
    other = {**KEY, "gpu": "Fake 2"}
    only(cache).unlink()
    keep(other, PLAN)
    only(cache).rename(cache / name)
    assert recall(KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[:-1] + b"\x00",
        lambda whole: b"",
        lambda whole: whole[:20],
        lambda whole: whole.replace(b"stronglens plan 1", b"stronglens plan 2"),
        lambda whole: whole.replace(b'"key"', b'"kez"'),
        lambda whole: whole.replace(b'{"key"', b'["key"'),
        lambda whole: whole.split(b"\n")[0] + b"\n" + b"[" * 100_000 + b"\n",
        lambda whole: whole.split(b"\n")[0] + b"\n3\n" + PLAN,
    ],
)
def test_a_damaged_file_is_not_used(cache, damage):
    keep(KEY, PLAN)
    file = only(cache)
    file.write_bytes(damage(file.read_bytes()))
    assert recall(KEY) is None
    keep(KEY, PLAN)
    assert recall(KEY) == PLAN


@pytest.mark.parametrize("what", ["recall", "keep", "contents"])
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_is_open_to_others_is_refused(cache, mode, what):
    keep(KEY, PLAN)
    cache.chmod(mode)
    with pytest.raises(BackendError, match=rf"open to others \(mode {mode:o}\).*chmod 700"):
        {"recall": lambda: recall(KEY), "keep": lambda: keep(KEY, PLAN),
         "contents": lambda: list(contents())}[what]()  # fmt: skip


def test_a_folder_or_a_file_that_is_a_link_is_refused(cache, tmp_path):
    keep(KEY, PLAN)
    file, elsewhere = only(cache), tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(BackendError, match=r"cannot be read .* delete it"):
        recall(KEY)
    file.unlink()
    elsewhere.rename(file)
    cache.rename(tmp_path / "moved")
    cache.symlink_to(tmp_path / "moved")
    for use in (lambda: recall(KEY), lambda: keep(KEY, PLAN)):
        with pytest.raises(BackendError, match="is a link, or not this user's alone"):
            use()


def test_what_belongs_to_others_is_refused(monkeypatch):
    keep(KEY, PLAN)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(BackendError, match="not this user's alone, and would hold machine code"):
        recall(KEY)


def test_a_file_that_others_may_write_is_refused(cache):
    keep(KEY, PLAN)
    only(cache).chmod(0o620)
    with pytest.raises(BackendError, match="not this user's alone"):
        recall(KEY)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_else_in_the_place_of_the_file(cache, make):
    keep(KEY, PLAN)
    file = only(cache)
    file.unlink()
    make(file)
    with pytest.raises(BackendError, match="delete it"):
        recall(KEY)


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
    keep(KEY, PLAN)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        keep({**KEY, "gpu": "Fake 2"}, PLAN)
    assert [file.name for file in cache.iterdir()] == [only(cache).name]
    assert recall(KEY) == PLAN


def test_contents(cache):
    assert list(contents()) == []
    keep(KEY, PLAN)
    (cache / "zzz").write_text("a note")
    (cache / "zzzz").symlink_to("zzz")
    found, note, link = contents()
    assert (found.key["gpu"], found.key["profile"]) == ("Fake 1", [1, 128, 128])
    assert found.bytes > len(PLAN)
    assert (note.path.name, note.key, link.key) == ("zzz", {}, {})


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "stronglens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "stronglens"
