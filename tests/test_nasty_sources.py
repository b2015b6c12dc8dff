"""Nasty pixels come back bit for bit from every format that holds many cutouts."""

import io
import tarfile
import warnings

import numpy as np
import pytest
from fits_files import stored as stored_fits
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty import INTEGERS, REAL, images

from stronglens.engine.sources import open_source

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COMMON = ["f4", "f8", *INTEGERS]


def as_npz(path, stack):
    np.savez_compressed(path, stack=np.ascontiguousarray(stack))


def as_tar(path, stack):
    with tarfile.open(path, "w") as tar:
        for k, plane in enumerate(stack):
            np.save(file := io.BytesIO(), plane)
            info = tarfile.TarInfo(f"{k}.npy")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)


def as_fits(path, stack):
    path.write_bytes(stored_fits(*stack))


def as_hdf5(path, stack):
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=stack, chunks=(4, *stack.shape[1:]), compression="gzip")


def as_zarr(path, stack):
    with warnings.catch_warnings(action="ignore"):
        store = zarr.open_group(path, mode="w", zarr_format=3)
        # of its own accord zarr leaves out chunks of nothing but 0, which we take for missing
        with zarr.config.set({"array.write_empty_chunks": True}):
            store.create_array("images", data=stack, chunks=(4, *stack.shape[1:]))


def as_parquet(path, stack):
    native = np.ascontiguousarray(stack, stack.dtype.newbyteorder("="))
    fixed = pa.FixedShapeTensorArray.from_numpy_ndarray(native)
    pq.write_table(pa.table({"image": fixed}), path, row_group_size=4)


FORMATS = {
    ".npz": (as_npz, [*REAL, "?"]),
    ".tar": (as_tar, [*REAL, "?"]),
    ".fits": (as_fits, COMMON),
    ".h5": (as_hdf5, ["f2", *COMMON]),
    ".zarr": (as_zarr, ["f2", *COMMON]),
    ".parquet": (as_parquet, ["f2", *COMMON]),
}


@pytest.mark.parametrize("ending", FORMATS)
@given(data=st.data())
@settings(max_examples=25)
def test_what_is_stored_is_read(tmp_path_factory, ending, data):
    write, dtypes = FORMATS[ending]
    stack = data.draw(images(dtypes, square=False, planes=st.just(10)))
    write(path := tmp_path_factory.mktemp("nasty") / f"a{ending}", stack)
    source = open_source([path], stacked=True)
    assert len(source) == len(stack)
    for cutout, plane in zip(source, stack, strict=True):
        found = cutout.read()
        assert found.dtype.newbyteorder("=") == plane.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, plane)
