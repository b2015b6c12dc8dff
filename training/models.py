"""The nets: fixed layers in front, a body that makes feature maps, a linear head.

What has weights of ImageNet's keeps torchvision's names inside `body`, so a state dict goes
either way. Feature maps are averaged in float32: halves lose digits in a long sum.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stronglens.engine.errors import ConfigError
from stronglens.training.tasks import Recipe
from stronglens.training.weights import RANDOM, Weights


class NearestResize(nn.Module):
    """Resize square x_BCHW by nearest neighbour, as torch's `interpolate` does, at every size.

    Two gathers, because ONNX's Resize, float64 indices and integer arithmetic all differ from
    torch at some sizes.
    """

    index: Tensor

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.same = in_size == out_size
        scale = torch.tensor(in_size / out_size, dtype=torch.float32)
        nearest = torch.floor(torch.arange(out_size, dtype=torch.float32) * scale).long()
        self.register_buffer("index", nearest.clamp(max=in_size - 1), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C, out_size, out_size), of the input's type."""
        if self.same:
            return x_BCHW
        return x_BCHW.index_select(2, self.index).index_select(3, self.index)


class SquareRootBands(nn.Module):
    """x_B1HW in [0, 1] → two bands of its centre: its square root, and what is sharp in that.

    The square root makes Poisson noise even over the image. The sharp band (what a Gaussian
    of 2.5 pixels leaves) is where substructure shows. Both come at about unit scale.
    """

    kernel: Tensor

    def __init__(self, size: int, *, crop: int = 120, radius: int = 6, sigma: float = 2.5) -> None:
        super().__init__()
        self.keep = min(size, crop)
        self.start = (size - self.keep) // 2
        self.radius = radius
        weight = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        self.register_buffer("kernel", (weight / weight.sum()).view(1, 1, 1, -1), persistent=False)

    def forward(self, x_B1HW: Tensor) -> Tensor:
        """Return (B, 2, keep, keep)."""
        rows = x_B1HW.narrow(2, self.start, self.keep).narrow(3, self.start, self.keep)
        root = torch.sqrt(rows.clamp(min=0) + 0.01)
        padded = F.pad(root, [self.radius] * 4, mode="replicate")
        blurred = F.conv2d(F.conv2d(padded, self.kernel), self.kernel.transpose(2, 3))
        return torch.cat([(root - 0.2) * 4, (root - blurred) * 25], dim=1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, width, H / stride, W / stride)."""
        inner = F.relu(self.bn1(self.conv1(x_BCHW)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x_BCHW))


class Classifier(nn.Module):
    """Prepared cutouts → logits."""

    def __init__(self, front: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front = front
        """fixed layers, in float32: resize, stretch"""
        self.body = body
        """(B, C, H, W) → feature maps (B, D, h, w)"""
        self.head = head
        """(B, D) → (B, K)"""

    def forward(self, x_BHW: Tensor) -> Tensor:
        """Return logits_BK for prepared cutouts x_BHW float32."""
        maps = self.body(self.front(x_BHW.unsqueeze(1)))
        logits: Tensor = self.head(pool(maps))
        return logits


class Encoder(nn.Module):
    """(B, 1, H, W) → (B, D): a body, and the mean of each of its maps."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return features_BD float32."""
        return pool(self.body(x_BCHW))


class LensFinder(nn.Module):
    """Prepared cutouts → encodings, with the linear head that is fitted on them afterwards."""

    def __init__(self, encoder: nn.Module, projection: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.head = nn.Linear(dim, 1).requires_grad_(False)
        """logit of the second class, nonlens; no gradient reaches it, `simclr.finish` fits it"""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BHW: Tensor) -> Tensor:
        """Return encodings z_BD, after the projection, of prepared cutouts x_BHW."""
        z_BD: Tensor = self.projection(self.encoder(x_BHW.unsqueeze(1)))
        return z_BD


def describe(net: nn.Module, recipe: Recipe) -> str:
    """Return one line on a net: its name, its size, and whether it is the reference's."""
    count = sum(weight.numel() for weight in net.parameters()) / 1e6
    small = ", a much smaller net than the reference's ResNeXt50 of 23.0 M"
    return f"{recipe.net}: {count:.2f} M parameters{small if recipe.net == 'small_cnn' else ''}"


def pool(maps_BDHW: Tensor) -> Tensor:
    """Return the mean of each feature map (B, D), in float32."""
    return maps_BDHW.float().mean(dim=(2, 3))


def one_channel(conv: nn.Conv2d) -> nn.Conv2d:
    """Return `conv` for one band: its kernels summed over RGB.

    On a grey image, the same in all three bands, it then gives what `conv` gave.
    """
    # torch types the pairs of a Conv2d as tuples of any length
    single = nn.Conv2d(
        1,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        single.weight.copy_(conv.weight.sum(dim=1, keepdim=True))
        if conv.bias is not None and single.bias is not None:
            single.bias.copy_(conv.bias)
    return single


def resnext50(num_classes: int, weights: Weights = RANDOM, *, size: int, resize: int) -> Classifier:
    """Return ResNeXt50 32×4d on one band (Xie et al. 2017), cutouts of `size` made `resize`."""
    from torchvision.models import resnext50_32x4d

    front = NearestResize(size, resize or size)
    return Classifier(front, _body(resnext50_32x4d(), weights), nn.Linear(2048, num_classes))


def small_cnn(num_classes: int, weights: Weights = RANDOM, *, size: int, resize: int) -> Classifier:
    """Return a net of 0.17 M parameters that learns from scratch in minutes on two cores."""
    front = nn.Sequential(NearestResize(size, resize or size), SquareRootBands(resize or size))
    body = nn.Sequential(
        nn.Conv2d(2, 16, 5, 2, 2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        ResidualBlock(16, 24, 2),
        ResidualBlock(24, 48, 2),
        ResidualBlock(48, 96, 2),
    )
    _start_from(body, weights)
    return Classifier(front, body, nn.Sequential(nn.Dropout(0.2), nn.Linear(96, num_classes)))


def resnet18_encoder(weights: Weights = RANDOM) -> Encoder:
    """Return ResNet-18 on one band without its classifier: (B, 1, H, W) → (B, 512)."""
    from torchvision.models import resnet18

    return Encoder(_body(resnet18(), weights))


def _body(net: nn.Module, weights: Weights) -> nn.Module:
    """Take a torchvision ResNet's layers up to its pooling, with a one-channel stem."""
    layers = OrderedDict(list(net.named_children())[:-2])
    stem = layers["conv1"]
    assert isinstance(stem, nn.Conv2d)
    body = nn.Sequential(layers)
    kernels = (weights.state or {}).get("conv1.weight")
    if kernels is not None and kernels.ndim == 4 and kernels.shape[1] == 3:
        _start_from(body, weights)
        body.conv1 = one_channel(stem)
    else:
        body.conv1 = one_channel(stem)
        _start_from(body, weights)
    return body


def _start_from(body: nn.Module, weights: Weights) -> None:
    if weights.state is None:
        return
    try:
        body.load_state_dict(weights.state)
    except RuntimeError as err:
        first = str(err).splitlines()[1].strip()
        raise ConfigError(f"weights from {weights.origin} do not fit this net: {first}") from err
