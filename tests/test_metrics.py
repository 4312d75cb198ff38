import json
from itertools import pairwise, product

import numpy as np
import pytest
from sklearn import metrics as sk

from fer_bench import metrics


@pytest.fixture(scope="module")
def prediction():
    """Labels (400,) of seven classes and probabilities (400, 7) that are right more often than not."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, 400)
    rows = rng.dirichlet(np.full(7, 0.6), 400) + 0.5 * np.eye(7)[labels] * rng.random((400, 1))
    return labels, rows / rows.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def masks():
    """Right answers of two models to the same 300 rows."""
    rng = np.random.default_rng(2)
    a = rng.random(300) < 0.7
    return a, np.where(rng.random(300) < 0.2, rng.random(300) < 0.4, a)


def test_figures_equal_sklearn(prediction):
    labels, p = prediction
    predicted = p.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "nll": sk.log_loss(labels, p),
        "top2": sk.top_k_accuracy_score(labels, p, k=2),
        "precision": sk.precision_score(labels, predicted, average=None),
        "recall": sk.recall_score(labels, predicted, average=None),
        "f1": sk.f1_score(labels, predicted, average=None),
        "confusion": sk.confusion_matrix(labels, predicted),
    }
    found = metrics.figures(labels, p)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=5.1e-7, err_msg=name)
    assert (found["n"], found["correct"]) == (400, (predicted == labels).sum())
    assert set(found) == set(expected) | {"n", "correct", "ece"}


def test_figures_are_plain_json(prediction):
    found = metrics.figures(*prediction)
    assert json.loads(json.dumps(found)) == found
    assert isinstance(found["correct"], int)
    assert isinstance(found["confusion"][0][0], int)
    assert found["nll"] == round(found["nll"], 6)


def test_calibration_error_by_hand():
    # bins of width 1/15: two rows of confidence 0.95 (one right), two of 0.65 (both right)
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    found = metrics.figures(np.array([0, 1, 1, 1]), p)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.65)) / 4)


def test_calibration_error_bin_by_bin(prediction):
    labels, p = prediction
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.figures(labels, p)["ece"] == pytest.approx(total, abs=5.1e-7)


def test_reliability_by_hand():
    right, confidence = np.array([True, False, True]), np.array([0.95, 0.99, 0.30])
    counts, mean, share = metrics.reliability(right, confidence)
    assert np.flatnonzero(counts).tolist() == [4, 14]  # 0.30 lies in (4/15, 5/15]
    assert counts[[4, 14]].tolist() == [1, 2]
    assert mean[[4, 14]] == pytest.approx([0.30, 0.97])
    assert share[[4, 14]].tolist() == [1, 0.5]


def test_certain_and_wrong_costs_the_clip():
    found = metrics.figures(np.array([0, 1]), np.eye(7)[[1, 1]])
    assert found["nll"] == pytest.approx(-np.log(1e-7) / 2, abs=1e-6)


def test_rows_are_normalised_first(prediction):
    labels, p = prediction
    assert metrics.figures(labels, p * 3) == metrics.figures(labels, p)


def test_ties_go_to_the_lower_class():
    found = metrics.figures(np.array([0, 1, 2]), np.full((3, 7), 1 / 7, dtype=np.float16))
    assert (found["correct"], found["top2"]) == (1, pytest.approx(2 / 3, abs=1e-6))


def test_absent_classes_count_in_macro_f1_and_not_in_balanced_accuracy():
    found = metrics.figures(np.array([0, 0, 1]), np.eye(7)[[0, 2, 1]])
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 7, abs=1e-6)


@pytest.mark.parametrize(("labels", "p"), [(np.zeros(2), np.ones((3, 7))), (np.zeros(0), np.ones((0, 7)))])
def test_shapes_that_do_not_fit_are_refused(labels, p):
    with pytest.raises(ValueError, match="labels must be"):
        metrics.figures(labels, p)


@pytest.mark.parametrize(("correct", "n"), [(0, 20), (2500, 3589), (20, 20)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_wilson_equals_statsmodels(correct, n, level):
    from statsmodels.stats.proportion import proportion_confint

    expected = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    assert metrics.wilson(correct, n, level) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("counts", [(2444, 3589, 2494, 3589), (10, 10, 3, 40), (0, 20, 0, 30)])
def test_newcombe_equals_statsmodels(counts):
    from statsmodels.stats.proportion import confint_proportions_2indep

    a, n, b, m = counts
    expected = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
    assert metrics.newcombe(*counts) == pytest.approx((a / n - b / m, *expected), abs=1e-12)


def test_standard_error_equals_statsmodels():
    from statsmodels.stats.proportion import std_prop

    assert metrics.standard_error(0.7, 3589) == pytest.approx(std_prop(0.7, 3589))


def test_sign_tests_of_many_pairs_equal_scipy():
    from scipy.stats import binomtest

    won, lost = np.array([0, 3, 40, 41, 500, 0, 7]), np.array([0, 0, 41, 40, 700, 9, 7])
    expected = [binomtest(int(w), int(w + k)).pvalue if w + k else 1 for w, k in zip(won, lost, strict=True)]
    assert metrics.sign_test(won, lost) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_equals_statsmodels(masks):
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = masks
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert metrics.mcnemar_exact(a, b) == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-12)
    assert metrics.mcnemar_exact(a, b) == metrics.mcnemar_exact(b, a)
    assert metrics.mcnemar_exact(a, a) == 1


def test_paired_bootstrap_equals_drawing_rows(masks):
    a, b = masks
    gap = a.astype(float) - b
    rows = np.random.default_rng(3).integers(0, 300, (10_000, 300))
    low, high = np.quantile(gap[rows].mean(axis=1), [0.025, 0.975])
    difference, found_low, found_high = metrics.paired_bootstrap(a, b)
    assert difference == pytest.approx(gap.mean())
    assert (found_low, found_high) == pytest.approx((low, high), abs=1.5 / 300)  # a row more or less
    assert metrics.paired_bootstrap(a, b) == (difference, found_low, found_high)
    assert metrics.paired_bootstrap(b, a) == (-difference, -found_high, -found_low)
    assert metrics.paired_bootstrap(a, a) == (0, 0, 0)


def test_masks_of_other_rows_are_refused(masks):
    with pytest.raises(ValueError, match="equal in length"):
        metrics.mcnemar_exact(masks[0], masks[1][:-1])


def test_draws_count_rows():
    """Drawn by hand from the same bits: the upper half of each, scaled to 0..n-1."""
    n, bits = 9, np.random.PCG64(0)
    for draw in metrics.draws(n, 3):
        rows = [(int(bits.random_raw()) >> 32) * n >> 32 for _ in range(n)]
        assert draw.tolist() == [sum(row < k for row in rows) for k in range(n + 1)]


def test_draws_start_from_bits_that_never_change():
    assert np.random.PCG64(0).random_raw() == 11749869230777074271
    assert [draw.tolist() for draw in metrics.draws(9, 2)] == [
        [0, 2, 2, 3, 3, 4, 6, 7, 8, 9],
        [0, 2, 3, 3, 3, 4, 4, 5, 8, 9],
    ]


def test_draws_are_uniform():
    from scipy.stats import chisquare

    assert chisquare(np.diff(metrics.resamples(50).astype(int), axis=0).sum(axis=1)).pvalue > 0.01


def test_draws_that_are_not_kept_are_the_same(monkeypatch):
    kept = metrics.resampled(np.array([7, 2, 11]))
    monkeypatch.setattr(metrics, "MOST_ROWS", 19)
    np.testing.assert_array_equal(metrics.resampled(np.array([7, 2, 11])), kept)


def test_macro_f1_interval_equals_drawing_rows(prediction):
    labels, p = prediction
    given = p.argmax(axis=1)
    drawn = np.random.default_rng(5).integers(0, 400, (2000, 400))
    truth, said = labels[drawn], given[drawn]
    scores = np.zeros(2000)
    for code in range(7):
        hits = ((truth == code) & (said == code)).sum(axis=1)
        precision, recall = hits / (said == code).sum(axis=1), hits / (truth == code).sum(axis=1)
        scores += 2 * precision * recall / (precision + recall) / 7
    found = metrics.macro_f1_interval(sk.confusion_matrix(labels, given))
    assert found == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.005)


def test_recall_intervals_equal_drawing_rows(prediction):
    from scipy.stats import bootstrap

    labels, p = prediction
    right = p.argmax(axis=1) == labels
    found = metrics.recall_intervals(sk.confusion_matrix(labels, p.argmax(axis=1)))
    for code, interval in enumerate(found):
        drawn = bootstrap((right[labels == code],), np.mean, method="percentile", n_resamples=2000, rng=1)
        assert interval == pytest.approx(tuple(drawn.confidence_interval), abs=0.025)


def test_recall_of_classes_without_rows_and_of_those_all_wrong_or_all_right():
    from statsmodels.stats.proportion import proportion_confint

    found = metrics.recall_intervals(np.array([[5, 5, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]]))
    assert found[1] == pytest.approx(proportion_confint(0, 3, method="wilson"), abs=1e-12)
    assert found[3] == pytest.approx(proportion_confint(7, 7, method="wilson"), abs=1e-12)
    assert np.isnan(found[2]).all()
    assert found[0] != pytest.approx(proportion_confint(5, 10, method="wilson"), abs=1e-3)  # drawn where it is defined


def test_means_over_seeds_are_drawn_as_whole_rows():
    assert (metrics.resampled(np.array([10.5, 3.25, 6.25])).sum(axis=0) == 20).all()


@pytest.mark.parametrize("ps", [[], [0.2], [0.01, 0.04, 0.03, 0.005], [0.5, 0.9, 0.02, 0.02]])
def test_holm_equals_statsmodels(ps):
    from statsmodels.stats.multitest import multipletests

    expected = list(multipletests(ps, method="holm")[1]) if ps else []
    assert metrics.holm(ps) == pytest.approx(expected)


def test_sign_flips_equal_all_signs_tried():
    rng = np.random.default_rng(5)
    after, before = rng.random((2, 3, 12)) < np.array([0.7, 0.4])[:, None, None]
    totals = after.sum(0).astype(int) - before.sum(0)
    signs = np.array(list(product([-1, 1], repeat=12)))
    expected = (np.abs(signs @ totals) >= abs(totals.sum())).mean()
    assert metrics.sign_flip_p(after, before) == pytest.approx(expected, abs=1e-12)
    assert metrics.sign_flip_p(after, after) == 1


def test_one_pair_of_masks_is_mcnemar_and_its_bootstrap(masks):
    a, b = masks
    assert metrics.sign_flip_p(a[None], b[None]) == metrics.mcnemar_exact(a, b)
    assert metrics.paired_means(a[None], b[None]) == metrics.paired_bootstrap(a, b)
    twice = metrics.sign_flip_p(np.stack([a, a]), np.stack([b, b]))  # through the transform
    assert twice == pytest.approx(metrics.mcnemar_exact(a, b), abs=1e-12)


def test_means_of_several_pairs_equal_drawing_images(masks):
    after, before = np.stack([masks[0], masks[0] ^ (np.arange(300) % 9 == 0)]), np.stack([masks[1]] * 2)
    gap = (after.astype(float) - before).mean(axis=0)
    images = np.random.default_rng(3).integers(0, 300, (10_000, 300))
    low, high = np.quantile(gap[images].mean(axis=1), [0.025, 0.975])
    difference, found_low, found_high = metrics.paired_means(after, before)
    assert difference == pytest.approx(gap.mean())
    assert (found_low, found_high) == pytest.approx((low, high), abs=1.5 / 300)
    assert metrics.paired_means(before, after) == (-difference, -found_high, -found_low)
    with pytest.raises(ValueError, match=r"must be \(R, N\)"):
        metrics.paired_means(after, before[:, :-1])
