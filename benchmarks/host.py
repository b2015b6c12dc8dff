"""Which machine this is, in words: every result says where it was measured."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "numba", "torch", "torchvision", "timm", "onnxruntime-gpu", "openvino")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile")


def gpu() -> str:
    """Return the name of the first GPU, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True)
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout else ""


def machine() -> str:
    """Return one sentence: processor, cores, memory, GPU, system, versions."""
    lines = _lines("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores "
        f"({', '.join(f for f in CPU_FLAGS if f in flags)}), {memory:.0f} GiB, "
        f"{gpu() or 'no GPU'}, {platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(_versions())}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
