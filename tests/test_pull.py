import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_leaderboard import add_external, add_failure, add_member, add_vote, arrays_at, arrays_of, fill, table_rows

from fer_bench import leaderboard, metrics, records
from fer_bench.errors import UserError
from fer_bench.leaderboard import changes, gitdiff

ROOT = Path(__file__).parents[1]
WHO = {f"GIT_{role}_{what}": "nobody@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder, *words):
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *map(str, words)]
    return subprocess.run(command, env=os.environ | WHO | alone, check=True, capture_output=True, text=True).stdout


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "rows")


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A checkout on the branch main with a filled board, only to be read."""
    checkout = tmp_path_factory.mktemp("origin") / "checkout"
    board = fill(checkout / "cpu")
    (board / "published.yaml").write_text("methods: []\n")
    leaderboard.write(board)
    git(checkout, "init", "--quiet", "--initial-branch", "main")
    commit(checkout)
    return checkout


@pytest.fixture
def board(origin, tmp_path):
    """The board of a branch of its own, to be changed."""
    checkout = Path(shutil.copytree(origin, tmp_path / "checkout"))
    git(checkout, "switch", "--quiet", "--create", "rows")
    return checkout / "cpu"


def judged(board):
    return changes.judge(board, gitdiff.against(board, "main"))


def reviewed(board):
    leaderboard.write(board)
    return leaderboard.review(board, leaderboard.board_file(board), "main")


def the_problem(board):
    """The one problem that the changes of a board are; it is found before and after they are committed."""
    found = judged(board).problems
    commit(board)
    assert judged(board).problems == found
    assert len(found) == 1, found
    return found[0]


# ---- what a pull request adds


def test_unchanged_board_is_in_order(board):
    found = leaderboard.review(board, leaderboard.board_file(board), "main")
    assert found.problems == ()
    assert "No row comes or changes." in found.text
    assert "## Leaderboard: in order" in found.text


@pytest.mark.parametrize("committed", [False, True])
def test_new_row_stands_against_the_best_and_its_neighbours(board, committed):
    add_member(board, "newcomer", 1.0)
    leaderboard.write(board)
    if committed:
        commit(board)
    found = reviewed(board)
    assert found.problems == ()
    assert ("not in the last commit" in found.text) is not committed
    cells = table_rows(found.text[found.text.index("### New rows") :])
    assert [line[1] for line in cells[1:]] == ["newcomer"]
    arrays = arrays_at(board, "newcomer", 0)
    right = arrays["PrivateTest/flip"].argmax(1) == arrays["PrivateTest/labels"]
    assert cells[1][2].startswith(f"{100 * right.mean():.2f} [")
    assert cells[1][4:] == ["2", "1", "new"]
    pairs = table_rows(found.text[found.text.index("### Against") :])[1:]
    assert [(line[1], line[2]) for line in pairs] == [
        ("best", "vote"),
        ("next above", "resnet18-scratch"),
        ("next below", "baseline-mlp"),
    ]
    theirs = arrays_at(board, "baseline-mlp", 0)
    other = theirs["PrivateTest/flip"].argmax(1) == theirs["PrivateTest/labels"]
    assert pairs[2][4].startswith(f"+{100 * (right.mean() - other.mean()):.2f} [")


def test_new_seed_vote_submission_and_failure_are_told(board):
    add_member(board, "resnet18-scratch", 1.4, seed=1)
    members = [record for record in records.load_all(board) if record["name"] == "lite0-96"]
    add_vote(board, "vote-lite0", members)
    add_external(board, "theirs")
    add_failure(board, "too-big", "does | not fit")
    found = reviewed(board)
    assert found.problems == ()
    cells = {line[1]: line for line in table_rows(found.text[found.text.index("### New rows") :])[1:]}
    assert set(cells) == {"resnet18-scratch", "vote-lite0", "theirs†"}
    assert cells["resnet18-scratch"][6] == "seed 1 new"
    assert cells["theirs†"][4] == "–"
    assert "- too-big seed 0: does \\| not fit" in found.text


def test_page_that_was_not_rendered_is_a_problem_with_its_difference(board):
    add_member(board, "newcomer", 1.0)
    found = leaderboard.review(board, leaderboard.board_file(board), "main")
    assert any("is not what the records render to" in problem for problem in found.problems)
    assert "\n+| 4 | newcomer |" in found.text.replace("**", "")


# ---- what it may not do


def remove(board, stem):
    (board / "results" / f"{stem}.json").unlink()
    (board / "predictions" / f"{stem}.npz").unlink(missing_ok=True)


@pytest.mark.parametrize("stem", ["baseline-mlp.s0", "vote", "huge.s0"])
def test_removed_row_is_a_problem(board, stem):
    remove(board, stem)
    assert the_problem(board).startswith(f"{stem}: removed; rows stay on the board")


def test_renamed_row_is_a_removed_and_a_new_one(board):
    add_member(board, "baseline", 0.4)
    remove(board, "baseline-mlp.s0")
    assert the_problem(board).startswith("baseline-mlp.s0: removed")
    assert judged(board).touched == {"baseline.s0": "new"}


def test_same_run_done_again_is_a_changed_row(board):
    record = records.find(board, "baseline-mlp", 0)
    assert record is not None
    stored = records.arrays(board, record)
    records.save(board, record | {"timing": {"train_seconds": 91.0}}, stored)
    assert "timing.train_seconds: 90.0 -> 91.0" in the_problem(board)


def test_other_training_under_the_name_is_a_changed_row(board):
    add_member(board, "baseline-mlp", 0.4, settings={"backbone": "timm_baseline-mlp", "lr": 0.1})
    assert "baseline-mlp.s0: changed (run_id" in the_problem(board)


def add_fold(board, index):
    """A run of baseline-mlp on all but one of four folds of Training."""
    record = records.find(board, "baseline-mlp", 0)
    assert record is not None
    rows = np.arange(index, record["data"]["counts"]["Training"], 4)
    arrays = arrays_of(0.4, index) | {"Training/rows": rows, "Training/labels": rows % 7}
    arrays |= {f"Training/{view}": np.eye(7)[rows % 7] for view in record["views"]}
    cut = {"of": 4, "index": index, "seed": 0, "rows_sha256": records.rows_sha256(rows)}
    identity = record["identity"] | {"fold": cut}
    run_id = records.run_id(identity)
    looks = [record["looks"][0] | {"run_id": run_id}]
    figures = {
        part: {v: metrics.figures(arrays[f"{part}/labels"], records.as_stored(arrays[f"{part}/{v}"])) for v in views}
        for part, views in (record["figures"] | {"Training": record["views"]}).items()
    }
    own = {"kind": "fold", "fold": index, "identity": identity, "run_id": run_id, "looks": looks, "figures": figures}
    records.save(board, record | own, arrays)
    return record | own


def test_runs_on_folds_are_told_beside_the_rows(board):
    for index in (0, 1):
        add_fold(board, index)
    found = reviewed(board)
    assert found.problems == ()
    assert "without rows of their own: baseline-mlp.s0.f0 (new) and baseline-mlp.s0.f1 (new)." in found.text
    assert "No row comes or changes." in found.text


def test_failed_fold_is_told_as_such(board):
    run = add_fold(board, 2)
    kept = ("schema", "name", "seed", "fold", "run_id", "identity", "protocol", "suite", "data", "environment")
    failure = {"reason": "out of memory", "message": "does not fit"}
    failed = {key: run[key] for key in kept} | {"kind": "failure", "failure": failure, "timing": {}, "looks": []}
    records.save(board, failed, None)
    assert "baseline-mlp seed 0, fold 2: does not fit" in reviewed(board).text


def test_an_ensemble_of_folds_that_loses_one_is_changed_and_not_grown():
    def source(seed, fold):
        return {"name": "a", "seed": seed, "fold": fold, "run_id": f"{seed}{fold}"}

    before = {"kind": "ensemble", "identity": {}, "headline": "none", "members": [source(0, f) for f in range(3)]}
    before["figures"] = {"PrivateTest": {"none": {"accuracy": 0.5}}}
    assert (
        changes._grown(
            before, before | {"members": [source(0, 2), source(1, 0), *map(source, [1] * 3, range(1, 4))]}, set()
        )
        is None
    )
    grown = before | {"members": [source(s, f) for s in (0, 1) for f in range(3)]}
    assert changes._grown(before, grown, set()) == "built anew: 6 members where it had 3 (50.00 %)"


def test_failed_run_may_finish(board):
    remove(board, "huge.s0")
    add_member(board, "huge", 1.0)
    assert judged(board).problems == ()
    assert judged(board).touched == {"huge.s0": "failed before (out of memory), now finished"}


def members_of(board, *names):
    return [record for record in records.load_all(board) if record["name"] in names]


def test_vote_may_be_built_anew_with_more_members_and_with_no_fewer(board):
    add_vote(board, "vote", members_of(board, "lite0-96", "resnet18-scratch", "baseline-mlp"))
    found = judged(board)
    assert found.problems == ()
    assert found.touched["vote"].startswith("built anew: 4 members where it had 3 (")
    add_vote(board, "vote", members_of(board, "lite0-96", "baseline-mlp"))
    assert the_problem(board).startswith("vote: changed (")


def widened(board, change=lambda arrays: arrays, **other):
    """The row baseline-mlp with one more view set, without training."""
    record = records.find(board, "baseline-mlp", 0)
    assert record is not None
    arrays = change(records.arrays(board, record))
    arrays |= {f"{part}/shift": arrays[f"{part}/none"] for part in ("PublicTest", "PrivateTest")}
    figures = {part: views | {"shift": views["none"]} for part, views in record["figures"].items()}
    more = {"views": ["none", "shift", "flip"], "passes": record["passes"] | {"shift": 5}, "figures": figures}
    records.save(board, record | more | other, arrays)


def test_record_may_store_more_views_beside_all_that_it_had(board):
    widened(board)
    found = judged(board)
    assert found.problems == ()
    assert found.touched == {"baseline-mlp.s0": "stores more views: shift"}


def test_ensemble_follows_a_member_that_stores_more_views(board):
    *others, old = members_of(board, "lite0-96", "resnet18-scratch")
    stored = records.arrays(board, old)
    more = {f"{part}/shift": stored[f"{part}/none"] for part in ("PublicTest", "PrivateTest")}
    views = ["none", "shift", "flip"]
    identity = old["identity"] | {"member": old["identity"]["member"] | {"views": views}}
    wide = old | {"identity": identity, "run_id": records.run_id(identity), "views": views}
    wide |= {"passes": old["passes"] | {"shift": 5}}
    wide |= {"figures": {part: found | {"shift": found["none"]} for part, found in old["figures"].items()}}
    records.save(board, wide, stored | more)
    add_vote(board, "vote", [*others, wide])
    found = judged(board)
    assert found.problems == ()
    assert re.fullmatch(r"follows its members, which store more views \(it had \d\d\.\d\d %\)", found.touched["vote"])
    add_member(board, "other", 1.0)
    add_vote(board, "vote", [others[0], wide, *members_of(board, "other")])
    assert judged(board).problems[0].startswith("vote: changed")


@pytest.mark.parametrize("what", ["probabilities", "headline", "looks", "training"])
def test_more_views_with_another_change_are_a_changed_row(board, what):
    def flipped(arrays):
        arrays["PublicTest/none"] = arrays["PublicTest/none"][::-1].copy()
        return arrays

    record = records.find(board, "baseline-mlp", 0)
    assert record is not None
    slower = [{**epoch, "seconds": 2.0} for epoch in record["history"]]
    other = {"headline": {"headline": "shift"}, "looks": {"looks": []}, "training": {"history": slower}}
    widened(board, flipped) if what == "probabilities" else widened(board, **other[what])  # type: ignore[arg-type]
    problem = the_problem(board)
    assert problem.startswith("baseline-mlp.s0: changed (")
    assert len(problem) < 500


def test_seed_below_the_declared_one_is_a_problem(board):
    add_member(board, "late", 1.0, seed=3)
    commit(board)
    git(board, "branch", "--force", "main")
    add_member(board, "late", 1.0, seed=4)
    assert judged(board).problems == ()
    add_member(board, "late", 1.0, seed=2)
    assert "late.s2: seed 3 is declared" in the_problem(board)


# ---- files


@pytest.mark.parametrize(
    ("path", "size", "problem"),
    [
        ("face.png", 10, "face.png: has no place on a board"),
        ("results/notes.txt", 10, "results/notes.txt: has no place"),
        ("predictions/old/x.npz", 10, "predictions/old/x.npz: has no place"),
        ("figures/a.svg", 1024 * 1024 + 1, "figures/a.svg: 1,048,577 bytes, at most 1,048,576"),
        ("predictions/x.npz", 10, "x: has no record, only an .npz"),
    ],
)
def test_file_that_has_no_place_or_is_too_big(board, path, size, problem):
    (board / path).parent.mkdir(exist_ok=True)
    (board / path).write_bytes(b"x" * size)
    assert the_problem(board).startswith(problem)


def test_many_files_may_be_too_big_together(board, monkeypatch):
    monkeypatch.setattr(changes, "MOST", 1000)
    add_member(board, "newcomer", 1.0)
    assert "bytes in all, at most 1,000" in the_problem(board)


def test_links_are_refused(board, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (board / "results" / "huge.s1.json").symlink_to(tmp_path / "elsewhere.json")
    assert any("results/huge.s1.json: is no plain file" in problem for problem in judged(board).problems)
    shutil.move(board, board.parent / "other")
    board.symlink_to("other")
    with pytest.raises(UserError, match="is a link"):
        judged(board)


def test_files_that_git_ignores_would_be_missing(board):
    add_member(board, "newcomer", 1.0)
    (board.parent / ".gitignore").write_text("*.npz\n")
    assert the_problem(board).startswith("predictions/newcomer.s0.npz: git ignores it")


def test_published_figures_are_listed_and_may_not_vanish(board):
    method = {"name": "Theirs", "year": 2020, "accuracy": 70.0, "models": 1, "pretraining": None, "tta": None}
    method |= {"protocol_class": None, "part": "unknown", "source": None}
    (board / "published.yaml").write_text(yaml.safe_dump({"methods": [method]}))
    assert judged(board).notes == ("published.yaml: added Theirs",)
    commit(board)
    git(board, "branch", "--force", "main")
    (board / "published.yaml").write_text(yaml.safe_dump({"methods": [method | {"accuracy": 75.0}]}))
    assert judged(board).notes == ("published.yaml: changed Theirs",)
    assert judged(board).problems == ()
    (board / "published.yaml").unlink()
    assert the_problem(board) == "published.yaml: removed; bring it back"


def test_names_of_files_cannot_break_the_summary(board):
    (board / "results" / "a\n## b\udcff|c.json").write_text("{}")
    (board / "x\n- y.png").write_text("")
    found = leaderboard.review(board, leaderboard.board_file(board), "main")
    assert found.problems
    assert found.text.encode()
    assert "\n## b" not in found.text
    assert "\n- y.png" not in found.text


def test_code_that_checks_is_named(board):
    (board.parent / "fer_bench").mkdir()
    (board.parent / "fer_bench" / "metrics.py").write_text("")
    (board.parent / "notes.txt").write_text("")
    text = reviewed(board).text
    assert "fer_bench/metrics.py" in text
    assert "notes.txt" not in text


def test_toy_faces_cannot_come_in_by_hand(origin, tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "benchmark").mkdir(parents=True)
    (checkout / "benchmark" / "README.md").write_text("")
    git(checkout, "init", "--quiet", "--initial-branch", "main")
    commit(checkout)
    toy = tmp_path / "toy"
    add_member(toy, "drawn", name="toyfaces")
    shutil.copytree(toy, checkout / "benchmark", dirs_exist_ok=True)
    problems = reviewed(checkout / "benchmark").problems
    assert any("drawn.s0: data: toyfaces" in problem and "may not enter benchmark/" in problem for problem in problems)


# ---- records that only look like some


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "member"}', '{"kind": "member", "schema": 1}', "[" * 99999])
def test_what_is_no_record_is_a_problem_and_not_a_crash(board, text):
    (board / "results" / "baseline-mlp.s0.json").write_text(text)
    found = leaderboard.review(board, leaderboard.board_file(board), "main")
    assert any(problem.startswith("baseline-mlp.s0: its record cannot be read") for problem in found.problems)
    assert found.text.startswith("## Leaderboard: ")


def test_record_without_its_figures_is_a_problem_and_not_a_crash(board):
    path = board / "results" / "baseline-mlp.s0.json"
    record = json.loads(path.read_text())
    record["figures"]["PrivateTest"]["flip"] = {}
    path.write_text(json.dumps(record))
    assert any("baseline-mlp.s0: figures.PrivateTest.flip" in problem for problem in leaderboard.check(board))
    with pytest.raises(UserError, match=r"cannot be rendered \(KeyError"):
        leaderboard.write(board)


def test_damaged_probabilities_are_a_problem_and_not_a_crash(board):
    widened(board)
    (board / "predictions" / "baseline-mlp.s0.npz").write_bytes(b"PK\x03\x04 no archive")
    assert any(problem.startswith("baseline-mlp.s0: changed") for problem in judged(board).problems)


# ---- git


def test_only_what_the_branch_itself_changed_counts(board):
    """The base branch went on since: its new row is neither new here nor removed here."""
    git(board, "switch", "--quiet", "main")
    add_member(board, "meanwhile", 1.0)
    commit(board)
    git(board, "switch", "--quiet", "rows")
    add_member(board, "newcomer", 1.1)
    assert judged(board).touched == {"newcomer.s0": "new"}
    assert judged(board).problems == ()


def test_unknown_branch_no_checkout_and_shallow_clone_are_one_line(board, tmp_path):
    with pytest.raises(UserError, match=r"--base nowhere: no commit is known as 'nowhere' here; fetch it"):
        gitdiff.against(board, "nowhere")
    with pytest.raises(UserError, match="lies in no git checkout"):
        gitdiff.against(tmp_path, "main")
    commit_of_its_own = git(board, "commit-tree", "-m", "x", "HEAD^{tree}").strip()
    with pytest.raises(UserError, match="have no commit in common"):
        gitdiff.against(board, commit_of_its_own)
    add_member(board, "newcomer", 1.0)
    commit(board)
    git(tmp_path, "clone", "--quiet", "--depth", "1", board.parent.as_uri(), tmp_path / "shallow")
    with pytest.raises(UserError, match="fetch-depth: 0"):
        gitdiff.against(tmp_path / "shallow" / "cpu", "origin/main")


def test_git_that_is_not_there_is_one_line(board, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="git is not installed"):
        gitdiff.against(board, "main")


# ---- the command and the workflow


def test_exit_codes_of_the_command(board, leaderboard_command):
    assert leaderboard_command("--board", board, "--check", "--base", "main")[0] == 0
    remove(board, "baseline-mlp.s0")
    code, out, err = leaderboard_command("--board", board, "--check", "--base", "main")
    assert (code, err) == (1, "")
    assert "- baseline-mlp.s0: removed" in out
    code, out, err = leaderboard_command("--board", board, "--base", "main")
    assert (code, out) == (2, "")
    assert "--check" in err
    assert leaderboard_command("--board", board, "--check", "--base", "none")[:2] == (2, "")


def test_workflow_reads_only_and_runs_no_text_of_a_pull_request():
    workflow = yaml.safe_load((ROOT / ".github/workflows/leaderboard.yml").read_text())
    assert list(workflow[True]) == ["pull_request"]  # YAML reads the key "on" as true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}
    assert not any("${{" in step.get("run", "") for step in job["steps"])
    assert "secrets" not in json.dumps(workflow)


def test_what_a_pull_request_installs_is_what_the_project_needs_without_torch():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    group = set(project["dependency-groups"]["board"])
    assert group <= set(project["project"]["dependencies"])
    assert not {name for name in group if name.startswith(("torch", "timm"))}


def test_probabilities_of_the_helpers_differ_by_seed():
    """Else the tests above would compare a row with itself."""
    assert not np.array_equal(arrays_of(1.0, 0)["PrivateTest/none"], arrays_of(1.0, 1)["PrivateTest/none"])
