import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import measure
import reading
import report
from fer_bench import data
from fer_bench.errors import UserError

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
    [(0.9, ">= 0.90", True), (0.89, ">= 0.90", False), (1.0, "> 1", False), (1.06, "<= 1.05", False), (9, None, True)],
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
