import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_bench import cli, records
from fer_bench.ensemble.oracle import MOST_FOR_SUBSETS, Part, accuracies, best_of, best_subset, best_votes
from fer_bench.errors import UserError
from fer_bench.metrics import figures
from fer_bench.suite.oracle import oracle
from fer_bench.views import passes

C = 7
SUITE = """
suite: tiny
data: toyfaces
defaults: {pretrained: false, views: [none, flip]}
members: [{name: a, backbone: "baseline:mlp"}, {name: b, backbone: "baseline:cnn"}]
ensembles: [{name: vote, members: [a, b], views: [none]}]
"""


def make(members, n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, n)
    raised = np.exp(rng.normal(size=(members, n, C)) + 0.8 * np.eye(C)[labels])
    return Part(raised / raised.sum(axis=2, keepdims=True), labels)


def right(p, labels):
    return (p.argmax(axis=1) == labels).mean()


def test_the_best_of_is_that_of_a_plain_search():
    validation, test = make(6, 80, 0), make(6, 60, 1)
    found = best_of("run", list("abcdef"), validation, test)
    own, others = ([right(p, part.labels) for p in part.probabilities] for part in (validation, test))
    np.testing.assert_allclose(accuracies(test.probabilities, test.labels), others)
    assert (found.honest.what, found.oracle.what) == tuple("abcdef"[int(np.argmax(each))] for each in (own, others))
    assert found.honest.accuracy == pytest.approx(others[int(np.argmax(own))])
    assert found.difference == pytest.approx(max(others) - others[int(np.argmax(own))])


def test_the_best_subset_is_that_of_a_plain_search():
    part = make(5, 90, 2)
    best = 0.0
    for mask in itertools.product([0, 1], repeat=5):
        if any(mask):
            best = max(best, right(np.average(part.probabilities, axis=0, weights=mask), part.labels))
    weights = best_subset(part.probabilities, part.labels)
    assert set(weights) <= {0, 1}
    assert right(np.average(part.probabilities, axis=0, weights=weights), part.labels) == pytest.approx(best)


def test_choosing_on_the_test_never_loses_where_the_search_is_whole():
    for seed in range(5):
        found = {
            row.question: row for row in best_votes(list("abcd"), make(4, 70, 2 * seed), make(4, 70, 2 * seed + 1))
        }
        assert found["subset that votes"].difference >= 0
        assert found["subset that votes"].oracle.accuracy >= found["subset that votes"].honest.accuracy
    many = MOST_FOR_SUBSETS + 1
    questions = [
        row.question for row in best_votes([str(i) for i in range(many)], make(many, 40, 7), make(many, 40, 8))
    ]
    assert questions == ["greedy selection, by accuracy", "weights, by likelihood"]


def test_the_validation_rows_alone_make_the_honest_choice():
    validation, test = make(4, 70, 3), make(4, 70, 4)
    turned = Part(test.probabilities[::-1], (test.labels + 1) % C)
    one, two = (list(best_votes(list("abcd"), validation, part)) for part in (test, turned))
    assert [row.honest.what for row in one] == [row.honest.what for row in two]


def save(board, name, skill, seed=0, kind="member"):
    rng = np.random.default_rng(sum(name.encode()))
    arrays: dict[str, np.ndarray] = {}
    views = {"member": ["none", "flip"], "ensemble": ["none"], "external": ["submitted"]}[kind]
    for part in ("PublicTest", "PrivateTest"):
        labels = np.arange(70) % C
        arrays[f"{part}/labels"] = labels
        for view in views:
            raised = np.exp(rng.normal(size=(70, C)) + skill * np.eye(C)[labels])
            arrays[f"{part}/{view}"] = records.as_stored(raised / raised.sum(axis=1, keepdims=True))
    identity = {"kind": kind, "name": name, "seed": seed}
    facts = {"name": "toyfaces", "digest": "d", "split_digest": "s", "canonical": False, "source": "toy faces"}
    counts = {"Training": 7, "PublicTest": 70, "PrivateTest": 70}
    model = {"backbone": name, "parameters": 9, "image_size": 48, "pretrained": False, "weights_origin": None}
    own = {"model": model | {"weights_sha256": None}, "history": [], "seed": seed}
    if kind == "ensemble":
        members = [{"name": "a", "seed": 0, "run_id": "0"}]
        identity |= {"method": "soft-vote", "members": ["0"]}
        own = {"members": members, "method": "soft-vote", "weights": [1.0], "seed": None}
    if kind == "external":
        identity |= {"probabilities_sha256": records.probabilities_sha256(arrays), "source": "elsewhere"}
        identity |= {"data_digest": "d", "split_digest": "s"}
        given = {"parameters": None, "image_size": None, "pretraining": None}
        own = {"model": given, "source": "elsewhere", "note": None, "labels_from": "toy faces", "seed": None}
    record = {"schema": 1, "kind": kind, "name": name, "run_id": records.run_id(identity), "identity": identity}
    record |= {"protocol": "fer2013-v1", "suite": "tiny", "data": facts | {"skipped": 0, "counts": counts}}
    record |= {"environment": {}, "timing": {}, "looks": []}
    record["passes"] = {view: 1 if kind == "external" else passes(view) for view in views}
    record |= {"views": views, "headline": views[-1]} | own
    parts = ("PublicTest", "PrivateTest")
    scores = {p: {v: figures(arrays[f"{p}/labels"], arrays[f"{p}/{v}"]) for v in views} for p in parts}
    records.save(board, record | {"figures": scores}, arrays)


