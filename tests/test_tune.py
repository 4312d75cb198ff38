import contextlib
import dataclasses
import errno
import functools
import gc
import io
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console
from sqlalchemy.exc import OperationalError

from fer_bench import config, tune
from fer_bench.errors import UserError
from fer_bench.tune import alive, budget, display, families, figures, report, result, space, storage, suitefile, worker
from fer_bench.tune.claims import claim, reap
from fer_bench.tune.space import Dimension, Space
from fer_bench.tune.study import choose_pruner, make_pruner, opened

MEMBER = config.Member(name="default", backbone="baseline:mlp", pretrained=False)
LR = Dimension(low=1e-4, high=1e-1, log=True)
SMALL = Space(MEMBER, {"train.lr": (LR,)})


def plan_of(folder: Path, trials: int | None = None, seconds: float | None = None, **changes) -> tune.Plan:
    place = changes.pop("place", None) or tune.parse_storage(str(folder / "t.db"))
    plan = tune.Plan("toy", {"data": "none"}, SMALL, 4, place, folder, tune.Budget(trials, seconds))
    return dataclasses.replace(plan, **changes)


def score(attempt: tune.Attempt) -> float:
    """Best at a learning rate of 1e-2."""
    return 0.8 - 0.1 * abs(math.log10(float(attempt.values["train.lr"])) + 2)


def easy(attempt: tune.Attempt) -> tune.Outcome:
    for step in range(1, 5):
        attempt.report(step, score(attempt) * step / 4)
    value = score(attempt)
    return tune.Outcome(value, np.arange(100) < 100 * value, {"seconds": 1.0, "hardware": "an abacus"})


def work(plan: tune.Plan, objective: tune.Objective = easy) -> str:
    return tune.work(plan, objective, time.time(), lambda: False)


def points(plan: tune.Plan) -> list[float]:
    with opened(plan) as this:
        return [trial.params["train.lr"] for trial in this.trials()]


def attempt_of(state: str, start: float, end: float | None = None, **notes):
    """A trial as the storage would give it."""
    kind = {"complete": TrialState.COMPLETE, "running": TrialState.RUNNING}.get(state, TrialState.FAIL)
    seen = {} if end is None else {"seen": end}
    value = 0.5 if state == "complete" else None
    return create_trial(state=kind, user_attrs={"started": start, "notes": notes} | seen, value=value)


# ---- spaces


def test_a_default_space_holds_its_default_setting_and_changes_with_it():
    moved = tune.default_space("resnet34", frozenset(), {"train": {"lr": 0.05}, "image_size": 64})
    assert moved.complete({})["train.lr"] == 0.05
    adamw, sgd = moved.dimensions["train.lr"]
    assert (adamw.low, adamw.high) == (1e-4, 0.1)
    assert (sgd.low, sgd.high) == (5e-3, 0.2)
    assert moved.dimensions["image_size"][0].choices == (48, 64, 80)


@pytest.mark.parametrize(
    ("backbone", "family"),
    [
        ("resnet34", "residual"),
        ("tf_efficientnet_lite0", "efficient"),
        ("vgg16_bn.tv_in1k", "plain"),
        ("convnext_tiny", "convnext"),
        ("vit_small_patch16_224", "transformer"),
        ("mixer_b16_224", "transformer"),
        ("hiera_tiny_224", "transformer"),
        ("efficientformerv2_s0", "transformer"),
        ("nextvit_small", "convnext"),
        ("caformer_s18", "convnext"),
        ("efficientnet_b0", "efficient"),
        ("resnest14d", "residual"),
        ("resnet50_mlp", "residual"),
        ("baseline:cnn", "baseline"),
        ("torchvision:googlenet", "residual"),
        ("torchvision:convnext_tiny", "convnext"),
    ],
)
def test_families(backbone, family):
    assert families.family_of(backbone) == family
    space = tune.default_space(backbone, frozenset(families.DROP_RATES))
    assert space.dimensions["train.lr"]
    if backbone.startswith("torchvision:"):
        assert "train.layer_decay" not in space.dimensions
        assert space.member.train.layer_decay == 1


