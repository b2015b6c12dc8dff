"""What is listed, in which order, and what is refused."""

import glob
import os

import numpy as np
import pytest
from PIL import Image

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import SINGLE_ENDINGS, natural, open_files, open_source

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
        ("readme.txt", r"no format for the ending '\.txt'"),
        ("cat/x.csv", "an empty file; a catalogue's first line names its columns"),
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
    (catalog.parent / "readme.txt").touch()
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


def test_any_part_of_a_listing_is_the_same_as_in_the_whole(catalog):
    source = open_source(["cat"])
    whole = [cutout.id for cutout in source]
    for start, stop in [(0, None), (2, None), (2, 4), (5, 99), (3, 3), (4, 2), (99, None)]:
        assert [cutout.id for cutout in source.cutouts(start, stop)] == whole[start:stop]
        assert [entry.id for entry in source.entries(start, stop)] == whole[start:stop]


def test_the_digest_tells_listings_apart(catalog):
    listings = [["cat"], ["cat/b"], ["cat/2.npy", "cat/10.npy"], ["cat/10.npy", "cat/2.npy"]]
    digests = [open_source(inputs).digest for inputs in listings]
    assert len(set(digests)) == len(listings)
    assert [open_source(inputs).digest for inputs in listings] == digests
    assert open_source(["cat/*"]).digest == digests[0]
    assert open_source([*listings[2], "cat/2.npy"]).digest == digests[2]


def test_the_longest_id_is_counted_in_bytes(catalog):
    np.save(catalog / "\u00e9\u00e9.npy", np.eye(3))
    assert open_source(["cat/b"]).longest == {"id": len("cat/b/c/1.png")}
    assert open_source(["cat/\u00e9*"]).longest == {"id": len("cat/") + 4 + len(".npy")}


def test_files_are_taken_as_they_are(catalog):
    """Training reads one cutout a path, and needs a row for each."""
    np.save("stack.npy", np.zeros((12, 4, 4)))
    paths = ["stack.npy", "cat/2.npy", "absent.npy", catalog / "2.npy", "cat/2.npy", "a.tar", "x#1"]
    source = open_files(paths)
    assert [cutout.id for cutout in source] == list(map(str, paths))
    assert (len(source), source.duplicates) == (7, 0)
    for cutout in list(source)[-2:]:
        with pytest.raises(CutoutError):
            cutout.read()


def test_which_files_can_be_one_cutout_each():
    assert {".npy", ".png", ".jpg", ".jpeg", ".fits"} <= set(SINGLE_ENDINGS)
    assert not {".npz", ".tar", ".h5"} & set(SINGLE_ENDINGS)


def test_a_pattern_may_be_followed_by_a_part(catalog):
    for i in range(2):
        np.savez(catalog / f"{i}.npz", image=np.eye(3) + i, weight=np.zeros((3, 3)))
    source = open_source(["cat/*.npz#image"])
    assert [cutout.id for cutout in source] == ["cat/0.npz#image", "cat/1.npz#image"]
    assert [cutout.read()[0, 0] for cutout in source] == [1, 2]
    (catalog / "9.npz").write_bytes(b"")
    assert [each.id for each in open_source(["cat/*.npz#image"])][-1] == "cat/9.npz#image"


def test_formats_are_mixed_in_one_folder(catalog):
    np.savez(catalog / "d.npz", image=np.eye(3))
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(catalog / "e.png")
    source = open_source(["cat"])
    inside = ["1.NPY", "2.npy", "10.npy", "a-b.npy", "b/3.npy", "b/c/1.png", "d.npz#image", "e.png"]
    assert [cutout.id for cutout in source] == [f"cat/{name}" for name in inside]


def test_with_a_band_every_file_is_one_cutout(catalog, rng):
    h5py = pytest.importorskip("h5py")
    cube = rng.normal(size=(3, 8, 8))
    np.save("cube.npy", cube)
    np.savez("cube.npz", cube=cube)
    with h5py.File("cube.h5", "w") as file:
        file["images"] = cube
    source = open_source(["cube.npy", "cube.npz", "cube.h5"], band="2")
    assert [cutout.id for cutout in source] == ["cube.npy", "cube.npz#cube", "cube.h5"]
    for cutout in source:
        np.testing.assert_array_equal(cutout.read(), cube[2])


def test_a_picture_has_no_parts(catalog):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save("a.png")
    (cutout,) = open_source(["a.png#1"])
    assert cutout.id == "a.png#1"
    with pytest.raises(CutoutError):
        cutout.read()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_band_of_a_picture(tmp_path, rng, mode):
    colours = rng.integers(0, 2, (8, 8, 3), np.uint8) * 255
    Image.fromarray(colours).convert(mode).save(tmp_path / "a.png")
    for band in range(3):
        (cutout,) = open_source([tmp_path], band=str(band))
        np.testing.assert_array_equal(cutout.read(), colours[..., band])
    for band in ("3", "r"):
        (cutout,) = open_source([tmp_path], band=band)
        with pytest.raises(CutoutError) as caught:
            cutout.read()
        assert caught.value.flag == Flag.SHAPE


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
