import dataclasses
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fer_bench import cli, config, splits, toyfaces, tune
from fer_bench.data import Faces
from fer_bench.errors import UserError
from fer_bench.suite import trials, tuning
from fer_bench.suite.plan import Options
from fer_bench.suite.trials import Ground, make_objective, rows_of
from fer_bench.train import DivergedError
from fer_bench.tune.study import opened

MEMBER = config.Member(
    name="default",
    backbone="baseline:mlp",
    pretrained=False,
    image_size=32,
    train=config.Train(epochs=2, batch_size=32, lr=1e-3, precision="fp32"),
)
OPTIONS = Options(device="cpu")
SPACE = """
inherit: false
member: {image_size: 32, train: {epochs: 1, batch_size: 64, ema: 0}}
space: {train.lr: {low: 1e-4, high: 1e-2, log: true}}
"""


@pytest.fixture(scope="module")
def faces() -> Faces:
    return toyfaces.load(seed=3, counts=(200, 21, 21))


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch, faces):
    monkeypatch.setattr(toyfaces, "load", lambda: faces)


def ground(folds: int | None = None) -> Ground:
    return Ground(MEMBER, "toyfaces", OPTIONS, folds, rows_of("toyfaces", OPTIONS, folds).digest)


class Told:
    """Stands for a study: remembers what was reported, stops or prunes where it is told to."""

    def __init__(self, folder: Path, stop_after: int = 99, prune_after: int = 99) -> None:
        self.steps: dict[int, float] = {}
        self.folder, self.stop_after, self.prune_after = folder, stop_after, prune_after

    def report(self, step: int, value: float) -> None:
        self.steps[step] = value
        if step >= self.prune_after:
            raise tune.PrunedError("enough")

    def attempt(self, **values) -> tune.Attempt:
        values = {"train.lr": 3e-3} | values
        stop = lambda: len(self.steps) >= self.stop_after  # noqa: E731
        return tune.Attempt(0, values, "abc", self.folder, self.report, stop)


def run(attempt: tune.Attempt, folds: int | None = None) -> tune.Outcome:
    return make_objective(ground(folds))(attempt)


def test_the_rows_are_those_of_training_and_twins_stay_together():
    rows = rows_of("toyfaces", OPTIONS, None)
    assert len(rows.labels) == 200
    assert rows.held_out[0].sum() == pytest.approx(40, abs=7)
    folds = rows_of("toyfaces", OPTIONS, 3).held_out
    assert np.array_equal(np.sum(folds, axis=0), np.ones(200))


def test_a_trial_is_scored_on_the_rows_held_out(tmp_path):
    told = Told(tmp_path)
    outcome = run(told.attempt())
    assert outcome.right is not None
    assert outcome.right.shape == (rows_of("toyfaces", OPTIONS, None).held_out[0].sum(),)
    assert outcome.value == outcome.right.mean()
    assert told.steps[2] == pytest.approx(outcome.value, abs=1e-6)
    assert outcome.notes["micro_batch"] == 32
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("folds", [None, 2])
def test_a_stopped_trial_goes_on_and_ends_as_if_it_had_never_stopped(tmp_path, folds):
    whole, first, second = (Told(tmp_path / name) for name in ("a", "b", "b"))
    expected = run(whole.attempt(), folds)
    first.stop_after = 1 if folds is None else 3
    with pytest.raises(tune.StoppedError):
        run(first.attempt(), folds)
    found = run(second.attempt(), folds)
    assert found.value == expected.value
    assert found.right is not None
    assert expected.right is not None
    assert np.array_equal(found.right, expected.right)
    assert first.steps | second.steps == whole.steps
    assert not first.steps.keys() & second.steps.keys()


def test_a_killed_trial_goes_on_from_the_checkpoint_that_it_left(tmp_path):
    """What SIGKILL leaves after the first epoch is a copy of the folder at that moment."""
    whole, again = Told(tmp_path / "a"), Told(tmp_path / "b")

    def report(step: int, value: float) -> None:
        whole.report(step, value)
        if step == 1:
            shutil.copytree(tmp_path / "a", tmp_path / "b")

    expected = run(dataclasses.replace(whole.attempt(), report=report))
    assert run(again.attempt()).value == expected.value
    assert again.steps == {2: whole.steps[2]}