def test_drop_rates_are_searched_where_the_backbone_has_them():
    keys = tune.default_space("resnet34", frozenset({"drop_rate"})).dimensions.keys()
    assert "options.drop_rate" in keys
    assert "options.drop_path_rate" not in keys


def test_a_condition_picks_the_dimension():
    both = (
        Dimension(low=1e-4, high=1e-2, log=True, when={"train.optimizer": "adamw"}),
        Dimension(low=1e-2, high=1.0, log=True, when={"train.optimizer": "sgd"}),
    )
    found = Space(MEMBER, {"train.lr": both, "train.optimizer": (Dimension(choices=("adamw", "sgd")),)})
    values = found.complete({"train.optimizer": "sgd", "train.lr": 0.5})
    assert found.parameters(values)[0] == {"train.optimizer": "sgd", "train.lr[sgd]": 0.5}
    assert space.values_of({"train.lr[sgd]": 0.5}) == {"train.lr": 0.5}


def test_strength_multiplies_the_augmentation():
    member = MEMBER.model_copy(update={"augment": config.Augment(shift=0.1, rotate=120, flip=0.5)})
    found = tune.member_with(member, {"augment.strength": 2.0, "train.lr": 0.5})
    assert (found.augment.shift, found.augment.rotate, found.augment.flip) == (0.2, 180, 0.5)
    assert found.train.lr == 0.5


def test_a_sampled_number_is_short_and_stays_inside():
    assert LR.tidy(0.0012345) == 0.00123
    assert Dimension(low=0.12345, high=1.0).tidy(0.123451) == 0.12345


SPACE = """
member: {image_size: 64, train: {epochs: 3}}
space:
  train.lr: {low: 1e-4, high: 1e-2, log: true}
  train.ema: 0.9
  image_size: null
known:
  - {train.lr: 2e-3}
"""


def laid_over(tmp_path: Path, text: str) -> Space:
    (tmp_path / "s.yaml").write_text(text)
    changes = tune.load_file(tmp_path / "s.yaml")
    return tune.lay_over(tune.default_space("resnet18", frozenset(), changes.member), changes)


def test_a_file_fixes_changes_and_adds(tmp_path):
    found = laid_over(tmp_path, SPACE)
    assert found.member.train.ema == 0.9
    assert (found.member.image_size, found.member.train.epochs) == (64, 3)
    assert "train.ema" not in found.dimensions
    assert "image_size" not in found.dimensions
    assert "train.mixup" in found.dimensions
    assert found.dimensions["train.lr"] == (Dimension(low=1e-4, high=1e-2, log=True),)
    assert found.known == ({"train.lr": 2e-3},)
    assert set(laid_over(tmp_path, SPACE + "inherit: false").dimensions) == {"train.lr"}


