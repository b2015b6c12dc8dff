"""What is kept stays within its bound and is the same for every thread."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stronglens.engine.errors import CutoutError, InputError
from stronglens.engine.sources import fits, hdf5, parquet, zarrs
from stronglens.engine.sources.entries import Choice
from stronglens.engine.sources.kept import Kept, identity


def test_the_longest_unused_goes_first():
    dropped = []
    kept = Kept(3, drop=dropped.append)
    for key in "abcaad":
        assert kept.get(key, lambda key=key: key.upper()) == key.upper()
    assert dropped == ["B"]
    assert kept.get("a", pytest.fail) == "A"


def test_a_value_above_the_bound_is_kept_alone():
    dropped = []
    kept = Kept(10, weigh=len, drop=dropped.append)
    for text in ("aaaa", "bbbb", "cccccccccccc"):
        kept.get(text, lambda text=text: text)
    assert dropped == ["aaaa", "bbbb"]
    assert kept.get("cccccccccccc", pytest.fail)


def test_what_cannot_be_made_is_tried_again():
    kept = Kept(2)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: 1) == 1


def test_a_file_that_is_written_anew_is_another(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = identity(str(path))
    assert identity(str(path)) == first
    path.write_bytes(b"other")
    assert identity(str(path)) != first
    for each in (str(tmp_path / "absent"), str(tmp_path), "a\0b"):
        with pytest.raises(CutoutError):
            identity(each)


def written(folder, form, stack):
    """Write a stack in one of the formats, in more blocks than are read at once."""
    path = str(folder / f"stack{form.ENDINGS[0]}")
    if form is fits:
        pytest.importorskip("astropy.io.fits").PrimaryHDU(stack).writeto(path)
    elif form is hdf5:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.create_dataset("images", data=stack, chunks=(7, 32, 32), compression="gzip")
    elif form is zarrs:
        pytest.importorskip("zarr").create_array(path, data=stack, chunks=(7, 32, 32))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        cells = pa.FixedSizeListArray.from_arrays(pa.array(stack.ravel()), 1024)
        pq.write_table(pa.table({"cutout": cells}), path, row_group_size=90)
    return path


@pytest.mark.parametrize(
    ("form", "library"), [(hdf5, "h5py"), (zarrs, "zarr"), (parquet, "pyarrow")]
)
def test_a_library_that_is_missing(tmp_path, rng, form, library, monkeypatch):
    path = written(tmp_path, form, rng.normal(size=(9, 32, 32)).astype("f4"))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs? {library}: pip install 'stronglens\[formats\]'"):
        form.entries(path, "", Choice())


@pytest.mark.parametrize("form", [fits, hdf5, zarrs, parquet], ids=lambda form: form.ENDINGS[0])
def test_threads_read_the_same(tmp_path, rng, form, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_BYTES", 1 << 14)
    for module in (hdf5, zarrs, parquet):  # room for two or three blocks
        monkeypatch.setattr(module._BLOCKS, "_most", 1 << 17)
    stack = rng.normal(size=(300, 32, 32)).astype("f4")
    path = written(tmp_path, form, stack)
    cutouts = [form.cutout(entry, "") for entry in form.entries(path, "", Choice())]
    order = np.concatenate([np.arange(300), rng.permutation(300)]).tolist()
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda k: cutouts[k].read(), order)
        for k, pixels in zip(order, found, strict=True):
            np.testing.assert_array_equal(pixels, stack[k])