def test_folds_add_up_to_all_of_training(tmp_path):
    told = Told(tmp_path)
    outcome = run(told.attempt(), folds=2)
    assert outcome.right is not None
    assert outcome.right.shape == (200,)
    assert sorted(told.steps) == [1, 2, 3, 4]
    assert told.steps[4] == pytest.approx(outcome.value, abs=1e-5)
    first = rows_of("toyfaces", OPTIONS, 2).held_out[0]
    assert told.steps[2] == pytest.approx(outcome.right[first].mean(), abs=1e-5)


def test_a_pruned_trial_ends_at_once_and_leaves_nothing(tmp_path):
    told = Told(tmp_path, prune_after=1)
    with pytest.raises(tune.PrunedError):
        run(told.attempt())
    assert list(told.steps) == [1]
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("raised", "named", "words"),
    [
        (DivergedError("no finite value"), tune.HopelessError, "no finite value"),
        (torch.OutOfMemoryError("CUDA out of memory\nmore"), tune.FailedError, "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), tune.FailedError, "can't allocate"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), tune.FailedError, "ALLOC_FAILED"),
        (MemoryError(), tune.FailedError, "MemoryError"),
        (RuntimeError("mat1 and mat2 cannot be multiplied"), RuntimeError, "mat1"),
        (UserError("options do not fit"), tune.FailedError, "options do not fit"),
    ],
)
def test_failures_have_names(tmp_path, monkeypatch, raised, named, words):
    def fit(*args, **kwargs):
        raise raised

    monkeypatch.setattr(trials, "fit", fit)
    with pytest.raises(named, match=words):
        run(Told(tmp_path).attempt())


def test_data_that_changed_is_refused():
    with pytest.raises(UserError, match="the data changed"):
        make_objective(dataclasses.replace(ground(), digest="0" * 64))


def request(tmp_path: Path, **changes) -> tuning.Request:
    path = tmp_path / "space.yaml"
    path.write_text(changes.pop("text", SPACE))
    options = dataclasses.replace(OPTIONS, runs_dir=tmp_path / "runs")
    return dataclasses.replace(tuning.Request("baseline:mlp", options, "toyfaces", path, trials=2), **changes)


def test_tuning_works_where_no_test_part_can_be_read(tmp_path, monkeypatch):
    part = splits.part

    def training_alone(faces, name):
        assert name == "Training"
        return part(faces, name)

    def refuse(*args, **kwargs):
        raise AssertionError("PrivateTest was opened")

    monkeypatch.setattr(splits, "part", training_alone)
    monkeypatch.setattr(splits, "open_private_test", refuse)
    plan, base, rows = tuning.prepare(request(tmp_path))
    assert tune.work(plan, make_objective(base), time.time(), lambda: False) == "done"
    with opened(plan) as this:
        result = tune.conclude(this)
        asked = request(tmp_path, suite_out=tmp_path / "My Suite.yaml")
        path = tuning._write(plan, result, this.trials(), rows, asked)
        head, body = path.read_text().split("suite: ")
        path.write_text(f"{head}# expected: 42 %, measured since\nsuite: {body}")
        tuning._write(plan, result, this.trials(), rows, asked)
        assert "42 %" in path.read_text(), "the suite is the same, so what people wrote above it stays"
        path.write_text(path.read_text().replace("seeds: [1, 2, 3]", "seeds: [4]"))
        tuning._write(plan, result, this.trials(), rows, asked)
        assert path.read_text() == f"{head}suite: {body}"
    assert result.counts.complete == 2
    assert (config.load_suite(path).data, config.load_suite(path).suite) == ("toyfaces", "tuned-my-suite")


def test_image_size_is_fixed_by_the_command(tmp_path):
    space = tuning.space_of(request(tmp_path, image_size=48, text="inherit: true"))
    assert space.member.image_size == 48
    assert "image_size" not in space.dimensions
    assert "options.drop_rate" not in space.dimensions


