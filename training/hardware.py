"""Where a net runs and in which precision: chosen once, and said."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from stronglens.engine.errors import BackendError, ConfigError
from stronglens.training.tasks import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where a net runs, and in which precision."""

    device: torch.device
    dtype: torch.dtype
    """of the autocast regions; float32 switches autocast off"""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which forward passes run."""
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if half else None, enabled=half)

    def __str__(self) -> str:
        name = "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return f"{name}, {self.precision}"

    @property
    def precision(self) -> Precision:
        """The name of `dtype`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)


def open_hardware(device: str, precision: Precision) -> Hardware:
    """Return the device and precision asked for; `auto` takes CUDA where it is, and halves
    where the device computes in them natively.

    Raises:
        BackendError: CUDA was asked for and is not there.
        ConfigError: a precision that the device cannot train in.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("--device cuda: torch finds no CUDA device; use --device cpu")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if precision == "float16" and kind == "cpu":
        raise ConfigError("precision float16 needs CUDA; on a CPU use bfloat16 or float32")
    if precision == "auto":
        precision = _fast_precision(kind)
    return Hardware(torch.device(kind), DTYPES[precision])


def _fast_precision(kind: str) -> Precision:
    if kind == "cuda":
        # Emulated bfloat16 is slower than float32; float16 is native on every GPU torch supports.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float16"
    return "bfloat16" if native_bfloat16() else "float32"


def native_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; elsewhere it is only slower."""
    known: Any = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
