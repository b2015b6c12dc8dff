import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from stronglens.training.simulate.shooting import (
    PIXEL,
    SIDE,
    SUBPIXELS,
    blur,
    deflect,
    gaussian,
    profile_table,
    trace,
)
from stronglens.training.simulate.substructure import (
    CLASSES,
    NO_LINE,
    RECIPE,
    draw_scene,
    draw_substructure,
    einstein_radius,
    expose,
    render,
)

AT = (np.arange(SIDE * SUBPIXELS) - (SIDE * SUBPIXELS - 1) / 2) * PIXEL / SUBPIXELS


def number(low, high):
    return st.floats(low, high, allow_subnormal=False)


def render_many(cls, entropies):
    """Images N×150×150 and their ranges in counts."""
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda entropy: render(entropy, cls), entropies))
    return np.stack([image[0] for image, _ in made]), np.array([p["range"] for _, p in made])


def summaries(images_NHW, range_N):
    """What a single number can tell of an image, by name."""
    corner = images_NHW[:, :15, :15] * range_N[:, None, None]
    levels = (10, 25, 50, 75, 90, 99)
    values = np.percentile(images_NHW, levels, axis=(1, 2))
    mean = images_NHW.mean(axis=(1, 2))
    return {f"p{level}": value for level, value in zip(levels, values, strict=True)} | {
        "mean": mean,
        "spread": images_NHW.std(axis=(1, 2)),
        "flux": mean * range_N,
        "range": range_N.astype(float),
        "background": corner.mean(axis=(1, 2)),
        "noise": corner.std(axis=(1, 2)),
    }


# ---------------------------------------------------------------- the rays


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("orientation", ["reference", "any"])
def test_noise_free_image_equals_lenstronomy(cls, orientation, rng):
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    x, y = (axis.ravel() for axis in np.meshgrid(AT, AT))
    for _ in range(3):
        scene = draw_scene(rng, orientation)
        extra = draw_substructure(rng, cls, scene.theta_E)
        halo = scene.theta_E * np.sqrt(1 - extra.fraction)
        masses = [{"theta_E": halo}, {"gamma1": scene.gamma1, "gamma2": scene.gamma2}]
        masses += [
            {"theta_E": np.sqrt(theta2), "center_x": px, "center_y": py}
            for px, py, theta2 in extra.points_P3
        ]
        lens = LensModel(["SIS", "SHEAR"] + ["POINT_MASS"] * len(extra.points_P3))
        bx, by = lens.ray_shooting(x, y, masses)
        if cls == "vort":  # lenstronomy has no line mass: see the next test for this one
            alpha = naive.line_deflection(x, y, extra.line)
            bx, by = bx - alpha.real, by - alpha.imag
        source = {
            "amp": scene.counts,
            "R_sersic": 0.5,
            "n_sersic": 1.5,
            "e1": scene.e1,
            "e2": scene.e2,
            "center_x": scene.source_x,
            "center_y": scene.source_y,
        }
        rays = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(bx, by, [source])
        sharp_HW = rays.reshape(SIDE, SUBPIXELS, SIDE, SUBPIXELS).mean(axis=(1, 3))
        expected_HW = gaussian_filter(sharp_HW, 0.087 / PIXEL, mode="nearest", truncate=4)
        error = np.abs(expose(scene, extra) - expected_HW).max()
        assert error <= 1e-6 * expected_HW.max()


