import json

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import accuracy_score, roc_auc_score

from stronglens.engine.errors import InputError
from stronglens.training import metrics

CLASSES = ("no", "sphere", "vort")
REFERENCE = {"no": 0.99216548, "sphere": 0.9844204, "vort": 0.99475568, "macro": 0.99044719}


@st.composite
def scored(draw, most=25):
    """A class and the rest, with few enough scores that ties are common."""
    count = draw(st.integers(2, most))
    is_class_N = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    is_class_N[:2] = True, False
    score_N = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    return is_class_N, np.array(score_N) / 8


def two_columns(is_class_N, score_N):
    """Column 0 is the class."""
    return (~is_class_N).astype(int), np.stack([score_N, -score_N], axis=1)


def three_classes(rng, count=200):
    y_N = np.repeat([0, 1, 2], count)
    logits_NK = rng.normal(size=(len(y_N), 3)) + 1.5 * np.eye(3)[y_N]
    prob_NK = np.exp(logits_NK)
    return y_N, prob_NK / prob_NK.sum(1, keepdims=True)


@settings(deadline=None)
@given(scored())
def test_roc_auc_is_the_share_of_ordered_pairs(case):
    auc = metrics.roc_auc(*two_columns(*case))
    assert auc[0] == pytest.approx(naive.roc_auc(*case), abs=1e-12)
    assert auc["macro"] == pytest.approx((auc[0] + auc[1]) / 2)


@settings(deadline=None)
@given(scored(), st.sampled_from([np.exp, np.arctan, lambda s: 3 * s - 7, lambda s: s**3]))
def test_roc_auc_keeps_its_value_under_a_monotone_change_of_scores(case, change):
    is_class_N, score_N = case
    before = metrics.roc_auc(*two_columns(is_class_N, score_N))
    after = metrics.roc_auc(*two_columns(is_class_N, change(score_N)))
    assert after == before


@settings(deadline=None)
@given(scored())
def test_roc_auc_of_reversed_scores_is_the_complement(case):
    is_class_N, score_N = case
    forward = metrics.roc_auc(*two_columns(is_class_N, score_N))[0]
    assert metrics.roc_auc(*two_columns(is_class_N, -score_N))[0] == pytest.approx(1 - forward)


def test_roc_auc_and_accuracy_agree_with_scikit_learn(rng):
    y_N, prob_NK = three_classes(rng)
    prob_NK = prob_NK.round(2)  # ties
    auc = metrics.roc_auc(y_N, prob_NK)
    for k in range(3):
        assert auc[k] == pytest.approx(roc_auc_score(y_N == k, prob_NK[:, k]), abs=1e-12)
    assert metrics.accuracy(y_N, prob_NK) == accuracy_score(y_N, prob_NK.argmax(1))


def test_the_reference_predictions_give_the_reference_figures(shared_data):
    file = shared_data / "reference" / "preds_ct.csv"
    if not file.is_file():
        pytest.skip(f"no reference predictions: {file} is absent")
    prob_NK = np.loadtxt(file, delimiter=",", skiprows=1)
    summary = metrics.summarise(np.repeat([0, 1, 2], 2500), prob_NK, CLASSES)
    found = {name: round(auc["value"], 8) for name, auc in summary["roc_auc"].items()}
    assert found == REFERENCE
    for auc in summary["roc_auc"].values():
        assert auc["low"] < auc["value"] < auc["high"] < auc["low"] + 0.01


@settings(deadline=None)
@given(scored(), st.sampled_from([0, 0.05, 0.1, 0.3, 1]))
def test_tpr_at_fpr_is_the_best_threshold_that_keeps_to_it(case, fpr):
    is_class_N, score_N = case
    allowed = np.floor(fpr * (~is_class_N).sum() + 1e-9)
    expected = naive.best_tpr(is_class_N, score_N, allowed)
    assert metrics.tpr_at_fpr(is_class_N, score_N, fpr) == pytest.approx(expected)