def test_the_way_faces_are_sampled_can_be_searched_or_fixed(tmp_path):
    assert tune.default_space("resnet18", frozenset()).member.sampling == "once"
    assert "sampling" not in tune.default_space("resnet18", frozenset()).dimensions
    searched = laid_over(tmp_path, "space: {sampling: {choices: [once, twice]}}")
    assert tune.member_with(searched.member, searched.complete({"sampling": "twice"})).sampling == "twice"
    assert laid_over(tmp_path, "space: {sampling: twice}").member.sampling == "twice"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "space: {sampling: {choices: [once, thrice]}}",
            "space.sampling: the setting sampling: Input should be 'twice' or 'once'",
        ),
        ("space: {train.lr: {low: 1, high: 1e-3}}", "space.train.lr: low must lie below high"),
        ("space: {train.lr: {low: 0, high: 1, log: true}}", "log scale needs low above 0"),
        ("space: {train.lr: {low: 1e-3}}", "needs low and high, or choices"),
        ("space: {train.batch_size: {low: 16.5, high: 64, integer: true}}", "needs whole numbers, found low 16.5"),
        ("{inherit: false, member: {image_size: 64}}", "space: nothing is left to search"),
        ("space: {train.lr: {choices: [1e-3, 1e-3]}}", "choices must differ"),
        ("space: {train.lr: {lo: 1e-3, high: 1}}", "space.train.lr: lo: unknown key; did you mean 'low'?"),
        ("space: {train.rl: {low: 1e-3, high: 1}}", "space.train.rl: no such key"),
        ("space: {train.epochs: {choices: [1, 2]}}", "space.train.epochs: set it under member"),
        (
            "space: {train.ema: {low: 0.5, high: 1.5}}",
            "space.train.ema: the setting train.ema: Input should be less than 1",
        ),
        ("space: {train.lr: {low: 0.1, high: 1}}", "member.train.lr: 0.0005 lies outside"),
        ("space: {train.lr: [{low: 1e-4, high: 1}, {low: 1e-3, high: 1}]}", "each need a when"),
        ("space: {train.lr: {low: 1e-4, high: 1, when: {train.what: 1}}}", "space.train.lr.when: train.what"),
        ("space: {options.rate: {low: 0, high: 1}}", "member.options.rate: the default setting must give it"),
        ("known: [{train.momentum: 0.5}]", "known.train.momentum: not searched"),
        ("known: [{train.lr: 7}]", "known.train.lr: 7 lies outside"),
        ("{space: {}, spice: 1}", "spice: unknown key"),
        ("member: {name: a}", "member.name: comes from the command"),
        ("member: {train: {lr: fast}}", "train.lr"),
        ("- 1", "a space file is a mapping"),
    ],
)
def test_a_mistake_in_a_space_is_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        laid_over(tmp_path, text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_another_space_is_another_study_and_known_settings_are_not(tmp_path):
    plan = plan_of(tmp_path, 1)
    wider = dataclasses.replace(SMALL, dimensions={"train.lr": (Dimension(low=1e-5, high=1e-1, log=True),)})
    assert dataclasses.replace(plan, space=wider).name != plan.name
    assert dataclasses.replace(plan, space=dataclasses.replace(SMALL, known=({"train.lr": 0.01},))).name == plan.name


def test_a_new_study_tells_of_the_nearest_other_one(tmp_path):
    plan = plan_of(tmp_path, 1, question={"data": "a" * 64})
    wider = dataclasses.replace(SMALL, dimensions={"train.lr": (Dimension(low=1e-5, high=1e-1, log=True),)})
    work(plan)
    with opened(dataclasses.replace(plan, question={"data": "b" * 64}, space=wider)):
        pass
    with opened(dataclasses.replace(plan, question={"data": "b" * 64})) as this:
        line = tune.nearest_other(this) or ""
    assert "(0 trials ended) differs in space.train.lr: " in line
    assert line.endswith("; further ones: 1")
    with opened(dataclasses.replace(plan, question={"data": "c" * 64}, title="toy-2")) as this:
        assert tune.nearest_other(this) is None
    with opened(dataclasses.replace(plan, question={"data": "b" * 64}, title="toy-2")) as this:
        line = tune.nearest_other(this) or ""
    assert line.endswith(f'(0 trials ended) differs in data: "{"c" * 12}" -> "{"b" * 12}"')


# ---- storages


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://a:secret@h/d", "mysql:// is not supported"),
        ("sqlite:///:memory:", "needs a file"),
        ("postgresql://a:secret@h", "names no database"),
        ("postgresql://a:secret@h:port/d", "not a valid"),
        ("postgresql://a:12/secret@h/d", "not a valid"),
        ("postgresql://a:12?secret@h/d", "not a valid"),
        ("postgresql://a:12#secret@h/d", "not a valid"),
        ("study", "cannot tell what this is"),
    ],
)
def test_a_wrong_storage_is_named_without_its_password(text, words):
    with pytest.raises(UserError) as error:
        tune.parse_storage(text)
    assert words in str(error.value) or "psycopg" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_password_is_never_shown():
    pytest.importorskip("psycopg")
    place = tune.parse_storage("postgresql://me:p%40ss@host:5433/db?sslpassword=p%40ss")
    assert "p%40ss" in place.address
    assert "p%40ss" not in repr(place) + place.shown
    assert storage.reason(place, ValueError("cannot log in with p@ss at p%40ss")) == "cannot log in with *** at ***"


