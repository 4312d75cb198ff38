import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax

from fer_bench import cli, leaderboard, metrics, records, splits
from fer_bench.data import EMOTIONS, Faces
from fer_bench.errors import UserError
from fer_bench.submit import Declared, labels, submit
from fer_bench.submit.probabilities import order_warnings, read

N = 3589
COUNTS = (28709, N, N)
SOURCE = "https://example.org/their/model"
with np.load(Path(__file__).parent.parent / "benchmark" / "predictions" / "lite0-96.s0.npz") as official:
    TRUTH = {part: official[f"{part}/labels"].astype(np.int64) for part in ("PublicTest", "PrivateTest")}


def logits(skill=1.5, seed=5):
    rng = np.random.default_rng(seed)
    return {part: rng.normal(size=(N, 7)) + skill * np.eye(7)[truth] for part, truth in TRUTH.items()}


def predictions(skill=1.5, seed=5):
    return {part: softmax(values, axis=1) for part, values in logits(skill, seed).items()}


@pytest.fixture
def saved(tmp_path):
    """Write arrays to an .npz and return its path."""

    def save(arrays, name="theirs.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A path that loads as FER2013 with the official counts and the labels ``TRUTH``."""
    everything = np.concatenate([np.zeros(COUNTS[0], np.int64), *TRUTH.values()])
    images = np.broadcast_to(np.zeros((), np.uint8), (sum(COUNTS), 48, 48))
    faces = Faces(images, everything, np.repeat(np.arange(3, dtype=np.int8), COUNTS), "d" * 64, False, "fer2013.csv", 0)
    monkeypatch.setattr(labels.data, "load", lambda path: faces)
    return tmp_path / "data"


@pytest.fixture
def board(tmp_path):
    return tmp_path / "benchmark"


def test_row_is_scored_and_on_the_board(saved, board, data_dir):
    given = predictions()
    declared = Declared(parameters=58_000, side=64, passes=10, pretraining="none", note="Ten crops.")
    done = submit(saved(given), "theirs", SOURCE, board=board, data_dir=data_dir, declared=declared)
    assert done.warnings == ()
    record = records.find(board, "theirs", None)
    assert record == done.record
    for part, truth in TRUTH.items():
        expected = (given[part].argmax(axis=1) == truth).sum()
        assert record["figures"][part]["submitted"]["correct"] == pytest.approx(expected, abs=2)  # ties of float16
        stored = records.arrays(board, record)[f"{part}/submitted"]
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, given[part], atol=5e-4)
    assert record["passes"] == {"submitted": 10}
    assert record["labels_from"] == "fer2013.csv"
    (look,) = record["looks"]
    assert (look["part"], look["run_id"]) == ("PrivateTest", record["run_id"])
    leaderboard.write(board)
    assert leaderboard.check(board) == []
    text = leaderboard.board_file(board).read_text()
    assert "**theirs†**" in text
    assert f"| theirs† | external: [example.org/their/model]({SOURCE}) | 0.06 | 64 | from scratch | 10 |" in text
    assert "theirs†: Ten crops." in text
    assert "run suites/submitted.yaml" not in text


def test_nothing_needs_to_be_declared(saved, board, data_dir):
    submit(saved(predictions()), "theirs", "a colleague", board=board, data_dir=data_dir)
    leaderboard.write(board)
    text = leaderboard.board_file(board).read_text()
    assert "| theirs† | external: a colleague | – | – | – | – |" in text
    assert "passes not stated an image" not in text


def test_labels_of_a_record_serve_without_data(saved, board, data_dir, monkeypatch):
    submit(saved(predictions()), "first", SOURCE, board=board, data_dir=data_dir)
    monkeypatch.setattr(splits, "open_private_test", None)
    second = submit(saved(predictions(1.0, 6)), "second", SOURCE, board=board).record
    assert second["labels_from"] == "record first"
    assert second["looks"] == []
    assert second["data"] == records.load_all(board)[0]["data"]
    assert records.verify(board, second, metrics.figures) == []


def test_without_labels_the_way_out_is_named(saved, board):
    with pytest.raises(UserError, match="FER_BENCH_DATA_DIR"):
        submit(saved(predictions()), "theirs", SOURCE, board=board)


