"""First weights: ImageNet's, a file's, or random ones; never without saying which."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stronglens.engine.errors import ConfigError

TIMEOUT_S = 10.0
"""for connecting, and for each read, when weights are fetched"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Weights:
    """The first weights of a net's body."""

    origin: str
    """for the run's record"""
    state: dict[str, Tensor] | None = None
    """of the body, by torchvision's names; None leaves the random initialisation"""


RANDOM = Weights("random")


def load_weights(kind: str, net: str, say: Say) -> Weights:
    """Find the first weights of `net`; `say` gets one line on what was found.

    Args:
        kind: `auto` takes ImageNet weights where torchvision's cache has them or its host
            answers, else none; `imagenet` insists; `none`; or the path of a .safetensors file
            with the names of torchvision or of a run of ours.

    Raises:
        ConfigError: they were insisted on and cannot be had, or the file is not one of ours.
    """
    if kind == "none":
        say("starting from random weights, as asked")
        return RANDOM
    if kind not in ("auto", "imagenet"):
        return _from_file(Path(kind))
    if net not in ("resnext50", "resnet18"):
        if kind == "imagenet":
            raise ConfigError(f"--weights imagenet: there are none for {net}; use --weights none")
        say(f"starting from random weights: {net} is trained from scratch")
        return RANDOM
    return _imagenet(net, kind == "imagenet", say)


def _imagenet(net: str, insist: bool, say: Say) -> Weights:
    url = _url(net)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    try:
        if not path.is_file():
            _fetch(url, path)
        _check_hash(path)
    except OSError as err:
        missing = f"no ImageNet weights for {net}: {url} ({err}), and no {path}"
        if insist:
            raise ConfigError(f"{missing}; put the file there, or use --weights none") from err
        say(f"WARNING: {missing}\nWARNING: starting from RANDOM weights: expect a worse model")
        return RANDOM
    # torchvision publishes these as pickles only: hash checked, and read as tensors alone
    state = torch.load(path, map_location="cpu", weights_only=True)
    say(f"starting from ImageNet weights: {path.name}")
    return Weights(f"imagenet {path.name}", _body(state))


def _url(net: str) -> str:
    from torchvision.models import ResNet18_Weights, ResNeXt50_32X4D_Weights

    known = {"resnext50": ResNeXt50_32X4D_Weights.DEFAULT, "resnet18": ResNet18_Weights.DEFAULT}
    return str(known[net].url)


def _fetch(url: str, path: Path) -> None:
    """Download to a temporary name, then rename. Any failure is an OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with urlopen(url, timeout=TIMEOUT_S) as answer, partial.open("wb") as file:
        while chunk := answer.read(1 << 20):
            file.write(chunk)
    partial.replace(path)


def _check_hash(path: Path) -> None:
    """torchvision's names end in the first 8 digits of the file's sha256: net-01234567.pth."""
    expected = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise OSError(f"{path} has sha256 {found[:8]}…, its name says {expected}: delete it")


def _from_file(path: Path) -> Weights:
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"):
        raise ConfigError(
            f"--weights {path}: a pickle can run any code when it is read, so none is loaded; "
            "convert it where you trust it: safetensors.torch.save_file(state_dict, …)"
        )
    if not path.is_file() or path.suffix != ".safetensors":
        raise ConfigError(
            f"--weights {path}: expected auto, imagenet, none or a .safetensors file that exists"
        )
    try:
        return Weights(f"file {path.name} {_sha256(path)[:16]}", _body(load_file(path)))
    except SafetensorError as err:
        raise ConfigError(f"--weights {path}: not a safetensors file: {err}") from err


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the body of a run's or torchvision's weights: heads and fixed layers are made anew."""
    ours = {
        name.removeprefix("encoder.").removeprefix("body."): weight
        for name, weight in state.items()
        if name.startswith(("body.", "encoder."))
    }
    return ours or {name: weight for name, weight in state.items() if not name.startswith("fc.")}
