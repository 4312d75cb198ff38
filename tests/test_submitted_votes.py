"""Ensembles that hold submitted rows, on copies of committed records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_bench import cli, leaderboard, records
from fer_bench.config import load_suite
from fer_bench.errors import UserError

COMMITTED = Path(__file__).parent.parent / "benchmark"
SUITE = """
suite: mine
members:
  - {name: lite0-96, backbone: tf_efficientnet_lite0, image_size: 96, views: [none, flip]}
ensembles:
  - {name: both, members: [lite0-96], submitted: [fer-25.10.3], METHOD}
"""


@pytest.fixture
def board(tmp_path):
    for stem in ("lite0-96.s0", "fer-25.10.3"):
        for file in (f"results/{stem}.json", f"predictions/{stem}.npz"):
            (tmp_path / "benchmark" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(COMMITTED / file, tmp_path / "benchmark" / file)
    return tmp_path / "benchmark"


@pytest.fixture
def build(tmp_path, board, monkeypatch, capsys):
    """Build the suite's ensemble on the command line; the exit code and what was said."""

    def call(method="method: soft-vote"):
        (tmp_path / "mine.yaml").write_text(SUITE.replace("METHOD", method))
        words = ["fer-bench", "ensemble", str(tmp_path / "mine.yaml"), "--board", str(board)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out + said.err

    return call


def test_a_submitted_row_votes_with_its_one_set_of_probabilities(board, build):
    assert build()[0] == 0
    record = records.find(board, "both", None)
    assert record is not None
    paths = (board / "predictions" / f"{stem}.npz" for stem in ("lite0-96.s0", "fer-25.10.3", "both"))
    ours, theirs, vote = (dict(np.load(path)) for path in paths)
    for part in ("PublicTest", "PrivateTest"):
        for view in ("none", "flip"):
            mean = (ours[f"{part}/{view}"].astype(np.float64) + theirs[f"{part}/submitted"]) / 2
            np.testing.assert_allclose(vote[f"{part}/{view}"], mean, atol=5e-4)
    assert record["passes"] == {"none": 1 + 1, "flip": 2 + 1}
    assert [member["name"] for member in record["members"]] == ["lite0-96", "fer-25.10.3"]
    assert leaderboard.check(board) == []
    page = leaderboard.board_file(board).read_text()
    assert "| both† | soft-vote | lite0-96 and fer-25.10.3† | declared | 3 | lite0-96.s0 |" in page


def test_what_is_fitted_weighs_it_like_any_member(board, build):
    assert build("method: weighted-vote")[0] == 0
    record = records.find(board, "both", None)
    assert record is not None
    assert sum(record["weights"]) == pytest.approx(1)
    assert all(0.1 < weight < 0.9 for weight in record["weights"])
    assert leaderboard.check(board) == []


def test_a_row_that_is_not_there_or_states_no_passes_withholds_the_vote(board, build):
    path = board / "results" / "fer-25.10.3.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"passes": {"submitted": None}}))
    code, said = build()
    assert code == 1
    assert "withheld, it lacks the submitted row fer-25.10.3, whose passes are not stated" in said
    path.unlink()
    code, said = build()
    assert code == 1
    assert "the submitted row fer-25.10.3, which `fer-bench submit` adds" in said


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("method: fold-average", "submitted: rows have no fold runs"),
        ("method: soft-vote, submitted: [lite0-96]", "stands twice"),
    ],
)
def test_suites_that_cannot_be_meant_are_refused(tmp_path, method, reason):
    (tmp_path / "mine.yaml").write_text(SUITE.replace("METHOD", method))
    with pytest.raises(UserError, match=reason):
        load_suite(tmp_path / "mine.yaml")


def test_a_member_is_not_submitted(tmp_path):
    (tmp_path / "mine.yaml").write_text(SUITE.replace("[fer-25.10.3]", "[lite0-96]").replace(", METHOD", ""))
    with pytest.raises(UserError, match="'lite0-96' is a member of this suite"):
        load_suite(tmp_path / "mine.yaml")


def test_an_ensemble_takes_no_name_of_a_trained_row(tmp_path, board, build, monkeypatch):
    shutil.copy(COMMITTED / "results" / "ablation-base.s0.json", board / "results")
    shutil.copy(COMMITTED / "predictions" / "ablation-base.s0.npz", board / "predictions")
    monkeypatch.setitem(globals(), "SUITE", SUITE.replace("name: both", "name: ablation-base"))
    code, said = build()
    assert code == 2
    assert "has a row of kind member of that name; rename it" in said
    assert records.find(board, "ablation-base", None) is None