@settings(deadline=None)
@given(scored(most=60), st.sampled_from([1, 2, 10]))
def test_tpr_below_false_positives_counts_them(case, count):
    expected = naive.best_tpr(*case, count - 1)
    assert metrics.tpr_below_false_positives(*case, count) == pytest.approx(expected)


@settings(deadline=None)
@given(scored())
def test_a_small_roc_curve_is_stored_whole(case):
    is_class_N, score_N = case
    curve = metrics.roc_points(is_class_N, score_N)
    points = list(zip(*curve.values(), strict=True))
    for fpr, tpr, threshold in points:
        passed_N = score_N >= threshold
        assert (fpr, tpr) == (passed_N[~is_class_N].mean(), passed_N[is_class_N].mean())
    assert points == sorted(set(points))
    assert len({fpr for fpr, _, _ in points}) == len(points)
    for fpr in np.arange(len(is_class_N) + 1) / (~is_class_N).sum():
        best = [tpr for found, tpr, _ in points if found <= fpr]
        assert max(best, default=0) == metrics.tpr_at_fpr(is_class_N, score_N, min(fpr, 1))


def test_a_long_roc_curve_is_stored_in_few_points(rng):
    is_class_N = np.arange(200_000) % 4 == 0
    score_N = (rng.normal(size=200_000) + is_class_N).astype(np.float32)
    curve = metrics.roc_points(is_class_N, score_N)
    fpr_P, tpr_P, threshold_P = (np.array(values) for values in curve.values())
    assert len(fpr_P) <= 310
    counts_P = np.rint(fpr_P * 150_000)
    assert counts_P[:100].tolist() == list(range(100))
    assert (np.diff(np.log(counts_P[99:])) < 0.045).all()
    for fpr, tpr, threshold in zip(fpr_P[::40], tpr_P[::40], threshold_P[::40], strict=True):
        passed_N = score_N >= threshold
        assert (fpr, tpr) == (passed_N[~is_class_N].mean(), passed_N[is_class_N].mean())
    for fpr in metrics.FPRS:
        assert tpr_P[fpr_P <= fpr].max() == metrics.tpr_at_fpr(is_class_N, score_N, fpr)
    assert fpr_P[-1] == tpr_P[-1] == 1
    assert len(json.dumps(curve, indent=2)) < 30_000  # a manifest may have 1 MiB


@settings(deadline=None)
@given(scored(), st.sampled_from([0.01, 0.5, 0.9, 1]))
def test_purity_is_that_of_the_best_threshold(case, completeness):
    expected = naive.best_purity(*case, completeness)
    assert metrics.purity_at_completeness(*case, completeness) == pytest.approx(expected)


def test_confusion_counts_true_classes_in_rows():
    prob_NK = np.eye(3)[[0, 1, 1, 2, 0]]
    assert metrics.confusion(np.array([0, 0, 1, 2, 2]), prob_NK).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [1, 0, 1],
    ]


def test_bootstrap_agrees_with_resampling_by_hand(rng):
    """A bound from 20,000 resamples is itself uncertain by 0.0006 here."""
    y_N, prob_NK = three_classes(rng, 40)
    low, high = metrics.bootstrap_roc_auc(y_N, prob_NK, n_boot=20_000)[1]
    right_order_PN = prob_NK[y_N == 1, 1][:, None] > prob_NK[y_N != 1, 1]
    by_hand = []
    for _ in range(20_000):
        inside = rng.integers(40, size=40)
        rest = np.concatenate([rng.integers(40, size=40), 40 + rng.integers(40, size=40)])
        by_hand.append(right_order_PN[np.ix_(inside, rest)].mean())
    np.testing.assert_allclose([low, high], np.quantile(by_hand, [0.025, 0.975]), atol=0.003)


def two_normals(rng, count=60):
    """Two normals a unit apart, whose ROC AUC is Φ(1/√2) = 0.760."""
    is_class_N = np.repeat([True, False], count)
    return is_class_N, rng.normal(size=2 * count) + is_class_N