def test_other_data_than_whole_fer2013_is_refused(toy):
    with pytest.raises(UserError, match="whole FER2013"):
        labels.labels_of(toy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:-1], r"must be \(3589, 7\), official rows by classes; got \(3588, 7\)"),
        (lambda p: p[:, :6], r"got \(3589, 6\)"),
        (lambda p: np.where(np.arange(N)[:, None] == 12, np.nan, p), "row 12 is not finite"),
        (lambda p: p.astype(str), "must be numbers"),
        (lambda p: p > 0.5, "must be numbers, .* got bool"),
        (lambda p: p.astype(object), "not an .npz of plain arrays"),
        (lambda p: logits()["PublicTest"], "look like logits: apply softmax"),
        (lambda p: log_softmax(logits()["PublicTest"], axis=1), "log-probabilities: apply exp"),
        (lambda p: 100 * p, "percent: divide by 100"),
        (lambda p: 1 / (1 + np.exp(-logits()["PublicTest"])), "one sigmoid a class"),
        (lambda p: np.where(np.arange(N)[:, None] == 40, 0, p), "row 40 holds 0 to 0, sum 0"),
    ],
)
def test_what_is_no_probability_is_refused(saved, change, message):
    given = predictions()
    with pytest.raises(UserError, match=message) as caught:
        read(saved(given | {"PublicTest": change(given["PublicTest"])}))
    assert "theirs.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(saved, tmp_path):
    given = predictions()
    np.save(tmp_path / "one.npy", given["PublicTest"])
    (tmp_path / "torn.npz").write_bytes(saved(given).read_bytes()[:50_000])
    for name, message in {"none.npz": "no such file", "one.npy": "not an .npz", "torn.npz": "not an .npz"}.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)
    with pytest.raises(UserError, match="holds no array PrivateTest; found PublicTest, test"):
        read(saved({"PublicTest": given["PublicTest"], "test": given["PrivateTest"]}))
    with pytest.raises(UserError, match="the same rows"):
        read(saved(dict.fromkeys(TRUTH, given["PublicTest"])))


def test_half_precision_and_one_hot_are_probabilities(saved):
    half = {part: softmax(values.astype(np.float16), axis=1) for part, values in logits().items()}
    one_hot = {part: np.eye(7, dtype=np.int64)[truth] for part, truth in TRUTH.items()}
    for given in (half, one_hot):
        for part, values in read(saved(given)).items():
            np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-12)
            assert (values.argmax(axis=1) == given[part].argmax(axis=1)).all()


def test_alphabetical_columns_are_noticed():
    given, truth = predictions(2.5)["PublicTest"], TRUTH["PublicTest"]
    alphabetical = [EMOTIONS.index(name) for name in sorted(EMOTIONS)]
    assert order_warnings(given, truth) == ()
    (warning,) = order_warnings(given[:, alphabetical], truth)
    assert "alphabetical order, Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise" in warning
    assert f"would score {100 * (given.argmax(axis=1) == truth).mean():.2f} %" in warning


def test_any_column_order_is_named():
    order = np.random.default_rng(3).permutation(7)
    (warning,) = order_warnings(predictions(2.5)["PublicTest"][:, order], TRUTH["PublicTest"])
    assert f"read as {', '.join(EMOTIONS[i] for i in order)}, they" in warning


def test_rows_in_another_order_are_noticed():
    (warning,) = order_warnings(predictions()["PublicTest"][::-1], TRUTH["PublicTest"])
    assert "are the rows of each part in the order of fer2013.csv" in warning


@pytest.mark.parametrize("skill", [0.6, 1.0, 3.0])
def test_weak_and_collapsed_models_are_no_mistake(skill):
    truth = TRUTH["PublicTest"]
    assert order_warnings(predictions(skill)["PublicTest"], truth) == ()
    assert order_warnings(np.eye(7)[np.full(N, 3)], truth) == ()


def test_order_is_judged_before_private_test_is_opened(saved, board, data_dir, monkeypatch):
    def closed(*args, **kwargs):
        raise AssertionError("opened")

    monkeypatch.setattr(splits, "open_private_test", closed)
    judged: list[np.ndarray] = []
    monkeypatch.setattr("fer_bench.submit.record.order_warnings", lambda p, labels: judged.append(labels))
    with pytest.raises(AssertionError, match="opened"):
        submit(saved(predictions()), "theirs", SOURCE, board=board, data_dir=data_dir)
    (truth,) = judged
    np.testing.assert_array_equal(truth, TRUTH["PublicTest"])


def test_same_submission_again_changes_nothing_and_opens_nothing(saved, board, data_dir, monkeypatch):
    file = saved(predictions())
    first = submit(file, "theirs", SOURCE, board=board, data_dir=data_dir)
    monkeypatch.setattr(splits, "open_private_test", None)
    again = submit(file, "theirs", SOURCE, board=board, data_dir=data_dir)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.record == first.record
    with pytest.raises(UserError, match=r"other facts \(passes.submitted: null -> 2\)"):
        submit(file, "theirs", SOURCE, board=board, data_dir=data_dir, declared=Declared(passes=2))
    monkeypatch.undo()
    replaced = submit(file, "theirs", SOURCE, board=board, declared=Declared(passes=2), force=True)
    assert replaced.record["passes"] == {"submitted": 2}
    assert replaced.record["run_id"] == first.record["run_id"]


