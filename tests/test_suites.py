import json
import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import jsonschema
import pytest

from fer_bench import config, models, records, tune
from fer_bench.config import Member, Suite

FOLDER = Path(__file__).parents[1] / "suites"
PATHS = sorted(FOLDER.glob("*.yaml"))
SUITES = {path.stem: config.load_suite(path) for path in PATHS}
HEAD = ("command", "hardware", "time", "expected")
BY_NAME_ONLY = {"full", "all"}  # building their backbones takes a minute

each_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def architectures(suites: list[Suite]) -> dict[str, Member]:
    """Return one member for each distinct network, by what a test is called after."""
    members = [member for suite in suites for member in suite.members]
    return {f"{m.backbone}-{m.image_size}-{'-'.join(map(str, m.options.values()))}": m for m in members}


SMALL = architectures([suite for name, suite in SUITES.items() if name not in BY_NAME_ONLY])
NAMES = sorted({member.backbone for member in SUITES["full"].members})


def schema() -> dict:
    return json.loads((FOLDER / "schema.json").read_text())


def test_the_suites_that_the_documents_name_are_there():
    assert {"quick", "cpu", "folds", "full", "notebook", "ablation", "scratch"} <= set(SUITES)


@each_path
def test_a_suite_is_called_as_its_file(path):
    assert SUITES[path.stem].suite == path.stem


@each_path
def test_the_head_says_command_hardware_time_and_result(path):
    head = path.read_text().split(f"suite: {path.stem}")[0]
    assert head.startswith("# yaml-language-server: $schema=schema.json\n")
    facts = {key: re.search(rf"^# {key}: +(\S.*)$", head, re.MULTILINE) for key in HEAD}
    assert [key for key, found in facts.items() if found is None] == []
    assert f"fer-bench run suites/{path.stem}.yaml" in head


def test_the_schema_file_is_what_the_models_say():
    assert schema() == config.schema(), "run: fer-bench schema > suites/schema.json"
    jsonschema.Draft202012Validator.check_schema(schema())


@each_path
def test_an_editor_accepts_the_file(path):
    jsonschema.validate(config.read_yaml(path), schema())


