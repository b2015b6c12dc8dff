"""What is installed, what it imports, and what its commands need merely to explain themselves."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("engine", "training", "export")
COMMANDS = ("lens-train", "lens-simulate", "lens-export", "lens-infer")


def modules_in_tree():
    files = [file for top in FOLDERS for file in (ROOT / top).rglob("*.py")]
    return {"stronglens/" + file.relative_to(ROOT).as_posix() for file in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: an old build/ folder must not be able to add to it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", "dist"], cwd=folder, check=True)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def bare_environment(wheel, tmp_path_factory):
    """An environment that holds the wheel and click, and nothing that a command only may need."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", wheel], check=True)
    import click

    (site / "click").symlink_to(Path(click.__file__).parent)
    return folder


def test_wheel_holds_the_tree_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.endswith(".py")} == modules_in_tree()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"stronglens", next(t for t in tops if t.endswith(".dist-info"))}
    assert "stronglens/engine/py.typed" in names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_only_click(bare_environment, command):
    """So it is quick: what takes seconds to import is imported when it is used."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [bare_environment / "bin" / command, "--help"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: " + command)


# Imports every module of a package while refusing whole libraries, each with its exceptions.
PROBE = """
import importlib, pkgutil, sys
package, refused = sys.argv[1], sys.argv[2:]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == r or name.startswith(r + ".") for r in refused):
            raise AssertionError(f"{package} imported {name}")
sys.meta_path.insert(0, Refuse())
found = importlib.import_module(package)
for module in pkgutil.walk_packages(found.__path__, found.__name__ + "."):
    importlib.import_module(module.name)
print("ok")
"""

FORMATS = ("astropy", "fitsio", "h5py", "hdf5plugin", "numcodecs", "pyarrow", "zarr")
RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt", "cuda", "PIL", "matplotlib", "sklearn")


@pytest.mark.parametrize(
    ("package", "refused"),
    [
        (
            "stronglens.engine",
            ("torch", "stronglens.training", "stronglens.export", *RUNTIMES, *FORMATS),
        ),
        ("stronglens.training", ("stronglens.export", "onnx", "onnxruntime", "openvino")),
    ],
)
def test_imports_point_one_way(package, refused, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, package, *refused],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "ok", done.stderr
