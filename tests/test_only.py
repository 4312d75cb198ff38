"""``run --member NAME``: some members of a suite, and the ensembles that they take part in."""

import io

import pytest
from rich.console import Console

from fer_bench import leaderboard, records
from fer_bench.config import load_suite
from fer_bench.errors import UserError
from fer_bench.suite import members
from fer_bench.suite.budget import Budget
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import dry_run, run

pytestmark = pytest.mark.usefixtures("drawn_once")

SUITE = """
suite: tiny
data: toyfaces
defaults: {pretrained: false, backbone: "baseline:mlp", train: {epochs: 1, batch_size: 32}, views: [none]}
members:
  - {name: one}
  - {name: two, train: {lr: 2e-3}}
  - {name: three, train: {lr: 3e-3}}
ensembles:
  - {name: first, members: [one, two], views: [none]}
  - {name: last, members: [two, three], views: [none]}
"""


class Place:
    def __init__(self, folder, trained):
        self.folder, self.trained, self.board = folder, trained, folder / "runs" / "tiny-limit70"

    def options(self, *names, **more):
        return Options(runs_dir=self.folder / "runs", limit=70, device="cpu", members=names, **more)

    def suite(self, text=SUITE):
        path = self.folder / "tiny.yaml"
        path.write_text(text)
        return path

    def run(self, *names, text=SUITE, **more):
        """Run these members; returns the outcome and what was said."""
        self.trained.clear()
        said = io.StringIO()
        display = Display(console=Console(file=said, width=200, soft_wrap=True))
        return run(self.suite(text), self.options(*names, **more), display, lambda: False), said.getvalue()

    def there(self):
        return sorted(records.stem_of(record) for record in records.load_all(self.board))

    def written(self):
        return {path.stem: path.stat().st_mtime_ns for path in (self.board / "results").iterdir()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    trained: list[str] = []
    real = members.fit
    monkeypatch.setattr(
        members,
        "fit",
        lambda job, *a, **k: trained.append(f"{job.member.name}.s{job.seed}") or real(job, *a, **k),  # type: ignore[func-returns-value]
    )
    return Place(tmp_path, trained)


def test_members_one_by_one_end_like_the_suite(place):
    outcome, said = place.run("two")
    assert place.there() == ["two.s0"]
    assert outcome.is_whole
    assert "tiny.yaml: 1 member, 1 seed" in said
    assert "first: not built, it lacks one seed 0" in said
    assert "last: not built, it lacks three seed 0" in said
    outcome, said = place.run("one")
    assert place.there() == ["first", "one.s0", "two.s0"]
    assert [record["name"] for record in outcome.records] == ["one", "first"]
    assert "last" not in said
    place.run("three", "two")
    assert place.trained == ["three.s0"]
    by_parts = {record["name"]: record["run_id"] for record in records.load_all(place.board)}
    place.run()
    assert place.trained == []
    assert {record["name"]: record["run_id"] for record in records.load_all(place.board)} == by_parts
    assert leaderboard.check(place.board) == []
    (place.board / "results" / "two.s0.json").unlink()
    _, said = place.run("one")
    assert "first: left as it is, it lacks two seed 0" in said
    rows = dry_run(place.suite(), place.options("one"), Display(quiet=True))
    assert rows[-1]["does"] == "left as it is: two seed 0 is missing"


def test_force_redoes_the_member_and_its_ensembles_alone(place):
    place.run()
    before = place.written()
    place.run("one", force=True)
    assert place.trained == ["one.s0"]
    assert {name for name, time in place.written().items() if time != before[name]} == {"one.s0", "first"}
    assert leaderboard.check(place.board) == []


def test_a_changed_member_is_redone_by_itself_and_its_ensembles_follow(place):
    place.run()
    text = SUITE.replace("lr: 3e-3", "lr: 4e-3")
    with pytest.raises(UserError, match="or use --member three --force to redo it"):
        place.run(text=text)
    place.run("three", text=text, force=True)
    assert place.trained == ["three.s0"]
    ids = {record["name"]: record["run_id"] for record in records.load_all(place.board)}
    last = records.called(place.board, "last")
    assert [source["run_id"] for source in last["members"]] == [ids["two"], ids["three"]]


def test_a_seed_picks_runs_and_leaves_the_meaning_of_the_ensembles(place):
    place.run(text=SUITE.replace("data:", "seeds: [0, 1]\ndata:"))
    place.run("one", text=SUITE.replace("data:", "seeds: [0, 1]\ndata:"), seeds=(1,), force=True)
    assert place.trained == ["one.s1"]
    assert [(m["name"], m["seed"]) for m in records.called(place.board, "first")["members"]] == [
        ("one", 0),
        ("one", 1),
        ("two", 0),
        ("two", 1),
    ]


def test_jobs_budget_and_dry_run_are_of_the_members_alone(place):
    rows = dry_run(place.suite(), place.options("three", "one"), Display(quiet=True))
    assert [row["name"] for row in rows] == ["one", "three", "first", "last"]
    assert all(row["does"].startswith("not built: two seed 0") for row in rows[2:])
    assert [row["name"] for row in dry_run(place.suite(), place.options("one"), Display(quiet=True))] == [
        "one",
        "first",
    ]
    outcome, _ = place.run("three", budget=Budget(0.0))
    assert list(outcome.left) == ["three seed 0"]
    assert not outcome.is_whole


def test_other_members_need_not_be_there(place):
    """A backbone that does not exist stops a suite, and not the members beside it."""
    text = SUITE.replace("{name: three,", "{name: three, backbone: resnet999,")
    with pytest.raises(UserError, match="resnet999"):
        place.run(text=text)
    place.run("one", text=text)
    assert place.trained == ["one.s0"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("thre", "--member: tiny has no member 'thre'; did you mean 'three'?"),
        ("one.s0", "--member: tiny has no member 'one.s0'; did you mean 'one'?"),
        ("zzz", "--member: tiny has no member 'zzz'; there are one, two, three"),
        ("last", "--member: 'last' is an ensemble of tiny; `fer-bench ensemble` builds those from their members"),
    ],
)
def test_a_name_that_the_suite_lacks_is_one_line(place, name, hint):
    with pytest.raises(UserError) as caught:
        load_suite(place.suite()).with_only(["one", name])
    assert str(caught.value) == hint
