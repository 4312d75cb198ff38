"""Other view sets of a finished run: scored from the weights that it kept, not trained again."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_pull import commit, git

from fer_bench import leaderboard, records, splits, toyfaces
from fer_bench.errors import UserError
from fer_bench.leaderboard import changes, gitdiff
from fer_bench.predict import probabilities
from fer_bench.suite import apply, estimate, kept, members
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import dry_run, run
from fer_bench.suite.votes import run_ensembles

SUITE = """
suite: tiny
data: toyfaces
defaults: {pretrained: false, backbone: "baseline:mlp", train: {epochs: 2, batch_size: 32, lr: 1e-3}}
members:
  - {name: one}
  - {name: two, train: {lr: 2e-3}}
ensembles:
  - {name: vote, members: [one, two], views: [none]}
"""
MORE = SUITE.replace("{name: one}", "{name: one, views: [none, ten-crop, flip]}")


class Place:
    """A folder with a board, and runs on it; each training is noted."""

    def __init__(self, folder, trained, finished=None):
        self.folder, self.trained, self.finished = folder, trained, finished
        self.board, self.runs = folder / "runs" / "tiny-limit70", folder / "runs"

    def suite(self, text):
        path = self.folder / "tiny.yaml"
        path.write_text(text)
        return path

    def options(self, **more):
        return Options(runs_dir=self.runs, limit=70, device="cpu", **more)

    def run(self, text, should_stop=lambda: False, **more):
        return run(self.suite(text), self.options(**more), Display(quiet=True), should_stop)

    def finish(self):
        """Finish the suite as it stands above, by a copy of what a run of it left."""
        shutil.copytree(self.finished / "runs", self.runs)

    def states(self, text):
        return {row["name"]: row for row in dry_run(self.suite(text), self.options(), Display(quiet=True))}

    def record(self, name="one", seed=0, fold=None):
        record = records.find(self.board, name, seed, fold)
        assert record is not None
        return record

    def arrays(self, name="one"):
        return records.arrays(self.board, self.record(name))

    def weights(self):
        return sorted((self.runs / "weights").iterdir())


@pytest.fixture(scope="module")
def few():
    return toyfaces.load(counts=(70, 70, 70))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toyfaces, "load", lambda: few)
        Place(folder, []).run(SUITE)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, few, finished):
    monkeypatch.setattr(toyfaces, "load", lambda: few)
    trained: list[str] = []
    real = members.fit
    monkeypatch.setattr(members, "fit", lambda job, *a, **k: trained.append(job.member.name) or real(job, *a, **k))  # type: ignore[func-returns-value]
    return Place(tmp_path, trained, finished)


def test_another_view_set_is_scored_and_not_trained(place):
    place.finish()
    before, stored = place.record(), place.arrays()
    rows = place.states(MORE)
    assert [rows[name]["state"] for name in ("one", "two")] == ["score", "done"]
    place.trained.clear()
    outcome = place.run(MORE)
    after, scored = place.record(), place.arrays()
    assert place.trained == []
    assert after["views"] == ["none", "ten-crop", "flip"]
    assert after["passes"] == {"none": 1, "ten-crop": 10, "flip": 2}
    assert all(np.array_equal(scored[key], stored[key]) for key in stored)
    assert after["history"] == before["history"]
    assert after["timing"]["train_seconds"] == before["timing"]["train_seconds"]
    assert {key: after["environment"][key] for key in before["environment"]} == before["environment"]
    assert [look["run_id"] for look in after["looks"]] == [before["run_id"], after["run_id"]]
    assert after["looks"][0] == before["looks"][0]
    assert outcome.failures == []
    assert place.states(MORE)["one"]["state"] == "done"


def test_a_pull_request_may_bring_the_wider_record_and_the_vote_over_it(place):
    place.finish()
    git(place.folder, "init", "--quiet", "--initial-branch", "main")
    commit(place.folder)
    had = place.record("vote", None)["figures"]["PrivateTest"]["none"]["accuracy"]
    place.run(MORE)
    found = changes.judge(place.board, gitdiff.against(place.board, "main"))
    assert found.problems == ()
    assert found.touched == {
        "one.s0": "stores more views: ten-crop",
        "vote": f"follows its members, which store more views (it had {100 * had:.2f} %)",
    }


def test_a_vote_over_replaced_records_is_built_again_by_the_same_run(place):
    place.finish()
    place.run(MORE)
    members_now = {record["run_id"] for record in (place.record("one"), place.record("two"))}
    assert {source["run_id"] for source in place.record("vote", None)["members"]} == members_now
    assert leaderboard.check(place.board) == []


def test_the_vote_of_another_suite_is_named_by_the_check(place):
    place.run(SUITE + "  - {name: elsewhere, members: [one, two], views: [none]}\n")
    place.run(MORE)
    (problem,) = leaderboard.check(place.board)
    assert problem.startswith("elsewhere: made with one.s0 of run id ")
    assert "fer-bench ensemble suites/tiny.yaml" in problem


def test_a_vote_of_view_sets_that_no_record_has_yet_is_withheld(place):
    place.finish()
    text = MORE.replace("two,", "two, views: [none, ten-crop],")
    path = place.suite(text.replace("[one, two], views: [none]", "[one, two], views: [none, ten-crop]"))
    outcome = run_ensembles(path, place.board, Display(quiet=True))
    assert "ten-crop of one seed 0" in outcome.withheld["vote"]


def test_fewer_view_sets_and_another_headline_are_scored_too(place):
    place.finish()
    place.run(MORE)
    place.trained.clear()
    had, stored = place.record(), place.arrays()
    for path in place.weights():
        path.unlink()  # all that is asked for is stored
    place.run(SUITE.split("ensembles")[0].replace("{name: one}", "{name: one, views: [ten-crop, none]}"))
    after, arrays = place.record(), place.arrays()
    assert place.trained == []
    assert (after["views"], after["headline"]) == (["ten-crop", "none"], "none")
    assert after["looks"] == had["looks"]  # nothing was predicted
    assert after["timing"] == had["timing"]
    assert arrays.keys() == stored.keys() - {"PublicTest/flip", "PrivateTest/flip"}
    assert all(np.array_equal(arrays[key], stored[key]) for key in arrays)


def test_weights_that_are_called_by_their_run_id_are_found(place):
    place.finish()
    record = place.record()
    path = records.weights_path(place.runs, record["identity"])
    assert path.stem != record["run_id"]
    path.rename(path.with_stem(record["run_id"]))
    assert records.weights_path(place.runs, record["identity"]).stem == record["run_id"]
    place.trained.clear()
    place.run(MORE)
    assert place.trained == []
    assert len(place.weights()) == 2
    kept.load_network(place.runs, place.record())


def test_without_the_weights_it_is_an_error_with_a_hint(place):
    place.finish()
    for path in place.weights():
        path.unlink()
    with pytest.raises(UserError, match=r"member\.views.*ten-crop.*other view sets need no training"):
        place.run(MORE)
    place.trained.clear()
    place.run(MORE, force=True)
    assert place.trained == ["one", "two"]
    assert len(place.record()["looks"]) == 2


def test_a_changed_setting_beside_the_views_is_refused(place):
    place.finish()
    with pytest.raises(UserError, match=r"member\.train\.lr") as caught:
        place.run(MORE.replace("lr: 1e-3", "lr: 3e-3"))
    assert "need no training" not in str(caught.value)


def test_the_same_training_under_another_name_is_scored_only(place):
    text = SUITE.replace("name: two, train: {lr: 2e-3}", "name: two, views: [rotate]").replace("ensembles", "#")
    place.run(text.split("#")[0])
    assert place.trained == ["one"]
    assert place.record("two")["views"] == ["rotate"]
    assert place.record("two")["history"] == place.record("one")["history"]
    one, two = place.record("one"), place.record("two")
    assert sorted(look["run_id"] for look in two["looks"]) == sorted([one["run_id"], two["run_id"]])


def test_a_taken_over_record_keeps_the_looks_of_the_one_it_replaces(place):
    text = SUITE.split("ensembles")[0].replace("train: {lr: 2e-3}", "views: [rotate]")
    place.run(text)
    old = place.record("two")
    place.run(text.replace(", views: [rotate]", ""))
    assert place.record("two")["run_id"] == place.record("one")["run_id"]
    seen = [look["run_id"] for look in place.record("two")["looks"]]
    assert sorted(seen) == sorted([old["run_id"], place.record("one")["run_id"]])


def test_fold_runs_are_scored_again_too_with_the_rows_that_they_held_out(place):
    text = SUITE.split("ensembles")[0].replace("{name: one}", "{name: one, folds: 2, fold_views: [none]}")
    place.run(text)
    before = records.arrays(place.board, place.record("one", 0, 1))
    place.trained.clear()
    place.run(text.replace("[none]", "[none, flip]"))
    after = records.arrays(place.board, place.record("one", 0, 1))
    assert place.trained == []
    assert set(after) - set(before) == {f"{part}/flip" for part in ("Training", "PublicTest", "PrivateTest")}
    assert all(np.array_equal(after[key], before[key]) for key in before)
    assert leaderboard.check(place.board) == []


def test_weights_of_another_run_are_refused_before_the_test_part_is_opened(place, monkeypatch):
    place.finish()
    before = place.record()
    path = records.weights_path(place.runs, before["identity"])
    save_file({key: 9 * value for key, value in load_file(path).items()}, path)
    monkeypatch.setattr(splits, "open_private_test", lambda *a, **k: pytest.fail("opened"))
    outcome = place.run(MORE)
    assert "not those of its record" in outcome.failures[0]["failure"]["message"]
    assert place.record() == before
    path.write_bytes(b"torn")
    assert "cannot be read" in place.run(MORE).failures[0]["failure"]["message"]


def test_weights_of_another_run_are_found_out_where_no_view_set_is_stored_yet(place):
    place.finish()
    path = records.weights_path(place.runs, place.record()["identity"])
    save_file({key: 9 * value for key, value in load_file(path).items()}, path)
    outcome = place.run(SUITE.split("ensembles")[0].replace("{name: one}", "{name: one, views: [rotate]}"))
    assert "PublicTest/none is " in outcome.failures[0]["failure"]["message"]


def test_a_look_that_never_became_a_record_is_counted_under_other_view_sets(place, monkeypatch):
    class KilledError(BaseException):
        """What ends a process at once."""

    def killed(*args):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(members.records, "save", killed)
        with pytest.raises(KilledError):
            place.run(SUITE)
    place.run(MORE)
    first, second = place.record()["looks"]
    assert first["run_id"] != second["run_id"] == place.record()["run_id"]


def test_an_unfinished_run_goes_on_under_other_view_sets(place):
    asked = iter(range(100))
    place.run(SUITE, should_stop=lambda: next(asked) > 2)
    assert place.states(MORE)["one"]["state"] == "resume"


def test_scoring_asks_for_less_than_training(place, monkeypatch):
    monkeypatch.setattr(estimate, "occupied", lambda device: 0)
    whole = place.states(MORE)["one"]
    assert whole["state"] == "new"
    place.finish()
    assert place.states(MORE)["one"]["bytes"] < whole["bytes"]


def test_a_vote_predicts_with_any_view_set_unless_it_was_fitted_for_others(place):
    place.run(SUITE + "  - {name: fitted, method: weighted-vote, members: [one, two], views: [none]}\n")
    Image.fromarray(toyfaces.load().images[0]).save(place.folder / "face.png")
    words = {"board": place.board, "runs_dir": place.runs, "device": torch.device("cpu"), "view": "ten-crop"}
    rows = [
        apply.predict(place.folder / "face.png", name, **words)[0].splitlines()[1] for name in ("vote", "one", "two")
    ]
    vote, one, two = (np.array([float(cell) for cell in row.split(",")[2:]]) for row in rows)
    assert np.abs(vote - (one + two) / 2).max() <= 1e-4 + 1e-9
    with pytest.raises(UserError, match="was fitted for none; use"):
        apply.predict(place.folder / "face.png", "fitted", **words)


def test_members_of_an_ensemble_are_looked_up_beside_its_file(place, monkeypatch):
    place.finish()
    monkeypatch.chdir(place.folder)
    Image.fromarray(toyfaces.load().images[0]).save("face.png")
    words = {"runs_dir": place.runs, "device": torch.device("cpu"), "view": None}

    def predicted(model, board=None):
        return apply.predict(place.folder / "face.png", model, board=board, **words)

    expected = predicted("vote", place.board)
    assert predicted("runs/tiny-limit70/results/vote.json") == expected
    monkeypatch.chdir(place.board / "results")
    assert predicted("vote.json") == expected
    with pytest.raises(UserError, match=r"elsewhere: vote needs one\.s0, which is not there"):
        predicted("vote.json", place.folder / "elsewhere")


def test_an_ensemble_over_other_runs_than_the_board_has_is_not_predicted_with(place):
    place.finish()
    old = (place.board / "results" / "vote.json").read_text()
    place.run(SUITE.replace("lr: 2e-3", "lr: 3e-3"), force=True)
    (place.board / "results" / "vote.json").write_text(old)
    Image.fromarray(toyfaces.load().images[0]).save(place.folder / "face.png")
    with pytest.raises(UserError, match=r"vote combines another run of two\.s0 than the board has"):
        apply.predict(
            place.folder / "face.png",
            "vote",
            board=place.board,
            runs_dir=place.runs,
            device=torch.device("cpu"),
            view=None,
        )


def test_missing_weights_name_the_command_that_trains_this_run_alone(place):
    place.finish()
    place.weights()[0].unlink()
    gone = next(
        r for r in map(place.record, ("one", "two")) if not records.weights_path(place.runs, r["identity"]).is_file()
    )
    command = f"fer-bench run suites/tiny.yaml --member {gone['name']} --seed 0 --limit 70 --force trains it again"
    with pytest.raises(UserError, match=command):
        kept.load_network(place.runs, gone)


@pytest.mark.parametrize(("view", "used"), [(None, "flip+rotate"), ("ten-crop", "ten-crop"), ("none", "none")])
def test_predict_uses_the_headline_or_any_other_view_set(place, view, used):
    place.run(SUITE.replace("{name: one}", "{name: one, views: [none, flip+rotate]}").split("ensembles")[0])
    faces = toyfaces.load().images[:3]
    (place.folder / "faces").mkdir()
    for number, face in enumerate(faces):
        Image.fromarray(face).save(place.folder / "faces" / f"{number}.png")
    text, _ = apply.predict(
        place.folder / "faces", "one", board=place.board, runs_dir=place.runs, device=torch.device("cpu"), view=view
    )
    found = np.array([[float(cell) for cell in line.split(",")[2:]] for line in text.splitlines()[1:]])
    network, precision = kept.load_network(place.runs, place.record()), place.record()["environment"]["precision"]
    expected = probabilities(network, faces, used, device=torch.device("cpu"), precision=precision)
    assert np.abs(found - expected).max() <= 0.5e-4 + 1e-9
