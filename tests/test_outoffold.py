"""Out-of-fold ensembles: the arrays against scikit-learn, and boards of fold runs whose probabilities are drawn."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, StandardScaler

from fer_bench import config, ensemble, leaderboard, metrics, records
from fer_bench.ensemble import outoffold
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes
from fer_bench.leaderboard import page, proof, rows
from fer_bench.leaderboard.mistakes import examine
from fer_bench.suite.progress import Display
from fer_bench.suite.votes import run_ensembles

# ---- arrays: three folds of two real models on the iris data

K = 3
MODELS = {"logistic": LogisticRegression(C=0.05, max_iter=500), "bayes": GaussianNB(var_smoothing=0.3)}


@pytest.fixture(scope="module")
def iris():
    """Training rows, their folds, and two further parts: features, labels."""
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    return {"Training": (x[:90], y[:90]), "PublicTest": (x[90:120], y[90:120]), "PrivateTest": (x[120:], y[120:])}


@pytest.fixture(scope="module")
def cut():
    return np.random.default_rng(1).permutation(np.arange(90) % K)


@pytest.fixture(scope="module")
def fold_runs(iris, cut):
    """What the fold runs of both models store, their units and run ids, in an order that helps nobody."""
    found: list[tuple[str, str, dict[str, np.ndarray]]] = []
    for name, model in MODELS.items():
        for index in range(K):
            x, y = iris["Training"]
            held = np.flatnonzero(cut == index)
            model.fit(x[cut != index], y[cut != index])
            stored = {f"{part}/labels": iris[part][1] for part in ("PublicTest", "PrivateTest")}
            stored |= {f"{part}/none": model.predict_proba(iris[part][0]) for part in ("PublicTest", "PrivateTest")}
            stored |= {"Training/rows": held, "Training/labels": y[held], "Training/none": model.predict_proba(x[held])}
            found.append((f"{name}.s0", f"{7 * len(found) % 10}{name}", stored))
    order = [4, 0, 5, 2, 1, 3]
    units, run_ids, stored = zip(*(found[i] for i in order), strict=True)
    return units, run_ids, stored


def recipe_of(method, **more: Any):
    return ensemble.Recipe(method, config.PARAMETERS[method]().model_dump(), **more)


def combine(recipe, fold_runs):
    units, run_ids, stored = fold_runs
    return ensemble.combine_records(recipe, run_ids, stored, "none", units)


def test_assembled_rows_are_those_of_cross_val_predict(iris, cut, fold_runs):
    units, _, stored = fold_runs
    for name, model in MODELS.items():
        own = [arrays for unit, arrays in zip(units, stored, strict=True) if unit == f"{name}.s0"]
        expected = cross_val_predict(model, *iris["Training"], cv=PredefinedSplit(cut), method="predict_proba")
        np.testing.assert_allclose(outoffold.assembled(own, "Training/none", name), expected, rtol=1e-12)
        np.testing.assert_array_equal(outoffold.assembled(own, "Training/labels", name), iris["Training"][1])


def averaged(fold_runs, part):
    """Mean of the fold models of each unit as scikit-learn votes, (2, N, 3); units in the order of their first id."""
    units, run_ids, stored = fold_runs
    order = sorted({u: min(i for i, v in zip(run_ids, units, strict=True) if v == u) for u in units}.items())
    assert [unit for unit, _ in sorted(order, key=lambda pair: pair[1])] == ["logistic.s0", "bayes.s0"]
    found = []
    for unit in ("logistic.s0", "bayes.s0"):
        p = [arrays[f"{part}/none"] for other, arrays in zip(units, stored, strict=True) if other == unit]
        vote = VotingClassifier([(str(i), Column(rows)) for i, rows in enumerate(p)], voting="soft")
        vote.estimators_, vote.le_ = [Column(rows) for rows in p], LabelEncoder().fit(range(3))
        found.append(vote.predict_proba(np.arange(len(p[0]))))
    return np.stack(found)


class Column:
    def __init__(self, rows):
        self.rows = rows

    def predict_proba(self, numbers):
        return self.rows[numbers]


def test_a_stack_is_that_of_sklearns_stacking_classifier(iris, cut, fold_runs):
    """The same folds give the same final estimator; on new rows it sees the averaged fold models instead of a refit."""
    strength = 0.03
    final = make_pipeline(
        FunctionTransformer(lambda p: np.log(np.maximum(p, 1e-7))),
        StandardScaler(),
        LogisticRegression(C=1 / (strength * 90), max_iter=2000),
    )
    stack = StackingClassifier([*MODELS.items()], final, cv=PredefinedSplit(cut), stack_method="predict_proba")
    stack.fit(*iris["Training"])
    found = combine(recipe_of("stack-logistic", fit_on="Training"), fold_runs)
    for part, ours in (("PublicTest", found.validation), ("PrivateTest", found.test)):
        expected = stack.final_estimator_.predict_proba(np.concatenate([*averaged(fold_runs, part)], axis=1))
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert found.weights is None


def test_a_fold_average_is_sklearns_soft_vote_and_out_of_fold_on_training(iris, cut, fold_runs):
    found = combine(recipe_of("fold-average"), fold_runs)
    np.testing.assert_allclose(found.test, averaged(fold_runs, "PrivateTest").mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.validation, averaged(fold_runs, "PublicTest").mean(axis=0), rtol=1e-9)
    own = [
        cross_val_predict(m, *iris["Training"], cv=PredefinedSplit(cut), method="predict_proba")
        for m in MODELS.values()
    ]
    np.testing.assert_allclose(found.training, np.mean(own, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.weights, 1 / 6)


@pytest.mark.parametrize("method", ["weighted-vote", "greedy"])
def test_what_is_fitted_out_of_fold_sees_training_and_shares_weight_among_folds(iris, cut, fold_runs, method):
    p = np.stack(
        [
            cross_val_predict(m, *iris["Training"], cv=PredefinedSplit(cut), method="predict_proba")
            for m in MODELS.values()
        ]
    )
    recipe = recipe_of(method, fit_on="Training")
    expected = ensemble.fit(method, p, iris["Training"][1], recipe.parameters, 0)
    found = combine(recipe, fold_runs)
    shares = dict(zip(["logistic.s0", "bayes.s0"], np.asarray(expected.weights), strict=True))
    np.testing.assert_allclose(found.weights, [shares[unit] / K for unit in fold_runs[0]], atol=1e-9)
    np.testing.assert_allclose(found.test, expected.predict(averaged(fold_runs, "PrivateTest")), atol=1e-9)
    if method == "greedy":
        assert found.chosen == tuple(i for i, unit in enumerate(fold_runs[0]) if shares[unit] > 0)


@pytest.mark.parametrize("temperature", ["before", "after"])
def test_temperatures_are_fitted_on_training_alone(fold_runs, temperature):
    units, run_ids, stored = fold_runs
    recipe = recipe_of("soft-vote", fit_on="Training", temperature=temperature)
    other = [
        arrays | {f"{p}/labels": 2 - arrays[f"{p}/labels"] for p in ("PublicTest", "PrivateTest")} for arrays in stored
    ]
    one = ensemble.combine_records(recipe, run_ids, stored, "none", units)
    two = ensemble.combine_records(recipe, run_ids, other, "none", units)
    np.testing.assert_array_equal(one.test, two.test)
    assert not np.allclose(one.test, averaged(fold_runs, "PrivateTest").mean(axis=0), atol=1e-4)
    assert one.training is None


@pytest.mark.parametrize("method", ["fold-average", "stack-logistic", "greedy"])
def test_the_order_of_runs_changes_nothing_and_new_rows_are_combined_alike(fold_runs, method):
    recipe = recipe_of(method) if method == "fold-average" else recipe_of(method, fit_on="Training")
    turned = [each[::-1] for each in fold_runs]
    one, two = combine(recipe, fold_runs), combine(recipe, turned)
    np.testing.assert_array_equal(one.test, two.test)
    if one.weights is not None and two.weights is not None:
        np.testing.assert_array_equal(one.weights, two.weights[::-1])
    units, run_ids, stored = fold_runs
    new = np.stack([arrays["PrivateTest/none"] for arrays in stored])
    np.testing.assert_array_equal(ensemble.fit_records(recipe, run_ids, stored, "none", units)(new), one.test)


def test_folds_that_do_not_make_up_training_are_refused(fold_runs):
    units, run_ids, stored = fold_runs
    recipe = recipe_of("stack-logistic", fit_on="Training")
    with pytest.raises(UserError, match=r"bayes.s0: its 2 fold runs do not hold out every row of Training once"):
        ensemble.combine_records(recipe, run_ids[1:], stored[1:], "none", units[1:])
    with pytest.raises(UserError, match=r"Training/flip: not every fold run of logistic.s0 stores it"):
        ensemble.combine_records(recipe, run_ids, stored, "flip", units)
    wrong = [
        arrays | ({"Training/labels": arrays["Training/labels"] * 0} if "bayes" in unit else {})
        for unit, arrays in zip(units, stored, strict=True)
    ]
    with pytest.raises(UserError, match="labels differ"):
        ensemble.combine_records(recipe, run_ids, wrong, "none", units)


# ---- boards

SUITE = """
suite: tiny
data: toyfaces
seeds: [0, 1]
defaults: {pretrained: false, folds: 3, views: [none]}
members: [{name: a, backbone: "baseline:mlp"}, {name: b, backbone: "baseline:cnn"}]
ensembles:
  - {name: bag, method: fold-average, members: [a], views: [none]}
  - {name: weighted, method: weighted-vote, fit_on: Training, members: [a, b], views: [none]}
  - {name: picked, method: greedy, fit_on: Training, parameters: {bags: 3, share: 1}, members: [a, b], views: [none]}
  - {name: stack, method: stack-logistic, fit_on: Training, members: [a, b], views: [none]}
  - {name: trees, method: stack-trees, fit_on: Training, parameters: {iterations: 3}, members: [a, b], views: [none]}
  - {name: calibrated, fit_on: Training, temperature: after, members: [b], views: [none]}
