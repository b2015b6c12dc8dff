"""What lens-infer finds on this machine, and what it would run on: `lens-infer --doctor`.

For whoever wonders, and for us when something fails: every line is asked for by itself, and one
that fails says so and leaves the others.
"""

import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from stronglens.engine.backends import open_backend
from stronglens.engine.backends.plans import cache_folder, contents
from stronglens.engine.backends.tensorrt_open import describe_tensorrt, load_tensorrt
from stronglens.engine.bundle import Bundle, load_bundle, newest_bundle
from stronglens.engine.config import DEVICES
from stronglens.engine.errors import LensError
from stronglens.engine.machine import count_gpus, cuda_of_driver, gpu_name, usable_cores

PACKAGES = (
    "numpy", "numba", "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "cuda-bindings",
)  # fmt: skip


def diagnose(model: Path | None) -> Iterator[str]:
    """Yield the lines, as soon as each is known.

    Args:
        model: a bundle to try on each device; None: the newest one, where there is one.
    """
    yield _line("machine", platform.platform)
    yield _line("python", lambda: f"{platform.python_version()}, {platform.machine()}")
    yield _line("packages", _packages)
    yield _line("cpu", _cpu)
    yield _line("gpu", _gpus)
    yield _line("onnxruntime", _providers)
    yield _line("tensorrt", lambda: str(load_tensorrt().__version__))
    yield _line("plans", _plans)
    try:
        bundle = load_bundle(model or newest_bundle())
    except LensError as err:
        yield f"{'bundle':<18}{err}"
        return
    yield _line("bundle", lambda: f"{bundle.path}: {', '.join(sorted(bundle.manifest.parity))}")
    for device in DEVICES:
        yield _line(f"--device {device}", _chosen(bundle, device))


def _line(title: str, ask: Callable[[], str]) -> str:
    try:
        answer = ask()
    except LensError as err:
        answer = f"no: {err}"
    except Exception as err:  # a broken installation is what this is for
        answer = f"fails: {err!r}"
    return f"{title:<18}{answer}"


def _packages() -> str:
    versions = {"stronglens": _version("stronglens"), **{p: _version(p) for p in PACKAGES}}
    return ", ".join(f"{name} {found}" for name, found in versions.items())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def _cpu() -> str:
    from stronglens.engine.backends.openvino import native_precisions

    return f"{usable_cores()} cores, computes in {', '.join(sorted(native_precisions()))}"


def _gpus() -> str:
    names = [gpu_name(i) for i in range(count_gpus())]
    driver = cuda_of_driver()
    if not names:
        return "none" + (f", but a driver for CUDA {driver}" if driver else ", and no driver")
    return f"{', '.join(names)}; driver for CUDA {driver}"


def _providers() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _plans() -> str:
    kept = [
        f"\n{'':<18}{each.path.name}, {each.bytes / 1e6:.1f} MB: {each.key or 'not one of ours'}"
        for each in contents()
    ]
    return f"{cache_folder()}: {len(kept)} files{''.join(kept)}"


def _chosen(bundle: Bundle, device: str) -> Callable[[], str]:
    def choose() -> str:
        if device == "tensorrt":  # without the minutes that a plan takes
            return describe_tensorrt(bundle)
        backend = open_backend(bundle, device=device)
        backend.close()
        return backend.label

    return choose
