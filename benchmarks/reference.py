"""The reference's own way with files: its loading, and its net with a run's weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from stronglens.engine.bundle import Bundle, load_bundle
from stronglens.export.graph import ServingGraph, serving
from stronglens.training.checkpoint import load_run
from stronglens.training.models import NearestResize


@dataclass
class NotebookDataset(Dataset[tuple[Tensor, int]]):
    """The reference's loading: np.load, NaN → 0, nearest-neighbour resize.

    Its files hold what the net takes; others (pictures) are brought to [0, 1] first.
    """

    paths: list[str]
    resize: int
    """pixels a side; 0: as stored"""
    unit: bool
    """whether to bring pixels to [0, 1]"""
    transform: Any = None
    """timm's loader sets one; these files need none"""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        raw = np.load(self.paths[i])
        if self.unit:
            low, high = float(np.nanmin(raw)), float(np.nanmax(raw))
            raw = (raw - low) / (high - low)
        finite_HW = np.nan_to_num(raw.reshape(raw.shape[-2:]), posinf=0, neginf=0)
        x_1HW = torch.from_numpy(finite_HW.astype(np.float32))[None]
        if self.resize:
            x_1HW = nn.functional.interpolate(x_1HW[None], size=self.resize)[0]
        return x_1HW, 0


@dataclass(frozen=True)
class Case:
    """A run, its bundle, the files to score, where torch runs; what is heavy loads when asked."""

    run: Path
    bundle: Bundle
    paths: list[str]
    device: torch.device

    @cached_property
    def net(self) -> nn.Module:
        """The trained net."""
        return load_run(self.run).net

    @cached_property
    def graph(self) -> ServingGraph:
        """What serves it, (B, H, W) → prob_BK, without the resize, which `resized` does."""
        graph = serving(self.net).graph
        if isinstance(graph.front, NearestResize):
            graph.front = nn.Identity()
        return graph.to(self.device)

    @property
    def stored(self) -> NotebookDataset:
        """The files for a graph that resizes them itself."""
        first = np.load(self.paths[0])
        unit = self.bundle.manifest.preprocess.mode == "minmax"
        return NotebookDataset(self.paths, 0, unit and (first.min(), first.max()) != (0, 1))

    @property
    def resized(self) -> NotebookDataset:
        """The files at the size that `graph` takes."""
        front = serving(self.net).graph.front
        side = len(front.index) if isinstance(front, NearestResize) else 0
        return replace(self.stored, resize=side)


def read_case(run: Path, bundle: Path, paths: list[str]) -> Case:
    """Open the bundle and choose the device."""
    loaded = load_bundle(bundle)
    if loaded.manifest.preprocess.mode == "asinh":
        raise SystemExit("the reference has no asinh stretch: take a run with minmax or none")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Case(run, loaded, paths, device)