@pytest.mark.parametrize("text", ["a/b.db", "sqlite:///a/b.db", "a/b.sqlite3"])
def test_sqlite_in_every_form(text):
    place = tune.parse_storage(text)
    assert (place.kind, place.path and place.path.parent) == ("sqlite", Path("a"))


MOUNTS = """25 1 8:1 / / rw - ext4 /dev/sda1 rw
30 25 0:40 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/me/with\\040space rw - xfs /dev/sdb1 rw
32 25 0:50 / /mnt rw - fuse.sshfs me@host: rw
"""


def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    kinds = {
        "/data/a.db": "ext4",
        "/home/me/a.db": "nfs4",
        "/home/me/with space/a.db": "xfs",
        "/mnt/x/a.db": "fuse.sshfs",
    }
    assert {path: storage.file_system(Path(path), mounts) for path in kinds} == kinds
    assert storage.file_system(Path("/a"), tmp_path / "none") is None
    monkeypatch.setattr(storage, "file_system", lambda path: kinds[str(path)])
    for path in ("/home/me/a.db", "/mnt/x/a.db"):
        with pytest.raises(UserError, match="network file system"):
            tune.parse_storage(path)
    tune.parse_storage("/data/a.db")


@pytest.mark.parametrize("torn", [b"", b'{"op_co', b"x" * 200_000])
def test_a_torn_journal_is_cut_to_its_last_whole_line(tmp_path, torn):
    path = tmp_path / "t.journal"
    path.write_bytes(b'{"a":1}\n{"b":2}\n' + torn)
    assert storage.mend(path) == len(torn)
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n'
    path.write_bytes(torn)
    assert storage.mend(path) == len(torn)


def test_a_study_goes_on_in_a_torn_journal(tmp_path):
    plan = plan_of(tmp_path, 2, place=tune.parse_storage(str(tmp_path / "t.journal")))
    work(plan)
    with open(tmp_path / "t.journal", "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"abc","stu')
    more = dataclasses.replace(plan, budget=tune.Budget(4))
    assert work(more) == "done"
    assert len(set(points(more))) == 4


@pytest.mark.parametrize("name", ["t.db", "t.journal"])
def test_a_file_that_is_no_storage_is_a_users_mistake(tmp_path, name):
    (tmp_path / name).write_text("hello there, this is a text\n" * 50)
    with pytest.raises(UserError, match="cannot be used"):
        work(plan_of(tmp_path, 1, place=tune.parse_storage(str(tmp_path / name))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Optuna leaves the connection of a storage that it refuses
        gc.collect()


def test_a_mark_lives_as_long_as_its_block(tmp_path):
    assert alive.is_alive(tmp_path, 3) is None
    with alive.mark(tmp_path, 3):
        assert alive.is_alive(tmp_path, 3) is True
    assert alive.is_alive(tmp_path, 3) is None
    next(iter([alive._file(tmp_path, 4)])).touch()
    assert alive.is_alive(tmp_path, 4) is False


def test_where_files_cannot_be_locked_heartbeats_must_tell(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(alive.fcntl, "flock", refuse)
    with alive.mark(tmp_path, 3):
        assert alive.is_alive(tmp_path, 3) is None


# ---- budgets


def test_seconds_are_those_in_which_anyone_worked():
    trials = [
        attempt_of("complete", 0, 10),
        attempt_of("complete", 5, 12),
        attempt_of("failed", 100, 101),
        attempt_of("complete", 6, 7),
        attempt_of("running", 200),
    ]
    assert budget.seconds_spent(trials, now=230) == 12 + 1 + 30


def test_failures_in_a_row():
    bad = [attempt_of("failed", i, i, reason="out of memory") for i in (1, 2, 3)]
    stopped = attempt_of("failed", 4, 5, reason=budget.STOPPED)
    lost = attempt_of("failed", 5, 6)
    good = attempt_of("complete", 6, 7)
    assert len(budget.failures_in_a_row([*bad, stopped, lost], since=0)) == 4
    assert len(budget.failures_in_a_row([*bad, stopped, lost], since=2)) == 3
    assert budget.failures_in_a_row([*bad, good], since=0) == []


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("8h", 28_800), ("3600", 3600), ("1.5d", 129_600)])
def test_times(text, seconds):
    assert tune.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "0", "nan", "inf", "ten"])
