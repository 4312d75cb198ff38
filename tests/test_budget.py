from dataclasses import dataclass, field

import pytest

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.suite.budget import Budget, Pace, seconds_of
from fer_bench.suite.plan import Run
from fer_bench.suite.schedule import Schedule


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("45s", 45),
        ("9m", 540),
        ("1h30m", 5400),
        ("1h", 3600),
        ("1h1m1s", 3661),
        ("0.5h", 1800),
        ("2m5s", 125),
    ],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "9x", "m", "9m1h", "1:30", "nan", "1e3", "9 m", "1h30"])
def test_other_durations_are_refused(text):
    with pytest.raises(UserError, match="no time above 0"):
        seconds_of(text)


def test_a_pace_leaves_out_the_first_steps():
    pace = Pace()
    seen = [pace.left(done, 105, now) for done, now in [(1, 9.0), (2, 18.0), (5, 20.0), (6, 21.0), (10, 22.0)]]
    assert seen == [None] * 5  # from step 5 on, five steps but only two seconds
    assert pace.left(15, 105, 25.0) == pytest.approx((25 - 20) / 10 * 90)


class Clock(Budget):
    """A budget whose time is set by hand."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.hand = [seconds]

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)

    def left(self):
        return self.hand[0]


@dataclass
class Known:
    """What runs take, by name; asked for a run in ``hidden`` it has to measure first."""

    takes: dict[str, float]
    finished: set[str] = field(default_factory=set)
    measured: list[str] = field(default_factory=list)
    beside: int = 0

    def known(self, run):
        if run.state == "done" or run.run_id in self.finished:
            return 0.0
        return self.takes[run.member.name] if run.member.name in self.measured else None

    def seconds(self, run):
        self.measured.append(run.member.name)
        return self.takes[run.member.name]

    def note_finished(self, run):
        self.finished.add(run.run_id)

    def learn(self, run, seconds, share):
        self.takes[run.member.name] = seconds / share


def made(name, state="new", same_as=None):
    member = Member(name=name, backbone="baseline:mlp", pretrained=False)
    return Run(member, 0, None, {"run": same_as or name}, state)


def schedule(left, runs=None, **takes):
    clock = Clock(left)
    return Schedule(runs or [made(name) for name in takes], clock, Known(takes)), clock


def names(plan, **words):
    found = []
    while (run := plan.take(**words)) is not None:
        found.append(run.member.name)
    return found


def test_without_a_budget_the_order_is_the_plans():
    runs = [made("b"), made("a", "done"), made("c")]
    assert names(Schedule(list(runs))) == ["b", "a", "c"]


def test_order_of_value_first_then_what_fits():
    plan, clock = schedule(100, a=40, b=90, c=30, d=25, e=1)
    spent = []
    while (run := plan.take()) is not None:
        spent.append(run.member.name)
        clock.hand[0] -= plan.forecast.takes[run.member.name]
    assert spent == ["a", "c", "d", "e"]  # b would overshoot, the others just fit
    assert [(run.member.name, seconds) for run, seconds in plan.left([made("b")])] == [("b", 90)]


def test_where_nothing_fits_the_first_one_works_until_the_end():
    plan, clock = schedule(10, a=40, b=90)
    first = plan.take()
    assert first.member.name == "a"
    assert plan.take() is None
    assert not plan.must_stop(first, 35.0)  # nothing else fits either
    clock.hand[0] = 0
    assert plan.must_stop(first, 35.0)
    plan.give_back(first)
    assert plan.take() is None
    assert [(run.member.name, run.state) for run, _ in plan.left([made("a"), made("b")])] == [
        ("a", "resume"),
        ("b", "new"),
    ]


def test_what_is_done_costs_nothing_even_after_the_end():
    plan, _ = schedule(0, [made("a"), made("b", "done")], a=40, b=9)
    assert names(plan) == ["b"]
    assert plan.forecast.measured == []  # nothing is measured any more


def test_a_slow_run_gives_way_to_one_that_fits():
    plan, clock = schedule(100, a=90, b=50)
    first = plan.take()
    assert not plan.must_stop(first, 105.0)  # within the slack
    assert plan.must_stop(first, 200.0)
    clock.hand[0] = 40
    assert not plan.must_stop(first, 200.0)  # b no longer fits


def test_what_a_run_shows_corrects_the_estimate_of_its_kind():
    plan, _ = schedule(100, a=40, b=50)
    watch = plan.watch(plan.take())
    watch.note(60.0, 0.5)
    assert plan.forecast.takes["a"] == 120
    assert not watch.must_stop()
    watch.looked = 0
    watch.note(150.0, 0.5)
    assert watch.must_stop()


def test_only_a_run_that_makes_steps_counts_as_beside():
    """One that has shown no pace yet, such as a process that still starts, slows down nothing."""
    plan, _ = schedule(100, a=40, b=50, c=50)
    watches = [plan.watch(plan.take()), plan.watch(plan.take())]
    plan.note_beside(watches)
    assert plan.forecast.beside == 0
    watches[1].note(30.0, 0.5)
    plan.note_beside(watches)
    assert plan.forecast.beside == 1
    plan.note_beside([])
    assert plan.forecast.beside == 0


def test_the_same_run_under_two_names_never_runs_twice_at_once():
    one, two, other = made("a"), made("b", same_as="a"), made("c")
    plan, clock = schedule(100, [one, two, other], a=10, b=10, c=10)
    first = plan.take()
    second = plan.take([first])
    assert (first, second) == (one, other)
    assert plan.take([first, second]) is None
    plan.note_finished(one, {"kind": "member"})
    clock.hand[0] = 0
    assert plan.take([second]) == two  # its record is taken over
