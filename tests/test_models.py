"""The nets: their fixed layers against naive twins, and where their first weights come from."""

import hashlib
from urllib.error import URLError

import naive
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from stronglens.engine.errors import ConfigError
from stronglens.training import weights as first_weights
from stronglens.training.models import (
    NearestResize,
    SquareRootBands,
    one_channel,
    pool,
    resnet18_encoder,
    resnext50,
    small_cnn,
)
from stronglens.training.weights import RANDOM, Weights, load_weights

SPREAD = [16, 17, 31, 64, 100, 149, 150, 151, 223, 224, 225, 299, 334, 448, 511, 512]
ALL_SIZES = range(16, 513)


def silent(line):
    """Take what would be said to the user."""


def assert_resizes_as_torch(size, out_size):
    x_BCHW = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    expected = F.interpolate(x_BCHW, size=(out_size, out_size), mode="nearest")
    assert torch.equal(NearestResize(size, out_size)(x_BCHW), expected), size


@pytest.mark.parametrize("size", SPREAD)
def test_nearest_resize_equals_torch(size):
    assert_resizes_as_torch(size, 224)
    assert_resizes_as_torch(224, size)


@pytest.mark.slow
def test_nearest_resize_equals_torch_at_every_size():
    for size in ALL_SIZES:
        assert_resizes_as_torch(size, 224)


def test_nearest_resize_leaves_its_own_size_alone():
    x_BCHW = torch.rand(2, 3, 20, 20)
    assert NearestResize(20, 20)(x_BCHW) is x_BCHW


@pytest.mark.parametrize("bias", [False, True])
def test_one_channel_gives_on_grey_what_three_channels_gave(bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 7, 2, 3, bias=bias)
    grey = torch.rand(2, 1, 30, 30)
    single = one_channel(conv)
    assert single.weight.shape == (5, 1, 7, 7)
    kernels = conv.weight[:, 0] + conv.weight[:, 1] + conv.weight[:, 2]
    torch.testing.assert_close(single.weight[:, 0], kernels)
    torch.testing.assert_close(single(grey), conv(grey.expand(2, 3, 30, 30)))


@pytest.mark.parametrize("size", [30, 120, 150, 151])
def test_square_root_bands_are_what_they_say(size):
    x_HW = np.random.default_rng(1).random((size, size), np.float32)
    bands = SquareRootBands(size)(torch.from_numpy(x_HW)[None, None])[0]
    np.testing.assert_allclose(bands, naive.square_root_bands(x_HW), atol=2e-4)


def test_pool_averages_halves_in_float32():
    maps = torch.full((1, 1, 64, 64), 1.0, dtype=torch.float16)
    maps[0, 0, 0, 0] = 1 + 2**-10
    assert pool(maps).dtype == torch.float32
    assert pool(maps).item() == 1 + 2**-22


def test_resnext50_is_the_reference_net():
    net = resnext50(3, size=150, resize=224).eval()
    assert net.front.index.shape == (224,)
    # torchvision's 25,028,904 less its 1000-class head and two of the stem's three bands
    expected = 25_028_904 - 2_049_000 + 3 * 2_049 - 2 * 64 * 49
    assert sum(weight.numel() for weight in net.parameters()) == expected
    with torch.inference_mode():
        assert net(torch.rand(2, 150, 150)).shape == (2, 3)


def test_small_cnn_is_small_and_takes_any_size():
    for size in (24, 150):
        net = small_cnn(4, size=size, resize=0).eval()
        assert net(torch.rand(2, size, size)).shape == (2, 4)
    assert 0.16e6 < sum(weight.numel() for weight in net.parameters()) < 0.18e6


def test_an_encoder_takes_rgb_weights_and_sums_their_stem():
    torch.manual_seed(1)
    rgb = resnet18().eval()
    state = {k: v for k, v in rgb.state_dict().items() if not k.startswith("fc.")}
    encoder = resnet18_encoder(Weights("test", state)).eval()
    grey = torch.rand(2, 1, 64, 64)
    rgb.fc = nn.Identity()
    with torch.inference_mode():
        expected = rgb(grey.expand(2, 3, 64, 64))
        torch.testing.assert_close(encoder(grey), expected, rtol=1e-4, atol=1e-5)