def test_no_times(text):
    with pytest.raises(UserError, match="--timeout"):
        tune.parse_seconds(text)


@pytest.mark.parametrize(("steps", "first"), [(5, 2), (8, 2), (20, 5), (1, 1)])
@pytest.mark.parametrize("name", ["median", "halving"])
def test_the_first_quarter_prunes_nobody(name, steps, first):
    study = optuna.create_study(direction="maximize", pruner=make_pruner(name, steps))
    for _ in range(9):
        good = study.ask()
        for step in range(1, steps + 1):
            good.report(1.0, step)
            assert not good.should_prune()
        study.tell(good, 1.0)
    bad = study.ask()
    pruned = []
    for step in range(1, steps + 1):
        bad.report(0.0, step)
        pruned.append(bad.should_prune())
    assert not any(pruned[: first - 1])
    assert steps == 1 or any(pruned[: 2 * first])


@pytest.mark.parametrize(
    ("trials", "pruner"),
    [(1, "median"), (19, "median"), (20, "halving"), (59, "halving"), (60, "hyperband"), (None, "median")],
)
def test_the_pruner_follows_from_the_number_of_trials(trials, pruner):
    assert choose_pruner(trials) == pruner
    assert make_pruner(pruner, 8) is not None


# ---- studies in one process


def test_one_trial_is_the_default_setting(tmp_path):
    plan = plan_of(tmp_path, 1)
    assert work(plan) == "done"
    assert points(plan) == [MEMBER.train.lr]


def test_a_restart_proposes_what_one_go_would_have_and_nothing_twice(tmp_path):
    once = plan_of(tmp_path / "a", 9)
    work(once)
    for trials in (2, 3, 9, 9):
        again = plan_of(tmp_path / "b", trials)
        assert work(again) == "done"
    assert points(again) == points(once)
    assert len(set(points(once))) == 9


def test_known_settings_come_first_and_are_never_pruned(tmp_path):
    known = dataclasses.replace(SMALL, known=({"train.lr": 2e-4},))
    plan = plan_of(tmp_path, 12, space=known, pruner="halving")
    work(plan)
    with opened(plan) as this:
        trials = this.trials()
    assert [trial.params["train.lr"] for trial in trials[:2]] == [1e-3, 2e-4]
    assert [trial.state.name for trial in trials[:2]] == ["COMPLETE", "COMPLETE"]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all("by halving" in trial.user_attrs["notes"]["message"] for trial in pruned)
    assert all(3 * max(trial.intermediate_values) <= 2 * plan.steps for trial in pruned)


def test_a_space_without_further_points_ends_the_study(tmp_path):
    three = Space(MEMBER, {"train.lr": (Dimension(choices=(1e-3, 1e-2, 1e-1)),)})
    plan = plan_of(tmp_path, 10, space=three)
    assert work(plan) == "exhausted"
    assert sorted(points(plan)) == [1e-3, 1e-2, 1e-1]


def test_hyperband_runs(tmp_path):
    assert work(plan_of(tmp_path, 6, pruner="hyperband")) == "done"


def test_ten_failures_in_a_row_stop_and_a_restart_tries_again(tmp_path):
    def broken(attempt):
        raise tune.FailedError("out of memory", f"tried to allocate 9.{attempt.number} GiB for {attempt.key}")

    plan = plan_of(tmp_path, 3)
    assert work(plan, broken) == "failures"
    with opened(plan) as this:
        trials, found = this.trials(), tune.conclude(this)
    assert budget.tally(trials) == budget.Tally(failed=10)
    assert found.best is None
    said = report.lines(found, "failures", trials)
    assert said[-1].startswith("failed 10 x, first in trial 0: out of memory: tried to allocate 9.0 GiB for ")
    assert len(set(points(plan))) == 10
    assert work(plan) == "done"
    assert points(plan)[10] == MEMBER.train.lr, "the result needs the default setting, so it is tried again"
    assert len(set(points(plan))) == 12


