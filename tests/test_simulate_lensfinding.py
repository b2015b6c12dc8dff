"""Whole HST-like cutouts: what the classes share, and what they are drawn from."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stronglens.engine.errors import ConfigError
from stronglens.training.simulate.lensfinding import CLASSES, render

SHARED = (
    *("seconds", "count", "sky", "slope_y", "slope_x"),
    *("roll", "jitter", "defocus", "astigmatism_0", "astigmatism_45", "coma_x", "coma_y"),
    *("centre_y", "centre_x", "magnitude", "radius", "neighbours", "missing"),
)


def test_classes_share_everything_but_the_centre():
    for index in range(4):
        (lens, of_lens), (other, of_other) = (render((8, index), cls) for cls in CLASSES)
        assert {name: of_lens[name] for name in SHARED} == {name: of_other[name] for name in SHARED}
        np.testing.assert_array_equal(np.isnan(lens), np.isnan(other))
        assert int(np.isnan(lens).sum()) == of_lens["missing"]
        assert (lens != other)[160:174, 160:174].any()


def test_sky_far_from_a_faint_centre_does_not_depend_on_the_class():
    checked = 0
    for index in range(12):
        (lens, of_lens), (other, _) = (render((9, index), cls) for cls in CLASSES)
        if of_lens["magnitude"] < 20 or of_lens["radius"] > 0.8:
            continue
        checked += 1
        edge = np.ones(lens.shape, bool)
        edge[40:-40, 40:-40] = False
        difference = (lens - other)[edge & np.isfinite(lens)]
        assert np.abs(difference).max() < 0.002  # under half of the noise, which is the same
    assert checked >= 2


@pytest.mark.parametrize("cls", CLASSES)
def test_render_gives_a_cutout_like_the_reference(cls):
    cutout, params = render((1, 2, 3), cls)
    assert cutout.shape == (334, 334)
    assert cutout.dtype == np.float32
    assert not np.isinf(cutout).any()
    assert params["class"] == cls
    assert all(isinstance(value, str | int | float) for value in params.values())


@pytest.mark.parametrize("cls", CLASSES)
def test_render_depends_on_nothing_but_its_arguments(cls):
    render((5, 5), "nonlens")
    cutout, params = render((4, 2), cls)
    code = (
        "import hashlib; from stronglens.training.simulate.lensfinding import render; "
        f"c, p = render((4, 2), {cls!r}); "
        "print(hashlib.sha256(c.tobytes()).hexdigest(), p)"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == f"{hashlib.sha256(cutout.tobytes()).hexdigest()} {params}"
    assert not np.array_equal(cutout, render((4, 3), cls)[0], equal_nan=True)


def test_render_refuses_an_unknown_class():
    with pytest.raises(ConfigError, match="lens, nonlens"):
        render((1,), "galaxy")


@pytest.mark.slow
def test_nuisances_do_not_tell_the_classes_apart():
    count = 150
    rows, visible = [], []
    for cls, offset in zip(CLASSES, (0, count), strict=True):
        for index in range(offset, offset + count):
            cutout, params = render((11, index), cls)
            border = np.concatenate([cutout[:12].ravel(), cutout[-12:].ravel()])
            border = border[np.isfinite(border)]
            middle = np.median(border)
            scatter = np.median(np.abs(border - middle))
            rows.append((middle, scatter, np.isnan(cutout).mean(), params["sky"]))
            if cls == "lens":
                visible.append(params["visible_area"])
    sky, scatter, missing, true_sky = np.array(rows).T
    is_lens = np.arange(2 * count) < count
    for statistic in (sky, scatter, missing, true_sky):
        auc = roc_auc_score(is_lens, statistic)
        assert 0.4 < auc < 0.6  # 3 standard deviations of the ROC AUC at this sample's size
    assert np.median(sky) == pytest.approx(0.08, abs=0.01)
    assert np.median(1.4826 * scatter) == pytest.approx(0.005, abs=0.001)
    assert np.mean(np.array(visible) > 0.3) > 0.9  # nearly all lenses could have been found
