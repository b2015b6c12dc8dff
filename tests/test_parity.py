"""The gates, and which cutouts they are held against."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronglens.engine.errors import BackendError, InputError
from stronglens.engine.preprocess import PreprocessSpec, prepare
from stronglens.export.cutouts import spread, take_calibration, take_sample
from stronglens.export.golden import make_golden, nasty, stack
from stronglens.export.parity import GATES, Parity, Reference, auto_count, worst
from stronglens.training.listing import Labelled, Listing
from stronglens.training.metrics import roc_auc

SPEC = PreprocessSpec(mode="minmax", size=8, fit="exact")


def parity(precision="float16", dp=0.0, auc=0.0, flips=0, runtime="r", largest=None):
    return Parity(precision, dp, auc, flips, 10, runtime, max_abs_activation=largest)


def reference(rng, n=60, golden=4):
    prob_NK = rng.dirichlet([1, 1, 1], n + golden).astype(np.float32)
    y_N = prob_NK[:n].argmax(1)
    y_N[::5] = rng.integers(0, 3, len(y_N[::5]))
    return Reference(np.zeros((n + golden, 2, 2), np.float32), prob_NK, y_N)


@pytest.mark.parametrize(
    ("precision", "dp", "auc"),
    [
        ("float32", 1e-4, 1.0),
        ("float16", 5e-3, 1e-3),
        ("bfloat16", 0.25, 1e-3),
        ("int8", 0.25, 1e-3),
    ],
)
def test_gates_are_the_promised_ones(precision, dp, auc):
    assert parity(precision, dp, auc).passed
    assert not parity(precision, dp * 1.01, 0).passed
    assert not parity(precision, math.nan, 0).passed
    if math.isfinite(GATES[precision].delta_roc_auc):
        assert not parity(precision, 0, auc * 1.01).passed
        assert not parity(precision, 0, math.nan).passed


def test_a_miss_names_the_figures_and_the_gate():
    with pytest.raises(BackendError, match=r"float16 differs .* 0\.012.*0\.004.*3 labels.*0\.005"):
        parity(dp=0.012, auc=0.004, flips=3).check()
    parity().check()


def test_equal_probabilities_have_no_difference(rng):
    ref = reference(rng)
    found = ref.compare("float32", ref.prob_NK.copy(), "r")
    assert (found.max_abs_dp, found.delta_roc_auc, found.label_flips, found.count) == (0, 0, 0, 60)


def test_compare_measures_each_figure(rng):
    ref = reference(rng)
    prob_NK = ref.prob_NK.copy()
    prob_NK[:10] = prob_NK[:10, [1, 2, 0]]
    found = ref.compare("float32", prob_NK, "r")
    y_N = ref.y_M
    before, after = roc_auc(y_N, ref.prob_NK[:60]), roc_auc(y_N, prob_NK[:60])
    assert found.max_abs_dp == np.abs(prob_NK - ref.prob_NK).max()
    assert found.delta_roc_auc == max(abs(before[k] - after[k]) for k in range(3)) > 0
    assert found.label_flips == 10


def test_golden_rows_count_for_the_largest_difference_only(rng):
    ref = reference(rng)
    prob_NK = ref.prob_NK.copy()
    prob_NK[-1] = prob_NK[-1, [1, 2, 0]]
    found = ref.compare("float32", prob_NK, "r")
    assert found.max_abs_dp > 0
    assert (found.delta_roc_auc, found.label_flips, found.count) == (0, 0, 60)


def swapped(n):
    """Two classes of n cutouts, all apart but two neighbours, which the artefact swaps."""
    p_N = np.linspace(0.1, 0.9, 2 * n, dtype=np.float32)
    expected_NK = np.stack([1 - p_N, p_N], axis=1)
    prob_NK = expected_NK.copy()
    prob_NK[n - 1 : n + 1] = prob_NK[[n, n - 1]]
    y_N = np.repeat([0, 1], n)
    ref = Reference(np.zeros((2 * n, 2, 2), np.float32), expected_NK, y_N)
    return ref.compare("bfloat16", prob_NK, "r")


@pytest.mark.parametrize("n", [10, 40])
def test_one_swapped_pair_passes_however_few_the_cutouts(n):
    found = swapped(n)
    assert found.delta_roc_auc == pytest.approx(1 / n**2)
    assert found.one_pair == pytest.approx(1 / n**2)
    assert replace(found, max_abs_dp=0.0).passed
    assert not replace(found, max_abs_dp=0.0, delta_roc_auc=max(2 / n**2, 1.1e-3)).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_never_pass(rng, bad):
    ref = reference(rng)
    prob_NK = ref.prob_NK.copy()
    prob_NK[-1, 0] = bad
    for precision in GATES:
        assert not ref.compare(precision, prob_NK, "r").passed


def test_worst_takes_the_larger_of_each_figure():
    found = worst([parity(dp=1, flips=0, runtime="a"), parity(auc=2, flips=3)])
    assert found == parity(dp=1, auc=2, flips=3, runtime="a, r")


def test_manifest_entry_has_no_empty_figures():
    keys = {"max_abs_dp", "delta_roc_auc", "label_flips", "count", "runtime", "one_pair"}
    assert parity().to_dict().keys() == keys
    assert parity(largest=3.0).to_dict().keys() == keys | {"max_abs_activation"}


def test_automatic_count_falls_with_the_cost():
    assert auto_count(8.5e9) == 258  # ResNeXt50 at 224
    assert auto_count(1e8) == 2000
    assert auto_count(1e12) == 256
    assert auto_count(0) == 2000


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(-2, 70))
def test_spread_is_even_over_the_classes(labels, count):
    y_N = np.array(labels, np.int64)
    rows = spread(y_N, count)
    assert len(rows) == min(max(count, 0), len(y_N))
    assert (np.diff(rows) > 0).all()
    taken, there = Counter(y_N[rows].tolist()), Counter(labels)
    smallest = min((taken[k] for k in there if taken[k] < there[k]), default=math.inf)
    assert all(n <= smallest + 1 for n in taken.values())


@pytest.fixture
def listing(tmp_path, rng):
    """Three classes with 2 validation and 5 training cutouts each, float64 1×8×8."""

    def cutouts(split, count):
        labelled = []
        for label in range(3):
            for i in range(count):
                path = tmp_path / f"{split}-{label}-{i}.npy"
                np.save(path, rng.normal(size=(1, 8, 8)))
                labelled.append(Labelled(str(path), label))
        return labelled

    return Listing(cutouts("train", 5), cutouts("val", 2), ["a", "b", "c"], "made for a test")


def test_validation_comes_first_and_training_fills_up(listing):
    few = take_sample(listing, SPEC, 3)
    assert few.origin == {"val": 3, "train": 0}
    assert few.y_N.tolist() == [0, 1, 2]
    more = take_sample(listing, SPEC, 12)
    assert more.origin == {"val": 6, "train": 6}
    assert Counter(more.y_N.tolist()) == {0: 4, 1: 4, 2: 4}
    everything = take_sample(listing, SPEC, 100)
    assert everything.origin == {"val": 6, "train": 15}


def test_sample_is_prepared_in_order(listing):
    sample = take_sample(listing, SPEC, 100)
    x_HW = np.empty((8, 8), np.float32)
    for path, x_found_HW in zip(sample.paths, sample.x_NHW, strict=True):
        prepare(np.load(path), SPEC, x_HW)
        np.testing.assert_array_equal(x_found_HW, x_HW)


def test_unusable_cutouts_are_left_out(listing):
    np.save(listing.val[0].path, np.full((8, 8), np.nan))
    np.save(listing.val[3].path, np.zeros((9, 9)))
    sample = take_sample(listing, SPEC, 6)
    assert sample.origin == {"val": 4, "train": 0}
    assert listing.val[0].path not in sample.paths
    assert len(sample.x_NHW) == len(sample.y_N) == 4


def test_class_without_a_usable_cutout_is_an_error(listing):
    for each in listing.val[:2]:
        np.save(each.path, np.zeros((8, 8)))
    with pytest.raises(InputError, match="no usable cutout of a"):
        take_sample(listing, SPEC, 6)


def prepared(paths):
    x_NHW = np.empty((len(paths), 8, 8), np.float32)
    for path, x_HW in zip(paths, x_NHW, strict=True):
        prepare(np.load(path), SPEC, x_HW)
    return {x_HW.tobytes() for x_HW in x_NHW}


def test_calibration_sees_training_cutouts_only_and_none_that_are_compared(listing, monkeypatch):
    monkeypatch.setattr("stronglens.export.cutouts.FEWEST", 6)
    compared = take_sample(listing, SPEC, 12)
    assert compared.origin["train"] == 6
    found = {x_HW.tobytes() for x_HW in take_calibration(listing, SPEC, compared)}
    training = {each.path for each in listing.train}
    assert found == prepared(sorted(training - set(compared.paths)))
    assert len(found) == 9
    monkeypatch.setattr("stronglens.export.cutouts.CALIBRATION", 6)
    few = take_calibration(listing, SPEC, compared)
    assert len(few) == 6
    assert {x_HW.tobytes() for x_HW in few} < found


def test_calibration_takes_what_is_compared_where_there_is_little_else(listing):
    np.save(listing.train[0].path, np.zeros((8, 8)))  # left over, and not usable
    compared = take_sample(listing, SPEC, 100)
    found = {x_HW.tobytes() for x_HW in take_calibration(listing, SPEC, compared)}
    assert found == prepared([each.path for each in listing.train[1:]])


def test_calibration_without_a_training_cutout_is_an_error(listing):
    compared = take_sample(listing, SPEC, 6)
    with pytest.raises(InputError, match="calibrated on training cutouts, and the data set has"):
        take_calibration(replace(listing, train=[]), SPEC, compared)
    for each in listing.train:
        np.save(each.path, np.zeros((8, 8)))
    with pytest.raises(InputError, match="none of 15 training cutouts is usable"):
        take_calibration(listing, SPEC, compared)


def test_golden_batch_is_raw_prepared_and_scored(listing):
    sample = take_sample(listing, SPEC, 100)
    golden = make_golden(sample, SPEC, lambda x: x.mean(axis=(1, 2))[:, None])
    assert golden.raw_NHW.dtype == np.float64
    assert len(golden.raw_NHW) == 16 + 5
    assert np.isnan(golden.raw_NHW).any(axis=(1, 2)).sum() == 2
    assert np.isinf(golden.raw_NHW).any(axis=(1, 2)).sum() == 1
    x_HW = np.empty((8, 8), np.float32)
    for raw_HW, x_found_HW in zip(golden.raw_NHW, golden.x_NHW, strict=True):
        prepare(raw_HW, SPEC, x_HW)
        np.testing.assert_array_equal(x_found_HW, x_HW)
    np.testing.assert_array_equal(golden.prob_NK[:, 0], golden.x_NHW.mean(axis=(1, 2)))


def test_nasty_cutouts_of_integers_stay_integers(rng):
    made_NHW = nasty(rng.integers(0, 255, (8, 8), np.uint8))
    assert made_NHW.dtype == np.uint8
    assert len(made_NHW) == 2


def test_stack_keeps_the_commonest_shape_and_a_shared_dtype(rng):
    same = [np.ones((8, 8), ">f8"), np.ones((8, 8), ">f8"), np.ones((9, 9), "f4")]
    assert stack(same).shape == (2, 8, 8)
    assert stack(same).dtype == np.dtype(">f8")
    assert stack([np.ones((8, 8)), np.ones((8, 8), np.uint8)]).dtype == np.float32
    with pytest.raises(InputError, match="golden batch"):
        stack([])
