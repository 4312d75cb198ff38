import itertools
import json
import re
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import accuracy
import forecasts
import measure
import reach
import reading
import report
import training
from fer_bench import data
from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.train import using_threads

FOLDER = Path(__file__).parents[1] / "benchmark" / "speed"
QUICK = measure.Setting(torch.device("cpu"), repeats=2, is_quick=True)


def part(name="fast", top=(3.0, 2.0, 8.0), aim=">= 2.5", **facts):
    row = measure.Row(name, {"theirs": list(top), "ours": [1.0, 1.0, 2.0]}, "theirs", "ours", aim, facts)
    return {
        "measured": "2026-01-02T03:04:05+00:00",
        "quick": False,
        "repeats": 3,
        "load_before": [0.5, 0, 0],
        "load_after": [2.25, 0, 0],
        "threads": 2,
        "git_commit": "abcdef0123",
        "versions": dict.fromkeys(measure.LIBRARIES, "1.0") | {"python": "3.12"},
        "rows": [row.as_json()],
    }


def test_readme_agrees_with_the_recorded_figures(capsys):
    assert runpy.run_path(str(FOLDER), run_name="speed")["main"](["--check"]) == 0
    assert "is what benchmark/speed/results says" in capsys.readouterr().out


def test_a_ratio_is_the_median_of_the_repeats_with_its_range():
    ratio = part()["rows"][0]["ratio"]
    assert ratio == {"of": "theirs / ours", "median": 3.0, "low": 2.0, "high": 4.0}


def test_blocks_take_turns_and_the_first_round_is_dropped():
    ran: list[str] = []
    found = measure.in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, QUICK)
    assert "".join(ran) == "abbaab"  # three rounds, another first in each
    assert [len(seconds) for seconds in found.values()] == [2, 2]


def test_section_shows_every_machine_and_marks_missed_aims(tmp_path):
    path = tmp_path / "one.json"
    report.store(path, "a CPU", {"loops": part(), "views": part("slow", aim="<= 1.05")})
    report.store(path, "a CPU", {"loops": part()})  # replaces one part and keeps the other
    report.store(tmp_path / "two.json", "a GPU", {"loops": part(top=(600.0, 700.0, 1300.0))})
    text = report.section(report.read(tmp_path))
    assert "| ratio | aim | a CPU | a GPU |" in text
    assert "| fast | >= 2.5 | 3.00 (2.00 – 4.00) | 650 (600 – 700) |" in text
    assert "| slow | <= 1.05 | **3.00 (2.00 – 4.00)** | not measured |" in text
    assert "load average 0.5 to 2.25" in text
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.rendered(readme, report.read(tmp_path))
    assert once == f"before\n{report.BEGIN}\n{text}\n{report.END}\nafter\n"
    assert report.rendered(once, report.read(tmp_path)) == once


def figures(values, unit, why=None, of="what it is of"):
    row = measure.Figure("figure", values, unit, of, {}, why)
    return part() | {"rows": [row.as_json()]}


def test_section_shows_figures_that_are_no_ratios_with_their_unit_and_what_they_are_of(tmp_path):
    report.store(tmp_path / "one.json", "a CPU", {"accuracy": figures({0: 50.0, 1: 52.0, 2: 60.0}, "%")})
    report.store(tmp_path / "one.json", "a CPU", {"reach": figures({0: 412.34}, "s", of="50 % on 9 rows")})
    missed = figures({0: None, 1: 9.0}, "s", why="not reached by 1 of 2 seeds in 1200 s, 47.1 %")
    report.store(tmp_path / "two.json", "a GPU", {"reach": missed, "accuracy": figures({0: 1.0, 1: 2.0, 2: 6.0}, "s")})
    text = report.section(report.read(tmp_path))
    assert "| figure | – | 54.0 % (50.0 – 60.0) | 2.00 s (1.00 – 6.00) |" in text  # mean of shares, median of seconds
    assert "| figure | – | 412 s | not reached by 1 of 2 seeds in 1200 s, 47.1 % |" in text
    assert (
        "| **Our epoch's speed as a share of bare steps on one resident batch** | | not measured | not measured |"
        in text
    )
    assert "  - Training time to a fixed validation accuracy: 50 % on 9 rows." in text


def test_a_ratio_of_bytes_keeps_its_unit():
    row = measure.Row("memory", {"a": [3e6], "b": [2e6]}, "a", "b", "0.8 to 1.2", unit="bytes").as_json()
    assert row["bytes"] == {"a": [3e6], "b": [2e6]}
    assert row["ratio"]["median"] == 1.5


