import json
import shutil
import zipfile

import numpy as np
import pytest
from test_leaderboard import add_external

from fer_bench import cli, leaderboard, pack, records
from fer_bench.errors import UserError
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import run

pytestmark = pytest.mark.usefixtures("drawn_once")

SUITE = """
suite: tiny
data: toyfaces
defaults: {pretrained: false, backbone: "baseline:mlp", train: {epochs: 2, batch_size: 16, lr: 1e-3}}
members:
  - {name: one}
  - {name: two, train: {lr: 1e-4}}
  - {name: wild, train: {lr: 1e30, optimizer: sgd, schedule: constant, epochs: 40}}
ensembles:
  - {name: vote, members: [one, two]}
"""
STEMS = ["one.s0", "two.s0", "vote", "wild.s0"]


def go(folder, text=SUITE, **more):
    (folder / "tiny.yaml").write_text(text)
    options = Options(
        **({"runs_dir": folder / "runs", "output_dir": folder / "tiny", "limit": 40, "device": "cpu"} | more)
    )
    run(folder / "tiny.yaml", options, Display(quiet=True), lambda: False)
    return options.output_dir


@pytest.fixture(scope="module")
def rented(tmp_path_factory):
    """A board with two members, their vote and a failure, and the folder of its weights; read it only."""
    folder = tmp_path_factory.mktemp("rented")
    go(folder)
    return folder


@pytest.fixture
def packed(rented, tmp_path):
    pack.pack(rented / "tiny", tmp_path / "records.zip", runs_dir=rented / "runs")
    return tmp_path / "records.zip"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home" / "tiny"


def files(board):
    found = {path.relative_to(board).as_posix(): path.read_bytes() for path in board.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name.startswith(("results", "predictions"))}


def states(verdicts):
    return {verdict.title: verdict.state for verdict in verdicts}


def why(verdicts, title):
    return next(verdict.why for verdict in verdicts if verdict.title == title)


def repacked(source, target, change, *, trusted=True):
    """Rewrite a pack after ``change(folder)``; ``trusted`` writes matching sums, as someone who means harm would."""
    folder = target.parent / f"{target.name}.d"
    names = pack.archive.extract(source, folder)
    change(folder)
    if trusted:
        found = [path for path in folder.rglob("*") if path.is_file()]
        pack.archive.write(target, {path.relative_to(folder).as_posix(): path for path in found})
        return target
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in [pack.archive.MANIFEST, *names]:
            new.writestr(name, (folder / name).read_bytes() if name in names else old.read(name))
    return target


