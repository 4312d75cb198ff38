import numpy as np
import pytest
from scipy.stats import binomtest
from test_leaderboard import add_external, add_member, add_vote, arrays_at, fill

from fer_bench import cli
from fer_bench.compare import compare
from fer_bench.errors import UserError


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("compare") / "cpu")


def right(board, name, seed, view="flip"):
    stored = arrays_at(board, name, seed)
    return stored[f"PrivateTest/{view}"].argmax(axis=1) == stored["PrivateTest/labels"]


def test_counts_and_test_are_those_of_the_arrays(board):
    found = compare(board, "lite0-96", "baseline-mlp")
    a, b = right(board, "lite0-96", 0), right(board, "baseline-mlp", 0)
    assert (found.a.title, found.b.title, found.images) == ("lite0-96.s0", "baseline-mlp.s0", len(a))
    assert (found.a.accuracy, found.b.accuracy) == (a.mean(), b.mean())
    assert (found.a.only_right, found.b.only_right) == ((a & ~b).sum(), (~a & b).sum())
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.p == pytest.approx(binomtest((a & ~b).sum(), (a != b).sum()).pvalue)
    spread = 1.96 * np.std(a.astype(float) - b) / len(a) ** 0.5  # the normal interval of a paired mean
    assert (found.low, found.high) == pytest.approx((found.difference - spread, found.difference + spread), abs=0.01)


def test_the_command_takes_the_part(board, monkeypatch, capsys):
    words = ["fer-bench", "compare", "lite0-96", "baseline-mlp", "--board", str(board), "--part", "PublicTest"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    stored, out = arrays_at(board, "lite0-96", 0), capsys.readouterr().out
    own, other = (
        f"{100 * (stored[f'{part}/flip'].argmax(axis=1) == stored[f'{part}/labels']).mean():.2f}"
        for part in ("PublicTest", "PrivateTest")
    )
    [line] = [line for line in out.splitlines() if line.split()[:1] == ["accuracy"]]
    assert own in line.split()
    assert own != other
    assert "\nPublicTest; in brackets" in out


def test_public_test_is_there_for_choices(board):
    found = compare(board, "lite0-96", "baseline-mlp", part="PublicTest")
    stored = [arrays_at(board, name, 0) for name in ("lite0-96", "baseline-mlp")]
    a, b = (s["PublicTest/flip"].argmax(axis=1) == s["PublicTest/labels"] for s in stored)
    assert (found.part, found.a.accuracy, found.b.accuracy) == ("PublicTest", a.mean(), b.mean())
    assert found.a.only_right == (a & ~b).sum()


def test_recalls_are_those_of_each_class(board):
    found = compare(board, "vote", "resnet18-scratch")
    labels = arrays_at(board, "vote")["PrivateTest/labels"]
    for code in range(7):
        of_class = labels == code
        difference = right(board, "vote", None)[of_class].mean() - right(board, "resnet18-scratch", 0)[of_class].mean()
        assert found.recall_differences[code] == pytest.approx(difference)
        assert found.support[code] == of_class.sum()


def test_seed_and_views_can_be_chosen(board):
    found = compare(board, "lite0-96.s1", "lite0-96", view="none")
    assert found.a.accuracy == right(board, "lite0-96", 1, "none").mean()
    assert found.b.accuracy == right(board, "lite0-96", 0, "none").mean()


def test_the_one_set_of_a_submitted_row_stands_for_any(tmp_path):
    add_member(tmp_path / "cpu", "lite0")
    add_external(tmp_path / "cpu", "theirs")
    found = compare(tmp_path / "cpu", "lite0", "theirs", view="none")
    assert (found.a.view, found.b.view) == ("none", "submitted")
    assert found.a.accuracy == right(tmp_path / "cpu", "lite0", 0, "none").mean()
    assert found.b.accuracy == right(tmp_path / "cpu", "theirs", None, "submitted").mean()


def test_row_against_itself_is_no_difference(board):
    found = compare(board, "vote", "vote")
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_mistakes_are_named(tmp_path):
    board = tmp_path / "cpu"
    add_vote(board, "vote", [add_member(board, "lite0", n=50)])
    add_member(board, "stranger", n=50, digest="f" * 64)
    with pytest.raises(UserError, match="no record is called 'nobody'; there are lite0, stranger, vote"):
        compare(board, "vote", "nobody")
    with pytest.raises(UserError, match="--view ten-crop: vote stores none, flip"):
        compare(board, "vote", "lite0", view="ten-crop")
    with pytest.raises(UserError, match="made on other data"):
        compare(board, "vote", "stranger")
    with pytest.raises(UserError, match="--part: unknown 'Training'; use PrivateTest or PublicTest"):
        compare(board, "vote", "lite0", part="Training")


def test_command_prints_a_table(board, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fer-bench", "compare", "vote", "baseline-mlp", "--board", str(board)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out = capsys.readouterr().out
    assert not caught.value.code
    line = next(line for line in out.splitlines() if "accuracy %" in line)
    assert f"{100 * right(board, 'vote', None).mean():.2f}" in line
    assert "recall % Disgust" in out
