"""What a training needs to go on after its last finished epoch; safetensors and JSON only.

Each epoch is a folder, written under a temporary name and renamed: whenever the process dies,
the newest folder is whole.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch of a history."""

    epoch: int
    train_loss: float
    monitored_loss: float
    """what `validate` returned: the validation loss, or the training loss again"""
    lr: float
    """of its first step"""


@dataclass(frozen=True, slots=True)
class EpochTiming:
    """How long an epoch took: apart from the history, which is the same in every repetition."""

    epoch: int
    seconds: float
    cutouts_per_s: float
    """of the training steps"""
    data_wait_share: float
    """share of the training steps' time spent waiting for pixels"""


@dataclass(slots=True)
class State:
    """A training after some finished epochs."""

    history: list[EpochRow]
    timings: list[EpochTiming]
    best: dict[str, Tensor]
    """the weights of the best epoch, on the CPU; empty before the first"""


def save_state(
    folder: Path,
    state: State,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write the state after its last epoch into `folder`, and delete what came before."""
    name = f"epoch-{len(state.history):05d}"
    partial = folder / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(cpu_weights(net), partial / "net.safetensors")
    save_file(state.best, partial / "best.safetensors")
    save_file(_flat(optimizer), partial / "optimizer.safetensors")
    rows = {
        "history": [asdict(row) for row in state.history],
        "timings": [asdict(row) for row in state.timings],
        "scaler": scaler.state_dict(),
    }
    (partial / "state.json").write_text(json.dumps(rows, indent=1))
    for path in partial.iterdir():
        _sync(path)
    partial.rename(folder / name)
    for old in folder.iterdir():
        if old.name != name:
            shutil.rmtree(old)


def restore_state(
    folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> State:
    """Read the newest state into net, optimizer and scaler; an empty state where there is none."""
    newest = newest_state(folder)
    if newest is None:
        return State([], [], {})
    net.load_state_dict(load_file(newest / "net.safetensors"))
    _unflatten(optimizer, load_file(newest / "optimizer.safetensors"))
    rows = json.loads((newest / "state.json").read_text())
    if rows["scaler"]:
        scaler.load_state_dict(rows["scaler"])
    history = [EpochRow(**row) for row in rows["history"]]
    timings = [EpochTiming(**row) for row in rows["timings"]]
    return State(history, timings, load_file(newest / "best.safetensors"))


def newest_state(folder: Path) -> Path | None:
    """Return the folder of the last finished epoch."""
    whole = [path for path in folder.glob("epoch-*") if path.suffix != ".partial"]
    return max(whole, default=None, key=lambda path: path.name)


def cpu_weights(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of the net's weights on the CPU, laid out as safetensors writes them."""
    return {
        name: weight.detach().to("cpu", copy=True).contiguous()
        for name, weight in net.state_dict().items()
    }


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{parameter}.{name}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def _unflatten(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]  # as the recipe made them
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # The fused AdamW goes through memory, not through indices: a moment must lie as its weight
    # does (channels last), or it is applied to other elements, without an error.
    for weight, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == weight.shape:
                slots[name] = torch.empty_like(weight).copy_(value)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