def test_a_clock_stands_still_while_rows_are_scored(monkeypatch):
    network = training.made(training.member("baseline:mlp", 48, QUICK), QUICK)[0]  # which reads the clock too
    now = iter([0.0, 3.0, 10.0, 10.5, 11.0, 14.0])
    monkeypatch.setattr(reach.time, "perf_counter", lambda: next(now))
    shares = iter([0.25, 0.75])
    p = {0.25: np.eye(7)[[0, 1, 1, 1]], 0.75: np.eye(7)[[0, 0, 0, 1]]}
    monkeypatch.setattr(reach, "probabilities", lambda *words, **more: p[next(shares)])
    held = np.zeros((4, 48, 48), np.uint8), np.zeros(4, np.int64)
    course = reach.Course(network, reach.Engine(torch.device("cpu")), held, limit=100)
    course.start()
    course.score(network.module)  # after 3 s; the clock goes on at 10
    assert (course.seconds, course.is_over()) == (3.0, False)
    course.score(network.module)  # from 10 to 11
    course.stop()
    assert (course.seconds, course.accuracies, course.is_reached, course.is_over()) == (4.0, [0.25, 0.75], True, True)


def test_a_run_that_does_not_arrive_says_how_far_it_came():
    network = training.made(training.member("baseline:mlp", 48, QUICK), QUICK)[0]
    engine, held = reach.Engine(torch.device("cpu")), (np.zeros(0), np.zeros(0))
    here = reach.Course(network, engine, held, seconds=10.0, accuracies=[0.4, 0.5])
    there = reach.Course(network, engine, held, seconds=1200.4, accuracies=[0.471, 0.45])
    assert reach._missed([here]) is None
    assert reach._missed([there]) == "not reached in 1200 s, 47.1 %"
    assert reach._missed([here, there]) == "not reached by 1 of 2 seeds in 1200 s, 47.1 %"


def test_the_usual_loop_keeps_all_threads_where_ours_takes_fewer(monkeypatch):
    ours: list[int] = []
    theirs: list[int] = []
    step = training.Bare.__call__

    def counted(bare):
        ours.append(torch.get_num_threads())
        step(bare)

    one = training.Engine(QUICK.device, threads=1)
    monkeypatch.setattr(training, "choose_engine", lambda network, this, device: one)
    monkeypatch.setattr(training, "faster", lambda make, device: Loop(theirs))
    monkeypatch.setattr(training.Bare, "__call__", counted)
    with using_threads(3):
        training._loop(training.member("baseline:mlp", 48, QUICK), QUICK)
    assert set(theirs) == {3}
    assert ours[-1] == 1  # the step that is made ready for our next epoch


class Loop:
    workers = 0

    def __init__(self, seen):
        self.seen = seen

    def __call__(self):
        self.seen.append(torch.get_num_threads())


@pytest.mark.parametrize(("backbone", "count"), [("tf_efficientnet_lite0", 4), ("resnet18", 3)])
def test_each_setting_keeps_what_the_one_before_has(monkeypatch, backbone, count):
    monkeypatch.setattr(training, "_has_bf16", lambda device: False)
    this = Member(name="m", backbone=backbone, pretrained=False, image_size=48)
    flags = [(c.is_channels_last, c.has_products, c.compiles) for c in training.cases(this, torch.device("cpu"))]
    assert len(flags) == count
    assert all(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for a, b in itertools.pairwise(flags))


def test_settings_draw_alike_so_that_they_alone_differ():
    rows = accuracy.task(QUICK)
    this = training.member("baseline:mlp", 48, QUICK)
    plain, last = training.Case("a", "fp32"), training.Case("b", "fp32", is_channels_last=True)
    device = torch.device("cpu")
    first = accuracy.trained(plain, this, rows, 1, device)
    assert accuracy.trained(last, this, rows, 1, device) == first  # of one channel both orders are the same
    assert len({first, *(accuracy.trained(plain, this, rows, seed, device) for seed in (2, 3, 4))}) > 1
    everything = np.concatenate([rows.fit[0], rows.score[0]])
    assert len(np.unique(everything.reshape(len(everything), -1), axis=0)) == len(everything) == 140


@pytest.mark.parametrize("text", ["", report.BEGIN, report.END + report.BEGIN, 2 * (report.BEGIN + report.END)])
def test_a_readme_without_its_marks_is_refused(text):
    with pytest.raises(UserError, match="each of the marks"):
        report.rendered(text, {})


@pytest.mark.parametrize("change", [{"parts": 3}, {"parts": {"loops": {}}}, None])
def test_other_files_among_the_figures_are_refused(tmp_path, change):
    (tmp_path / "x.json").write_text("{" if change is None else json.dumps({"hardware": "x"} | change))
    with pytest.raises(UserError, match="no file of speed figures"):
        report.read(tmp_path)


def test_quick_figures_are_refused(tmp_path):
    report.store(tmp_path / "x.json", "x", {"loops": part() | {"quick": True}})
    with pytest.raises(UserError, match="--quick"):
        report.read(tmp_path)


@pytest.mark.parametrize(
    ("value", "aim", "expected"),
    [
        *[(0.9, ">= 0.90", True), (0.89, ">= 0.90", False), (1.0, "> 1", False), (1.06, "<= 1.05", False)],
        *[(0.8, "0.8 to 1.2", True), (0.79, "0.8 to 1.2", False), (1.21, "0.8 to 1.2", False), (9, None, True)],
    ],
)
def test_aims(value, aim, expected):
    assert report.meets(value, aim) is expected


