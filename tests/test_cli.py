import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from fer_bench import cli, models, toyfaces
from fer_bench.cli.plans import print_plan
from fer_bench.cli.printing import empty_table, show

pytestmark = pytest.mark.usefixtures("drawn_once")

SUITE = """
suite: tiny
data: {data}
defaults: {{pretrained: false, train: {{epochs: 1, batch_size: 32}}}}
members:
  - {{name: mlp, backbone: "baseline:mlp"}}
  - {{name: mlp-2, backbone: "baseline:mlp", train: {{lr: 1e-4}}}}
ensembles:
  - {{name: vote, members: [mlp, mlp-2]}}
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FER_BENCH_DATA_DIR", raising=False)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.format(data="toyfaces"))
    return path


def one_line(err):
    lines = err.strip().splitlines()
    assert lines[-1].startswith("fer-bench: ")
    assert "Traceback" not in err
    return lines[-1]


def test_run_prints_results_on_stdout_and_the_rest_on_stderr(call, suite):
    code, out, err = call("run", suite, "--limit", "40", "--device", "cpu", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["mlp", "mlp-2", "vote"]
    assert rows[0]["figures"]["PrivateTest"]["flip"]["n"] == 40
    assert "epoch 1/1" in err
    code, out, err = call("run", suite, "--limit", "40", "--device", "cpu")
    assert code == 0
    assert "vote" in out
    assert "done already" in err
    assert call("leaderboard", "--check", "--board", "runs/tiny-limit40")[0] == 0


def test_check_fails_on_a_changed_board(call, suite, tmp_path):
    call("run", suite, "--limit", "40", "--device", "cpu")
    page = tmp_path / "runs/tiny-limit40/leaderboard.md"
    page.write_text(page.read_text().replace("mlp-2", "mlp-3", 1))
    code, out, _ = call("leaderboard", "--check", "--board", "runs/tiny-limit40")
    assert code == 1
    assert "mlp-3" in out
    assert call("leaderboard", "--board", "runs/tiny-limit40")[0] == 0
    assert call("leaderboard", "--check", "--board", "runs/tiny-limit40")[0] == 0


def test_predict_unlabelled_csv_and_images(call, suite, tmp_path):
    call("run", suite, "--limit", "40", "--device", "cpu")
    faces = toyfaces.load(counts=(8, 4, 4))
    toyfaces.write(faces, tmp_path / "kaggle", "kaggle")
    code, out, _ = call("predict", tmp_path / "kaggle/test.csv", "--model", "mlp", "--board", "runs/tiny-limit40")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 8
    assert all(abs(sum(float(row[e]) for e in list(row)[2:]) - 1) < 0.001 for row in rows)
    Image.fromarray(np.kron(faces.images[0], np.ones((3, 3), np.uint8))).save(tmp_path / "face.png")
    code, out, _ = call("predict", tmp_path / "face.png", "--model", "vote", "--board", "runs/tiny-limit40")
    assert code == 0
    assert out.splitlines()[1].startswith("face.png,")


def test_unlabelled_rows_cannot_be_scored(call, suite, tmp_path):
    toyfaces.write(toyfaces.load(counts=(40, 10, 10)), tmp_path / "kaggle", "kaggle")
    suite.write_text(SUITE.format(data="fer2013"))
    code, _, err = call("run", suite, "--data-dir", tmp_path / "kaggle", "--limit", "10")
    assert code == 2
    assert "predict" in one_line(err)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("run", "none.yaml"), "no such file"),
        (("run", "tiny.yaml", "--device", "gpu"), "--device"),
        (("run", "tiny.yaml", "--time-budget", "9x"), "--time-budget"),
        (("leaderboard", "--board", "none"), "no such folder"),
        (("predict", "none.png", "--model", "x"), "no such file"),
        (("data", "check", "none"), "none"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(call, suite, words, hint):
    code, out, err = call(*words)
    assert code == 2
    assert hint in one_line(err)
    assert out == ""


def test_real_data_is_asked_for(call, suite):
    suite.write_text(SUITE.format(data="fer2013"))
    code, _, err = call("run", suite)
    assert code == 2
    assert "FER_BENCH_DATA_DIR" in one_line(err)


def test_failed_runs_give_exit_code_1(call, suite):
    text = SUITE.format(data="toyfaces").replace("lr: 1e-4", "lr: 1e30, optimizer: sgd, schedule: constant, epochs: 20")
    suite.write_text(text)
    code, out, _ = call("run", suite, "--limit", "40", "--device", "cpu")
    assert code == 1
    assert "diverged" not in out.splitlines()[0]
    assert "failed: mlp-2" in out
    assert "withheld: vote" in out


def test_withheld_vote_gives_exit_code_1(call, suite):
    words = "--limit", "40", "--device", "cpu", "--seed"
    assert call("run", suite, *words, "3")[0] == 0
    code, out, _ = call("run", suite, *words, "4")
    assert code == 1
    assert "failed" not in out
    assert "withheld: vote: the board has it over other runs" in out


def test_long_lines_are_not_broken_when_piped(capsys):
    show("failed: " + "word " * 100)
    table = empty_table({"run": "l", "why": "l"})
    table.add_row("a", "x" * 300)
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("word") == 100
    assert "x" * 300 in lines[-2]


def test_weights_that_are_elsewhere_are_told_by_a_dry_run(capsys):
    row = {"name": "a", "seed": 0, "kind": "member", "backbone": "resnet10t", "image_size": 48, "state": "new"}
    elsewhere = row | {
        "parameters": 10**6,
        "seconds": 60,
        "bytes": 2**30,
        "unavailable": f"resnet10t: its {models.NOT_LOCAL}",
        "cannot_run": None,
    }
    never = row | {"name": "b", "unavailable": "resnet10t: none, none", "cannot_run": "resnet10t: none, none"}
    print_plan([elsewhere, never])
    out = capsys.readouterr().out
    assert "weights not local" in out
    assert "cannot run: none " in out
    assert "b: cannot run: resnet10t: none, none" in out
    assert "estimated time of what can start: 0:01:00" in out


def test_dry_run_prints_a_plan(call, suite, tmp_path):
    code, out, err = call("run", suite, "--dry-run", "--limit", "40", "--device", "cpu")
    assert code == 0
    assert "baseline:mlp" in out
    assert "estimated time" in out
    assert err.count("timing a few steps of baseline:mlp, 48 px") == 1
    assert not (tmp_path / "runs").exists()


def test_data_check_speaks_of_the_toy_faces(call, tmp_path):
    toyfaces.write(toyfaces.load(counts=(14, 7, 7)), tmp_path / "data", "fer2013")
    code, out, _ = call("data", "check", tmp_path / "data")
    assert code == 0
    assert "fer2013.csv" in out
    assert "28" in out


def test_version_and_help(call):
    assert call("--version")[1].startswith("fer-bench ")
    assert "leaderboard" in call("--help")[1]
