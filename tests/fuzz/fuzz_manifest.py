"""The reader of manifests: a manifest that comes back as it was, or one of our own errors."""

import json

from stronglens.engine.errors import BundleError, ConfigError
from stronglens.engine.manifest import Manifest
from stronglens.engine.preprocess import PreprocessSpec

GOOD = {
    "task": "substructure",
    "classes": ["no", "sphere"],
    "preprocess": PreprocessSpec().to_dict(),
    "files": {"model.onnx": "0" * 64},
    "outputs": ["prob"],
    "metrics": {},
    "data": {},
    "recipe": {},
    "versions": {},
    "parity": {"float32": {"max_abs_dp": 1e-6}},
    "format": 1,
}
PLACES = [(name,) for name in GOOD] + [
    (name, inner) for name in ("preprocess", "parity") for inner in GOOD[name]
]


def read(data):
    """Read the bytes as a manifest; and as what is in one place of a good one."""
    text = bytes(data).decode("utf-8", "surrogateescape")
    read_text(text)
    try:
        value = json.loads(text[1:])
    except (ValueError, RecursionError):
        return
    changed = json.loads(json.dumps(GOOD))
    *outer, last = PLACES[ord(text[0]) % len(PLACES)]
    (changed[outer[0]] if outer else changed)[last] = value
    read_text(json.dumps(changed))


def read_text(text):
    """Read a manifest; write what was read, and read it again."""
    try:
        manifest = Manifest.from_json(text)
    except (BundleError, ConfigError):
        return
    again = manifest.to_json()
    assert Manifest.from_json(again).to_json() == again
    assert manifest.classes and len({*manifest.classes}) == len(manifest.classes)
    assert 1 <= manifest.preprocess.size <= 16384
    assert all(isinstance(figures, dict) for figures in manifest.parity.values())
