import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_bench import records, splits
from fer_bench.errors import UserError
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import dry_run, run

pytestmark = pytest.mark.usefixtures("drawn_once")

SUITE = """
suite: tiny
data: toyfaces
seeds: [0, 1]
defaults: {pretrained: false, train: {epochs: 2, batch_size: 32, lr: 1e-3}}
members:
  - {name: mlp, backbone: "baseline:mlp"}
  - {name: mlp-slow, backbone: "baseline:mlp", train: {lr: 1e-4}, views: [none]}
ensembles:
  - {name: vote, members: [mlp, mlp-slow], views: [none]}
"""


def options(tmp_path, **more):
    return Options(**({"runs_dir": tmp_path / "runs", "limit": 70, "device": "cpu"} | more))


def written(tmp_path, text=SUITE):
    path = tmp_path / "tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def go(tmp_path, text=SUITE, should_stop=lambda: False, **more):
    return run(written(tmp_path, text), options(tmp_path, **more), Display(quiet=True), should_stop)


def board(tmp_path):
    return tmp_path / "runs" / "tiny-limit70"


def shas(folder):
    return {
        r["name"]: (r["run_id"], r["predictions"]["sha256"]) for r in records.load_all(folder) if r["seed"] in (0, None)
    }


def test_a_suite_leaves_records_votes_and_a_board(tmp_path):
    outcome = go(tmp_path)
    found = {(r["name"], r["seed"]): r for r in records.load_all(board(tmp_path))}
    assert set(found) == {("mlp", 0), ("mlp", 1), ("mlp-slow", 0), ("mlp-slow", 1), ("vote", None)}
    assert outcome.board_file == board(tmp_path) / "leaderboard.md"
    assert outcome.board_file.is_file()
    assert found["mlp", 0]["looks"][0]["run_id"] == found["mlp", 0]["run_id"]
    assert len(found["mlp", 0]["history"]) == 2
    assert found["vote", None]["passes"] == {"none": 4}
    members = [records.arrays(board(tmp_path), found[key])["PrivateTest/none"] for key in found if key[1] is not None]
    voted = records.arrays(board(tmp_path), found["vote", None])["PrivateTest/none"]
    assert np.allclose(voted, np.mean(np.asarray(members, dtype=np.float64), axis=0), atol=2e-3)


def test_records_say_what_the_machine_decided_and_whether_passes_were_compiled(tmp_path, monkeypatch):
    compiled = []

    def compile(work):
        compiled.append(work)
        return work

    monkeypatch.setattr(torch, "compile", compile)
    one = SUITE.replace("[0, 1]", "[0]")
    (outcome, plain) = (go(tmp_path / name, one, compiles=name == "compiled") for name in ("compiled", "plain"))
    assert sum(isinstance(work, torch.nn.Module) for work in compiled) == 2  # a network a member
    environments = [
        record["environment"] for record in (*outcome.records, *plain.records) if record["kind"] == "member"
    ]
    assert [found.get("compiled") for found in environments] == [True, True, None, None]
    assert {(found["threads"], found["train_threads"]) for found in environments} == {(1, 1)}  # as all tests have
    assert all({"precision", "micro_batch"} <= found.keys() for found in environments)