def rewritten(folder, stem, change):
    path = folder / "results" / f"{stem}.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_records_arrive_byte_for_byte_and_hold(rented, packed, home):
    verdicts = pack.unpack(packed, home, runs_dir=home / "runs")
    assert states(verdicts) == dict.fromkeys(STEMS, "new")
    assert files(home) == files(rented / "tiny")
    leaderboard.write(home)
    assert leaderboard.check(home) == []
    stamps = {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")}
    assert states(pack.unpack(packed, home, runs_dir=home / "runs")) == dict.fromkeys(STEMS, "known")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")} == stamps


def test_the_same_records_are_the_same_bytes(rented, packed, tmp_path):
    pack.pack(rented / "tiny", tmp_path / "again.zip", runs_dir=rented / "runs")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:  # any unzip gives the files back
        assert archive.read("results/vote.json") == (rented / "tiny" / "results" / "vote.json").read_bytes()


def test_names_choose_rows_and_weights_go_along(rented, tmp_path, home):
    file, runs = tmp_path / "chosen.zip", tmp_path / "home" / "runs"
    done = pack.pack(rented / "tiny", file, names=["wild"], weights=["two"], runs_dir=rented / "runs")
    assert sorted(done.titles) == ["two.s0", "wild.s0"]
    verdicts = pack.unpack(file, home, runs_dir=runs)
    assert states(verdicts) == {"two.s0": "new", "wild.s0": "new", "weights of two.s0": "new"}
    identity = records.load(home / "results" / "two.s0.json")["identity"]
    ours, theirs = (records.weights_path(folder, identity) for folder in (runs, rented / "runs"))
    assert ours.read_bytes() == theirs.read_bytes()
    pack.pack(rented / "tiny", file, weights=["vote"], runs_dir=rented / "runs")
    assert sum(title.startswith("weights") for title in states(pack.unpack(file, home, runs_dir=runs))) == 2
    with pytest.raises(UserError, match="no record is called 'three'; there are one, two, vote, wild"):
        pack.pack(rented / "tiny", file, names=["three"], runs_dir=runs)
    with pytest.raises(UserError, match=r"weights of one\.s0 are not on this machine"):
        pack.pack(rented / "tiny", file, weights=["one"], runs_dir=tmp_path / "elsewhere")


def test_damaged_weights_are_refused(rented, tmp_path, home):
    file = tmp_path / "w.zip"
    pack.pack(rented / "tiny", file, weights=["one"], runs_dir=rented / "runs")

    def cut(folder):
        (path,) = (folder / "weights").iterdir()
        path.write_bytes(path.read_bytes()[:-4])

    verdicts = pack.unpack(repacked(file, tmp_path / "cut.zip", cut), home, runs_dir=home / "runs")
    assert states(verdicts)["weights of one.s0"] == "refused"
    assert not (home / "runs").exists()


def test_another_run_of_the_same_name_is_refused_with_what_differs(packed, tmp_path):
    board = go(tmp_path, SUITE.replace("1e-4", "2e-4"), seeds=(0,))
    before = files(board)
    verdicts = pack.unpack(packed, board, runs_dir=tmp_path / "runs")
    assert states(verdicts) == {"one.s0": "known", "two.s0": "refused", "wild.s0": "known", "vote": "refused"}
    assert "member.train.lr: 0.0002 -> 0.0001" in why(verdicts, "two.s0")
    assert "fer-bench ensemble" in why(verdicts, "vote")
    assert files(board) == before


def test_another_seed_with_other_settings_is_refused(packed, tmp_path):
    board = go(tmp_path, SUITE.replace("1e-4", "2e-4"), seeds=(1,))
    verdicts = pack.unpack(packed, board, runs_dir=tmp_path / "runs")
    assert "in more than its seed: member.train.lr" in why(verdicts, "two.s0")
    assert states(verdicts)["one.s0"] == "new"


def test_a_failure_gives_way_to_a_finished_run_and_never_takes_its_place(rented, packed, tmp_path):
    board = tmp_path / "tiny"
    shutil.copytree(rented / "tiny", board)
    failed, done = (records.load(board / "results" / f"{stem}.s0.json") for stem in ("wild", "one"))
    instead = {k: v for k, v in done.items() if k in failed} | {"kind": "failure", "failure": failed["failure"]}
    records.save(board, instead, None)
    verdicts = pack.unpack(packed, board, runs_dir=tmp_path)
    assert (states(verdicts)["one.s0"], why(verdicts, "one.s0")) == ("new", "takes the place of a failure")
    assert files(board) == files(rented / "tiny")
    records.save(board, instead, None)
    pack.pack(board, tmp_path / "failures.zip", runs_dir=tmp_path)
    shutil.copytree(rented / "tiny", tmp_path / "other" / "tiny")
    verdicts = pack.unpack(tmp_path / "failures.zip", tmp_path / "other" / "tiny", runs_dir=tmp_path)
    assert (states(verdicts)["one.s0"], why(verdicts, "one.s0")) == ("known", "failed there, finished on the board")
    assert files(tmp_path / "other" / "tiny") == files(rented / "tiny")


def arrays_changed(folder, change):
    record = records.load(folder / "results" / "one.s0.json")
    arrays = records.arrays(folder, record)
    change(arrays)
    return records.save(folder, record, arrays)


def flipped_label(folder):
    arrays_changed(folder, lambda arrays: arrays["PrivateTest/labels"].__setitem__(0, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: rewritten(d, "one.s0", lambda r: r["figures"]["PrivateTest"]["flip"].update(accuracy=0.9)),
            "recomputed",
        ),
        (lambda d: rewritten(d, "one.s0", lambda r: r["identity"].update(seed=7)), "not the hash of the identity"),
        (lambda d: rewritten(d, "one.s0", lambda r: r.update(schema=9)), "record schema 9"),
        (lambda d: rewritten(d, "one.s0", lambda r: r.update(extra=1)), "extra: Extra inputs"),
        (lambda d: rewritten(d, "one.s0", lambda r: r["predictions"].update(sha256="0" * 64)), "SHA-256"),
        (lambda d: (d / "results" / "one.s0.json").write_text("{"), "not a whole JSON file"),
        (lambda d: (d / "results" / "one.s0.json").write_text("[" * 100_000), "not a whole JSON file"),
        (lambda d: (d / "predictions" / "one.s0.npz").unlink(), "lacks its predictions/one.s0.npz"),
        (flipped_label, "recomputed"),
    ],
)
def test_a_record_that_does_not_hold_is_refused_and_its_vote_with_it(packed, tmp_path, home, change, message):
    verdicts = pack.unpack(repacked(packed, tmp_path / "changed.zip", change), home, runs_dir=home)
    assert states(verdicts) == {"one.s0": "refused", "two.s0": "new", "wild.s0": "new", "vote": "refused"}
    assert message in why(verdicts, "one.s0")
    assert str(tmp_path) not in why(verdicts, "one.s0")
    assert "is not on the board" in why(verdicts, "vote")
    leaderboard.write(home)
    assert leaderboard.check(home) == []


