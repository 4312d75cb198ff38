import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, StandardScaler

from fer_bench import config, ensemble, leaderboard, records
from fer_bench.ensemble import combining, soft_vote
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes
from fer_bench.leaderboard import proof
from fer_bench.metrics import figures
from fer_bench.suite.progress import Display
from fer_bench.suite.votes import run_ensembles

C = 7
METHODS = list(config.PARAMETERS)
FITTED = [method for method in METHODS if method not in combining.DECLARED]
QUICK = {"greedy": {"bags": 3, "size": 5}, "stack-trees": {"iterations": 2}}


def parameters(method, **more):
    return config.PARAMETERS[method].model_validate(QUICK.get(method, {}) | more).model_dump()


def make(members, rows, seed):
    """Members of rising skill that share part of their mistakes: probabilities (M, N, C) float16, labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, rows)
    skill = np.linspace(0.5, 2, members)[:, None, None] * np.eye(C)[labels]
    logits = rng.normal(size=(rows, C)) + rng.normal(size=(members, rows, C)) + skill
    raised = np.exp(2 * logits)
    return (raised / raised.sum(axis=2, keepdims=True)).astype(np.float16), labels


@pytest.fixture
def members():
    return np.random.default_rng(0).dirichlet(np.ones(C), size=(3, 20))


@pytest.fixture(scope="module")
def validation():
    return make(4, 300, 1)


@pytest.fixture(scope="module")
def test_rows():
    return make(4, 150, 2)[0]


class Stored(ClassifierMixin, BaseEstimator):
    """An estimator that only looks up what a member stored: X holds row numbers."""

    def __init__(self, rows):
        self.rows, self.classes_, self.fitted_ = rows, np.arange(C), True

    def fit(self, X, y):  # noqa: N803 - scikit-learn's names
        return self

    def predict_proba(self, X):  # noqa: N803
        return self.rows[np.asarray(X).ravel()]

    def predict(self, X):  # noqa: N803
        return self.predict_proba(X).argmax(axis=1)


def voting(stacked, **how):
    found = VotingClassifier([(str(i), Stored(rows)) for i, rows in enumerate(stacked)], **how)
    found.estimators_, found.le_ = [Stored(rows) for rows in stacked], LabelEncoder().fit(range(C))
    return found


def double(stacked):
    return stacked.astype(np.float64) / stacked.astype(np.float64).sum(axis=2, keepdims=True)


def loss(p, labels):
    return -np.log(p[np.arange(len(labels)), labels]).mean()


# ---- votes that need no fit


@pytest.mark.parametrize("weights", [None, [1, 2, 5], [0.5, 0.5, 0]])
def test_soft_vote_equals_sklearn(members, weights):
    expected = voting(members, voting="soft", weights=weights).predict_proba(np.arange(20))
    np.testing.assert_allclose(soft_vote(members, weights), expected, rtol=1e-12)


def test_hard_vote_equals_sklearn_ties_too(validation):
    stacked = validation[0]
    expected = voting(stacked, voting="hard").predict(np.arange(300))
    votes = ensemble.hard_vote(stacked)
    assert (np.sort(votes)[:, -1] == np.sort(votes)[:, -2]).any()  # there are ties to win
    np.testing.assert_array_equal(votes.argmax(axis=1), expected)
    np.testing.assert_allclose(votes.sum(axis=1), 1)


def test_geometric_mean_is_scipys(members):
    from scipy.stats import gmean

    expected = gmean(members, axis=0)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ensemble.geometric_mean(members), expected, rtol=1e-12)


def test_a_stored_zero_is_no_veto():
    stacked = np.array([[[0, 1.0]], [[0.9, 0.1]]], dtype=np.float16)
    assert 0 < ensemble.geometric_mean(stacked)[0, 0] < 0.01


def test_stored_rows_vote_in_float64_and_sum_to_one(members):
    vote = soft_vote(members.astype(np.float16))
    assert vote.dtype == np.float64
    np.testing.assert_allclose(vote.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(vote, members.mean(axis=0), atol=5e-4)


def test_one_member_is_itself_and_order_does_not_matter(members):
    np.testing.assert_allclose(soft_vote(members[:1]), members[0], rtol=1e-12)
    np.testing.assert_allclose(soft_vote(members[::-1]), soft_vote(list(members)), rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "must be equal in number; got 2 weights, 3 members"),
        ([0, 0, 0], "not all zero"),
        ([1, -1, 1], "non-negative"),
        ([1, float("nan"), 1], "non-negative"),
    ],
)
def test_weights_that_are_no_mean_are_refused(members, weights, message):
    with pytest.raises(UserError, match=message):
        soft_vote(members, weights)


def test_one_prediction_is_not_an_ensemble(members):
    with pytest.raises(ValueError, match=r"got shape \(20, 7\)"):
        soft_vote(members[0])


# ---- weights


@pytest.mark.parametrize("pull", [1e-4, 0.01, 1.0])
def test_weights_are_those_of_a_direct_minimisation(validation, pull):
    stacked, labels = validation
    true = double(stacked)[:, np.arange(300), labels]

    def penalised(w):
        return -np.log(np.clip(w @ true, 1e-12, None)).mean() - pull * np.log(4 * np.clip(w, 1e-12, None)).mean()

    simplex: Any = {"type": "eq", "fun": lambda w: w.sum() - 1}
    direct = scipy.optimize.minimize(
        penalised,
        np.full(4, 0.25),
        bounds=[(1e-9, 1)] * 4,
        constraints=simplex,
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    found = ensemble.fit_weights(stacked, labels, pull)
    assert found.sum() == pytest.approx(1)
    assert penalised(found) <= penalised(direct.x) + 1e-9
    np.testing.assert_allclose(found, direct.x, atol=2e-3)


def test_a_strong_pull_leaves_the_weights_uniform(validation):
    np.testing.assert_allclose(ensemble.fit_weights(validation[0], validation[1], pull=1e6), 0.25, atol=1e-5)


# ---- greedy


def step_by_step(p, labels, size, metric):
    """Caruana's selection as one would write it down: every candidate's vote is scored from nothing."""
    picks: list[int] = []
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(size):
        scores = []
        for candidate in range(len(p)):
            vote = p[[*picks, candidate]].mean(axis=0)
            scores.append(loss(vote, labels) if metric == "nll" else (vote.argmax(axis=1) != labels).mean())
        picks.append(int(np.argmin(scores)))
        if min(scores) < best[0] - 1e-12:
            best = min(scores), list(picks)
    return best


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_greedy_picks_as_brute_force(metric, count):
    stacked, labels = make(count, 101, 3)
    score, picks = step_by_step(double(stacked), labels, 8, metric)
    rng = np.random.default_rng(0)
    found = ensemble.greedy_counts(stacked, labels, rng, bags=1, share=1, size=8, metric=metric)
    np.testing.assert_allclose(found, np.bincount(picks, minlength=count) / len(picks))
    if metric == "nll" and count == 6:  # every multiset of up to four picks: greedy comes near the best of them
        sets = itertools.chain.from_iterable(itertools.combinations_with_replacement(range(6), n) for n in range(1, 5))
        assert score <= min(loss(double(stacked)[list(s)].mean(axis=0), labels) for s in sets) + 0.005


def test_bags_pick_from_their_share_and_count_alike():
    stacked, labels = make(6, 80, 4)
    how: dict[str, Any] = {"share": 0.5, "size": 4, "metric": "nll"}
    three = ensemble.greedy_counts(stacked, labels, np.random.default_rng(5), bags=3, **how)
    rng = np.random.default_rng(5)
    single = []
    for _ in range(3):
        bag = np.sort(rng.choice(6, 3, replace=False))
        counts = np.zeros(6)
        picks = step_by_step(double(stacked)[bag], labels, 4, "nll")[1]
        np.add.at(counts, bag[picks], 1 / len(picks))
        single.append(counts)
    np.testing.assert_allclose(three, np.mean(single, axis=0))
    assert three.sum() == pytest.approx(1)


# ---- stacking and temperature


def stacked_by_sklearn(final, stacked, labels, test):
    """``StackingClassifier(cv="prefit")`` over stored columns; rows of validation, then test, are numbered through."""
    both = np.concatenate([double(stacked), double(test)], axis=1)
    log = FunctionTransformer(lambda p: np.log(np.maximum(p, 1e-7)))
    found = StackingClassifier(
        [(str(i), Stored(rows)) for i, rows in enumerate(both)], make_pipeline(log, final), cv="prefit"
    )
    n = stacked.shape[1]
    found.fit(np.arange(n)[:, None], labels)
    return found.predict_proba(np.arange(n, both.shape[1])[:, None])


def test_logistic_stack_equals_sklearn(validation, test_rows):
    stacked, labels = validation
    final = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.1 * 300), max_iter=2000))
    expected = stacked_by_sklearn(final, stacked, labels, test_rows)
    np.testing.assert_allclose(ensemble.fit_logistic(stacked, labels, 0.1)(test_rows), expected, atol=1e-8)


def test_tree_stack_equals_sklearn(validation, test_rows):
    stacked, labels = validation
    final = HistGradientBoostingClassifier(
        max_iter=5, max_leaf_nodes=8, max_features=0.2, max_bins=63, early_stopping=False, random_state=9
    )
    expected = stacked_by_sklearn(final, stacked, labels, test_rows)
    found = ensemble.fit_trees(stacked, labels, 9, **parameters("stack-trees", iterations=5))(test_rows)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("method", ["stack-logistic", "stack-trees"])
def test_a_class_that_validation_lacks_gets_no_probability(validation, test_rows, method):
    stacked, labels = validation
    kept = labels != 1
    found = combining.fit(method, stacked[:, kept], labels[kept], parameters(method), 0).predict(test_rows)
    assert found.shape == (150, C)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("power", [0.4, 1, 3])
def test_temperature_equals_sklearn(validation, power):
    p = double(validation[0])[0] ** power
    p = np.maximum(p / p.sum(axis=1, keepdims=True), 1e-6)
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(300)[:, None]
    scaled = CalibratedClassifierCV(FrozenEstimator(Stored(p)), method="temperature").fit(rows, validation[1])
    found = ensemble.cooled(p, ensemble.fit_temperature(p, validation[1]))
    np.testing.assert_allclose(found, scaled.predict_proba(rows), atol=1e-5)


# ---- any method by its name


@pytest.mark.parametrize("temperature", ["none", "before", "after"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_distributions_and_the_same_on_every_call(validation, test_rows, method, temperature):
    stacked, labels = validation
    words = (method, stacked, labels, test_rows, parameters(method), 3, temperature)
    one, two = ensemble.combine(*words), ensemble.combine(*words)
    assert (one.validation.shape, one.test.shape) == ((300, C), (150, C))
    for p in (one.validation, one.test):
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(one.validation, two.validation)
    np.testing.assert_array_equal(one.test, two.test)
    if one.weights is not None:
        assert one.weights.sum() == pytest.approx(1)
    assert (one.weights is None) == method.startswith("stack")
    assert (one.chosen is None) == (method != "greedy")


@pytest.mark.parametrize("method", FITTED)
def test_a_validation_row_has_no_part_in_its_own_prediction(validation, test_rows, method):
    """The labels of one fold decide nothing about what is predicted for that fold, and the other folds follow them."""
    stacked, labels = validation
    fold = combining.stratified_folds(labels, 0)
    before = ensemble.combine(method, stacked, labels, test_rows, parameters(method), 0)
    fit_on = lambda p, y: combining.fit(method, p, y, parameters(method), 0)  # noqa: E731
    for number in range(combining.FOLDS):
        held = fold == number
        expected = fit_on(stacked[:, ~held], labels[~held]).predict(stacked[:, held])
        np.testing.assert_array_equal(before.validation[held], expected)
    np.testing.assert_array_equal(before.test, fit_on(stacked, labels).predict(test_rows))


def test_cross_fitting_does_not_flatter():
    """On labels that nothing predicts, a stack that saw them looks good, and its cross-fitted score stays at chance."""
    stacked, _ = make(3, 200, 6)
    labels = np.random.default_rng(7).integers(0, C, 200)
    own = combining.fit(
        "stack-trees", stacked, labels, parameters("stack-trees", iterations=10, leaf_images=5), 0
    ).predict(stacked)
    fair = ensemble.combine(
        "stack-trees", stacked, labels, stacked, parameters("stack-trees", iterations=10, leaf_images=5), 0
    )
    assert (own.argmax(axis=1) == labels).mean() > 0.5
    assert (fair.validation.argmax(axis=1) == labels).mean() < 0.25


def test_folds_hold_their_share_of_every_class():
    labels = np.repeat(np.arange(C), [50, 5, 10, 20, 7, 3, 55])
    fold = combining.stratified_folds(labels, 1)
    counts = np.array([[(labels[fold == k] == c).sum() for c in range(C)] for k in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


@pytest.mark.parametrize("temperature", ["before", "after"])
def test_temperature_mends_overconfidence(validation, test_rows, temperature):
    stacked, labels = validation
    plain = ensemble.combine("geometric-mean", stacked, labels, stacked, {}, 0)
    calibrated = ensemble.combine("geometric-mean", stacked, labels, stacked, {}, 0, temperature)
    assert loss(calibrated.validation, labels) < loss(plain.validation, labels)


def test_shapes_that_do_not_fit_are_refused(validation, test_rows):
    stacked, labels = validation
    with pytest.raises(ValueError, match=r"test \(M, K, C\)"):
        ensemble.combine("soft-vote", stacked, labels, test_rows[:2], {}, 0)
    with pytest.raises(ValueError, match=r"labels must be \(N,\)"):
        ensemble.combine("soft-vote", stacked, labels[1:], test_rows, {}, 0)
    with pytest.raises(UserError, match="'vote' is no way"):
        ensemble.combine("vote", stacked, labels, test_rows, {}, 0)


# ---- records


def stored_members():
    p, labels = make(4, 120, 8)
    q, others = make(4, 90, 9)
    return [
        {"PublicTest/none": a, "PublicTest/labels": labels, "PrivateTest/none": b, "PrivateTest/labels": others}
        for a, b in zip(p, q, strict=True)
    ]


@pytest.mark.parametrize("method", ["greedy", "weighted-vote", "stack-trees"])
def test_the_order_of_members_changes_nothing_that_is_fitted(method):
    stored, ids = stored_members(), ["c", "a", "d", "b"]
    recipe = ensemble.Recipe(method, parameters(method))
    one = ensemble.combine_records(recipe, ids, stored, "none")
    turned = ensemble.combine_records(recipe, ids[::-1], stored[::-1], "none")
    np.testing.assert_array_equal(one.test, turned.test)
    if one.weights is not None and turned.weights is not None:
        np.testing.assert_array_equal(one.weights, turned.weights[::-1])
        np.testing.assert_allclose(
            one.test, soft_vote([member["PrivateTest/none"] for member in stored], one.weights.tolist())
        )
    if one.chosen is not None and turned.chosen is not None:
        assert sorted(one.chosen) == sorted(3 - i for i in turned.chosen)
    again = ensemble.fit_records(recipe, ids, stored, "none")(np.stack([m["PrivateTest/none"] for m in stored]))
    np.testing.assert_array_equal(again, one.test)


def test_members_of_other_data_are_refused():
    stored = stored_members()
    stored[2]["PublicTest/labels"] = (stored[2]["PublicTest/labels"] + 1) % C
    with pytest.raises(UserError, match="labels differ"):
        ensemble.combine_records(ensemble.Recipe(), list("abcd"), stored, "none")
    with pytest.raises(UserError, match="not every member stores it"):
        ensemble.combine_records(ensemble.Recipe(), list("abcd"), stored_members(), "flip")


def test_a_recipe_enters_the_identity_only_where_it_says_something():
    assert ensemble.Recipe().identity == {"method": "soft-vote", "parameters": {}}
    full = ensemble.Recipe("greedy", {"bags": 3}, "after", 4)
    assert full.identity == {"method": "greedy", "parameters": {"bags": 3}, "temperature": "after", "seed": 4}
    assert ensemble.Recipe.of(full.identity) == full


SUITE = """
suite: tiny
data: toyfaces
defaults: {pretrained: false}
members: [{name: a, backbone: "baseline:mlp"}, {name: b, backbone: "baseline:cnn"}]
ensembles:
  - {name: soft, members: [a, b], views: [none]}
  - {name: hard, method: hard-vote, members: [a, b], views: [none]}
  - {name: weighted, method: weighted-vote, members: [a, b], views: [none], temperature: after}
  - {name: picked, method: greedy, parameters: {bags: 3, share: 1}, members: [a, b], views: [none], seed: 1}
  - {name: stack, method: stack-logistic, members: [a, b], views: [none]}
