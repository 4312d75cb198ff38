import dataclasses

import numpy as np
import pytest
from test_leaderboard import add_external, add_member, arrays_at, fill

from fer_bench.leaderboard import diversity, rows


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("diversity") / "cpu")
    add_external(folder, "theirs", 1.2)
    return folder


def cells(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def stored(board, *runs):
    """PublicTest labels, and probabilities of runs with their own view sets, as float64."""
    found = [arrays_at(board, *run) for run in runs]
    views = [next(v for v in ("flip", "submitted") if f"PublicTest/{v}" in arrays) for arrays in found]
    p = [arrays[f"PublicTest/{view}"].astype(float) for arrays, view in zip(found, views, strict=True)]
    return found[0]["PublicTest/labels"], [each / each.sum(axis=1, keepdims=True) for each in p]


RUNS = {"lite0-96": 0, "resnet18-scratch": 0, "theirs": None, "baseline-mlp": 0}


def test_models_are_the_best_on_validation_without_votes(board):
    found = diversity.models(rows.read(board))
    assert [model.row.name for model in found] == list(RUNS)
    assert found[0].labels.tolist() == arrays_at(board, "lite0-96", 0)["PublicTest/labels"].tolist()


def test_additions_are_those_of_plain_means(board):
    labels, p = stored(board, *RUNS.items())
    text = diversity.section(rows.read(board))
    best = p[0].argmax(axis=1) == labels
    for index, (name, title) in enumerate(
        zip(RUNS, ("lite0-96", "resnet18-scratch", "theirs†", "baseline-mlp"), strict=True)
    ):
        line, right = cells(text, title), p[index].argmax(axis=1) == labels
        assert line[1] == f"{100 * right.mean():.2f}", name
        rest = np.mean([each for i, each in enumerate(p) if i != index], axis=0).argmax(axis=1) == labels
        added = 100 * ((np.mean(p, axis=0).argmax(axis=1) == labels).mean() - rest.mean())
        assert float(line[4].split(" ")[0].replace("−", "-").replace("±", "")) == pytest.approx(added, abs=0.006)
        if index:
            assert line[2] == f"{100 * (~best[~right]).mean():.2f}"
            pair = 100 * (((p[0] + p[index]).argmax(axis=1) == labels).mean() - best.mean())
            assert float(line[3].split(" ")[0].replace("−", "-").replace("±", "")) == pytest.approx(pair, abs=0.006)
        else:
            assert line[2:4] == ["–", "–"]


def test_disagreement_counts_images_with_different_classes(board):
    _, p = stored(board, *RUNS.items())
    text = diversity.matrix(diversity.models(rows.read(board)))
    for i, title in enumerate(("1. lite0-96", "2. resnet18-scratch", "3. theirs†", "4. baseline-mlp")):
        shares = [sum(a != b for a, b in zip(p[i].argmax(1), q.argmax(1), strict=True)) / len(q) for q in p]
        assert cells(text, title)[1:] == ["–" if i == j else f"{100 * share:.1f}" for j, share in enumerate(shares)]


def test_private_test_changes_nothing(board):
    before = diversity.section(rows.read(board))
    content = rows.read(board)
    turned = [dataclasses.replace(row, labels=(row.labels + 1) % 7) for row in content.rows]
    assert diversity.section(dataclasses.replace(content, rows=tuple(turned[::-1]))) == before


def test_one_model_has_nothing_to_differ_from(tmp_path):
    add_member(tmp_path / "cpu", "lite0")
    assert diversity.section(rows.read(tmp_path / "cpu")) == ""


def test_eight_models_at_most(tmp_path):
    for index in range(10):
        add_member(tmp_path / "cpu", f"m{index}", 0.5 + index / 10, n=60)
    assert len(diversity.models(rows.read(tmp_path / "cpu"))) == 8