def test_name_of_another_row_is_refused(saved, board, data_dir, monkeypatch):
    monkeypatch.setattr(records, "load_all", lambda board: [{"name": "theirs", "kind": "member", "seed": 0}])
    with pytest.raises(UserError, match="a row of kind member has that name"):
        submit(saved(predictions()), "theirs", SOURCE, board=board, data_dir=data_dir, force=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "Theirs"}, "use a-z"),
        ({"source": "  "}, "--source: must not be empty"),
        ({"declared": Declared(passes=0)}, "--passes: must be at least 1; got 0"),
    ],
)
def test_mistakes_are_named(saved, board, data_dir, words, message):
    given = {"name": "theirs", "source": SOURCE} | words
    with pytest.raises(UserError, match=message):
        submit(saved(predictions()), board=board, data_dir=data_dir, **given)
    assert not board.exists()


def test_check_finds_other_probabilities_and_another_source(saved, board, data_dir):
    record = submit(saved(predictions()), "theirs", SOURCE, board=board, data_dir=data_dir).record
    better = records.arrays(board, record)
    for part in TRUTH:
        better[f"{part}/submitted"] = np.eye(7)[better[f"{part}/labels"]]
    with pytest.raises(UserError, match=r"probabilities_sha256: .* is not that of the stored arrays"):
        records.save(board, record, better)
    (problem,) = records.verify(board, record | {"source": "us"}, metrics.figures)
    assert "identity.source" in problem


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line; returns (exit code, stdout, stderr)."""
    monkeypatch.delenv("FER_BENCH_DATA_DIR", raising=False)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def test_command_prints_the_row_and_warns(call, saved, board, data_dir):
    given = {part: p[:, ::-1] for part, p in predictions().items()}
    words = ("--name", "theirs", "--source", SOURCE, "--data-dir", data_dir, "--board", board)
    code, out, err = call("submit", saved(given), *words)
    assert code == 0
    assert "theirs" in out
    assert "warning: the columns seem to be in another order" in err
    assert "labels: fer2013.csv" in err
    assert call("leaderboard", "--check", "--board", board)[0] == 0
    assert "unchanged" in call("submit", saved(given), *words)[2]
    code, out, err = call("submit", saved({"PublicTest": given["PublicTest"]}), *words)
    assert (code, out) == (2, "")
    assert err.startswith("fer-bench: ")


def test_submitted_row_cannot_predict(call, saved, board, data_dir, tmp_path):
    submit(saved(predictions()), "theirs", SOURCE, board=board, data_dir=data_dir)
    Image.new("L", (48, 48)).save(tmp_path / "face.png")
    code, _, err = call("predict", tmp_path / "face.png", "--model", "theirs", "--board", board)
    assert code == 2
    assert "submitted as probabilities" in err


def test_rows_of_one_part_in_another_order_are_noticed(saved, board, data_dir):
    given = predictions()
    shuffled = given | {"PrivateTest": np.random.default_rng(0).permutation(given["PrivateTest"])}
    (warning,) = submit(saved(shuffled), "shuffled", SOURCE, board=board, data_dir=data_dir).warnings
    assert warning.endswith("are the rows of each part in the order of fer2013.csv?")


def test_the_same_probabilities_under_another_name_are_noticed(saved, board, data_dir):
    assert submit(saved(predictions()), "first", SOURCE, board=board, data_dir=data_dir).warnings == ()
    (warning,) = submit(saved(predictions()), "second", SOURCE, board=board, data_dir=data_dir).warnings
    assert warning == "first has the same probabilities: one of them is enough"


def test_no_command_of_these_needs_torch(saved, board, data_dir):
    submit(saved(predictions()), "first", SOURCE, board=board, data_dir=data_dir)
    file = saved(predictions(1.0, 6))
    code = f"""
import sys
from typer.testing import CliRunner
from fer_bench.cli import app
for words in (
    ["submit", {str(file)!r}, "--name", "second", "--source", "x", "--board", {str(board)!r}],
    ["compare", "first", "second", "--board", {str(board)!r}],
    ["leaderboard", "--check", "--board", {str(board)!r}],
):
    result = CliRunner().invoke(app, words, env={{"FER_BENCH_DATA_DIR": None}}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
assert not {{"torch", "torchvision", "timm"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
