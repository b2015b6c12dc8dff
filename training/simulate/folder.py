"""The folder of a simulated data set: whose it is, and what in it is finished."""

import json
import shutil
from pathlib import Path
from typing import Any

from stronglens.engine.errors import ConfigError, InputError
from stronglens.training.simulate.layout import Target

MANIFEST = "manifest.json"
PARAMS = "params.csv"
MOSAIC = "mosaic.png"
LEDGER = ".params.jsonl"
PART = ".part"
# ends the name of a file that is being written

Row = dict[str, Any]
"""file, class and the parameters of one cutout"""


def adopt(out: Path, manifest: dict[str, Any], targets: list[Target]) -> None:
    """Make `out` the folder of the data set that `manifest` describes, or see that it is already.

    Raises:
        ConfigError: it holds a data set made with other settings.
        InputError: it holds files that are not of this data set.
    """
    path = out / MANIFEST
    if path.is_file():
        _same(out, _read_manifest(path), manifest)
    _no_strangers(out, targets)
    for folder in sorted({(out / target.path).parent for target in targets}):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        replace(path, json.dumps(manifest, indent=2) + "\n")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("simulated") is True:
        return found
    raise InputError(
        f"{path} is not the manifest of a simulated data set: choose a new or empty folder"
    )


def _same(out: Path, found: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Refuse a data set made otherwise; versions are for the record and may differ."""
    for key in manifest:
        if key != "versions" and found.get(key) != manifest[key]:
            raise ConfigError(
                f"{out} holds a data set made with {key} {json.dumps(found.get(key))}, not "
                f"{json.dumps(manifest[key])}: choose another folder, delete this one, or ask for "
                "the same"
            )


def _no_strangers(out: Path, targets: list[Target]) -> None:
    """Refuse a folder with files this data set did not write; hidden ones don't count."""
    ours = {target.path for target in targets} if (out / MANIFEST).is_file() else set()
    ours |= {MANIFEST, PARAMS, MOSAIC}
    for path in sorted(out.rglob("*")) if out.exists() else []:
        name = path.relative_to(out).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(out).parts)
        if path.is_file() and not hidden and name.removesuffix(PART) not in ours:
            raise InputError(
                f"{out} holds {name}, which is not of this simulated data set: choose a new or "
                "empty folder"
            )


def finished(out: Path, targets: list[Target], size: int) -> dict[str, Row]:
    """Read the ledger: the row of every file that is whole, by its path."""
    ledger = out / LEDGER
    rows: dict[str, Row] = {}
    if ledger.is_file():
        for line in ledger.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            rows[row["file"]] = row
    whole = (t.path for t in targets if t.path in rows and _size(out / t.path) == size)
    rows = {path: rows[path] for path in whole}
    replace(ledger, "".join(json.dumps(row) + "\n" for row in rows.values()))
    return rows


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def check_space(out: Path, needed: int) -> None:
    """Raise InputError where the disk of `out` has no room for `needed` more bytes."""
    free = shutil.disk_usage(out).free
    if needed > 0.98 * free:
        raise InputError(
            f"{out} needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free: free "
            "some, choose another folder, or ask for fewer cutouts"
        )


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + PART)
    part.write_text(text)
    part.replace(path)