def test_every_part_has_a_title_and_a_function():
    parts = runpy.run_path(str(FOLDER), run_name="speed")["PARTS"]
    assert list(parts) == list(report.TITLES)
    for place in parts.values():
        module, name = place.split(".")
        assert re.search(rf"^def {name}\(setting: Setting\)", (FOLDER / f"{module}.py").read_text(), re.MULTILINE)


def test_the_notebook_reads_the_same_pixels(tmp_path):
    path = reading.data_file(QUICK, tmp_path)
    assert np.array_equal(reading.notebook(path), data.load(path, cache=tmp_path / "cache").images)


def test_a_quick_part_from_the_command_line(tmp_path, capsys):
    main = runpy.run_path(str(FOLDER), run_name="speed")["main"]
    assert main(["parsing", "--quick", "-o", str(tmp_path / "out.json")]) == 0
    held = json.loads((tmp_path / "out.json").read_text())
    assert held["parts"]["parsing"]["quick"] is True
    assert {"hardware", "host", "threads", "versions", "load_before"} <= set(held["parts"]["parsing"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(SystemExit):
        main(["parse"])
    assert "unknown part 'parse'" in capsys.readouterr().err


def test_parts_that_train_from_the_command_line(tmp_path, capsys, monkeypatch):
    small = training.member("baseline:mlp", 48, QUICK)
    monkeypatch.setattr(reach, "shipped", lambda suite, name: small)
    monkeypatch.setattr(forecasts, "ProcessPoolExecutor", lambda *words, **more: ThreadPoolExecutor(1))
    main = runpy.run_path(str(FOLDER), run_name="speed")["main"]
    words = ["--quick", "--backbones", "baseline:mlp", "-o", str(tmp_path / "out.json")]
    assert main(["accuracy", "reach", "forecasts", *words]) == 0
    held = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert [row["name"] for row in held["accuracy"]["rows"][:1]] == ["baseline:mlp, 48 px, toy faces: fp32"]
    assert all(row["figure"]["unit"] == "s" and row["values"]["0"] > 0 for row in held["reach"]["rows"])
    assert len(held["reach"]["rows"]) == 4
    kinds = ["time", "peak memory"]
    assert [row["name"].split(": ")[-1] for row in held["forecasts"]["rows"]] == kinds * 2
    assert all(row["ratio"]["median"] > 0 for row in held["forecasts"]["rows"][1::2])
    assert "not reached" not in capsys.readouterr().out


def test_a_part_that_fails_or_is_skipped_does_not_lose_the_others(tmp_path, capsys, monkeypatch):
    main = runpy.run_path(str(FOLDER), run_name="speed")["main"]

    def skips(setting):
        raise measure.SkippedError("no data")

    def fails(setting):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(reach, "reach", skips)
    monkeypatch.setattr(accuracy, "accuracy", fails)
    path = tmp_path / "out.json"
    assert main(["reach", "accuracy", "parsing", "--quick", "-o", str(path)]) == 1
    assert list(json.loads(path.read_text())["parts"]) == ["parsing"]
    said = capsys.readouterr().err
    assert "reach: skipped, no data\n" in said
    assert "accuracy: failed, RuntimeError: no compiler\n" in said
    assert main(["reach", "--quick", "-o", str(path)]) == 0


def test_data_that_is_not_there_is_said_before_anything_is_measured(tmp_path, capsys):
    main = runpy.run_path(str(FOLDER), run_name="speed")["main"]
    with pytest.raises(UserError, match="no such file"):
        main(["parsing", "--data-dir", str(tmp_path / "none.csv"), "-o", str(tmp_path / "out.json")])


def test_what_reach_compares_is_shipped():
    base, cnn = reach.shipped("ablation", "ablation-base"), reach.shipped("cpu", "baseline-cnn")
    assert (base.backbone, base.image_size, base.pretrained) == ("tf_efficientnet_lite0", 48, True)
    assert (cnn.backbone, cnn.train.batch_size, cnn.train.lr) == ("baseline:cnn", 32, 1e-3)


def test_reach_needs_the_data(monkeypatch):
    with pytest.raises(measure.SkippedError, match="give --data-dir"):
        reach.reach(measure.Setting(torch.device("cpu")))


def test_section_says_that_cuda_is_missing_until_it_is_measured():
    on_a_cpu = {"a CPU": {"loops": part() | {"device": "cpu"}}}
    assert "- CUDA: not measured" in report.section(on_a_cpu)
    assert "- CUDA: not measured" not in report.section(on_a_cpu | {"a GPU": {"loops": part() | {"device": "cuda"}}})


def test_section_names_the_best_number_of_runs_at_once():
    shared = part("resnet18, 96 px: --jobs 2", aim=None)
    for name, top in (
        ("resnet18, 96 px: --jobs 4", (5.0, 5.0, 9.0)),
        ("resnet18, 96 px: --jobs 8", (4.0, 4.0, 8.0)),
        ("lite0, 96 px: --jobs 2", (0.9, 0.9, 1.8)),
    ):
        shared["rows"] += part(name, top, None)["rows"]
    assert "  - The best `--jobs`: 4 for resnet18, 96 px; 1 for lite0, 96 px." in report.section(
        {"a CPU": {"jobs": shared}}
    )
