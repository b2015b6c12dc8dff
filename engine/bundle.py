"""A model bundle: a folder holding manifest.json and the files it lists, nothing else.

manifest.json     what the model is, and the sha256 of every other file
model.onnx        float32: x (B, H, W) float32 in, prob (B, K) float32 out
model.fp16.onnx   optional: the same graph with its body in half precision
model.int8.onnx   optional: the same graph, quantised
golden.npz        raw cutouts, the same prepared, their probabilities in torch float32, and the
                  classes in the order of those
"""

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stronglens.engine.errors import BundleError, ConfigError
from stronglens.engine.manifest import Manifest
from stronglens.engine.wire import check_whole

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 1 << 20
"""bytes; a longer manifest is not one of ours"""
GOLDEN = "golden.npz"
GOLDEN_LIMIT = 1 << 30
"""bytes, unpacked"""
BROKEN = (EOFError, KeyError, OSError, TypeError, ValueError, BadZipFile, zlib.error)
"""what reading an archive of arrays raises that is not one"""
GRAPHS = {
    "float32": "model.onnx",
    "bfloat16": "model.onnx",  # the runtime rounds the float32 graph itself
    "float16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Cutouts whose answers are known, replayed before a run; all arrays along N."""

    raw_NHW: NDArray[Any]
    """as stored, before `prepare`"""
    x_NHW: NDArray[np.float32]
    """as `prepare` made them at export"""
    prob_NK: NDArray[np.float32]
    """from torch in float32"""

    def to_npz(self, path: Path, classes: list[str]) -> None:
        """Write the three arrays, compressed, and which class each column of `prob` is."""
        names = np.array(classes, np.str_)
        np.savez_compressed(path, raw=self.raw_NHW, x=self.x_NHW, prob=self.prob_NK, classes=names)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose every file has been checked against its manifest."""

    path: Path
    manifest: Manifest

    def graph(self, precision: str) -> Path:
        """Return the ONNX file that a precision runs.

        Raises:
            BundleError: the bundle has none for it.
        """
        name = GRAPHS.get(precision)
        if name in self.manifest.files:
            return self.path / name
        there = sorted(p for p, file in GRAPHS.items() if file in self.manifest.files)
        flag = {"float16": " with --fp16", "int8": " with --int8"}.get(precision, "")
        raise BundleError(
            f"{self.path} has no {precision} graph, only {', '.join(there)}: "
            f"export it again{flag}, or choose another precision"
        )

    def golden(self) -> Golden:
        """Return the golden batch.

        Raises:
            BundleError: it is not one, or was made for other classes, or for another order of them.
        """
        file = self.path / GOLDEN
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as npz:
                if sum(member.file_size for member in npz.zip.infolist()) > GOLDEN_LIMIT:
                    raise ValueError(f"it unpacks to more than {GOLDEN_LIMIT} bytes")
                found = Golden(npz["raw"], npz["x"], npz["prob"])
                made_for = npz["classes"].tolist() if "classes" in npz else self.manifest.classes
        except BROKEN as err:
            raise BundleError(f"{file} is not a golden batch: {err}: export it again") from err
        if made_for != self.manifest.classes:
            raise BundleError(
                f"{self.path} was made for the classes {', '.join(map(str, made_for))}, and its "
                f"manifest says {', '.join(self.manifest.classes)}: export the model again"
            )
        return found


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        BundleError: no manifest or not one of this format; a file missing, altered, unlisted,
            or a link; a graph whose weights lie elsewhere.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is not a model bundle: it has no {MANIFEST}")
    if (size := file.stat().st_size) > MANIFEST_LIMIT:
        raise BundleError(f"{file} has {size} bytes, more than {MANIFEST_LIMIT}: not a manifest")
    try:
        manifest = Manifest.from_json(file.read_text(encoding="utf-8"))
    except (BundleError, ConfigError, UnicodeDecodeError) as err:
        raise BundleError(f"{file}: {err}") from err
    for needed in (GRAPHS["float32"], GOLDEN):
        if needed not in manifest.files:
            raise BundleError(f"{file} does not list {needed}, which every bundle has")
    for name, expected in manifest.files.items():
        _check_file(path, name, expected)
    return Bundle(path, manifest)


def _check_file(path: Path, name: str, expected: str) -> None:
    file = path / name
    # A weight file beside the graph could point anywhere; single-file graphs need none.
    if name not in {*GRAPHS.values(), GOLDEN}:
        raise BundleError(
            f"{path}: the manifest lists {name!r}, which no bundle of this format has"
        )
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file} is listed in the manifest but is missing, or is a link")
    if (found := sha256(file)) != expected:
        raise BundleError(f"{file} was altered: sha256 {found[:12]}, manifest {expected[:12]}")
    if name != GOLDEN:
        _check_graph(file)


def _check_graph(path: Path) -> None:
    with path.open("rb") as file:
        try:
            check_whole(file)
        except BundleError as err:
            raise BundleError(f"{path}: {err}") from err


def write_bundle(
    path: Path,
    files: Mapping[str, bytes],
    *,
    golden: Golden,
    **facts: Any,
) -> Bundle:
    """Write a bundle under a temporary name, check it by loading it, then rename it to `path`.

    Args:
        path: the bundle's folder; an older bundle there is replaced, anything else refused.
        files: ONNX graphs by the names of `GRAPHS`.
        golden: the golden batch.
        **facts: the other fields of `Manifest`.

    Raises:
        BundleError: `path` holds something that is not a bundle, or cannot be written.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is there and is not a model bundle: choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        golden.to_npz(temporary / GOLDEN, facts["classes"])
        hashes = {name: sha256(temporary / name) for name in (*files, GOLDEN)}
        manifest = Manifest(files=hashes, **facts)
        (temporary / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        load_bundle(temporary)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as err:
        raise BundleError(f"cannot write the bundle {path}: {err}") from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(path, manifest)


def _umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def newest_bundle(root: Path = Path("bundles")) -> Path:
    """Return the bundle under `root` whose manifest is the newest.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(root.glob(f"*/{MANIFEST}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ConfigError(
            f"no model: there is no bundle under {root}/. Make one with lens-train and "
            "lens-export, or name one with --model"
        )
    return found[-1].parent


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