def test_bootstrap_is_as_wide_as_delong_says(rng):
    """The analytic error of an AUC (DeLong et al. 1988), from the same cutouts."""
    for seed in range(20):
        is_class_N, score_N = two_normals(rng, 200)
        right_order = score_N[is_class_N][:, None] > score_N[~is_class_N]
        variances = [right_order.mean(axis).var(ddof=1) / 200 for axis in (0, 1)]
        width = 2 * 1.96 * np.sqrt(sum(variances))
        y_N, prob_NK = two_columns(is_class_N, score_N)
        low, high = metrics.bootstrap_roc_auc(y_N, prob_NK, seed=seed, n_boot=2000)[0]
        assert (high - low) / width == pytest.approx(1, abs=0.1)


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say(rng):
    """The bounds are 4 binomial errors of 1,500 repetitions around 94.5 %: percentile intervals
    of small sets fall a little short of 95 %.
    """
    truth = norm.cdf(1 / np.sqrt(2))
    held = 0
    for seed in range(1500):
        y_N, prob_NK = two_columns(*two_normals(rng))
        low, high = metrics.bootstrap_roc_auc(y_N, prob_NK, seed=seed, n_boot=200)[0]
        held += low <= truth <= high
    assert 0.92 <= held / 1500 <= 0.97


def test_bootstrap_is_told_by_its_seed(rng):
    y_N, prob_NK = three_classes(rng, 30)
    first = metrics.bootstrap_roc_auc(y_N, prob_NK, seed=1)
    assert metrics.bootstrap_roc_auc(y_N, prob_NK, seed=1) == first
    assert metrics.bootstrap_roc_auc(y_N, prob_NK, seed=2) != first


def test_more_resamples_than_a_chunk_holds_are_all_used(rng):
    is_class_N = np.arange(30_000) % 2 == 0
    score_N = rng.normal(size=30_000) + is_class_N
    narrow = metrics.bootstrap_roc_auc(*two_columns(is_class_N, score_N), n_boot=100)
    low, high = narrow[0]
    assert 0.005 < high - low < 0.02  # the error of the AUC is 0.0028


def test_summary_names_everything_and_is_json(rng):
    y_N, prob_NK = three_classes(rng)
    summary = json.loads(json.dumps(metrics.summarise(y_N, prob_NK, CLASSES, n_boot=50)))
    assert list(summary["roc_auc"]) == ["macro", *CLASSES]
    assert summary["counts"] == dict.fromkeys(CLASSES, 200)
    assert np.sum(summary["confusion"]) == 600
    assert summary["tpr0"]["vort"] <= summary["tpr10"]["vort"]
    assert list(summary["roc_curve"]) == list(CLASSES)
    assert list(summary["roc_curve"]["no"]) == ["fpr", "tpr", "threshold"]
    assert list(summary["tpr_at_fpr"]["no"]) == ["0.1", "0.01", "0.001"]
    assert list(summary["purity_at_completeness"]["no"]) == ["0.5", "0.9", "0.95"]


@pytest.mark.parametrize(
    ("y", "prob", "message"),
    [
        ([0, 0, 1], np.eye(3), "no cutout of class vort among 3"),
        ([0, 1, 3], np.eye(3), "no cutout of class vort"),
        ([0, 1, 2, 3], np.eye(4)[:, :3], "labels outside 0…2: 1 cutouts"),
        ([0, 1, 2], np.diag([np.nan, 1, 1]), "1 rows of probabilities are not finite"),
        ([0, 1, 2], np.eye(2), r"probabilities are \(2, 2\), expected \(3, 3\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(y, prob, message):
    with pytest.raises(InputError, match=message):
        metrics.summarise(np.array(y), prob, CLASSES)


@pytest.mark.parametrize("figure", [metrics.tpr_at_fpr, metrics.purity_at_completeness])
def test_one_sided_sets_are_refused(figure):
    with pytest.raises(InputError, match="3 of 3 cutouts are of the class"):
        figure(np.ones(3, bool), np.arange(3), 0.1)