def test_labels_and_data_must_be_those_of_the_board(packed, tmp_path):
    def relabelled(folder):
        from fer_bench import metrics

        record = records.load(folder / "results" / "two.s0.json")
        arrays = records.arrays(folder, record)
        arrays["PrivateTest/labels"] = (arrays["PrivateTest/labels"] + 1) % 7
        labels = arrays["PrivateTest/labels"].astype(np.int64)
        found = {v: metrics.figures(labels, arrays[f"PrivateTest/{v}"]) for v in record["views"]}
        records.save(folder, record | {"figures": record["figures"] | {"PrivateTest": found}}, arrays)

    board = go(tmp_path, SUITE.split("ensembles")[0], seeds=(1,))
    verdicts = pack.unpack(repacked(packed, tmp_path / "labels.zip", relabelled), board, runs_dir=tmp_path)
    assert "PrivateTest/labels differ from those of one.s1" in why(verdicts, "two.s0")
    text = SUITE.split("  - {name: one}")[0] + "  - {name: x}"
    other = go(tmp_path, text, limit=35, output_dir=tmp_path / "other")
    verdicts = pack.unpack(packed, other, runs_dir=tmp_path)
    assert states(verdicts) == dict.fromkeys(STEMS, "refused")
    assert "made on data" in why(verdicts, "one.s0")


def test_toy_records_stay_out_of_the_benchmark(packed, tmp_path):
    (tmp_path / "benchmark").mkdir()
    verdicts = pack.unpack(packed, tmp_path / "benchmark", runs_dir=tmp_path)
    assert set(states(verdicts).values()) == {"refused"}
    assert "may not enter benchmark/" in why(verdicts, "one.s0")
    assert files(tmp_path / "benchmark") == {}


def zipped(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def with_extra(name):
    def make(packed, path):
        shutil.copy(packed, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"harm")

    return make


def altered(packed, path):
    repacked(packed, path, lambda d: rewritten(d, "one.s0", lambda r: r.update(suite="x")), trusted=False)


def flipped_bit(packed, path):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda packed, path: None, "no such file"),
        (lambda packed, path: path.write_bytes(b""), "no pack of fer-bench"),
        (lambda packed, path: path.write_bytes(packed.read_bytes()[:-100]), "no pack of fer-bench, or not all of one"),
        (lambda packed, path: path.write_bytes(packed.read_bytes()[5000:]), "no pack of fer-bench, or not all of one"),
        (flipped_bit, "(no pack of fer-bench|SHA-256 differs)"),
        (altered, r"results/one\.s0\.json is not the file that was packed"),
        (
            lambda packed, path: zipped(path, {"a.txt": b""}),
            r"no pack of fer-bench, or not all of one \(no pack\.json in it",
        ),
        (lambda packed, path: zipped(path, {"pack.json": b"{"}), "no pack of fer-bench"),
        (lambda packed, path: zipped(path, {"pack.json": b'{"pack": 2}'}), "version 2, and this fer-bench reads 1"),
        (lambda packed, path: zipped(path, {"pack.json": b'{"pack": 1}'}), "lists no files"),
        (lambda packed, path: zipped(path, {"pack.json": b"[]"}, zipfile.ZIP_DEFLATED), "compressed entries"),
        (with_extra("../../evil.json"), r"holds '\.\./\.\./evil\.json'"),
        (with_extra("/results/one.s0.json"), "holds '/results"),
        (with_extra("results/../../one.json"), "holds 'results/"),
        (
            with_extra("results/more.s0.json"),
            r"other files than its pack\.json lists, such as 'results/more\.s0\.json'",
        ),
    ],
)
def test_what_is_no_whole_pack_is_one_line_and_changes_nothing(packed, tmp_path, home, make, message):
    path = tmp_path / "other.zip"
    make(packed, path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        pack.unpack(path, home, runs_dir=home)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_twice_in_a_pack_is_refused(packed, tmp_path, home):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("results/one.s0.json", b"{}")
    with pytest.raises(UserError, match="other files than its"):
        pack.unpack(packed, home, runs_dir=home)


def test_arrays_that_lie_about_their_size_are_refused(packed, tmp_path, home):
    from fer_bench.files import sha256_file

    def lying(folder):
        path = folder / "predictions" / "one.s0.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        rewritten(folder, "one.s0", lambda r: r["predictions"].update(sha256=sha256_file(path)))

    verdicts = pack.unpack(repacked(packed, tmp_path / "lie.zip", lying), home, runs_dir=home)
    assert states(verdicts)["one.s0"] == "refused"


def test_an_interrupted_unpacking_is_finished_by_the_next(packed, home, monkeypatch):
    real = records.adopt
    calls: list = []

    def dies(board, other, record):
        if board == home and len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(board) if board == home else None
        return real(board, other, record)

    monkeypatch.setattr(records, "adopt", dies)
    with pytest.raises(KeyboardInterrupt):
        pack.unpack(packed, home, runs_dir=home)
    monkeypatch.undo()
    leaderboard.write(home)
    assert leaderboard.check(home) == []  # what is there is whole
    assert sorted(states(pack.unpack(packed, home, runs_dir=home)).values()) == ["known", "new", "new", "new"]


def test_records_that_do_not_hold_are_not_packed(rented, tmp_path):
    board = tmp_path / "tiny"
    shutil.copytree(rented / "tiny", board)
    (board / "predictions" / "one.s0.npz").write_bytes(b"torn")
    done = pack.pack(board, tmp_path / "records.zip", runs_dir=tmp_path)
    assert sorted(done.titles) == ["two.s0", "vote", "wild.s0"]
    assert len(done.left_out) == 1
    assert done.left_out[0].startswith("one.s0: ")


def test_failures_may_stay_where_they_are(rented, tmp_path):
    done = pack.pack(rented / "tiny", tmp_path / "records.zip", runs_dir=tmp_path, failures=False)
    assert list(done.titles) == ["one.s0", "two.s0", "vote"]


def test_rows_of_a_suite_alone(rented, tmp_path, monkeypatch, capsys):
    (tmp_path / "part.yaml").write_text(
        SUITE.replace("name: two,", "name: later,").replace("[one, two]", "[one, later]")
    )
    words = ["pack", "--board", rented / "tiny", "--suite", tmp_path / "part.yaml", "-o", tmp_path / "part.zip"]
    monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words), "--no-failures"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "part.zip: 2 records, " in capsys.readouterr().out  # one and vote; two is not declared, later not there
    with zipfile.ZipFile(tmp_path / "part.zip") as held:
        assert {name for name in held.namelist() if name.startswith("results/")} == {
            "results/one.s0.json",
            "results/vote.json",
        }
    with pytest.raises(UserError, match="no record of the suite that holds"):
        pack.pack(rented / "tiny", tmp_path / "x.zip", among={"later"}, runs_dir=tmp_path)
    for names, trained in ((["one", "two"], []), ([], ["two"])):
        with pytest.raises(UserError, match="two: the suite does not declare it"):
            pack.pack(
                *(rented / "tiny", tmp_path / "x.zip"),
                names=names,
                weights=trained,
                among={"one", "vote"},
                runs_dir=tmp_path,
            )


