import io
import json
from dataclasses import replace

import numpy as np
import pytest
import test_ablations
from PIL import Image
from test_ablations import add
from test_leaderboard import (
    VIEWS,
    add_audit,
    add_external,
    add_member,
    add_vote,
    figures_of,
    labels_of,
    page_of,
    section,
)

from fer_bench import cli, diagnosis, leaderboard, records, splits, toyfaces
from fer_bench.diagnosis import Measured, diagnose, suggest
from fer_bench.diagnosis.mistakes import ClassRecall, Group, Mistake, Partner, Vote
from fer_bench.errors import UserError
from fer_bench.leaderboard import mistakes

TITLE = "Where the preferred single model errs"

# label, predicted, confidence of ten images, planned by hand
ROWS = [
    (0, 0, 0.94),
    (0, 4, 0.85),  # Angry as Sad, confident
    (0, 4, 0.55),  # Angry as Sad
    (4, 0, 0.92),  # Sad as Angry, confident
    (4, 4, 0.75),
    (3, 3, 0.99),
    (3, 3, 0.65),
    (3, 6, 0.82),  # Happy as Neutral, confident
    (6, 6, 0.45),
    (6, 6, 0.88),
]
TWINS = np.array([1, 0, 0, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
AGREES = np.array([1, 0, 1, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
OTHERS = {
    "theirs": np.array([0, 1, 1, 0, 1, 1, 0, 0, 1, 1], dtype=bool),
    "weak": np.array([0, 0, 1, 0, 0, 1, 0, 0, 0, 0], dtype=bool),
}


def planned(rows=tuple(ROWS), **known):
    labels = np.array([label for label, _, _ in rows])
    p = np.array([[(1 - sure) / 6] * 7 for _, _, sure in rows])
    for row, (_, predicted, sure) in enumerate(rows):
        p[row, predicted] = sure
    return diagnose(
        "mine", "PublicTest", "flip", labels, p, **{"others": OTHERS, "twins": TWINS, "agrees": AGREES, **known}
    )


# ---- what is counted


def test_confusions_are_counted_both_ways():
    found = planned()
    assert (found.images, found.right, found.errors) == (10, 6, 4)
    pairs = [
        (pair.first, pair.second, pair.first_as_second, pair.second_as_first, pair.share) for pair in found.confusions
    ]
    assert pairs == [(0, 4, 2, 1, 0.75), (3, 6, 1, 0, 0.25)]


def test_confident_mistakes_come_surest_first():
    found = planned()
    assert found.confident == 6
    assert [(m.row, m.label, m.predicted, m.twin, m.agrees) for m in found.mistakes] == [
        (3, 4, 0, False, False),
        (1, 0, 4, False, False),
        (7, 3, 6, True, True),
    ]
    assert [m.confidence for m in found.mistakes] == pytest.approx([0.92, 0.85, 0.82])


def test_groups_share_no_row_and_hold_all():
    found = planned()
    assert [(g.name, g.images, g.right, g.share) for g in found.groups] == [
        ("a twin in Training", 3, 2, 0.25),
        ("no twin, FER+ does not agree", 3, 1, 0.5),
        ("no twin, FER+ agrees", 4, 3, 0.25),
    ]
    assert found.unconfirmed == pytest.approx(2 / 4)  # not 3 / 10, of all images
    assert planned(agrees=None).unconfirmed is None
    assert [g.name for g in planned(agrees=None).groups] == ["a twin in Training", "no twin"]
    assert planned(twins=None, agrees=None).groups == ()


def test_bands_hold_every_image():
    bands = [(band.high, band.images, band.accuracy) for band in planned().bands]
    assert bands == [(0.5, 1, 1), (0.7, 2, 0.5), (0.8, 1, 1), (0.9, 3, 1 / 3), (0.95, 2, 0.5), (1, 1, 1)]
    assert planned().confidence == pytest.approx(np.mean([sure for _, _, sure in ROWS]))


def test_classes_stand_beside_the_others():
    lines = {line.code: line for line in planned().classes}
    assert set(lines) == {0, 3, 4, 6}  # no image of the others
    angry = lines[0]
    assert (angry.images, angry.recall, angry.precision) == (3, pytest.approx(1 / 3), 0.5)
    assert (angry.median, angry.best, angry.best_name) == (pytest.approx(0.5), pytest.approx(2 / 3), "theirs")
    alone = planned(others={}).classes[0]
    assert (alone.median, alone.best, alone.best_name, alone.best_p) == (None, None, None, 1)


def test_a_better_recall_is_tested_on_the_images_of_its_class():
    """Six of the ten angry faces are right in the other row alone, none here alone: p is 2 / 2 ** 6."""
    labels = np.array([0] * 10 + [3] * 4)
    probabilities = np.full((14, 7), 0.05)
    predicted = np.array([0] * 2 + [4] * 8 + [3] * 4)
    probabilities[np.arange(14), predicted] = 0.7
    theirs = np.array([True] * 8 + [False] * 6)
    found = diagnose("mine", "PublicTest", "none", labels, probabilities, others={"theirs": theirs})
    angry, happy = found.classes
    assert (angry.recall, angry.best, angry.best_p) == (0.2, 0.8, pytest.approx(2 / 2**6))
    assert (happy.recall, happy.best, happy.best_p) == (1, 0, pytest.approx(2 / 2**4))


def test_partners_are_ordered_by_what_they_mend_or_by_their_votes():
    assert [(p.name, p.accuracy, p.mended) for p in planned().partners] == [("theirs", 0.6, 2), ("weak", 0.2, 1)]
    assert planned().vote is None
    voted = {"theirs": np.arange(10) < 5, "weak": np.arange(10) < 7}
    assert [(p.name, p.voted) for p in planned(voted=voted).partners] == [("weak", 0.7), ("theirs", 0.5)]


def test_best_vote_stands_beside_the_better_of_its_two():
    """Eight of ten are right in the vote, six here, nine in the other row: the interval is that of nine to eight."""
    voted = {"theirs": np.arange(10) < 7, "weak": np.arange(10) < 8}
    vote = planned(voted=voted).vote
    assert (vote.name, vote.accuracy, vote.among, vote.better) == ("weak", 0.8, 2, "mine")
    assert vote.difference == pytest.approx(0.2)
    vote = planned(others=OTHERS | {"weak": np.arange(10) < 9}, voted=voted).vote
    assert (vote.better, vote.difference) == ("weak", pytest.approx(-0.1))
    assert (vote.low, vote.high) == (pytest.approx(-0.3), pytest.approx(0))


def test_nothing_wrong_is_no_trouble():
    found = planned([row for row in ROWS if row[0] == row[1]] + [(0, 0, 0.9)] * 4)
    assert (found.errors, found.confusions, found.mistakes) == (0, (), ())
    assert [group.share for group in found.groups] == [0, 0, 0]


# ---- what is suggested


QUIET = replace(
    planned(), images=1000, right=700, confidence=0.7, ece=0.01, mistakes=(), groups=(), classes=(), partners=()
)


def record_of(**changes):
    """A record whose figures suggest nothing."""
    train = {"label_smoothing": 0.1, "class_weights": "none", "mixup": 0, "lr": 0.1}
    figures = {view: {"accuracy": accuracy} for view, accuracy in (("none", 0.70), ("flip", 0.702))}
    losses = [(1.2, 1.3), (1.1, 1.1), (1.0, 1.06), (0.9, 1.05)]
    record = {
        "kind": "member",
        "identity": {"member": {"train": train, "augment": {"shift": 0.1, "rotate": 0}}},
        "figures": {"PublicTest": figures},
        "views": ["none", "flip"],
        "headline": "flip",
        "history": [{"train_loss": train_loss, "validation_loss": loss} for train_loss, loss in losses],
    }
    return record | changes


def history_of(train_losses, losses):
    return [{"train_loss": t, "validation_loss": v} for t, v in zip(train_losses, losses, strict=True)]


def findings(found=QUIET, measured=(), **changes):
    return [f"{one.finding} -> {one.idea}" for one in suggest(found, record_of(**changes), measured)]


def test_quiet_figures_suggest_nothing():
    assert findings() == []
    assert findings(kind="external", identity={}, history=None) == []


def test_no_suggestion_comes_from_the_test():
    loud = replace(QUIET, ece=0.3, part="PrivateTest")
    assert findings(loud) == []
    assert len(findings(replace(loud, part="PublicTest"))) == 1


@pytest.mark.parametrize(
    ("ece", "confidence", "expected"),
    [
        (0.05, 0.9, None),
        (0.068, 0.9, "ECE 6.8 % (over 5.0 %): mean confidence 90.0 % against accuracy 70.0 % -> too sure"),
        (0.068, 0.6, "-> not sure enough: temperature scaling in an ensemble, or less label smoothing (now 0.1)"),
    ],
)
def test_calibration(ece, confidence, expected):
    found = findings(replace(QUIET, ece=ece, confidence=confidence))
    assert len(found) == (expected is not None)
    assert not expected or expected in found[0]


@pytest.mark.parametrize(
    ("train", "loss", "expected"),
    [
        ([1, 0.75], [1, 1.0], None),
        (
            [1, 0.6],
            [1, 1.0],
            "ends 0.40 nats above that on Training (over 0.3) -> regularise: off here are rotate, mixup",
        ),
        ([1, 1, 1], [1.2, 1.0, 1.1], "rose by 0.10 nats after epoch 2 of 3 (over 0.05)"),
        ([1] * 8, [2, 2, 2, 2, 1.5, 1.2, 1.1, 1.0], "still fell by 0.200 nats in the last 2 of 8 epochs (over 0.02)"),
        ([1] * 4, [2, 1.5, 1.01, 1.0], None),
        ([1], [1], None),
        ([1, 0.1], [1, None], None),
    ],
)
def test_losses(train, loss, expected):
    found = findings(history=history_of(train, loss))
    assert len(found) == (expected is not None)
    assert not expected or expected in found[0]


def class_line(code, images, recall, best=None, name=None, p=0.01):
    return ClassRecall(code, images, recall, 0.5, best, best, name, p)


@pytest.mark.parametrize(
    ("recall", "weights", "expected"),
    [
        (0.50, "none", "recall of Disgust, 1.6 % of the images, is 50.0 %, 20 points below the mean of the other "
         "classes (over 15) -> class weights: sqrt (now none)"),
        (0.50, "sqrt", "class weights: balanced (now sqrt)"),
        (0.50, "balanced", None),
        (0.56, "none", None),
    ],
)  # fmt: skip
def test_rare_class(recall, weights, expected):
    classes = (class_line(1, 16, recall), class_line(0, 400, 0.6), class_line(3, 584, 0.8))
    identity = {"member": {"train": {"class_weights": weights}}}
    found = findings(replace(QUIET, classes=classes), identity=identity)
    assert len(found) == (expected is not None)
    assert not expected or expected in found[0]


@pytest.mark.parametrize(("against", "known", "suggests"), [(15, 20, True), (10, 20, False), (15, 19, False)])
def test_labels(against, known, suggests):
    sure = tuple(Mistake(i, 0, 1, 0.9, None, i >= against) for i in range(known))
    groups = (Group("a twin in Training", 0, 0, 0), Group("no twin, FER+ agrees", 100, 85, 0.1))
    found = findings(replace(QUIET, mistakes=sure, groups=groups, unconfirmed=0.4))
    assert len(found) == suggests
    if suggests:
        assert (
            "in 15 of 20 mistakes with confidence 0.8 or more (75.0 %, over 50.0 %; in 40.0 % of all mistakes)"
            in found[0]
        )
        assert "where FER+ agrees (85.0 % without twins); label smoothing is 0.1" in found[0]


@pytest.mark.parametrize(("right", "suggests"), [(79, False), (81, True)])
def test_twins(right, suggests):
    groups = (Group("a twin in Training", 100, right, 0), Group("no twin", 900, 630, 0))
    found = findings(replace(QUIET, groups=groups))
    assert len(found) == suggests
    assert not suggests or "accuracy is 81.0 % on the 100 images with a twin in Training, 11 points above" in found[0]


def test_views():
    figures = {"PublicTest": {"none": {"accuracy": 0.70}, "flip": {"accuracy": 0.695}, "ten-crop": {"accuracy": 0.71}}}
    views = ["none", "ten-crop", "flip"]
    [found] = findings(figures=figures, views=views)
    assert found.startswith("the views ten-crop are 1.5 points above the declared flip (over 0.3)")
    assert findings(figures=figures, views=views, headline="ten-crop") == []
    assert findings(figures={"PublicTest": {"submitted": {"accuracy": 0.7}}}, views=["submitted"]) == []


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (0.001, "a vote of equal weights with theirs has 72.0 %, 1.5 points [0.1, 3] above the better of the two, mine "
         "(interval above 0; the best of 9 such votes, which flatters it) -> an ensemble with theirs"),
        (0.0, None),
    ],
)  # fmt: skip
def test_vote_that_gains_is_suggested(low, expected):
    found = findings(replace(QUIET, vote=Vote("theirs", 0.72, 9, "mine", 0.015, low, 0.03)))
    assert found == ([expected] if expected else [])


def test_recall_beside_others():
    unsure = class_line(1, 16, 0.4, 0.8, "theirs", p=0.0085)  # of three classes in two rows: .051
    classes = (unsure, class_line(2, 500, 0.4, 0.5, "theirs", p=0.0075), class_line(3, 500, 0.8, 0.95, "far"))
    partners = (Partner("theirs", 0.7, 0), Partner("far", 0.9, 0))
    [found] = findings(replace(QUIET, classes=classes, partners=partners), identity={"member": {}})
    said = "recall of Fear is 40.0 %, 10 points below that of theirs (over 5; p = 0.045 after a correction for 6 tests)"
    assert found == f"{said} -> what theirs does otherwise"
    surely = replace(QUIET, classes=(class_line(2, 500, 0.4, 0.5, "theirs", p=1e-5),), partners=partners)
    assert "(over 5; p < 0.001 after" in findings(surely)[0]


@pytest.mark.parametrize(
    ("key", "before", "alike", "low", "rows", "suggests"),
    [
        ("train.mixup", 0, {}, 0.001, ("a", "b"), True),
        ("train.mixup", 0, {"train.lr": 0.1}, 0.001, ("a", "b"), True),
        ("train.mixup", 0, {"train.lr": 0.2}, 0.001, ("a", "b"), False),  # another kind of row
        ("train.mixup", 0, {}, -0.001, ("a", "b"), False),  # the interval holds 0
        ("train.mixup", 0.2, {}, 0.001, ("a", "b"), False),  # not what this row has
        ("train.mixup", 0, {}, 0.001, ("mine", "b"), False),  # its own ablation
        ("image_size", 48, {}, 0.001, ("a", "b"), False),  # this record does not say
    ],
)
def test_what_helped_others_is_suggested(key, before, alike, low, rows, suggests):
    gain = Measured(key, before, 0.5, alike, "mixup 0 → 0.2", rows, 0.012, low, 0.023)
    found = findings(measured=[gain])
    assert len(found) == suggests
    assert not suggests or found[0].startswith("mixup 0 → 0.2 gained 1.2 points [0.1, 2.3] from a to b")


@pytest.mark.parametrize(
    ("after", "high", "row", "suggests"),
    [(0, -0.001, "b", True), (0, -0.001, "mine", True), (0, 0.001, "b", False), (0.2, -0.001, "b", False)],
)
def test_what_hurt_is_suggested_to_be_undone(after, high, row, suggests):
    loss = Measured("train.mixup", 0.1, after, {}, "mixup 0.1 → 0", ("a", row), -0.012, -0.023, high)
    found = findings(measured=[loss])
    assert len(found) == suggests
    seen = (
        f"mixup 0.1 → 0 cost 1.2 points [0.1, 2.3] from a to {row} (interval leaves 0 out) -> the opposite change here"
    )
    assert not suggests or found[0] == seen


# ---- on a board


N = 350


def wrong_in(rows, n=N):
    """Arrays that are wrong in the given rows of both parts, each by one class, and sure of all."""
    found = {}
    for part in ("PublicTest", "PrivateTest"):
        found[f"{part}/labels"] = labels = labels_of(n, part)
        given = labels.copy()
        given[list(rows)] = (given[list(rows)] + 1) % 7
        found |= {f"{part}/{view}": np.eye(7)[given] for view in VIEWS}
    return found


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The model is wrong in 40 rows, another in 40 of which 10 are the same; PrivateTest twins in 35 rows."""
    board = tmp_path_factory.mktemp("diagnosis") / "cpu"
    mine = add_member(board, "mine", arrays=wrong_in(range(40)), settings={"train": {"mixup": 0}})
    other = add_member(board, "other", arrays=wrong_in(range(30, 70)), settings={"train": {"mixup": 0.2}})
    add_member(board, "stranger", arrays=wrong_in(range(5)), digest="f" * 64)
    add_external(board, "theirs")
    add_vote(board, "vote", [mine, other])
    add_audit(board, list(range(0, 350, 10)), list(range(50, 270)))
    return board


def vote_with_other():
    """Both are sure: where they disagree the lower class wins, which is Neutral's wrong one (Angry) and no other."""
    labels = labels_of(N, "PublicTest")
    alone = [*range(30), *range(40, 70)]
    return 1 - (10 + int((labels[alone] == 6).sum())) / N


def test_row_is_diagnosed_among_its_board(board):
    record, found, suggested = mistakes.examine(board, "mine")
    assert record["name"] == "mine"
    assert (found.part, found.view, found.errors) == ("PublicTest", "flip", 40)
    mended = {partner.name: partner.mended for partner in found.partners}
    assert set(mended) == {"other", "theirs"}  # no ensemble, no other data
    assert mended["other"] == 30
    assert found.groups == ()  # this audit has no lists of PublicTest
    assert {partner.name: partner.voted for partner in found.partners}["other"] == vote_with_other()
    assert any(f"with other has {100 * vote_with_other():.1f} %" in one.finding for one in suggested)


def test_members_of_an_ensemble_are_not_its_partners(board):
    found = mistakes.examine(board, "vote")[1]
    assert [(partner.name, partner.voted) for partner in found.partners] == [("theirs", None)]
    assert found.vote is None


def test_private_test_is_described_and_suggests_nothing(board):
    _, found, suggested = mistakes.examine(board, "mine", "PrivateTest")
    assert [(group.images, group.images - group.right) for group in found.groups] == [(35, 4), (117, 36), (198, 0)]
    assert suggested == []


def test_row_on_other_data_stands_alone(board):
    found = mistakes.examine(board, "stranger", "PrivateTest")[1]
    assert (found.errors, found.partners, found.groups) == (5, (), ())


@pytest.mark.parametrize(
    ("name", "part", "view", "message"),
    [
        ("nobody", "PublicTest", None, "no record is called 'nobody'"),
        ("mine", "Training", None, "--part Training: mine stores PublicTest, PrivateTest"),
        ("mine", "PublicTest", "ten-crop", "--view ten-crop: mine stores none, flip"),
    ],
)
def test_mistakes_are_named(board, name, part, view, message):
    with pytest.raises(UserError, match=message):
        mistakes.examine(board, name, part, view)


def test_what_validation_prefers_is_told_and_diagnosed(tmp_path):
    """Wrong on PublicTest and PrivateTest: the first row is lucky there, and one seed of a third on PublicTest."""
    add(tmp_path, "lucky", (20, 4))
    for seed, (steady, wavering) in enumerate([(10, 4), (16, 30)]):
        add(tmp_path, "steady", (steady, 8), seed)
        add(tmp_path, "wavering", (wavering, 12), seed)
    text = page_of(tmp_path)
    assert "Best single model: **lucky** with" in text
    which = "PublicTest, which may choose, prefers by the mean over seeds"
    assert f". {which} the single model **steady** (85.00 % on PrivateTest). 3 rows" in text  # 34 / 40
    assert "\nsteady, the single model that PublicTest prefers by the mean over seeds, gets 8 of its 40 images" in text
    runs = [records.called(tmp_path, name) for name in ("lucky", "steady", "wavering")]
    for name, members, wrong in (("first", runs[:2], (20, 2)), ("second", runs[1:], (2, 8))):
        arrays = test_ablations.planned(wrong)
        vote = add_vote(tmp_path, name, members) | {"figures": figures_of(arrays)}
        records.save(tmp_path, vote, arrays)
    both = "the single model **steady** (85.00 % on PrivateTest) and the ensemble **second** (85.00 % on PrivateTest)"
    assert f". {which} {both}. 5 rows" in page_of(tmp_path)
    add(tmp_path, "lucky", (4, 4))
    assert "the single model **steady**" not in page_of(tmp_path)


def test_of_rows_alike_on_validation_the_first_by_name_is_preferred(tmp_path):
    """PrivateTest, where q is better, does not break the tie."""
    add(tmp_path, "p", (10, 20))
    add(tmp_path, "q", (10, 4))
    row = leaderboard.rows.read(tmp_path).preferred(ensemble=False)
    assert row
    assert row.name == "p"


def test_page_has_the_short_form(board):
    text = section(page_of(board), TITLE)
    assert "mine, the single model that PublicTest prefers by the mean over seeds, gets 40 of its 350 images" in text
    assert "40 of 350 predictions with a probability of 0.8 or more are mistakes" in text
    assert f"- a vote of equal weights with other has {100 * vote_with_other():.1f} %, " in text
    assert "`fer-bench errors mine`" in text


def test_page_without_single_models_has_none(tmp_path):
    add_external(tmp_path, "theirs")
    assert TITLE not in page_of(tmp_path)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["fer-bench", "errors", *map(str, words)])
    monkeypatch.delenv("FER_BENCH_DATA_DIR", raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    return capsys.readouterr()


def test_command_prints_tables_and_suggestions(board, monkeypatch, capsys):
    out = run(monkeypatch, capsys, "mine", "--board", board, "--top", 3).out
    assert out.startswith("mine on PublicTest, views flip: 310 of 350 right (88.57 %), 40 wrong")
    sure = out.split("Confident mistakes: 40 of 350")[1].split("What to try next")[0]
    assert len([line for line in sure.splitlines() if "100.00" in line]) == 3
    assert "Try: an ensemble with other." in out


def test_command_prints_json(board, monkeypatch, capsys):
    found = json.loads(run(monkeypatch, capsys, "mine", "--board", board, "--json").out)
    assert (found["right"], len(found["mistakes"])) == (310, 40)
    assert set(found["suggestions"][0]) == {"finding", "idea"}


# ---- the picture


def test_picture_shows_the_mistakes_of_public_test(toy, tmp_path, monkeypatch):
    toyfaces.write(toy, tmp_path / "data", "fer2013")
    monkeypatch.setattr(splits, "open_private_test", None)
    images, labels = splits.part(toy, "PublicTest")
    predicted = labels.copy()
    predicted[[4, 9]] = (labels[[4, 9]] + 1) % 7
    found = diagnose("mine", "PublicTest", "none", labels, np.eye(7)[predicted], others={})
    digest = diagnosis.sheet.data.load(tmp_path / "data").digest
    said = diagnosis.write_sheet(tmp_path / "errors", found, digest, tmp_path / "data")
    path = tmp_path / "errors" / "mine-PublicTest-none.png"
    assert said == f"drawn: {path}"
    sheet = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    for place, row in enumerate((4, 9)):
        left = 8 + place * 104
        assert (sheet[8:104, left : left + 96] == np.kron(images[row], np.ones((2, 2), np.uint8))).all()


def test_no_picture_of_private_test_or_of_other_data(toy, tmp_path):
    toyfaces.write(toy, tmp_path / "data", "fer2013")
    here = tmp_path / "errors", tmp_path / "data"
    said = diagnosis.write_sheet(here[0], replace(QUIET, part="PrivateTest"), "d" * 64, here[1])
    assert said == "not drawn: PrivateTest is not opened for a picture"
    assert "mine was made on dddddddddddd" in diagnosis.write_sheet(here[0], QUIET, "d" * 64, here[1])
    assert not here[0].exists()


def test_board_with_the_sections_holds(tmp_path):
    for name, rows, mixup in (("mine", range(40), 0), ("other", range(30, 70), 0.2)):
        add_member(tmp_path / "cpu", name, arrays=wrong_in(rows), settings={"train": {"mixup": mixup}})
    leaderboard.write(tmp_path / "cpu")
    assert leaderboard.check(tmp_path / "cpu") == []
