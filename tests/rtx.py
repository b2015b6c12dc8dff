"""Compile graphs with TensorRT-RTX: NVIDIA's real parser and builder, which need no GPU.

    python rtx.py FILE...

prints, for each file, a line of JSON: bytes of the plan, or what the error said. In a process of
its own: its libraries are loaded for all to see, and what they refuse might end it.
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path

BINDINGS, LIBRARIES = "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"


def missing():
    """Return what is not installed, by name; "" if all is."""
    return ", ".join(name for name in (BINDINGS, LIBRARIES) if not importlib.util.find_spec(name))


def load():
    """Return the module; its libraries come in another package than its bindings."""
    folder = Path(importlib.util.find_spec(LIBRARIES).origin).parent
    for pattern in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
        (library,) = folder.glob(pattern)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return importlib.import_module(BINDINGS)


def main(paths):
    from stronglens.engine.backends.tensorrt_build import build_plan
    from stronglens.engine.errors import BackendError

    trt = load()
    for path in paths:
        try:
            found = {"bytes": len(build_plan(trt, Path(path).read_bytes()).plan)}
        except BackendError as err:
            found = {"error": str(err)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