def test_divergence_is_a_result_and_an_odd_error_is_not(tmp_path, monkeypatch):
    monkeypatch.delenv("FER_BENCH_DEBUG", raising=False)

    def odd(attempt):
        if attempt.number == 0:
            raise tune.HopelessError("the loss had no finite value")
        if attempt.number == 1:
            raise ZeroDivisionError("division by zero")
        return easy(attempt)

    plan = plan_of(tmp_path, 2)
    work(plan, odd)
    with opened(plan) as this:
        first, second, third = this.trials()
    assert (first.state.name, first.user_attrs["notes"]["reason"]) == ("PRUNED", "diverged")
    assert second.user_attrs["notes"] == {"reason": "infrastructure", "message": "ZeroDivisionError: division by zero"}
    assert third.state.name == "COMPLETE"


def test_the_time_holds_over_restarts_and_the_stopped_point_goes_on(tmp_path):
    seen = []

    def slow(attempt, seconds):
        seen.append(attempt.key)
        attempt.report(1, 0.5)
        end = time.time() + seconds
        while time.time() < end:
            if attempt.should_stop():
                raise tune.StoppedError
            time.sleep(0.02)
        return tune.Outcome(0.5)

    plan = plan_of(tmp_path, None, 1.6)
    assert work(plan, functools.partial(slow, seconds=60)) == "time"
    assert work(plan, functools.partial(slow, seconds=60)) == "time"
    assert len(seen) == 1
    more = dataclasses.replace(plan, budget=tune.Budget(1, 60))
    assert work(more, functools.partial(slow, seconds=0)) == "done"
    assert seen[0] == seen[1]
    with opened(more) as this:
        stopped, again = this.trials()
    assert (budget.state(stopped), again.user_attrs["retry_of"], again.user_attrs["retries"]) == ("stopped", 0, 0)
    assert again.intermediate_values == {1: 0.5}


def die_in_a_trial(plan: tune.Plan) -> int:
    """Claim a point and leave what a killed process leaves: a running trial and a mark that nobody holds."""
    with opened(plan) as this:
        with contextlib.ExitStack() as held:
            found = claim(this, time.time(), held)
            assert not isinstance(found, str)
            number = found[0].number
        alive._file(plan.folder / "alive", number).touch()
    return number


def test_a_point_is_tried_three_times_before_it_is_given_up(tmp_path):
    plan = plan_of(tmp_path, 1)
    assert [die_in_a_trial(plan) for _ in range(3)] == [0, 1, 2]
    assert work(plan) == "done"
    with opened(plan) as this:
        *lost, last = this.trials()
    assert [budget.state(trial) for trial in lost] == ["lost"] * 3
    assert [trial.user_attrs.get("retries", 0) for trial in lost] == [0, 1, 2]
    assert len({trial.params["train.lr"] for trial in lost}) == 1
    assert last.params != lost[0].params
    assert "retry_of" not in last.user_attrs


def test_what_was_lost_or_stopped_goes_on_before_anything_new(tmp_path):
    known = dataclasses.replace(SMALL, known=({"train.lr": 2e-4},))
    plan = plan_of(tmp_path, 1, space=known)
    die_in_a_trial(plan)
    assert work(plan) == "done"
    with opened(plan) as this:
        trials = this.trials()
    assert [budget.state(trial) for trial in trials] == ["lost", "complete"]
    assert points(plan) == [MEMBER.train.lr] * 2
    assert trials[1].user_attrs["origin"] == "default"


def test_a_claim_that_died_half_way_is_no_zombie(tmp_path):
    plan = plan_of(tmp_path, 1)
    with opened(plan) as this, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        this.study.ask()  # and then the process is gone, before it said so
    assert work(plan) == "done"
    with opened(plan) as this:
        assert budget.tally(this.trials()) == budget.Tally(complete=1, lost=1)


def test_a_worker_that_was_given_up_for_dead_leaves_its_trial_alone(tmp_path):
    plan = plan_of(tmp_path, 1)

    def late(attempt):
        if attempt.number == 0:
            with opened(plan) as other:
                other.study.tell(0, state=TrialState.FAIL)
        return easy(attempt)

    assert work(plan, late) == "done"
    with opened(plan) as this:
        assert budget.tally(this.trials()) == budget.Tally(complete=1, lost=1)


