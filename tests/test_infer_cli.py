"""lens-infer as installed: what a folder of faults gives, exit codes, signals."""

import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from tiny_model import SIZE

LENS_INFER = Path(sys.executable).with_name("lens-infer")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny").path


def lens_infer(*arguments, cwd, status=0):
    done = subprocess.run(
        [LENS_INFER, *arguments], cwd=cwd, capture_output=True, text=True, errors="surrogateescape"
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def with_header(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def write_faults(folder, rng):
    """Write one file for each fault; return {name: the reason expected, "" where it is scored}."""
    image = rng.normal(size=(SIZE, SIZE))
    hole, far, ends = image.copy(), image.copy(), image.copy()
    hole[2, 3], far[0, 0], ends[1, 1] = np.nan, np.inf, -np.inf
    with np.errstate(over="ignore"):
        arrays = {
            "big-endian": (image.astype(">f4"), ""),
            "half": (image.astype("f2"), ""),
            "half-overflow": ((image * 1e5).astype("f2"), ""),
            "int16": ((image * 1000).astype("i2"), ""),
            "uint8": (np.arange(SIZE * SIZE, dtype="u1").reshape(SIZE, SIZE), ""),
            "fortran": (np.asfortranarray(image), ""),
            "one-band": (image[None], ""),
            "some-nan": (hole, ""),
            "inf": (far, ""),
            "minus-inf": (ends, ""),
            "negative": (image - 100, ""),
            "huge": (image * 1e300, ""),
            "all-nan": (np.full((SIZE, SIZE), np.nan), "empty"),
            "constant": (np.full((SIZE, SIZE), 3e38, np.float32), "constant"),
            "zero": (np.zeros((SIZE, SIZE)), "constant"),
            "small": (image[1:], "shape"),
            "channels-last": (np.stack([image] * 3, 2), "shape"),
            "channels-first": (np.stack([image] * 3), "shape"),
            "scalar": (np.float64(3), "shape"),
            "no-rows": (np.zeros((0, SIZE, SIZE)), "shape"),
            "complex": (image + 1j, "dtype"),
            "datetime": (np.zeros((SIZE, SIZE), "M8[s]"), "dtype"),
            "structured": (np.zeros((SIZE, SIZE), [("a", "f8")]), "dtype"),
            "object": (np.full((SIZE, SIZE), None), "dtype"),
        }
    for name, (array, _) in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    good = (folder / "big-endian.npy").read_bytes()
    layout = b"{'descr': '<f8', 'fortran_order': False, 'shape': %s}"
    broken = {
        "truncated": good[:-5],
        "zero-byte": b"",
        "trailing": good + b"garbage",
        "bomb": with_header(layout % b"(99999, 99999, 99999)"),
        "huge-header": b"\x93NUMPY\x02\x00" + (3 << 30).to_bytes(4, "little") + b"{}",
        "negative-axis": with_header(layout % b"(-1, 12)"),
        "text": b"this is no array",
    }
    for name, content in broken.items():
        (folder / f"{name}.npy").write_bytes(content)
    (folder / "dangling.npy").symlink_to("nowhere.npy")
    (folder / "folder.npy").mkdir()
    os.mkfifo(folder / "fifo.npy")
    return {
        **{name: why for name, (_, why) in arrays.items()},
        **dict.fromkeys(broken, "malformed"),
        "dangling": "missing",
        "folder": "unreadable",
        "fifo": "unreadable",
    }


def test_every_fault_costs_only_its_own_row(tmp_path, bundle, rng):
    (tmp_path / "catalog").mkdir()
    expected = write_faults(tmp_path / "catalog", rng)
    arguments = ("catalog", "absent.npy", "catalog/zero.npy", "--model", bundle)
    done = lens_infer(*arguments, cwd=tmp_path, status=3)
    found = rows(tmp_path / "preds.csv")
    reasons = {Path(row["id"]).stem: row["reason"] for row in found}
    assert reasons == {**expected, "absent": "missing"}
    assert len(found) == len(reasons)
    for row in found:
        scored = row["reason"] == ""
        flagged = Path(row["id"]).stem == "half-overflow"  # most of its pixels are infinite
        assert row["status"] == (("flagged" if flagged else "ok") if scored else "rejected")
        assert (row["label"] in tiny_model.CLASSES) == scored
        numbers = [row[f"p_{name}"] for name in tiny_model.CLASSES]
        if scored:
            assert sum(map(float, numbers)) == pytest.approx(1, abs=1e-3)
        else:
            assert numbers == ["", "", ""]
    n_ok = list(reasons.values()).count("")
    counts = f"{n_ok - 1} ok + 1 flagged + {len(found) - n_ok} rejected"
    assert f"{len(found)} cutouts = {counts}" in done.stdout
    assert "1 named more than once" in done.stdout


def test_awkward_names_come_back_byte_for_byte(tmp_path, bundle, rng):
    names = [
        "-dash.npy",
        "=cmd.npy",
        "a,b.npy",
        'q"q.npy',
        "line\nbreak.npy",
        "🔭.npy",
        "ret\r.npy",
    ]
    names.append(os.fsdecode(b"latin-\xe9.npy"))
    for name in names:
        np.save(tmp_path / name, rng.normal(size=(SIZE, SIZE)))
    done = lens_infer("--model", bundle, "--", *names, cwd=tmp_path)
    assert [row["id"] for row in rows(tmp_path / "preds.csv")] == names
    assert done.stderr.count("\n") == 1


def test_a_quoted_pattern_with_the_newest_bundle(tmp_path, rng):
    tiny_model.make_bundle(tmp_path / "bundles" / "tiny")
    (tmp_path / "catalog").mkdir()
    for i in range(12):
        np.save(tmp_path / "catalog" / f"{i}.npy", rng.normal(size=(SIZE, SIZE)))
    lens_infer(
        "catalog/*.npy", "--out", "out.csv", "--workers", "3", "--batch-size", "5", cwd=tmp_path
    )
    assert [row["id"] for row in rows(tmp_path / "out.csv")] == [
        f"catalog/{i}.npy" for i in range(12)
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "Missing argument"),
        (("x.npy", "--batch-size", "0"), 2, "neither auto nor a whole number"),
        (("x.npy", "--workers", "many"), 2, "neither auto nor a whole number"),
        (("x.npy", "--device", "tpu"), 2, "'tpu' is not one of"),
        (("x.npy",), 1, "no model: there is no bundle under bundles"),
        (("x.npy", "--out", "preds.xlsx"), 1, "no format for this ending"),
        (("x.npy", "--out", "absent/preds.csv"), 1, "there is no folder absent"),
        (("x.npy", "--model", "."), 1, "not a model bundle"),
    ],
)
def test_wrong_usage_and_errors(tmp_path, arguments, status, message):
    done = lens_infer(*arguments, cwd=tmp_path, status=status)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_an_error_that_leaves_nothing(tmp_path, bundle, rng):
    np.save(tmp_path / "0.npy", rng.normal(size=(SIZE, SIZE)))
    done = subprocess.run(
        [LENS_INFER, "0.npy", "--model", bundle],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)),
    )
    assert done.returncode == 1
    assert "cannot write in preds.csv.parts: File too large; no row was finished" in done.stderr
    assert "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["0.npy"]


def test_nobody_is_told_of_a_run(tmp_path, bundle, rng):
    """OpenVINO would report its import, and write an id of the user into the home folder."""
    np.save(tmp_path / "0.npy", rng.normal(size=(SIZE, SIZE)))
    (home := tmp_path / "home").mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    subprocess.run(
        [LENS_INFER, "0.npy", "--model", bundle],
        cwd=tmp_path,
        env=environment | {"HOME": str(home)},
        check=True,
        capture_output=True,
    )
    assert list(home.iterdir()) == []


def test_a_run_imports_nothing_that_trains_or_exports(tmp_path, bundle, rng):
    np.save(tmp_path / "0.npy", rng.normal(size=(SIZE, SIZE)))
    probe = (
        "import sys; from stronglens.engine.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "others = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib', 'PIL',\n"
        "          'stronglens.training', 'stronglens.export'}\n"
        "print(sorted(others & sys.modules.keys()), 'openvino' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "0.npy", "--model", bundle],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] True"


def test_help_loads_nothing_heavy(tmp_path):
    probe = (
        "import sys; from stronglens.engine.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'numba', 'openvino', 'onnxruntime', 'onnx', 'torch', 'PIL', 'scipy'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path
    )
    assert "INPUT" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