@pytest.fixture
def board(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SUITE)
    save(tmp_path / "board", "a", 1.0)
    save(tmp_path / "board", "b", 0.8)
    save(tmp_path / "board", "vote", 1.2, kind="ensemble")
    return tmp_path / "board"


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_warns_first_writes_nothing_and_needs_no_torch(board):
    before = everything(board.parent)
    code = "import sys\nfrom fer_bench.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = [sys.executable, "-B", "-c", code, "oracle", "tiny.yaml", "--board", "board"]
    root = str(Path(cli.__file__).parents[2])
    ran = subprocess.run(words, cwd=board.parent, env={"PYTHONPATH": root}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("DIAGNOSTIC, NOT RESULTS")
    assert lines[-1] == "False"
    assert [line.split(":")[0] for line in lines if line.startswith("best ")] == [
        "best run and view",
        "best row of the suite",
        "best subset that votes",
        "best greedy selection, by accuracy",
        "best weights, by likelihood",
    ]
    assert everything(board.parent) == before


def test_json_carries_the_warning_and_the_difference(board, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["fer-bench", "oracle", str(board.parent / "tiny.yaml"), "--board", str(board), "--json"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    found = json.loads(capsys.readouterr().out)
    assert found["warning"].startswith("DIAGNOSTIC")
    row = found["choices"][0]
    assert row["difference"] == pytest.approx(row["oracle"]["accuracy"] - row["honest"]["accuracy"])


def test_candidates_are_runs_with_each_of_their_views(board):
    stored = {name: records.arrays(board, records.called(board, name)) for name in "ab"}
    views = [(name, view) for name in "ab" for view in ("none", "flip")]
    scores = {
        part: [right(stored[n][f"{part}/{v}"], np.arange(70) % C) for n, v in views]
        for part in ("PublicTest", "PrivateTest")
    }
    found = oracle(board.parent / "tiny.yaml", board)[0]
    best = [views[int(np.argmax(scores[part]))] for part in ("PublicTest", "PrivateTest")]
    assert [found.honest.what, found.oracle.what] == [f"{name}.s0 {view}" for name, view in best]


def test_submitted_rows_that_the_suite_names_are_candidates(board):
    save(board, "theirs", 3.0, kind="external")
    suite = board.parent / "tiny.yaml"
    assert "theirs" not in oracle(suite, board)[0].honest.what
    suite.write_text(SUITE.replace("members: [a, b], views", "members: [a, b], submitted: [theirs], views"))
    found = {row.question: row for row in oracle(suite, board)}
    stored = records.arrays(board, records.called(board, "theirs"))["PrivateTest/submitted"]
    assert found["run and view"].honest.what == "theirs submitted"
    assert found["run and view"].honest.accuracy == right(stored, np.arange(70) % C)
    assert found["row of the suite"].oracle.what == "theirs"
    assert "theirs" in found["weights, by likelihood"].honest.what


def test_boards_without_the_runs_or_of_other_data_are_refused(board):
    suite = board.parent / "tiny.yaml"
    with pytest.raises(UserError, match="no such folder"):
        oracle(suite, board / "none")
    with pytest.raises(UserError, match="nothing to choose among"):
        oracle(suite, board.parent)
    record = records.called(board, "b")
    arrays = records.arrays(board, record)
    arrays["PrivateTest/labels"] = arrays["PrivateTest/labels"][::-1]
    records.save(board, record, arrays)
    with pytest.raises(UserError, match="PrivateTest labels differ among"):
        oracle(suite, board)