def test_a_storage_that_is_away_for_a_while_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", (0, 0))
    answers = [OperationalError("SELECT", {}, Exception("server closed the connection"))] * 2
    ask = worker.claim

    def claim_later(*args):
        if answers:
            raise answers.pop()
        return ask(*args)

    monkeypatch.setattr(worker, "claim", claim_later)
    plan = plan_of(tmp_path, 1)
    assert work(plan) == "done"
    answers += [OperationalError("SELECT", {}, Exception("server closed the connection"))] * 3
    with pytest.raises(UserError, match=r"does not answer \(.*server closed"):
        work(dataclasses.replace(plan, budget=tune.Budget(2)))


def test_a_trial_that_ends_while_the_dead_are_looked_for_is_left_alone(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, 2)
    with opened(plan) as this, contextlib.ExitStack() as held:
        found = claim(this, time.time(), held)
        assert not isinstance(found, str)
        trials = this.trials()
        this.study.tell(found[0], 0.5)
        monkeypatch.setattr(type(this), "trials", lambda self: trials)  # as they were a moment ago
        reap(this)
    monkeypatch.undo()
    with opened(plan) as this:
        assert budget.tally(this.trials()) == budget.Tally(complete=1)


# ---- the end


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[tune.Plan, tune.Result, list]:
    """A study of eight trials; read it only."""
    plan = plan_of(tmp_path_factory.mktemp("study"), 8)
    work(plan)
    with opened(plan) as this:
        return plan, tune.conclude(this), this.trials()


def test_the_best_is_compared_with_the_default_row_by_row(finished):
    plan, found, _ = finished
    more = round(100 * found.best.value) - 70  # the default setting has 0.7, and its rows are among them
    assert found.comparison.difference == pytest.approx(more / 100, abs=0.011)
    assert found.comparison.p == pytest.approx(min(1, 2 * 0.5 ** round(100 * found.comparison.difference)))
    assert "train.lr" in {row[0] for row in report.settings(found, plan.space)}


def test_a_setting_that_only_reaches_the_default_one_is_not_the_best():
    trials = [create_trial(value=value, user_attrs={"origin": origin}) for value, origin in TIED]
    for number, trial in enumerate(trials):
        trial.number = number
    assert result.best_of(trials) is trials[3]
    assert result.best_of(trials[:3]) is trials[1]
    assert result.best_of([]) is None


TIED = [(0.3, "known"), (0.5, "sampled"), (0.5, "sampled"), (0.5, "default"), (0.4, "sampled")]


def scored(values: list[float]):
    """A study in memory whose trials have these values; ``a`` follows them and ``b`` does not."""
    study = optuna.create_study(direction="maximize")
    wide = optuna.distributions.FloatDistribution(0, 1)
    for number, value in enumerate(values):
        params = {"a": value, "b": number * 0.618 % 1}
        study.add_trial(create_trial(value=value, params=params, distributions=dict.fromkeys("ab", wide)))
    return study


def test_the_parameter_that_decides_is_the_important_one():
    found = result.importances(scored([number / 20 for number in range(20)]), 20)
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] > 5 * found["b"]


@pytest.mark.parametrize("values", [[0.5] * 20, [0.1 * number for number in range(9)]])
def test_importances_are_left_out_where_they_would_be_noise(values):
    assert result.importances(scored(values), len(values)) == {}


def test_masks_survive_as_text():
    mask = np.random.default_rng(0).random(1001) < 0.5
    assert (worker.unpack(worker.pack(mask), 1001) == mask).all()