def test_rows_of_a_suite_on_toy_faces_are_those_of_its_own_board(rented, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    words = ["pack", "--suite", tmp_path / "tiny.yaml", "--runs-dir", rented, "-o", tmp_path / "tiny.zip"]
    monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words), "--no-failures"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "tiny.zip: 3 records, " in capsys.readouterr().out


def test_a_vote_s_submitted_rows_go_along_with_their_suite(tmp_path, monkeypatch, capsys):
    add_external(tmp_path / "board", "theirs")
    add_external(tmp_path / "board", "others")
    (tmp_path / "suite.yaml").write_text(
        "suite: s\nmembers: [{name: a, backbone: resnet10t}]\n"
        "ensembles: [{name: v, members: [a], submitted: [theirs]}]\n"
    )
    words = ["pack", "--board", tmp_path / "board", "--suite", tmp_path / "suite.yaml", "-o", tmp_path / "p.zip"]
    monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert capsys.readouterr().out.strip().endswith(": theirs")


def test_runs_on_folds_arrive_too(tmp_path, home):
    text = SUITE.split("  - {name: one}")[0] + "  - {name: x, folds: 2, train: {epochs: 1}}"
    board = go(tmp_path, text, limit=120)
    pack.pack(board, tmp_path / "records.zip", runs_dir=tmp_path / "runs")
    verdicts = pack.unpack(tmp_path / "records.zip", home, runs_dir=home)
    assert states(verdicts) == dict.fromkeys(["x.s0", "x.s0.f0", "x.s0.f1"], "new")
    assert files(home) == files(board)
    assert set(states(pack.unpack(tmp_path / "records.zip", home, runs_dir=home)).values()) == {"known"}


def test_commands(rented, tmp_path, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr("sys.argv", ["fer-bench", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    code, out, _ = call("pack", "--board", rented / "tiny")
    assert (code, out.split(":")[0]) == (0, "runs/records.zip")
    code, out, _ = call("unpack", "runs/records.zip", "--board", "tiny")
    assert code == 0
    assert "new      one.s0\n" in out
    assert "4 new, 0 known, 0 refused" in out
    assert (tmp_path / "tiny" / "leaderboard.md").is_file()
    code, _, err = call("unpack", "runs/records.zip")
    assert (code, err.count("\n")) == (2, 1)
    assert "benchmark: no such folder" in err
    code, _, err = call("pack", "--board", "nowhere")
    assert (code, err.count("\n")) == (2, 1)
