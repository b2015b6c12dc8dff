"""Which machine this is, in words: every result says where it was measured."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stronglens.engine.machine import cpu_flags

PACKAGES = ("numpy", "numba", "torch", "torchvision", "timm", "onnxruntime-gpu", "openvino")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile")


def machine() -> str:
    """Return the processor, what it has, its cores, the memory and the GPU."""
    has = [flag for flag in CPU_FLAGS if flag in (cpu_flags() or ())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{processor()}, {os.cpu_count()} cores ({', '.join(has)})"
    return f"{cpu}, {memory:.0f} GiB, {gpu() or 'no GPU'}"


def software() -> str:
    """Return the system and the versions of what the figures depend on."""
    return ", ".join([platform.system(), f"Python {platform.python_version()}", *_versions()])


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpu() -> str:
    """Return the name of the first GPU, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True)
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout else ""


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