@pytest.mark.parametrize(
    "change", [{"sedes": [0]}, {"members": [{"backbone": "resnet18"}]}, {"defaults": {"train": {"epoch": 1}}}]
)
def test_an_editor_refuses_a_mistake(change):
    suite = {"suite": "mine", "members": [{"name": "a", "backbone": "resnet18"}]}
    jsonschema.validate(suite, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(suite | change, schema())


@pytest.mark.parametrize(("a", "b"), list(combinations([s for s in SUITES if SUITES[s].data == "fer2013"], 2)))
def test_names_on_the_shared_board_mean_one_thing(a, b):
    ours, theirs = ({member.name: member for member in SUITES[name].members} for name in (a, b))
    for name in ours.keys() & theirs.keys():
        assert config.identity_of(ours[name]) == config.identity_of(theirs[name])
    ensembles = [{ensemble.name: ensemble for ensemble in SUITES[name].ensembles} for name in (a, b)]
    for name in ensembles[0].keys() & ensembles[1].keys():  # a teacher comes with the student that a suite includes
        assert ensembles[0][name] == ensembles[1][name]
        assert name in {member.train.distill.teacher for member in SUITES[a].taught if member.train.distill}
    assert not ensembles[0].keys() & theirs.keys()
    assert not ensembles[1].keys() & ours.keys()


@pytest.mark.parametrize("member", SMALL.values(), ids=SMALL.keys())
def test_a_backbone_takes_one_image(member):
    models.probe(models.build(member, None), member.backbone)


@pytest.mark.parametrize("backbone", NAMES)
def test_a_backbone_has_its_name_and_weights_in_its_library(backbone):
    import timm
    import torchvision

    library, _, name = backbone.rpartition(":")
    if library == "torchvision":
        assert torchvision.models.get_model_weights(name).DEFAULT.url.startswith("https://")
        return
    assert timm.is_model(name.split(".")[0])
    found = timm.models.get_pretrained_cfg(name)
    assert found is not None
    assert found.hf_hub_id or found.url


def test_full_has_three_seeds_and_room_for_inception():
    full = SUITES["full"]
    assert len(full.seeds) == 3
    assert all(member.image_size >= 96 for member in full.members)


@pytest.mark.parametrize("lite", ["lite0", "lite1", "lite2"])
def test_the_lites_in_full_have_the_measured_recipe_without_mixup_at_a_larger_side(lite):
    measured, larger = (
        next(member for member in SUITES[suite].members if member.name == name)
        for suite, name in (("lite", f"{lite}-96-long"), ("full", f"{lite}-128"))
    )
    assert changed(measured, larger) == {"image_size": (96, 128), "train.mixup": (0.2, 0.0)}


def test_the_vote_of_all_in_full_is_of_all():
    votes = {ensemble.name: set(ensemble.members) for ensemble in SUITES["full"].ensembles}
    assert votes["vote-full"] == {member.name for member in SUITES["full"].members}
    assert votes["vote-full-pretrained"] == {member.name for member in SUITES["full"].members if member.pretrained}


def changed(base: Member, other: Member) -> dict:
    """What the board sees of two members, both from the same initial weights."""
    return records.changed_settings(*({"member": config.identity_of(member)} for member in (base, other)))


def one_thing_each(members: Sequence[Member], base: Member, swa: str, without: str) -> None:
    """Each changes one thing of the base; SWA, which excludes the EMA of the base, one of the member without."""
    found = {member.name: member for member in members}
    for member in members:
        before = found[without] if member.name == swa else base
        assert len(changed(before, member)) == 1, member.name


def test_each_member_of_the_ablation_changes_one_thing_of_the_base():
    base, *others = SUITES["ablation"].members
    changes = [changed(base, member) for member in others]
    one_thing_each(others, base, "ablation-swa", "ablation-no-ema")
    assert len({json.dumps(change) for change in changes}) == len(others)
    wanted = {
        "pretrained",
        "image_size",
        "sampling",
        "train.label_smoothing",
        "train.mixup",
        "train.ema",
        "train.class_weights",
    }
    wanted |= {f"augment.{key}" for key in config.Augment.model_fields}
    assert wanted <= {key for change in changes for key in change}


def test_each_member_of_the_recipe_changes_one_thing_of_the_long_lite():
    base, *others = SUITES["recipe"].members
    assert base in SUITES["lite"].members
    keys = [key for member in others for key in changed(base, member)]
    assert len(keys) == len(others)
    sides = {member.image_size for member in SUITES["recipe"].members}
    assert {96, 128, 160, 224} <= sides
    wanted = {"start_size", "layer_decay", "label_smoothing", "mixup", "ema", "epochs"}
    assert {f"train.{key}" for key in wanted} | {"augment.rotate", "augment.scale", "augment.erase"} <= set(keys)


def test_the_recipe_from_scratch_is_turned_one_thing_at_a_time():
    networks, turned = SUITES["scratch"].members[:8], SUITES["scratch"].members[8:]
    assert all(member.backbone.startswith("scratch:") and not member.pretrained for member in SUITES["scratch"].members)
    assert len({member.backbone for member in networks}) == 8
    changes = [changed(turned[0], member) for member in turned[1:]]
    one_thing_each(turned[1:], turned[0], "scratch-swa", "scratch-no-ema")
    assert {"train.sam", "train.repeats", "train.start_size", "train.epochs"} <= {key for c in changes for key in c}


def test_the_ablation_meets_the_fine_tuned_row_of_cpu():
    members = {member.name: member for name in ("cpu", "ablation") for member in SUITES[name].members}
    assert changed(members["ablation-8-epochs"], members["lite0-96"]) == {"image_size": (48, 96)}
    assert changed(members["ablation-96px"], members["lite0-96"]) == {"train.epochs": (5, 8)}


def test_votes_of_the_ablation_grow_and_one_is_of_seeds():
    suite = SUITES["ablation"]
    seeds, *sizes = (set(ensemble.members) for ensemble in suite.ensembles)
    assert (len(seeds), len(suite.seeds)) == (1, 2)
    assert all(small < large for small, large in pairwise([seeds, *sizes]))


# run: activation of the convolutions, learning rate, epochs, batch size, as the notebook printed them
NOTEBOOK = {
    1: ("elu", 1e-3, 50, 32),
    2: ("relu", 1e-3, 50, 512),
    3: ("relu", 1e-3, 50, 32),
    4: ("relu", 1e-6, 12, 512),
    5: ("relu", 1e-6, 12, 512),
    6: ("relu", 1e-3, 12, 512),
    7: ("selu", 1e-3, 12, 512),
    8: ("elu", 1e-3, 100, 32),
    9: ("relu", 1e-3, 100, 32),
}


@pytest.mark.parametrize("run", NOTEBOOK)
def test_notebook_holds_the_nine_settings(run):
    member = {member.name: member for member in SUITES["notebook"].members}[f"notebook-run{run}"]
    train = member.train
    assert (member.options["conv_activation"], train.lr, train.epochs, train.batch_size) == NOTEBOOK[run]
    assert (member.backbone, member.options["dense_activation"]) == ("baseline:cnn", "selu")
    assert (train.optimizer, train.schedule, train.weight_decay, train.ema) == ("adam", "constant", 0, 0)
    assert (member.augment.flip, member.augment.shift, member.augment.erase) == (0, 0, 0)


TUNED = sorted((FOLDER / "tuned").glob("*.yaml"))
SPACES = sorted((FOLDER / "spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_a_tuned_suite_is_what_its_study_found(path):
    suite = config.load_suite(path)
    study = json.loads(path.with_name(f"{path.stem}.trials.json").read_text())
    head = path.read_text().split("suite: ")[0]
    assert suite.suite == f"tuned-{path.stem}"
    assert f"fer-bench run suites/tuned/{path.name}" in head
    assert study["digest"] in head
    tuned = suite.members[0].tuned
    assert tuned is not None
    ended = [trial for trial in study["trials"] if trial["state"] in ("complete", "pruned")]
    assert (tuned.study, tuned.trials) == (study["digest"][:16], len(ended))
    best = max((trial for trial in ended if trial["state"] == "complete"), key=lambda trial: trial["value"])
    chosen = config.Member.model_validate({"name": "best", **study["identity"]["member"]})
    assert config.identity_of(tune.member_with(chosen, best["values"])) == config.identity_of(suite.members[0])
    jsonschema.validate(config.read_yaml(path), schema())


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_space_fits_the_backbone_that_its_head_names(path):
    head = path.read_text()
    found = re.search(rf"fer-bench tune --backbone (\S+) --space suites/spaces/{path.name}", head)
    assert found is not None
    changes = tune.load_file(path)
    default = tune.default_space(found[1], frozenset(changes.member.get("options", {})), changes.member)
    space = tune.lay_over(default, changes)
    assert space.known == changes.known
    study = json.loads((FOLDER / "tuned" / f"{found[1]}.trials.json").read_text())
    assert space.plain() == {key: study["identity"][key] for key in ("member", "space")}