def test_line_mass_is_the_limit_of_lenstronomys_point_masses(rng):
    from lenstronomy.LensModel.lens_model import LensModel

    line = draw_substructure(rng, "vort", 1.2).line
    start, end = np.array(line[:2]), np.array(line[2:4])
    node, weight = np.polynomial.legendre.leggauss(200)
    points = [
        {"theta_E": np.sqrt(line[4] * w / 2), "center_x": px, "center_y": py}
        for (px, py), w in zip(
            (start + end) / 2 + np.outer(node, end - start) / 2, weight, strict=True
        )
    ]
    # far enough from the line for the string of points to be as good as a line
    across = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
    for distance in (-1.5, -0.3, 0.2, 0.9):
        px, py = (start + end) / 2 + distance * across
        alpha_2W = np.empty((2, 1))
        deflect(np.array([px]), py, (0.0, 0.0, 0.0), np.empty((0, 3)), line, alpha_2W)
        expected = LensModel(["POINT_MASS"] * 200).alpha(px, py, points)
        np.testing.assert_allclose(alpha_2W[:, 0], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    lens=st.tuples(number(0, 2), number(-0.3, 0.3), number(-0.3, 0.3)),
    points=st.lists(
        st.tuples(number(-0.4, 0.4), number(-0.4, 0.4), number(1e-4, 0.05)), max_size=4
    ),
    ends=st.tuples(*[number(-1, 1)] * 4),
    theta2=st.sampled_from([0.0, 0.01, 0.2]),
    source=st.tuples(
        number(-0.5, 0.5), number(-0.5, 0.5), number(0.1, 2), number(-0.4, 0.4), number(-0.4, 0.4)
    ),
    index=st.sampled_from([0.5, 1.0, 1.5, 4.0]),
)
def test_trace_matches_naive(lens, points, ends, theta2, source, index):
    if np.hypot(ends[0] - ends[2], ends[1] - ends[3]) < 0.1:
        theta2 = 0.0  # that short a line is a point mass
    # off the grid by what keeps every ray off the points, where the two soften differently
    points_P3 = np.array(points, float).reshape(-1, 3)
    points_P3[:, :2] = np.round(points_P3[:, :2], 2) + 0.0031
    line = (*(np.round(end, 2) + 0.0017 * (i + 1) for i, end in enumerate(ends)), theta2)
    image_HW = np.empty((8, 8))
    trace(lens, points_P3, line, source, profile_table(index), image_HW)
    expected_HW = naive.trace(
        lens, points_P3, line, source, index, 8, pixel=PIXEL, subpixels=SUBPIXELS
    )
    np.testing.assert_allclose(image_HW, expected_HW, rtol=1e-5, atol=1e-7)


def test_ray_on_a_mass_gives_finite_light():
    on_ray = np.array([[AT[150], AT[150], 0.05], [AT[140] + 1e-7, AT[150], 0.05]])
    line = (AT[10], AT[20], AT[200], AT[20], 0.1)
    image_HW = np.empty((SIDE, SIDE))
    trace((1.0, 0.1, 0.0), on_ray, line, (0.1, 0.0, 0.5, 0.0, 0.0), profile_table(1.5), image_HW)
    assert np.isfinite(image_HW).all()
    assert image_HW.min() >= 0


@given(side=st.integers(1, 30), sigma=st.floats(0.3, 3))
@settings(max_examples=40, deadline=None)
def test_blur_matches_scipy(side, sigma):
    image_HW = np.random.default_rng(side).exponential(size=(side, side))
    expected_HW = gaussian_filter(image_HW, sigma, mode="nearest", truncate=4)
    np.testing.assert_allclose(blur(image_HW, gaussian(sigma)), expected_HW, rtol=1e-12)


def test_einstein_radius_equals_astropys():
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM

    cosmology = FlatLambdaCDM(H0=70, Om0=0.3)
    mass = RECIPE.mass * constants.M_sun * constants.G / constants.c**2
    for z_lens, z_source in ((0.4, 0.8), (0.5, 1.0), (0.6, 1.2)):
        lens, source = cosmology.comoving_distance([z_lens, z_source])
        # (1 + z_source) of D_ls and of D_s cancel
        radians = np.sqrt(
            (4 * mass * (source - lens) / source / lens * (1 + z_lens)).decompose().value
        )
        expected = (radians * units.rad).to_value(units.arcsec)
        assert einstein_radius(RECIPE.mass, z_lens, z_source) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- the cutouts


@pytest.mark.parametrize("cls", CLASSES)
def test_cutout_has_the_form_of_the_reference(cls):
    image, params = render([3, 0, 0, 0, 1], cls)
    assert (image.shape, image.dtype) == ((1, 150, 150), np.float64)
    assert (image.min(), image.max()) == (0, 1)
    counts = image * params["range"]
    assert np.array_equal(np.rint(counts) / params["range"], image)
    assert json.loads(json.dumps(params)) == params
    assert (len(params["points"]) > 0) == (cls == "sphere")
    assert (len(params["line"]) > 0) == (cls == "vort")


