"""Entries come back from text as they were; bands are picked or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.batches import Flag
from stronglens.engine.errors import CutoutError
from stronglens.engine.sources import ending
from stronglens.engine.sources.entries import Entry, pack, pick_band, unpack
from stronglens.engine.sources.names import END, Names

TEXTS = st.text(st.sampled_from('a#|/\0\1["\n,é\udcff\U0001f52d'))
ENTRIES = st.builds(Entry, TEXTS, TEXTS, TEXTS, TEXTS)


@given(st.lists(ENTRIES))
def test_entries_come_back_from_a_list_of_names(entries):
    assert list(map(unpack, Names(map(pack, entries)))) == entries


@given(ENTRIES)
def test_no_packed_entry_holds_what_ends_one(entry):
    assert END not in pack(entry)


@given(TEXTS.filter(lambda text: "\0" not in text))
def test_a_path_alone_is_packed_as_it_is(path):
    assert pack(Entry(path)) == path


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Entry("a.npy"), "a.npy"),
        (Entry("a.npy", "12"), "a.npy#12"),
        (Entry("a.npy", "12", "J1148+19"), "J1148+19"),
        (Entry("a.npy", name="J1148+19", carried='["1"]'), "J1148+19"),
    ],
)
def test_the_id_of_an_entry(entry, expected):
    assert entry.id == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.NPY", ".npy"),
        ("a.b/c", ""),
        ("a/.npy", ""),
        (".npy", ""),
        ("a.fits.gz", ".fits.gz"),
        ("a.Tar.GZ", ".tar.gz"),
        (".tar.gz", ".gz"),
        ("a.gz", ".gz"),
        ("", ""),
    ],
)
def test_the_ending_of_a_path(path, expected):
    assert ending(path) == expected


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 8, 8), 0), ((8, 8, 3), 2), ((4, 5, 4), 0), ((1, 8, 8), 0)]
)
def test_bands_lie_along_the_shorter_outer_axis(rng, shape, axis):
    raw = rng.normal(size=shape)
    for k in range(shape[axis]):
        np.testing.assert_array_equal(pick_band(raw, str(k)), raw.take(k, axis))


@pytest.mark.parametrize("band", ["3", "-1", "", "R", "1.0", "²", "01", "9" * 5000])
def test_a_band_that_is_not_there_is_refused_and_the_bands_are_named(band):
    with pytest.raises(CutoutError, match="0 to 2") as caught:
        pick_band(np.zeros((3, 8, 8)), band)
    assert caught.value.flag == Flag.SHAPE


def test_an_image_has_no_bands():
    with pytest.raises(CutoutError, match="no bands") as caught:
        pick_band(np.zeros((8, 8)), "0")
    assert caught.value.flag == Flag.SHAPE