"""


def save_member(board, name, skill, rows=140):
    labels = {part: np.arange(rows) % C for part in ("PublicTest", "PrivateTest")}
    rng = np.random.default_rng(sum(name.encode()))
    arrays = {f"{part}/labels": y.astype(np.uint8) for part, y in labels.items()}
    for part, y in labels.items():
        raised = np.exp(rng.normal(size=(rows, C)) + skill * np.eye(C)[y])
        arrays[f"{part}/none"] = records.as_stored(raised / raised.sum(axis=1, keepdims=True))
    identity = {"kind": "member", "member": {"backbone": name}, "seed": 0}
    digest = sha256_bytes(b"data")
    record = {
        "schema": records.SCHEMA,
        "kind": "member",
        "name": name,
        "seed": 0,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": "fer2013-v1",
        "suite": "tiny",
        "data": {
            "name": "toyfaces",
            "digest": digest,
            "split_digest": digest,
            "canonical": False,
            "source": "toy faces",
            "skipped": 0,
            "counts": {"Training": 7, "PublicTest": rows, "PrivateTest": rows},
        },
        "environment": {},
        "timing": {},
        "looks": [],
        "views": ["none"],
        "headline": "none",
        "passes": {"none": 1},
        "figures": {part: {"none": figures(y, arrays[f"{part}/none"])} for part, y in labels.items()},
        "model": {
            "backbone": name,
            "parameters": 9,
            "image_size": 48,
            "pretrained": False,
            "weights_origin": None,
            "weights_sha256": None,
        },
        "history": [],
    }
    records.save(board, record, arrays)


def without_torch(folder, *words):
    """Run the command line in a process of its own; its last line on stderr says whether torch was imported."""
    say = "import sys; print('torch' in sys.modules, file=sys.stderr)"
    code = f"from fer_bench.cli import main\ntry: main()\nfinally: {say}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_command_builds_all_of_a_suite_without_torch_and_the_board_proves_them(tmp_path):
    board = tmp_path / "runs" / "tiny"
    (tmp_path / "tiny.yaml").write_text(SUITE)
    for name, skill in (("a", 1.5), ("b", 0.5)):
        save_member(board, name, skill)
    ran = without_torch(tmp_path, "ensemble", "tiny.yaml", "--board", board)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "False"
    found = {record["name"]: record for record in records.load_all(board)}
    assert set(found) == {"a", "b", "soft", "hard", "weighted", "picked", "stack"}
    assert found["soft"]["identity"]["parameters"] == {}
    assert not {"temperature", "seed"} & set(found["soft"]["identity"])
    assert found["soft"]["selection"] == found["hard"]["selection"] == "declared in the suite"
    fitted = {found[name]["selection"] for name in ("weighted", "picked", "stack")}
    assert fitted == {"fitted on PublicTest, cross-fitted there"}
    assert found["stack"]["weights"] is None
    assert found["picked"]["identity"]["seed"] == 1
    assert set(found["picked"]["chosen"]) <= {"a.s0", "b.s0"}
    page = (board / "leaderboard.md").read_text()
    assert "| weighted | weighted-vote (temperature after) | a 0." in page
    assert "| picked | greedy (bags 3, share 1.0) | " in page
    assert "| stack | stack-logistic | a and b | PublicTest, cross-fitted | 2 | a.s0 | " in page
    assert leaderboard.check(board) == []


def test_finished_ensembles_are_left_alone_and_force_rebuilds_the_same_bits(built):
    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in (built / "results").iterdir()}

    before, shas = stamps(), {r["name"]: r["predictions"]["sha256"] for r in records.load_all(built)}
    run_ensembles(built / "suite.yaml", built, Display(quiet=True))
    assert stamps() == before
    run_ensembles(built / "suite.yaml", built, Display(quiet=True), force=True)
    assert stamps() != before
    assert {r["name"]: r["predictions"]["sha256"] for r in records.load_all(built)} == shas


def test_what_lacks_a_member_is_withheld_and_an_empty_question_refused(tmp_path):
    save_member(tmp_path, "a", 1.5)
    (tmp_path / "tiny.yaml").write_text(SUITE)
    outcome = run_ensembles(tmp_path / "tiny.yaml", tmp_path, Display(quiet=True))
    assert (len(outcome.withheld), outcome.records) == (5, [])
    with pytest.raises(UserError, match="no such folder"):
        run_ensembles(tmp_path / "tiny.yaml", tmp_path / "none", Display(quiet=True))
    (tmp_path / "tiny.yaml").write_text(SUITE.split("ensembles:")[0])
    with pytest.raises(UserError, match="nothing to build"):
        run_ensembles(tmp_path / "tiny.yaml", tmp_path, Display(quiet=True))


def test_members_without_a_say_cost_no_passes(built):
    record = records.find(built, "picked", None)
    assert record is not None
    assert record["passes"]["none"] == sum(weight > 0 for weight in record["weights"]) == len(record["chosen"])


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("weighted", {"weights": [0.1, 0.9]}, "weights: are not those"),
        ("stack", {"weights": [0.5, 0.5]}, "where the method gives none"),
        ("picked", {"chosen": ["c.s0"]}, "chosen: ['c.s0']"),
        ("stack", {"selection": "declared in the suite"}, "selection: 'declared in the suite'"),
        ("hard", {"method": "soft-vote"}, "method: 'soft-vote' is not the one"),
    ],
)
def test_the_check_finds_a_record_that_misstates_its_making(built, name, change, problem):
    record = records.find(built, name, None)
    assert record is not None
    records.save(built, record | change, records.arrays(built, record))
    assert [problem in line for line in proof.record_problems(built)] == [True]


def test_the_check_finds_a_validation_score_that_is_not_cross_fitted(built):
    record = records.find(built, "stack", None)
    assert record is not None
    arrays = records.arrays(built, record)
    stored = [records.arrays(built, member) for member in (records.find(built, n, 0) for n in "ab") if member]
    p = np.stack([member["PublicTest/none"] for member in stored])
    flattering = ensemble.fit("stack-logistic", p, arrays["PublicTest/labels"], record["identity"]["parameters"], 0)
    arrays["PublicTest/none"] = records.as_stored(flattering.predict(p))
    record["figures"]["PublicTest"]["none"] = figures(arrays["PublicTest/labels"], arrays["PublicTest/none"])
    records.save(built, record, arrays)
    problems = proof.record_problems(built)
    assert len(problems) == 1
    assert "stack: PublicTest/none: is not the vote of its members" in problems[0]


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    board = tmp_path_factory.mktemp("ensembles") / "tiny"
    for name, skill in (("a", 1.5), ("b", 0.5)):
        save_member(board, name, skill)
    (board / "suite.yaml").write_text(SUITE)
    run_ensembles(board / "suite.yaml", board, Display(quiet=True))
    return board


@pytest.fixture
def built(standing, tmp_path):
    """A board with two members and all ensembles of the suite, to be changed."""
    return Path(shutil.copytree(standing, tmp_path / "tiny"))