def test_sides_that_a_network_cannot_take_are_searched_only_where_asked_for(tmp_path):
    def space_of(text):
        return tuning.space_of(request(tmp_path, backbone="dlib:face_recognition_resnet", text=text))

    assert space_of("inherit: true").dimensions["image_size"][0].choices == (128, 160)  # not 96: it needs 103
    assert space_of("member: {image_size: 112}").dimensions["image_size"][0].choices == (112, 144)
    for text in ("member: {image_size: 64}", "space: {image_size: {choices: [96, 128]}}"):
        with pytest.raises(UserError, match=r"cannot take (64|96) px; the next larger side that it takes is 103"):
            space_of(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet81"}, "did you mean"),
        ({"text": "space: {train.lr: fast}"}, "space.yaml: the setting train.lr"),
        ({"text": "member: {image_size: 16}"}, "space.yaml: the setting image_size"),
        ({"storage": "mysql://h/d"}, "not supported"),
        ({"timeout": "soon"}, "--timeout soon"),
        ({"pruner": "best"}, "--pruner: unknown 'best'"),
        ({"folds": 90}, "a split into 90 folds needs at least 90"),
        ({"space": Path("none.yaml")}, "no such file"),
        ({"suite_out": Path(__file__).parent}, "cannot be written"),
        ({"suite_out": Path(__file__) / "tuned.yaml"}, "cannot be written"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        tuning.prepare(request(tmp_path, **changes))
    assert words in str(error.value)


def test_a_study_with_folds_other_data_or_another_space_is_another(tmp_path):
    def name(**changes):
        return tuning.prepare(request(tmp_path, **changes))[0].name

    fewer = dataclasses.replace(OPTIONS, limit=150)
    names = [name(), name(folds=2), name(options=fewer), name(text=SPACE.replace("1e-2", "2e-2")), name(trials=9)]
    assert len(set(names)) == 4
    assert names[0] == names[-1]


@pytest.mark.parametrize("how", ["once", "twice"])
def test_a_printed_space_is_the_space_that_was_asked_for(tmp_path, how):
    asked = request(tmp_path, text=f"member: {{sampling: {how}}}")
    (tmp_path / "printed.yaml").write_text(tuning.space_text(asked))
    again = dataclasses.replace(asked, space=tmp_path / "printed.yaml")
    assert tuning.space_of(again).digest == tuning.space_of(asked).digest
    assert tuning.space_of(again).member.sampling == how


def test_the_command_ends_in_a_suite_figures_and_their_data(tmp_path, monkeypatch):
    monkeypatch.undo()  # the workers draw the faces themselves
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["tune", "--backbone", "baseline:mlp", "--data", "toyfaces", "--space", "space.yaml", "--limit", "150"]
    plain = CliRunner().invoke(cli.app, [*words, "--dry-run"])
    assert plain.exit_code == 0
    assert "inherit: false" in plain.stdout
    result = CliRunner().invoke(cli.app, [*words, "--trials", "2", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "every trial of the budget has ended: 2 trials ended" in result.stdout
    (folder,) = (tmp_path / "runs" / "tune").glob("baseline-mlp-*")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"history.svg", "slices.svg", "trials.json", "baseline-mlp.trials.json"}
    suite = config.load_suite(folder / "baseline-mlp.yaml")
    assert suite.suite == "tuned-baseline-mlp"
    assert suite.members[0].tuned is not None
    assert suite.members[0].tuned.trials == 2


def test_a_study_is_new_until_its_first_trial_began(tmp_path):
    asked = request(tmp_path, trials=1)
    plan, _, rows = tuning.prepare(asked)
    said: list[str] = []
    display: Any = SimpleNamespace(say=said.append)

    def broken(attempt):
        raise tune.FailedError("out of memory", "")

    with opened(plan) as this:
        tuning._introduce(this, rows, asked, display)
        tune.work(plan, broken, time.time(), lambda: False)
        tuning._introduce(this, rows, asked, display)
    assert said[0].endswith("tune.db: new")
    assert "1 trial in all; pruning: median, chosen for 1 trial;" in said[2]
    assert said[3].endswith("trials ended: 0, running: 0")
    assert "pruning: median, as the study began;" in said[5]
