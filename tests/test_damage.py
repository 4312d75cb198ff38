"""Files that are damaged, misplaced or made by hand: one clear line each, and never a crash."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from test_leaderboard import board, standing  # noqa: F401  (fixtures)

from fer_bench import leaderboard, records
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes


@pytest.fixture
def both_ways(leaderboard_command, board):  # noqa: F811
    """Render and check a board; returns the line of each."""

    def run():
        code, out, err = leaderboard_command("--board", board)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        checked, found, _ = leaderboard_command("--board", board, "--check")
        assert checked == 1
        return err.strip(), found.splitlines()

    return run


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PublicTest/labels.npy", b"\0" * ((1 << 28) + 1))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an archive", "zip"),
        (npz(a=np.ones(9))[:-40], "zip"),
        (b"\x93NUMPY\x01\x00", "zip"),
        (npz(a=np.array([object()], dtype=object)), "allow_pickle"),
        (bomb(), "268,435,"),
        (npz(a=np.ones(9)), None),
    ],
)
def test_damaged_probabilities_with_a_matching_digest(both_ways, board, data, reason):  # noqa: F811
    (board / "predictions" / "vote.npz").write_bytes(data)
    path = board / "results" / "vote.json"
    record = json.loads(path.read_text())
    record["predictions"]["sha256"] = sha256_bytes(data)
    path.write_text(json.dumps(record))
    rendered, found = both_ways()
    if reason is None:
        assert "cannot be rendered (KeyError" in rendered
        assert found == ["vote: arrays ['a'] must be " + found[0].partition(" must be ")[2]]
    else:
        assert "vote.npz: is no readable .npz (" in rendered
        assert reason in rendered.lower()
        assert len(found) == 1


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("results/extra.json", "results/extra.json: cannot be read (Is a directory); a record is a file"),
        ("predictions/vote.npz", "predictions/vote.npz: is a folder; restore it"),
        ("published.yaml", "published.yaml: cannot be read (Is a directory)"),
        ("audit.json", "audit.json: cannot be read (Is a directory)"),
    ],
)
def test_folders_in_place_of_files(both_ways, board, place, problem):  # noqa: F811
    (board / place).unlink(missing_ok=True)
    (board / place).mkdir()
    rendered, found = both_ways()
    assert problem in rendered
    assert any(problem in line for line in found)


def test_folders_where_the_page_and_figures_belong(leaderboard_command, board):  # noqa: F811
    (board / "figures" / "old").mkdir()
    assert leaderboard_command("--board", board)[0] == 0
    assert "figures/old: no page shows it; delete it" in leaderboard_command("--board", board, "--check")[1]
    (board / "figures" / "old").rmdir()
    (board / "leaderboard.md").unlink()
    (board / "leaderboard.md").mkdir()
    code, _, err = leaderboard_command("--board", board)
    assert code == 2
    assert err.strip() == f"fer-bench: {board / 'leaderboard.md'}: Is a directory"


@pytest.mark.parametrize(
    "text",
    [
        "methods: [{name: x, year: 2020-13-45}]",
        "methods: [{name: x, year: 2020-01-01}]",
        "methods: 2020-02-30",
        "? [a]\n: 3",
        "? {a: 1}\n: 3",
        "methods: !!python/name:os.system x",
        "a: &a [*a]",
        "\x00",
        "[" * 5000,
    ],
)
def test_odd_values_in_published_figures(both_ways, board, text):  # noqa: F811
    (board / "published.yaml").write_text(text)
    rendered, found = both_ways()
    assert rendered.startswith(f"fer-bench: {board / 'published.yaml'}:")
    assert len(found) == 1


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("identity", "seed"), float("nan")),
        (("kind",), []),
        (("identity", "member"), 3),
        (("figures", "PrivateTest", "flip"), {}),
        (("figures", "PrivateTest", "flip", "accuracy"), "high"),
        (("name",), "../escaped"),
    ],
)
def test_records_made_by_hand(leaderboard_command, board, keys, value):  # noqa: F811
    path = board / "results" / "baseline-mlp.s0.json"
    record = json.loads(path.read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    if isinstance(record["identity"], dict) and value == value:
        record["run_id"] = records.run_id(record["identity"])
    path.write_text(json.dumps(record))
    code, out, _ = leaderboard_command("--board", board, "--check")
    assert code == 1
    assert "baseline-mlp.s0" in out
    with contextlib.suppress(UserError):
        leaderboard.write(board)
