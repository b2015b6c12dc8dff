"""What is listed, in which order, and what is refused."""

import glob
import os

import numpy as np
import pytest
from PIL import Image

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import natural, open_source

ENDINGS = (".npy", ".png")


def listed(*inputs):
    """The ids of all cutouts, in order."""
    return [cutout.id for cutout in open_source(inputs)]


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("10.npy", "2.npy", "1.NPY", "b/3.npy", "b/c/1.png", "a-b.npy", ".hidden.npy", "x.csv")
    for name in names:
        file = tmp_path / "cat" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "cat"


def test_a_folder_is_searched_in_natural_order(catalog):
    source = open_source(["cat"])
    inside = ["1.NPY", "2.npy", "10.npy", "a-b.npy", "b/3.npy", "b/c/1.png"]
    for _ in range(2):  # as often as wanted
        assert [cutout.id for cutout in source] == [f"cat/{name}" for name in inside]
    assert (len(source), source.skipped, source.duplicates) == (6, 2, 0)


def test_a_pattern_is_expanded_in_natural_order(catalog):
    assert listed("cat/[0-9]*.npy") == ["cat/2.npy", "cat/10.npy"]
    assert listed("cat/**/*.npy") == [
        "cat/2.npy",
        "cat/10.npy",
        "cat/a-b.npy",
        "cat/b/3.npy",
    ]
    assert listed("cat/*") == listed("cat")
    assert open_source(["cat/*"]).skipped == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "cat/*.npy",
        "*/*.npy",
        "cat/[!12]*.npy",
        "cat/.*.npy",
        "cat/**/*.npy",
        "cat/b/**",
        "**/*.png",
        "**/b/*.npy",
        "**/c/**/*.png",
        "**/**/?.npy",
        "c*/b/c/1.png",
        "./cat/b/*/*.?[pn]?",
        "{tmp}/cat/*/*.npy",
    ],
)
def test_patterns_match_what_they_match_elsewhere(catalog, pattern):
    pattern = pattern.format(tmp=catalog.parent)
    (catalog / "b" / "b" / "c").mkdir(parents=True)
    for name in ("b/b/7.npy", "b/b/c/7.png", "b/.hidden.npy", "d.npy.npy"):
        (catalog / name).touch()
    found = {each for each in glob.glob(pattern, recursive=True) if each.endswith(ENDINGS)}  # noqa: PTH207
    expected = sorted(found, key=lambda path: [natural(part) for part in path.split("/")])
    assert listed(pattern) == expected
    assert expected


@pytest.mark.parametrize("pattern", ["*/b", "cat/?", "**/b", "cat/*/", "c[a]t/b/**", "cat/b*/**/*"])
def test_a_folder_that_a_pattern_matches_is_searched(catalog, pattern):
    assert listed(pattern) == listed("cat/b")


def test_files_keep_the_order_given_and_the_spelling(catalog):
    given = ["cat/b/3.npy", "./cat/2.npy", "absent.npy", catalog / "2.npy"]
    assert listed(*given) == list(map(str, given))


def test_a_name_that_looks_like_a_pattern_is_a_name_if_it_exists(catalog):
    (catalog / "[0-9].npy").touch()
    assert listed("cat/[0-9].npy") == ["cat/[0-9].npy"]


def test_named_twice_is_kept_once(catalog):
    source = open_source(["cat/10.npy", "cat", "cat/10.npy"])
    ids = [cutout.id for cutout in source]
    assert ids[0] == "cat/10.npy"
    assert len(source) == len(ids) == len(set(ids)) == 6
    assert source.duplicates == 2


def test_a_folder_with_a_cutouts_ending_is_a_cutout(catalog):
    (catalog / "b" / "dir.npy").mkdir()
    (catalog / "b" / "dir.npy" / "inside.npy").touch()
    assert listed("cat/b") == ["cat/b/3.npy", "cat/b/c/1.png", "cat/b/dir.npy"]
    assert listed("cat/b/dir.npy") == ["cat/b/dir.npy"]


def test_a_link_to_a_folder_above_ends(catalog):
    (catalog / "b" / "again").symlink_to(catalog)
    (catalog / "itself").symlink_to("itself")
    assert len(open_source(["cat"])) == 6
    assert listed("**/*.npy") == [name for name in listed("cat") if name.endswith(".npy")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat/x.csv", r"no format for the ending '\.csv'"),
        ("absent", "no such file or folder"),
        ("cat/nothing*.npy", "nothing matches"),
        ("empty", "nothing to read in empty"),
        ("cat/*.csv", "nothing to read"),
        ("", "no such file or folder"),
        ("cat/a\0b.npy", "NUL"),
    ],
)
def test_what_names_nothing_is_an_error(catalog, given, message):
    (catalog.parent / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_source([given])


def test_names_that_are_not_utf8(catalog):
    name = os.fsdecode(b"cat/b/\xff\xfe 1.npy")
    np.save(name, np.eye(3))
    found = next(cutout for cutout in open_source(["cat/b"]) if cutout.id == name)
    np.testing.assert_array_equal(found.read(), np.eye(3))


def test_a_file_that_vanishes_after_it_was_listed(catalog):
    (cutout,) = open_source(["cat/2.npy"])
    (catalog / "2.npy").unlink()
    with pytest.raises(CutoutError) as caught:
        cutout.read()
    assert caught.value.flag == Flag.MISSING


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
def test_pictures_are_grey(tmp_path, ending):
    grey_HW = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = tmp_path / f"picture{ending}"
    Image.fromarray(np.stack([grey_HW] * 3, axis=2)).save(path, quality=100)
    (cutout,) = open_source([path])
    found = cutout.read()
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), grey_HW, atol=2)


def test_a_picture_of_sixteen_bits_keeps_them(tmp_path):
    deep_HW = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep_HW).save(tmp_path / "deep.png")
    (cutout,) = open_source([tmp_path])
    np.testing.assert_array_equal(cutout.read(), deep_HW)


def test_a_picture_that_is_none(tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    for name, data in {"cut.png": good[:-30], "text.jpg": b"hello", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(data)
        (cutout,) = open_source([tmp_path / name])
        with pytest.raises(CutoutError) as caught:
            cutout.read()
        assert caught.value.flag == Flag.MALFORMED