def test_the_suite_holds_both_settings_in_full(tmp_path, finished):
    plan, found, found_trials = finished
    facts = suitefile.Facts(Path("suites/tuned/toy.yaml"), "toy", "fer2013", "a holdout", "an abacus", "an hour")
    text = suitefile.suite_text(found, plan.space, facts)
    (tmp_path / "toy.yaml").write_text(text)
    suite = config.load_suite(tmp_path / "toy.yaml")
    other = next(trial for trial in found_trials if trial not in (found.best, found.default))
    (tmp_path / "b.yaml").write_text(suitefile.suite_text(dataclasses.replace(found, best=other), plan.space, facts))
    longer = config.load_suite(tmp_path / "b.yaml")
    assert (suite.suite, suite.seeds) == ("tuned-toy", (1, 2, 3))
    tuned, default = suite.members
    assert tuned.tuned == config.Tuned(study=plan.digest[:16], trials=8)
    assert tuned.train.lr == found.best.params["train.lr"]
    assert config.identity_of(default) == config.identity_of(MEMBER)
    assert len({member.name for member in (*suite.members, *longer.members)}) == 3, "another setting, another name"
    assert longer.members[1] == default
    assert plan.digest in text
    assert "8 trials" in text
    assert max(map(len, text.splitlines())) <= 120


def test_where_nothing_beats_the_default_the_suite_says_so(tmp_path, finished):
    plan, found, _ = finished
    found = dataclasses.replace(found, best=found.default)
    assert found.default_won
    facts = suitefile.Facts(tmp_path / "toy.yaml", "toy", "fer2013", "a holdout", "an abacus", "an hour")
    text = suitefile.suite_text(found, plan.space, facts)
    (tmp_path / "toy.yaml").write_text(text)
    assert len(config.load_suite(tmp_path / "toy.yaml").members) == 1
    assert "no trial beat" in " ".join(text.split())


def test_figures_are_drawn_from_plain_data_alike_each_time(finished):
    plan, _, trials = finished
    rows = json.loads(json.dumps(result.rows(trials)))
    drawn = figures.draw_all(rows, plan.space.dimensions, {"train.lr": 1.0})
    assert set(drawn) == {"history.svg", "slices.svg", "importances.svg"}
    assert drawn == figures.draw_all(rows, plan.space.dimensions, {"train.lr": 1.0})
    assert figures.draw_all([], plan.space.dimensions, {}) == {}


def test_what_people_see(tmp_path):
    plan = plan_of(tmp_path, 4)
    said: list[str] = []
    lines = display.Lines(plan, said.append)
    with opened(plan) as this:
        lines.show(this.trials())
        work(plan, lambda attempt: easy(attempt) if attempt.number else _diverge())
        lines.show(this.trials())
        assert "4 of 4 ended, 1 of them pruned, 0 running" in display.standing(plan, this.trials(), time.time())
        seen = io.StringIO()
        Console(width=90, file=seen).print(display.table(plan, this.trials(), time.time()))
    rows = [line.split() for line in seen.getvalue().splitlines()]
    assert rows[1][:5] == ["trial", "state", "step", "value", "time"]
    assert {row[1] for row in rows[2:5]} == {"complete"}
    assert sorted((float(row[3]) for row in rows[2:5]), reverse=True) == [float(row[3]) for row in rows[2:5]]
    assert rows[5][:4] == ["0", "pruned", "0/4", "-"]
    assert said[:2] == ["trial 0 begins: the default setting", "trial 0 diverged: too far (0:00:00)"]
    assert said[3].startswith("trial 1 begins: lr ")
    assert said[4].startswith("trial 1 has ")
    assert not any("left" in line for line in said)


def test_the_time_left_follows_from_all_steps_done(tmp_path):
    plan = plan_of(tmp_path, 5)
    half_done = attempt_of("running", 90)
    half_done.intermediate_values = {1: 0.1, 2: 0.2}
    trials = [attempt_of("complete", 0, 10), attempt_of("complete", 100, 120), half_done]
    assert display.seconds_left(plan, trials, now=130) == pytest.approx(50 / 2.5 * 2.5)
    timed = dataclasses.replace(plan, budget=tune.Budget(5, 60))
    assert display.seconds_left(timed, trials, now=130) == 10
    assert display.seconds_left(plan, trials[2:], now=100) == pytest.approx(10 / 0.5 * 4.5)
    assert display.seconds_left(plan, [attempt_of("running", 90)], now=100) is None


def _diverge() -> tune.Outcome:
    raise tune.HopelessError("too far")
