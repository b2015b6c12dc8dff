import sys

import numpy as np
import pytest
from PIL import Image

from stronglens.training import metrics, plots

CLASSES = ("no", "sphere", "vort")


@pytest.fixture
def scored(rng):
    y_N = np.repeat([0, 1, 2], 20)
    prob_NK = rng.dirichlet([1, 1, 1], 60) * 0.6 + 0.4 * np.eye(3)[y_N]
    return y_N, prob_NK


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(image_HWC, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((image_HWC == rgb).all(axis=2).any())


def draw_roc(path, scored):
    summary = metrics.summarise(*scored, CLASSES, n_boot=20)
    plots.roc_png(*scored, CLASSES, summary, path)


def test_roc_draws_a_curve_a_class(tmp_path, scored):
    draw_roc(tmp_path / "roc.png", scored)
    image_HWC = pixels(tmp_path / "roc.png")
    assert all(has_colour(image_HWC, colour) for colour in plots.COLOURS[:3])
    assert not has_colour(image_HWC, plots.COLOURS[3])


def test_the_same_input_gives_the_same_bytes_and_no_pyplot(tmp_path, scored):
    for name in ("a.png", "b.png"):
        draw_roc(tmp_path / name, scored)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("val", [0.5, np.nan, "", None])
def test_loss_leaves_out_a_validation_that_is_not_there(tmp_path, val):
    rows = [{"epoch": e, "train_loss": 1 / (e + 1), "val_loss": val, "lr": 1e-3} for e in range(3)]
    plots.loss_png(rows, tmp_path / "loss.png")
    assert has_colour(pixels(tmp_path / "loss.png"), plots.COLOURS[1]) == (val == 0.5)


def test_loss_marks_a_cut_of_the_learning_rate_and_no_slow_change(tmp_path):
    images = {}
    for name, factor in (("flat", 1.0), ("slow", 0.9), ("cut", 0.1)):
        rows = [{"train_loss": 1 / (e + 1), "lr": 1 if e < 2 else factor} for e in range(4)]
        plots.loss_png(rows, tmp_path / name)
        images[name] = pixels(tmp_path / name)
    np.testing.assert_array_equal(images["flat"], images["slow"])
    assert (images["cut"] != images["flat"]).any()


@pytest.mark.parametrize("rows", [[], [{"train_loss": 0.5}], [{"train_loss": float("nan")}]])
def test_loss_of_hardly_any_epoch_is_drawn(tmp_path, rows):
    plots.loss_png(rows, tmp_path / "loss.png")
    assert pixels(tmp_path / "loss.png").std() > 0


def test_mistakes_shows_the_lowest_scored_first(tmp_path, rng):
    """Right ones only, then with a wrong one among them: it alone turns red."""
    x_NHW = rng.normal(size=(6, 24, 24)).astype(np.float32)
    ids = [f"val/{n}.npy" for n in range(6)]
    y_N = np.array([0, 1, 0, 1, 0, 1])
    prob_NK = 0.8 * np.eye(2)[y_N] + 0.1
    draw = {"classes": ("lens", "nonlens"), "count": 2}
    plots.mistakes_png(x_NHW, ids, y_N, prob_NK, path=tmp_path / "right.png", **draw)
    prob_NK[4] = 0.3, 0.7
    plots.mistakes_png(x_NHW, ids, y_N, prob_NK, path=tmp_path / "wrong.png", **draw)
    assert not has_colour(pixels(tmp_path / "right.png"), plots.WRONG)
    assert has_colour(pixels(tmp_path / "wrong.png"), plots.WRONG)


def test_mistakes_takes_any_name_and_blank_cutouts(tmp_path):
    """Dollars are no mathematics, long names are shortened, a constant cutout has no range."""
    ids = ["a_$\\frac$_b.npy", "x" * 200, "blank.npy"]
    x_NHW = np.zeros((3, 8, 8), np.float32)
    plots.mistakes_png(x_NHW, ids, [0, 1, 0], np.eye(2)[[0, 0, 1]], ("a", "b"), tmp_path / "m.png")
    assert has_colour(pixels(tmp_path / "m.png"), plots.WRONG)
