"""A net over many cutouts, batch by batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stronglens.training.hardware import Hardware

BATCH = 64


def outputs(net: nn.Module, x_NHW: NDArray[np.float32], hardware: Hardware) -> Tensor:
    """Return the net's output for every cutout, (N, …) float32 on the CPU, in eval mode.

    The net is left in the mode it was in.
    """
    was_training = net.training
    net.eval()
    parts: list[Any] = []
    with torch.inference_mode(), hardware.autocast():
        for start in range(0, len(x_NHW), BATCH):
            # a copy: torch warns of arrays that it may not write to
            x_BHW = torch.from_numpy(np.array(x_NHW[start : start + BATCH]))
            parts.append(net(x_BHW.to(hardware.device)).float().cpu())
    net.train(was_training)
    return torch.cat(parts)