"""
SKILLS = {"a": 1.5, "b": 0.7}
ROWS = {"Training": 210, "PublicTest": 70, "PrivateTest": 70}


def save_run(board, name, seed, index=None, of=3, **changed):
    """Draw a run on all of Training, or on all but one fold of it, and save its record."""
    rng = np.random.default_rng([sum(name.encode()), seed, 9 if index is None else index])
    held = np.arange(index or 0, ROWS["Training"], of)
    counts = (
        ROWS | {"Training": len(held)} if index is not None else {p: ROWS[p] for p in ("PublicTest", "PrivateTest")}
    )
    arrays: dict[str, np.ndarray] = {} if index is None else {"Training/rows": held}
    for part, n in counts.items():
        labels = (held if part == "Training" else np.arange(n)) % 7
        raised = np.exp(rng.normal(size=(n, 7)) + SKILLS[name] * np.eye(7)[labels])
        arrays |= {f"{part}/labels": labels, f"{part}/none": raised / raised.sum(axis=1, keepdims=True)}
    arrays |= changed
    identity: dict[str, Any] = {"kind": "member", "member": {"backbone": name}, "seed": seed}
    rows_sha256 = records.rows_sha256(arrays.get("Training/rows", held))
    cut = {"of": of, "index": index, "seed": 0, "rows_sha256": rows_sha256}
    identity |= {} if index is None else {"fold": cut}
    run_id, digest = records.run_id(identity), sha256_bytes(b"data")
    look = {"part": "PrivateTest", "purpose": "score", "run_id": run_id, "time": "2025-01-01T00:00:00Z"}
    model = {"backbone": name, "parameters": 9, "image_size": 48, "pretrained": False}
    facts = {"name": "toyfaces", "digest": digest, "split_digest": digest, "canonical": False, "source": "toy faces"}
    record = {
        "schema": 1,
        "kind": "member",
        "name": name,
        "seed": seed,
        "run_id": run_id,
        "identity": identity,
        "protocol": "fer2013-v1",
        "suite": "tiny",
        "data": {**facts, "skipped": 0, "counts": ROWS},
        "environment": {},
        "timing": {},
        "looks": [look],
        "history": [],
        "passes": {"none": 1},
        "views": ["none"],
        "headline": "none",
        "model": model | {"weights_origin": None, "weights_sha256": None},
        "figures": {
            p: {"none": metrics.figures(arrays[f"{p}/labels"], records.as_stored(arrays[f"{p}/none"]))} for p in counts
        },
    }
    record |= {} if index is None else {"kind": "fold", "fold": index}
    records.save(board, record, arrays)
    return arrays


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    board = tmp_path_factory.mktemp("folds") / "tiny"
    for name in SKILLS:
        for seed in (0, 1):
            for index in (None, 0, 1, 2):
                save_run(board, name, seed, index)
    (board / "suite.yaml").write_text(SUITE)
    code = "import sys\nfrom fer_bench.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = ["ensemble", "suite.yaml", "--board", "."]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=board, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "False"  # torch was not imported
    return board


@pytest.fixture
def board(standing, tmp_path):
    """A copy of the standing board, to be changed."""
    return Path(shutil.copytree(standing, tmp_path / "tiny"))


def ensembles(board):
    return {record["name"]: record for record in records.load_all(board) if record["kind"] == "ensemble"}


def test_ensembles_of_fold_runs_say_what_they_are_and_the_board_proves_them(standing):
    found = ensembles(standing)
    assert leaderboard.check(standing) == []
    assert {name: record["passes"]["none"] for name, record in found.items() if name in ("bag", "stack")} == {
        "bag": 2 * 3,
        "stack": 2 * 2 * 3,
    }
    assert found["bag"]["selection"] == "declared in the suite"
    assert {found[name]["selection"] for name in found.keys() - {"bag"}} == {"fitted out-of-fold on Training"}
    assert "fit_on" not in found["bag"]["identity"]
    assert found["stack"]["identity"]["fit_on"] == "Training"
    assert found["bag"]["members"][1] == {
        key: found["bag"]["members"][1][key] for key in ("name", "seed", "fold", "run_id")
    }
    assert len(found["weighted"]["weights"]) == 12
    assert set(found["picked"]["chosen"]) <= {f"{n}.s{s}.f{f}" for n in "ab" for s in (0, 1) for f in range(3)}
    assert [record["figures"].keys() for record in found.values()].count(found["stack"]["figures"].keys()) == 5
    assert found["bag"]["figures"]["Training"]["none"]["n"] == ROWS["Training"]


def test_fold_runs_have_no_rows_and_the_page_says_how_ensembles_were_chosen(standing):
    content = rows.read(standing)
    assert {row.name for row in content.rows} == {"a", "b", *ensembles(standing)}
    text = page.text(content, "")
    assert "8 rows from 4 trained runs and 12 fold runs" in text
    assert "| bag | fold-average | a ×2 (3 folds) | declared | 6 | a.s" in text
    assert "| stack | stack-logistic | a ×2 (3 folds) and b ×2 (3 folds) | Training, out-of-fold | 12 | a.s" in text
    bag = records.arrays(standing, ensembles(standing)["bag"])
    right = (bag["Training/none"].argmax(axis=1) == np.arange(210) % 7).mean()
    assert f"Out-of-fold accuracy on the Training images: bag {100 * right:.2f} %" in text


def test_a_missing_fold_withholds_what_needs_it(board):
    record = records.find(board, "a", 1, 2)
    assert record is not None
    records.remove(board, record)
    outcome = run_ensembles(board / "suite.yaml", board, Display(quiet=True), force=True)
    assert list(outcome.withheld) == ["bag", "weighted", "picked", "stack", "trees"]
    assert [record["name"] for record in outcome.records] == ["calibrated"]


def test_folds_of_another_cut_do_not_take_part(board, capsys):
    (board / "suite.yaml").write_text(SUITE.replace("folds: 3", "folds: 2"))
    outcome = run_ensembles(board / "suite.yaml", board, Display())
    assert len(outcome.withheld) == 6
    assert "bag: withheld, it lacks a seed 0 fold 0 of 2, a seed 0 fold 1 of 2, a seed 1" in capsys.readouterr().err


def problems(board):
    return proof.record_problems(board)


def test_the_check_finds_rows_held_out_twice_and_never(board):
    save_run(board, "b", 0, 1, **{"Training/rows": np.arange(0, 210, 3), "Training/labels": np.arange(0, 210, 3) % 7})
    found = problems(board)
    assert "b.s0.f1: holds out 70 rows of Training that another fold holds out too" in found
    assert "b.s0: its 3 folds leave 70 rows of Training out" in found


def test_the_check_finds_other_cuts_and_other_labels(board):
    save_run(board, "b", 0, 3, of=4)
    assert "b.s0.f3: fold 3 of 4, and others are of 3" in problems(board)
    record = records.find(board, "b", 0, 3)
    assert record is not None
    records.remove(board, record)
    labels = np.arange(1, 210, 3) % 7
    labels[:2] = 6 - labels[:2]
    save_run(board, "b", 0, 1, **{"Training/labels": labels})
    assert "b.s0.f1: 2 labels of Training differ from those of other records of the same data" in problems(board)


def test_the_check_finds_an_ensemble_of_some_folds(board):
    record = ensembles(board)["calibrated"]
    arrays = records.arrays(board, record)
    record |= {"members": record["members"][:-1], "weights": record["weights"][:-1]}
    identity = record["identity"] | {"members": sorted(m["run_id"] for m in record["members"])}
    records.save(board, record | {"identity": identity, "run_id": records.run_id(identity)}, arrays)
    found = problems(board)
    assert "calibrated: combines folds [0, 1] of b.s1, which has 3" in found
    assert any("b.s1: its 2 fold runs do not hold out every row" in line for line in found)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("weighted", {"selection": "fitted on PublicTest, cross-fitted there"}, "and the method is fitted out-of-fold"),
        ("weighted", {"weights": [1 / 12] * 12}, "weights: are not those"),
        ("picked", {"chosen": ["a.s0.f0"]}, "chosen: ['a.s0.f0']"),
        ("stack", {"passes": {"none": 8}}, "passes.none: 8, and the members with a say take 12"),
    ],
)
def test_the_check_finds_what_an_ensemble_misstates(board, name, change, problem):
    record = ensembles(board)[name]
    records.save(board, record | change, records.arrays(board, record))
    assert [problem in line for line in problems(board)] == [True]


@pytest.mark.parametrize(
    ("release", "blur", "problem"),
    [
        (None, 0.1, "largest difference"),
        ("0.24.2", 0.1, None),
        ("0.24.2", 0.9, "(grown with scikit-learn 0.24.2, here is "),
    ],
)
def test_trees_of_another_release_need_agree_on_average_only(board, release, blur, problem):
    record = ensembles(board)["trees"]
    arrays = records.arrays(board, record)
    for part in ("PublicTest", "PrivateTest"):
        arrays[f"{part}/none"] = records.as_stored((1 - blur) * arrays[f"{part}/none"].astype(float) + blur / 7)
        record["figures"][part]["none"] = metrics.figures(arrays[f"{part}/labels"], arrays[f"{part}/none"])
    if release:
        record["environment"]["scikit-learn"] = release
    records.save(board, record, arrays)
    found = problems(board)
    assert len(found) == (2 if problem else 0)
    assert all(str(problem) in line for line in found)


def test_the_check_fits_again_and_finds_a_score_that_is_not_out_of_fold(board):
    """An average of fold models over the rows that they were fitted on would look better than it is."""
    record = ensembles(board)["bag"]
    arrays = records.arrays(board, record)
    arrays["Training/none"] = records.as_stored(np.eye(7)[np.arange(210) % 7])
    record["figures"]["Training"]["none"] = metrics.figures(arrays["Training/labels"], arrays["Training/none"])
    records.save(board, record, arrays)
    assert ["bag: Training/none: is not the vote of its members" in line for line in problems(board)] == [True]
    del arrays["Training/none"], arrays["Training/labels"], record["figures"]["Training"]
    records.save(board, record, arrays)
    assert problems(board) == [
        "bag: Training/none: is not the vote of its members, stored: False, and the members give True"
    ]


def test_a_seed_that_was_trained_otherwise_is_found_among_folds(board):
    record = records.find(board, "b", 1, 0)
    assert record is not None
    identity = record["identity"] | {"member": {"backbone": "b", "image_size": 64}}
    run_id = records.run_id(identity)
    look = [record["looks"][0] | {"run_id": run_id}]
    model = record["model"] | {"image_size": 64}
    changed = record | {"identity": identity, "run_id": run_id, "looks": look, "model": model}
    records.save(board, changed, records.arrays(board, record))
    assert any(
        "b.s1.f0: differs from b.s0 in more than its seed: member.image_size" in line for line in problems(board)
    )


def test_training_is_no_part_to_look_for_errors_in(standing):
    with pytest.raises(UserError, match="--part Training: bag stores PublicTest, PrivateTest"):
        examine(standing, "bag", "Training")