def test_a_run_starts_another(tmp_path):
    first = resnet18_encoder()
    save_file(
        {f"encoder.{k}": v for k, v in first.state_dict().items()}, tmp_path / "m.safetensors"
    )
    found = load_weights(str(tmp_path / "m.safetensors"), "resnet18", silent)
    assert found.origin.startswith("file m.safetensors ")
    second = resnet18_encoder(found)
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight), name


def test_a_stem_of_one_band_is_not_summed_again(tmp_path):
    first = resnext50(3, size=150, resize=224)
    save_file(first.state_dict(), tmp_path / "m.safetensors")
    found = load_weights(str(tmp_path / "m.safetensors"), "resnext50", silent)
    second = resnext50(7, found, size=100, resize=224)
    assert torch.equal(second.body.conv1.weight, first.body.conv1.weight)
    assert second.head.weight.shape == (7, 2048)


def test_weights_of_another_net_are_refused():
    with pytest.raises(ConfigError, match="do not fit this net"):
        resnext50(3, Weights("x", resnet18_encoder().body.state_dict()), size=150, resize=224)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_unread(tmp_path, ending):
    path = tmp_path / f"weights{ending}"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ConfigError, match="pickle can run any code"):
        load_weights(str(path), "resnet18", silent)


@pytest.mark.parametrize("name", ["missing.safetensors", "imagnet"])
def test_weights_that_are_not_there_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"auto, imagenet, none or a \.safetensors"):
        load_weights(str(tmp_path / name), "resnet18", silent)


def test_a_broken_safetensors_file_is_refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        load_weights(str(tmp_path / "m.safetensors"), "resnet18", silent)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty torch cache, and a network that refuses."""

    def refuse(url, timeout):
        raise URLError(f"refused within {timeout}")

    monkeypatch.setattr(first_weights, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_auto_without_network_says_loudly_that_weights_are_random(no_network):
    said = []
    assert load_weights("auto", "resnext50", said.append) == RANDOM
    assert "no ImageNet weights" in said[0]
    assert "RANDOM" in said[0]


def test_imagenet_without_network_is_an_error(no_network):
    with pytest.raises(ConfigError, match="put the file there, or use --weights none"):
        load_weights("imagenet", "resnext50", silent)


def test_none_asks_nobody(no_network):
    assert load_weights("none", "resnext50", silent) == RANDOM


def test_small_cnn_has_no_imagenet_weights(no_network):
    assert load_weights("auto", "small_cnn", silent) == RANDOM
    with pytest.raises(ConfigError, match="there are none for small_cnn"):
        load_weights("imagenet", "small_cnn", silent)


def cached(monkeypatch, folder, *, digits=None):
    """Put a file like torchvision's into the cache; return its state dict."""
    folder.mkdir(parents=True)
    state = resnet18().state_dict()
    torch.save(state, folder / "new.pth")
    found = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    name = f"resnet18-{digits or found}.pth"
    (folder / "new.pth").rename(folder / name)
    monkeypatch.setattr(first_weights, "_url", lambda net: f"https://localhost/{name}")
    return state


def test_cached_imagenet_weights_are_taken(no_network, monkeypatch):
    state = cached(monkeypatch, no_network)
    found = load_weights("auto", "resnet18", silent)
    assert found.origin.startswith("imagenet resnet18-")
    encoder = resnet18_encoder(found)
    assert torch.equal(encoder.body.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(encoder.body.layer4[1].bn2.weight, state["layer4.1.bn2.weight"])


def test_an_altered_cache_is_not_read(no_network, monkeypatch):
    cached(monkeypatch, no_network, digits="00000000")
    with pytest.raises(ConfigError, match="its name says 00000000"):
        load_weights("imagenet", "resnet18", silent)
