"""What this machine has: cores, instruction sets, GPUs. Asks the system, measures nothing."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and its container's share.

    The two hardware threads of a core count once: matrix products gain nothing from the second.
    """
    try:
        cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min(cores, _container_cores() or cores))


def _core_of(cpu: int) -> str:
    """Return what names the core that a hardware thread belongs to."""
    try:
        return Path(TOPOLOGY.format(cpu)).read_text()
    except OSError:
        return str(cpu)


def _container_cores() -> int:
    """Return the whole cores of the cgroup's CPU quota; 0 where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or a quota of "max"
        return 0


def cpu_flags() -> set[str] | None:
    """Return the instruction sets that Linux reports for an x86 CPU; None anywhere else."""
    if platform.machine() != "x86_64":
        return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((set(line.split()) for line in lines if line.startswith("flags")), None)


def count_gpus() -> int:
    """Return how many GPUs the NVIDIA driver offers; 0 where there is no driver."""
    count = ctypes.c_int(0)
    if (driver := _driver()) and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
        return count.value
    return 0


def gpu_name(number: int) -> str:
    """Return what the NVIDIA driver calls a GPU; "GPU" and its number where it does not tell."""
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(128)
    if (
        (driver := _driver())
        and driver.cuDeviceGet(ctypes.byref(handle), number) == 0
        and driver.cuDeviceGetName(name, len(name), handle) == 0
    ):
        return name.value.decode(errors="replace")
    return f"GPU {number}"


def cuda_of_driver() -> str:
    """Return the newest CUDA that the NVIDIA driver knows; "" where there is no driver."""
    version = ctypes.c_int(0)
    if (driver := _driver()) and driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
        return f"{version.value // 1000}.{version.value % 1000 // 10}"
    return ""


def _driver() -> Any | None:
    """Return NVIDIA's driver, started; None where there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver: Any = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0:
            return driver
    return None