def test_finished_runs_are_skipped_and_force_redoes_them_to_the_same_bits(tmp_path, monkeypatch):
    go(tmp_path)
    before = shas(board(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in (board(tmp_path) / "results").iterdir()}
    go(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (board(tmp_path) / "results").iterdir()} == stamps
    go(tmp_path, force=True)
    assert shas(board(tmp_path)) == before
    assert {path: path.stat().st_mtime_ns for path in (board(tmp_path) / "results").iterdir()} != stamps


def test_a_changed_setting_under_the_same_name_is_refused(tmp_path):
    go(tmp_path)
    with pytest.raises(UserError, match=r"mlp-slow\.s0: .*member\.train\.lr: 0\.0001 -> 0\.0002"):
        go(tmp_path, SUITE.replace("1e-4", "2e-4"))


def test_stopping_keeps_what_is_done_and_goes_on(tmp_path):
    asked = itertools.count(1)
    outcome = go(tmp_path, should_stop=lambda: next(asked) > 8)
    assert outcome.stopped
    assert outcome.board_file is None
    done = {(r["name"], r["seed"]) for r in records.load_all(board(tmp_path))}
    assert done == {("mlp", 0)}
    assert list((tmp_path / "runs" / "checkpoints").iterdir())
    go(tmp_path)
    whole = tmp_path / "whole"
    go(tmp_path, output_dir=whole / "tiny-limit70", runs_dir=whole)
    assert shas(board(tmp_path)) == shas(whole / "tiny-limit70")
    assert not list((tmp_path / "runs" / "checkpoints").iterdir())


def test_a_full_memory_leaves_the_checkpoint(tmp_path, monkeypatch):
    """Runs beside it may have filled it; the next try goes on."""
    from fer_bench.suite import members

    def full(*args, **words):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nlong advice")

    asked = itertools.count(1)
    go(tmp_path, should_stop=lambda: next(asked) > 8)
    [checkpoint] = (tmp_path / "runs" / "checkpoints").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(members, "fit", full)
        failures = go(tmp_path).failures
    assert {record["failure"]["reason"] for record in failures} == {"out of memory"}
    assert {record["failure"]["message"] for record in failures} == {"CUDA out of memory. Tried to allocate 2 GiB"}
    assert checkpoint.exists()
    assert go(tmp_path).is_whole
    assert not checkpoint.exists()


def test_killing_at_any_moment_ends_with_the_same_records(tmp_path):
    settled = "batch_size: 8, precision: fp32"  # leaves the machine nothing to choose, however busy a process finds it
    text = SUITE.replace("batch_size: 32", settled)
    text = text.replace("epochs: 2", "epochs: 20").replace("[0, 1]", "[0]")
    command = [
        sys.executable,
        "-m",
        "fer_bench",
        "run",
        str(written(tmp_path, text)),
        "--limit",
        "70",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    results = tmp_path / "runs" / "tiny-limit70" / "results"
    for records_to_wait_for in (0, 1):  # SIGKILL a moment after that many records
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(results.glob("*.json"))) < records_to_wait_for:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(3 if records_to_wait_for == 0 else 0.05)
        process.kill()
        process.wait()
        assert all(json.loads(path.read_text())["run_id"] for path in results.glob("*.json"))
    go(tmp_path, text)
    whole = tmp_path / "whole"
    go(tmp_path, text, output_dir=whole / "tiny-limit70", runs_dir=whole)
    assert shas(board(tmp_path)) == shas(whole / "tiny-limit70")
    assert len(shas(whole / "tiny-limit70")) == 3
    assert records.stray_files(board(tmp_path)) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_cleanly(tmp_path, number, code):
    text = SUITE.replace("epochs: 2", "epochs: 10000").replace("backbone: ", "image_size: 96, backbone: ")
    command = [sys.executable, "-m", "fer_bench", "run", str(written(tmp_path, text)), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    while "epoch 1/" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code
    assert "goes on where it is" in rest
    assert "Traceback" not in rest
    assert list((tmp_path / "runs" / "checkpoints").glob("*.pt"))


def test_training_never_opens_the_test_part(tmp_path, monkeypatch):
    class OpenedError(BaseException):
        """Not an Exception, so that no failure record is made of it."""

    def refuse(*args, **kwargs):
        raise OpenedError

    monkeypatch.setattr(splits, "open_private_test", refuse)
    with pytest.raises(OpenedError):
        go(tmp_path)
    # the first run trained and validated to its end; only its scoring asked for the test part
    assert list((tmp_path / "runs" / "weights").glob("*.safetensors"))
    assert records.load_all(board(tmp_path)) == []


def test_any_trouble_of_one_run_is_a_record_and_the_rest_goes_on(tmp_path, monkeypatch):
    from fer_bench.suite import members

    real = members.fit

    def broken(job, *args, **words):
        if job.member.name == "mlp":
            raise RuntimeError("the device went away")
        return real(job, *args, **words)

    monkeypatch.setattr(members, "fit", broken)
    outcome = go(tmp_path, SUITE.replace("[0, 1]", "[0]"))
    assert [(r["name"], r["failure"]["message"]) for r in outcome.failures] == [
        ("mlp", "RuntimeError: the device went away")
    ]
    assert records.find(board(tmp_path), "mlp-slow", 0) is not None


def test_forced_runs_keep_count_of_every_look(tmp_path):
    go(tmp_path)
    go(tmp_path, force=True)
    record = records.find(board(tmp_path), "mlp", 0)
    assert record is not None
    assert len(record["looks"]) == 2


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        go(tmp_path, output_dir=tmp_path / "file")


def test_each_finished_run_opens_the_test_part_once(tmp_path, monkeypatch):
    opened = []
    real = splits.open_private_test

    def count(faces, **words):
        opened.append(words["run_id"])
        return real(faces, **words)

    monkeypatch.setattr(splits, "open_private_test", count)
    go(tmp_path)
    assert len(opened) == len(set(opened)) == 4
    go(tmp_path)
    assert len(opened) == 4


def test_a_diverged_run_is_a_record_and_its_vote_is_withheld(tmp_path):
    text = SUITE.replace("lr: 1e-4", "lr: 1e30, optimizer: sgd, schedule: constant, epochs: 40").replace(
        "[0, 1]", "[0]"
    )
    outcome = go(tmp_path, text)
    assert [(r["name"], r["failure"]["reason"]) for r in outcome.failures] == [("mlp-slow", "diverged")]
    assert outcome.withheld == {"vote": "it lacks mlp-slow seed 0"}
    assert "diverged" in (board(tmp_path) / "leaderboard.md").read_text()
    mended = go(tmp_path, text.replace("1e30", "1e-4"))
    assert mended.failures == []
    assert mended.is_whole


def test_the_same_settings_under_another_name_are_the_same_run(tmp_path, monkeypatch):
    from fer_bench.suite import members

    trained = []
    real = members.fit
    monkeypatch.setattr(members, "fit", lambda job, *a, **k: trained.append(job.member.name) or real(job, *a, **k))  # type: ignore[func-returns-value]
    text = SUITE.replace("[0, 1]", "[0]").replace(", train: {lr: 1e-4}, views: [none]", "")
    go(tmp_path, text)
    one, two = (records.find(board(tmp_path), name, 0) for name in ("mlp", "mlp-slow"))
    assert trained == ["mlp"]
    assert one is not None
    assert two is not None
    assert "from 1 trained run are scored" in (board(tmp_path) / "leaderboard.md").read_text()
    assert (one["run_id"], one["predictions"]["sha256"]) == (two["run_id"], two["predictions"]["sha256"])


def test_missing_weights_fail_one_member_and_the_rest_goes_on(tmp_path, monkeypatch):
    from fer_bench.models import weights

    def no_hub(backbone):
        raise OSError("no network")

    monkeypatch.setattr(weights, "_fetch_timm", no_hub)
    text = SUITE.replace(
        '{name: mlp-slow, backbone: "baseline:mlp"', "{name: mlp-slow, backbone: resnet10t, pretrained: true"
    )
    outcome = go(tmp_path, text.replace("[0, 1]", "[0]"))
    assert [(r["name"], r["failure"]["reason"]) for r in outcome.failures] == [("mlp-slow", "infrastructure")]
    assert "no network" in outcome.failures[0]["failure"]["message"]
    assert records.find(board(tmp_path), "mlp", 0) is not None


def test_wrong_backbone_stops_before_any_training(tmp_path):
    with pytest.raises(UserError, match="resnet"):
        go(tmp_path, SUITE.replace('mlp-slow, backbone: "baseline:mlp"', "mlp-slow, backbone: resnet1"))
    assert not (tmp_path / "runs").exists()


def test_a_vote_cannot_take_the_name_of_another_kind_of_row(tmp_path):
    go(tmp_path, SUITE.replace("[0, 1]", "[0]"))
    record = records.find(board(tmp_path), "vote", None)
    assert record is not None
    path = board(tmp_path) / "results" / "vote.json"
    failure = {
        key: record[key] for key in record if key in ("schema", "name", "seed", "run_id", "identity", "protocol")
    }
    failure |= {key: record[key] for key in ("suite", "data", "environment", "timing", "looks", "limited")}
    failure |= {"kind": "failure", "failure": {"reason": "time", "message": "too slow"}}
    path.write_text(json.dumps(failure))
    with pytest.raises(UserError, match="row of kind failure of that name"):
        go(tmp_path, SUITE.replace("[0, 1]", "[0]"))


def test_toy_runs_cannot_enter_the_benchmark(tmp_path):
    with pytest.raises(UserError, match="benchmark"):
        go(tmp_path, output_dir=tmp_path / "benchmark")
    assert not (tmp_path / "runs").exists()  # told before any training


def test_other_seeds_join_the_board(tmp_path):
    go(tmp_path, seeds=(5,))
    assert {r["seed"] for r in records.load_all(board(tmp_path))} == {5, None}


def test_dry_run_asks_no_hub_and_estimates_without_weights(tmp_path, monkeypatch):
    import huggingface_hub

    from fer_bench.models import weights

    def asked(*args, **words):
        raise AssertionError("a hub was asked")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "_from_hub", asked)
    text = SUITE.replace(
        '{name: mlp-slow, backbone: "baseline:mlp"', "{name: mlp-slow, backbone: resnet10t, pretrained: true"
    )
    rows = dry_run(written(tmp_path, text), options(tmp_path), Display(quiet=True))
    slow = next(row for row in rows if row["name"] == "mlp-slow")
    assert "not on this machine; a run fetches them from hub timm/resnet10t" in slow["unavailable"]
    assert slow["seconds"] > 0


def test_dry_run_trains_nothing(tmp_path):
    rows = dry_run(written(tmp_path), options(tmp_path), Display(quiet=True))
    assert [(row["name"], row["seed"], row["state"]) for row in rows][:2] == [("mlp", 0, "new"), ("mlp-slow", 0, "new")]
    assert [row["kind"] for row in rows] == [*4 * ["member"], "ensemble"]
    assert all(row["seconds"] > 0 and row["bytes"] > 4 * row["parameters"] for row in rows[:4])
    assert not board(tmp_path).exists()
