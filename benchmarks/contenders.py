"""Who takes part in end_to_end.py: peers.py's ways and lens-infer, each a process of its own."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from common import Child, child, read_predictions
from numpy.typing import NDArray

from stronglens.engine.bundle import Bundle
from stronglens.engine.machine import count_gpus

PEERS = {
    "notebook": "reference's notebook: DataLoader, torch eager float32",
    "torch_half": "torch channels_last, autocast to half",
    "torch_compiled": "torch.compile, channels_last, autocast to half",
    "timm_way": "timm: its net, its loader, autocast to half",
    "onnxruntime": "ONNX Runtime float32, DataLoader",
    "openvino": "OpenVINO float32, DataLoader",
}
FULL_ONLY = {"torch_compiled"}
"""they take long to start, every round"""
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("cuda", "tensorrt") if count_gpus() else ("cpu",)
RATE = re.compile(r"([\d,.]+) cutouts/s")


@dataclass(slots=True)
class Contender:
    """One way to score the files, and what its rounds gave."""

    name: str
    once: Callable[[Path], tuple[Child, float, NDArray[np.float32]]]
    """score all, with a folder to write in: the process, cutouts/s, prob_NK"""
    rates: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    prob_NK: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failed: str = ""
    """why it cannot run here"""

    def round(self, folder: Path) -> None:
        """Score all files once more, unless that failed before."""
        if self.failed:
            return
        process, rate, self.prob_NK = self.once(folder)
        self.failed = process.error.removeprefix("Error: ")
        self.rates.append(rate)
        self.whole.append(process.seconds)
        self.peak_mb = max(self.peak_mb, process.peak_mb)


def peer(
    key: str, run: Path, bundle: Path, paths: list[str], folder: Path
) -> tuple[Child, float, NDArray[np.float32]]:
    """Score with one of peers.py's contenders."""
    listed, out = folder / "list", folder / "out.npz"
    listed.write_text("\n".join(paths))
    script = Path(__file__).with_name("peers.py")
    done = child("python", script, key, run, bundle, listed, out, may_fail=True)
    if done.error:
        return done, 0.0, np.empty((0, 0), np.float32)
    with np.load(out, allow_pickle=False) as found:
        return done, len(paths) / float(found["seconds"]), found["prob_NK"]


def lens_infer(
    device: str, precision: str, bundle: Path, paths: list[str], folder: Path
) -> tuple[Child, float, NDArray[np.float32]]:
    """Score the folder that all the files are in with the installed command."""
    out = folder / "preds.csv"
    options = ("--precision", precision, "--device", device, "--model", bundle, "--out", out)
    done = child("lens-infer", Path(paths[0]).parent, *options, may_fail=True)
    if done.error:
        return done, 0.0, np.empty((0, 0), np.float32)
    found, (ids, _, prob_NK) = RATE.search(done.stdout), read_predictions(out)
    assert found is not None and ids == paths, done.stdout
    return done, float(found[1].replace(",", "")), prob_NK


def contenders(
    run: Path, bundle: Bundle, paths: list[str], *, full: bool
) -> tuple[dict[str, Contender], list[str]]:
    """Return who takes part, in order, and who does not and why."""
    found, absent = {}, []
    for key, name in PEERS.items():
        if key in FULL_ONLY and not full:
            absent.append(f"{name}: only with --full")
            continue
        found[key] = Contender(name, partial(peer, key, run, bundle.path, paths))
    held = [precision for precision in PRECISIONS if precision in bundle.manifest.parity]
    for device, precision in product(DEVICES, held):
        once = partial(lens_infer, device, precision, bundle.path, paths)
        key = f"{device} {precision}"
        found[key] = Contender(f"lens-infer {precision}, {device}", once)
    absent += [f"lens-infer {name}: not in the bundle" for name in PRECISIONS if name not in held]
    if not count_gpus():
        absent.append("CUDA and TensorRT, for every contender: no GPU")
    return found, absent