def test_cutout_is_made_again_from_its_entropy():
    again = [render([3, 0, 0, 0, 1], "sphere")[0] for _ in range(2)]
    assert np.array_equal(*again)
    others = [render([3, 0, 0, 0, i], "sphere")[0] for i in (2, 3)]
    assert not any(np.array_equal(again[0], other) for other in others)


def test_classes_of_one_entropy_share_everything_but_the_substructure():
    scenes = [render([3, 0, 0, 0, 1], cls)[1] for cls in CLASSES]
    shared = asdict(draw_scene(np.random.default_rng(0))).keys()
    assert [{k: scene[k] for k in shared} for scene in scenes] == 3 * [
        {k: scenes[0][k] for k in shared}
    ]


@pytest.mark.parametrize("cls", ["sphere", "vort"])
def test_strength_multiplies_the_mass_and_no_more(cls):
    plain, strong = (render([3, 0, 0, 0, 1], cls, strength=s)[1] for s in (1.0, 4.0))
    assert strong["fraction"] == pytest.approx(4 * plain["fraction"])
    assert RECIPE.fraction[0] <= plain["fraction"] <= RECIPE.fraction[1]
    assert (strong["points"], strong["line"]) == (plain["points"], plain["line"])
    assert strong["theta_E"] == plain["theta_E"]


def test_substructure_takes_its_mass_from_the_halo(rng):
    for cls in ("sphere", "vort"):
        extra = draw_substructure(rng, cls, 1.3)
        compact = extra.points_P3[:, 2].sum() + extra.line[4]
        assert compact == pytest.approx(extra.fraction * 1.3**2)


def test_no_substructure_is_none(rng):
    extra = draw_substructure(rng, "no", 1.3)
    assert (extra.fraction, extra.points_P3.size, extra.line) == (0.0, 0, NO_LINE)


def test_orientation_any_turns_the_common_direction_off():
    scenes = {
        name: [draw_scene(np.random.default_rng(i), name) for i in range(200)]
        for name in ("reference", "any")
    }
    shear = {name: np.array([(s.gamma1, s.gamma2) for s in scenes[name]]) for name in scenes}
    assert shear["reference"][:, 0].min() > 0
    assert abs(shear["any"].mean(axis=0)).max() < 0.04
    lengths = [np.hypot(*gamma.T) for gamma in shear.values()]
    np.testing.assert_allclose(*lengths)


# ---------------------------------------------------------------- their statistics


def test_no_statistics_are_those_of_the_reference(shared_data):
    with np.load(shared_data / "data" / "deeplense_no_1000.npz") as file:
        counts_NHW = (file["hi"].astype(np.uint16) << 8) | file["lo"]
        range_N = file["n"]
    real = summaries(counts_NHW / range_N[:, None, None].astype(float), range_N)
    simulated = summaries(*render_many("no", [(7, 0, 0, 0, i) for i in range(600)]))
    for name in real:
        assert simulated[name].mean() == pytest.approx(real[name].mean(), rel=0.05), name


def check_aucs(of_class):
    """Hold the ROC AUC of each class against the rest, by each summary number, near 0.5."""
    label = np.repeat(np.arange(3), [len(images) for images, _ in of_class])
    numbers = [summaries(*made) for made in of_class]
    for name in numbers[0]:
        value = np.concatenate([number[name] for number in numbers])
        for k, cls in enumerate(CLASSES):
            assert roc_auc_score(label == k, value) == pytest.approx(0.5, abs=0.03), (name, cls)


def test_summary_numbers_of_the_same_scenes_do_not_tell_the_classes():
    # the same scenes in each class take their scatter out, which 600 others would drown in
    entropies = [(11, 0, 0, 0, i) for i in range(600)]
    check_aucs([render_many(cls, entropies) for cls in CLASSES])


@pytest.mark.slow
def test_summary_numbers_do_not_tell_the_classes():
    # the scatter of one ROC AUC with 5,000 a class is 0.005
    check_aucs(
        [render_many(cls, [(13, 0, 0, k, i) for i in range(5000)]) for k, cls in enumerate(CLASSES)]
    )


def test_summary_check_would_see_a_class_with_more_light():
    images_NHW, range_N = render_many("no", [(17, 0, 0, 0, i) for i in range(60)])
    with pytest.raises(AssertionError):
        check_aucs([(images_NHW, range_N), (images_NHW, range_N), (images_NHW, range_N + 100)])
