"""What a bundle says about itself, as JSON that is checked before it is used."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from stronglens.engine.errors import BundleError
from stronglens.engine.preprocess import PreprocessSpec

FORMAT = 1
DIFFERENCES = ("max_abs_dp", "rounded_max_abs_dp")
"""of a precision's parity: the largest of a probability, which a run may show too"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a bundle says about itself. Every field is required; unknown ones are refused."""

    task: str
    """substructure or lensfinding"""
    classes: list[str]
    """in the order of the probability columns"""
    preprocess: PreprocessSpec
    files: dict[str, str]
    """file name: sha256 of its bytes"""
    outputs: list[str]
    """names of the graph's outputs: prob, and encoding for the lens finder"""
    metrics: dict[str, Any]
    """the run's metrics.json: figures, their intervals and the split they come from"""
    data: dict[str, Any]
    """what the model was trained on: path, simulated or not, sha256, counts"""
    recipe: dict[str, Any]
    versions: dict[str, str]
    """of the packages that made the bundle"""
    parity: dict[str, dict[str, Any]]
    """precision: how far its probabilities are from torch float32; only those that passed"""
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as indented JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read `to_json`'s output.

        Raises:
            BundleError: not JSON, another format, or keys that are missing, unknown or mistyped.
        """
        try:
            d = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise BundleError(f"the manifest is not JSON: {err}") from err
        if not isinstance(d, dict):
            raise BundleError("the manifest is not a JSON object")
        if d.get("format") != FORMAT:
            raise BundleError(
                f"manifest format {d.get('format')!r}, this version reads {FORMAT}: "
                "export the model again, or install the version that made it"
            )
        if wrong := sorted({f.name for f in fields(cls)} ^ d.keys()):
            raise BundleError(f"manifest keys missing or unknown: {', '.join(wrong)}")
        _check_types(d)
        return cls(**{**d, "preprocess": PreprocessSpec.from_dict(d["preprocess"])})


def _check_types(d: dict[str, Any]) -> None:
    lists = ("classes", "outputs")
    dicts = ("preprocess", "files", "metrics", "data", "recipe", "versions", "parity")
    for name, kind in [("task", str), *((n, list) for n in lists), *((n, dict) for n in dicts)]:
        if not isinstance(d[name], kind):
            raise BundleError(f"manifest {name} is {d[name]!r}, expected a {kind.__name__}")
    for name in lists:
        if not d[name] or not all(isinstance(item, str) for item in d[name]):
            raise BundleError(f"manifest {name} is {d[name]!r}, expected names")
    if not all(isinstance(found, str) for found in d["files"].values()):
        raise BundleError("manifest files are not names and their sha256")
    for precision, figures in d["parity"].items():
        if not isinstance(figures, dict) or not all(
            _is_share(figures.get(name) or 0) for name in DIFFERENCES
        ):
            raise BundleError(f"manifest parity of {precision} is not a table of differences")
    if len(set(d["classes"])) != len(d["classes"]):
        raise BundleError(f"manifest classes repeat: {', '.join(d['classes'])}")


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
