import re
from pathlib import Path

import pytest

from fer_bench.config import Member, identity_of, load_suite, schema, suite_file
from fer_bench.errors import UserError

MINIMAL = """
suite: small
data: toyfaces
members:
  - {name: mlp, backbone: "baseline:mlp", pretrained: false}
"""


def write(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load_suite(write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "suite.yaml"))
    return message


def test_minimal_suite_takes_defaults(tmp_path):
    suite = load_suite(write(tmp_path, MINIMAL))
    assert suite.seeds == (0,)
    assert suite.members[0].views == ("none", "flip")
    assert suite.members[0].train.batch_size == 64


def test_defaults_are_merged_below_members(tmp_path):
    text = """
suite: small
defaults: {pretrained: false, train: {epochs: 3, lr: 0.5}, augment: {flip: 0}}
members:
  - {name: a, backbone: resnet18, train: {lr: 1e-3}}
"""
    member = load_suite(write(tmp_path, text)).members[0]
    assert (member.train.epochs, member.train.lr, member.augment.flip, member.pretrained) == (3, 0.001, 0, False)


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", "0.001", ".001", "+1e-3"])
def test_scientific_numbers_are_numbers(tmp_path, number):
    text = MINIMAL.replace("pretrained: false", f"pretrained: false, train: {{lr: {number}}}")
    assert load_suite(write(tmp_path, text)).members[0].train.lr == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        (MINIMAL + "sedes: [1]\n", "sedes", "did you mean 'seeds'"),
        (MINIMAL.replace("pretrained", "train: {epoch: 3}, pretrained"), "members.0.train.epoch", "'epochs'"),
        (MINIMAL.replace("pretrained", "train: {epochs: 0}, pretrained"), "members.0.train.epochs", "found 0"),
        (MINIMAL.replace("pretrained", "train: {lr: .nan}, pretrained"), "members.0.train.lr", "finite"),
        (MINIMAL.replace("pretrained", "train: {lr: fast}, pretrained"), "members.0.train.lr", "found 'fast'"),
        (MINIMAL.replace("pretrained", "views: [none, flop], pretrained"), "members.0.views.1", "did you mean 'flip'"),
        (MINIMAL.replace("pretrained", "views: [rotate+flip], pretrained"), "members.0.views.0", "'flip+rotate'"),
        (MINIMAL.replace("pretrained", "views: [no], pretrained"), "members.0.views.0", "found False"),
        (MINIMAL.replace("pretrained: false", "pretrained: true"), "members.0", "pretrained: false"),
        (MINIMAL.replace("mlp,", "MLP,"), "members.0.name", "found 'MLP'"),
        (MINIMAL.replace("mlp,", "mlp.s0,"), "members.0.name", "leave the '.s0' away"),
        (MINIMAL.replace("mlp,", "mlp.s0.f1,"), "members.0.name", "leave the '.s0.f1' away"),
        (MINIMAL.replace("pretrained", "folds: 1, pretrained"), "members.0.folds", "found 1"),
        (MINIMAL.replace("pretrained", "fold_views: [flip], pretrained"), "members.0", "folds: must say how many"),
        (
            MINIMAL.replace("pretrained", "folds: 3, fold_views: [flip], views: [none], pretrained"),
            "",
            "not among views",
        ),
        (MINIMAL + "ensembles: [{name: v, method: fold-average, members: [mlp]}]\n", "", "'mlp' has no folds:"),
        (MINIMAL.replace("pretrained", "options: {checkpoint_path: x}, pretrained"), "options", "checkpoint_path"),
        (MINIMAL.replace("small", "weights"), "suite", "another name"),
        (MINIMAL.replace("small", "small-limit5"), "suite", "ends like the folder of a run with --limit"),
        (
            MINIMAL.replace("pretrained: false", "pretrained: false, folds: 3, train: {distill: {teacher: v}}"),
            "members.0",
            "folds: would learn from a teacher that has seen the rows they hold out",
        ),
        (
            MINIMAL.replace("pretrained: false", "pretrained: false, train: {ema: 0.9, swa: 0.5}"),
            "members.0.train",
            "ema and swa: both average the weights; set one of them to 0",
        ),
        (MINIMAL + "ensembles: [{name: v, members: [mlp, mlp]}]\n", "ensembles.0.members", "each once"),
        (MINIMAL + "ensembles: [{name: v, members: [mlp]}]\n", "ensemble 'v'", "two seeds; found 'mlp' alone"),
        (MINIMAL + "ensembles: [{name: v, members: []}]\n", "ensembles.0.members", "at least 1"),
        (
            MINIMAL + "ensembles: [{name: v, members: [mlp]}, {name: w, members: [mlp, cnn]}]\n",
            "ensemble 'v'",
            "two seeds; found 'mlp' alone; ensemble 'w': no member is called 'cnn'",
        ),
        (MINIMAL + "seeds: 2020-13-45\n", "", "a value cannot be read"),
        (MINIMAL + "seeds: 3\n", "seeds", "should be a list, found 3"),
        (MINIMAL + "defaults: []\n", "defaults", "should be a mapping"),
        (MINIMAL + "ensembles: [{name: v, members: [mlp, cnn]}]\n", "", "no member is called 'cnn'"),
        (MINIMAL + "  - {name: mlp, backbone: resnet18}\n", "", "used twice"),
        ("suite: x\nmembers: []\n", "members", "at least 1"),
        ("- 1\n", "", "a suite is a mapping"),
    ],
)
def test_mistakes_name_the_key(tmp_path, text, path, hint):
    message = refusal(tmp_path, text)
    assert path in message
    assert hint in message


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("train: {lr: true}", "train.lr: Input should be a valid number, found True"),
        ("train: {lr: '0.1'}", "train.lr: Input should be a valid number, found '0.1'"),
        ("train: {epochs: true}", "train.epochs: Input should be a valid integer, found True"),
        ("train: {epochs: 2.5}", "train.epochs: Input should be a valid integer, found 2.5"),
        ("augment: {flip: yes}", "augment.flip: Input should be a valid number, found True"),
        ("image_size: '48'", "image_size: Input should be a valid integer, found '48'"),
    ],
)
def test_booleans_and_words_are_no_numbers(tmp_path, keys, path):
    message = refusal(tmp_path, MINIMAL.replace("pretrained: false", f"pretrained: false, {keys}"))
    assert message.endswith(f"members.0.{path}")


def test_no_suite_takes_a_place_in_runs_that_the_project_uses(tmp_path):
    """The places are read from the code: a folder below runs_dir, a default or a text that names runs/SOMETHING."""
    top = Path(__file__).parents[1]
    text = "".join(path.read_text() for folder in ("fer_bench", "benchmark") for path in (top / folder).rglob("*.py"))
    text += (top / "benchmark/cuda.sh").read_text()
    places = re.findall(r'runs_dir / "([a-z]+)"|runs/([a-z]+(?:\.zip)?)\b', text)
    used = {name for pair in places for name in pair if name}
    assert used >= {"checkpoints", "errors", "locks", "tune", "audit", "speed", "records.zip"}
    for name in used:
        assert "another name" in refusal(tmp_path, MINIMAL.replace("small", name))


THREE = """
suite: small
data: toyfaces
defaults: {backbone: "baseline:mlp", pretrained: false}
members:
  - {name: a, views: [none, shift, ten-crop, flip]}
  - {name: b, views: [ten-crop, none, flip], folds: 2, fold_views: [flip]}
  - {name: c, views: [none]}
  - {name: d, views: [rotate]}
ensembles: [{name: v, %s}]
"""


@pytest.mark.parametrize(
    ("ensemble", "views"),
    [
        ("members: [a, b]", ("none", "ten-crop", "flip")),
        ("members: [b, a]", ("ten-crop", "none", "flip")),
        ("members: [b, c]", ("none",)),
        ("members: [a, b], views: [flip, none]", ("flip", "none")),
        ("members: [b], method: fold-average", ("flip",)),
    ],
)
def test_an_ensemble_takes_the_view_sets_that_all_its_members_store(tmp_path, ensemble, views):
    assert load_suite(write(tmp_path, THREE % ensemble)).ensembles[0].views == views


@pytest.mark.parametrize(
    ("ensemble", "hint"),
    [
        ("members: [c, d]", "'v': no view set is stored by all of its members; see their views:"),
        ("members: [a, c], views: [flip]", "member 'c' stores no view set 'flip'; it has none"),
        ("members: [a, c], views: []", "ensembles.0.views: list should have at least 1 item"),
        ("members: [a, e]", "no member is called 'e'"),
    ],
)
def test_an_ensemble_without_common_view_sets_says_so(tmp_path, ensemble, hint):
    assert hint in refusal(tmp_path, THREE % ensemble)


@pytest.mark.parametrize(("given", "path"), [("seeds: [true]", "seeds.0"), ("seeds: ['1']", "seeds.0")])
def test_seeds_are_whole_numbers(tmp_path, given, path):
    assert f"{path}: Input should be a valid integer" in refusal(tmp_path, MINIMAL + given)


def test_whole_numbers_are_numbers_and_the_identity_stays(tmp_path):
    """Records are known by the resolved settings: 1 and 1.0 must stay one run."""
    whole = load_suite(write(tmp_path, MINIMAL.replace("pretrained", "train: {lr: 1}, augment: {flip: 1}, pretrained")))
    same = load_suite(
        write(tmp_path, MINIMAL.replace("pretrained", "train: {lr: 1.0}, augment: {flip: 1.0}, pretrained"))
    )
    assert repr(identity_of(whole.members[0])) == repr(identity_of(same.members[0]))


@pytest.mark.parametrize("text", ["? [a]\n: 3\n", "suite: x\n? {a: 1}\n: 2\n"])
def test_odd_keys_are_refused_with_their_line(tmp_path, text):
    assert "a key must be a word" in refusal(tmp_path, text)


def test_merge_keys_work(tmp_path):
    text = MINIMAL.replace("pretrained: false", "pretrained: false, train: &t {epochs: 3}")
    text += "  - {name: mlp-2, backbone: 'baseline:mlp', pretrained: false, train: {<<: *t, lr: 0.1}}\n"
    train = load_suite(write(tmp_path, text)).members[1].train
    assert (train.epochs, train.lr) == (3, 0.1)


def test_duplicate_key_is_refused_with_its_line(tmp_path):
    message = refusal(tmp_path, MINIMAL + "data: fer2013\n")
    assert message.endswith(":6: the key 'data' stands twice")


def test_broken_yaml_names_the_line(tmp_path):
    assert re.search(r"suite.yaml:\d+: not valid YAML", refusal(tmp_path, "suite: [1, 2\nmembers: }"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_suite(tmp_path / "none.yaml")


def test_identity_ignores_name_and_place_of_weights_only():
    one = Member(name="a", backbone="resnet18")
    assert identity_of(one) == identity_of(Member(name="b", backbone="resnet18", weights="x.pth"))
    assert identity_of(one) == identity_of(Member(name="a", backbone="resnet18", folds=5, fold_views=("flip",)))
    assert identity_of(one) != identity_of(Member(name="a", backbone="resnet18", image_size=64))


def test_seeds_of_one_member_can_vote(tmp_path):
    suite = load_suite(write(tmp_path, MINIMAL + "seeds: [0, 1]\nensembles: [{name: v, members: [mlp]}]\n"))
    assert suite.ensembles[0].members == ("mlp",)


def test_schema_wants_no_more_of_a_member_than_its_name():
    found = schema()
    assert found["$defs"]["Member"]["required"] == ["name"]
    assert found["additionalProperties"] is False
    assert "name" not in found["properties"]["defaults"]["properties"]


ENSEMBLE = (
    MINIMAL
    + "  - {name: mlp2, backbone: 'baseline:mlp', pretrained: false}\nensembles:\n  - {name: v, members: [mlp, mlp2], "
)


def test_parameters_of_an_ensemble_take_their_defaults(tmp_path):
    suite = load_suite(write(tmp_path, ENSEMBLE + "method: greedy, parameters: {bags: 3}}\n"))
    assert suite.ensembles[0].parameters == {"bags": 3, "share": 0.5, "size": 20, "metric": "nll"}
    assert load_suite(write(tmp_path, ENSEMBLE + "}\n")).ensembles[0].parameters == {}


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ("method: greedy, parameters: {bag: 3}", "parameters: bag: unknown key; did you mean 'bags'?"),
        ("method: greedy, parameters: {bags: 0}", "greater than or equal to 1, found 0"),
        ("method: greedy, parameters: {bags: true}", "parameters: bags: Input should be a valid integer, found True"),
        ("method: hard-vote, parameters: {pull: 1}", "pull: unknown key; this method has none"),
        ("method: weighted", "found 'weighted'"),
        ("method: hard-vote, temperature: before", "temperature: before changes no hard vote"),
        ("seed: -1", "seed"),
        ("method: greedy, fit_on: PrivateTest", "fit_on: Input should be 'PublicTest' or 'Training'"),
        ("fit_on: Training", "soft-vote fits nothing, so fit_on: has no meaning; fold-average"),
        ("method: fold-average, temperature: after", "fold-average fits nothing; soft-vote with fit_on: Training"),
    ],
)
def test_mistakes_in_an_ensemble_name_the_key(tmp_path, keys, hint):
    message = refusal(tmp_path, ENSEMBLE + keys + "}\n")
    assert "ensembles.0" in message
    assert hint in message


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ("method: greedy, fit_on: Training", "member 'mlp2' has no folds:"),
        ("method: greedy, fit_on: Training, views: [none]", "member 'mlp2' has no folds:"),
        ("method: fold-average, views: [none]", "member 'mlp' stores no view set 'none' for its folds"),
    ],
)
def test_ensembles_of_fold_runs_need_them(tmp_path, keys, hint):
    text = ENSEMBLE.replace("{name: mlp,", "{name: mlp, folds: 3, fold_views: [flip],", 1)
    assert hint in refusal(
        tmp_path, text.replace("[mlp, mlp2]", "[mlp2, mlp]" if "mlp2" in hint else "[mlp]") + keys + "}\n"
    )


def test_folds_may_be_a_default(tmp_path):
    text = "suite: small\ndefaults: {pretrained: false, folds: 4}\nmembers: [{name: a, backbone: 'baseline:mlp'}]\n"
    text += "ensembles: [{name: bag, method: fold-average, members: [a]}]\n"
    suite = load_suite(write(tmp_path, text))
    assert (suite.members[0].folds, suite.ensembles[0].of_folds) == (4, True)


def test_the_study_that_chose_a_setting_is_no_part_of_what_it_is():
    plain = Member(name="a", backbone="resnet18")
    tuned = Member.model_validate(plain.model_dump() | {"tuned": {"study": "ab" * 8, "trials": 40}})
    assert tuned.tuned is not None
    assert identity_of(tuned) == identity_of(plain)


@pytest.mark.parametrize(
    ("name", "path"), [("cpu", "suites/cpu.yaml"), ("tuned-resnet34", "suites/tuned/resnet34.yaml")]
)
def test_a_suite_says_where_it_lies(name, path):
    assert suite_file(name) == path


def including(tmp_path, files, text="suite: both\ninclude: [one.yaml, two.yaml]\n", data="toyfaces"):
    """A suite in `both.yaml` beside the files that it includes; returns its path."""
    for name, members in files.items():
        (tmp_path / name).write_text(f"suite: {name[:3]}\ndata: {data}\nseeds: [7]\nmembers: [{members}]\n")
    (tmp_path / "both.yaml").write_text(text + ("" if "data:" in text else "data: toyfaces\n"))
    return tmp_path / "both.yaml"


MLP, CNN = (f'{{name: {name}, backbone: "baseline:{name}", pretrained: false}}' for name in ("mlp", "cnn"))

WIDE = MLP.replace("false", "false, image_size: 64")


def test_included_members_are_members_with_the_seeds_and_ensembles_of_the_suite(tmp_path):
    text = "suite: both\ninclude: [one.yaml, two.yaml]\nseeds: [0, 1]\nensembles: [{name: v, members: [mlp, own]}]\n"
    own = "defaults: {train: {epochs: 3}}\nmembers: [{name: own, backbone: resnet18, pretrained: false}]\n"
    found = load_suite(including(tmp_path, {"one.yaml": MLP, "two.yaml": f"{CNN}, {MLP}"}, text + own))
    assert [member.name for member in found.members] == ["own", "mlp", "cnn"]
    assert [member.train.epochs for member in found.members] == [3, 10, 10]  # its defaults are for its own members
    assert found.seeds == (0, 1)
    assert found.ensembles[0].members == ("mlp", "own")
    places = [found.place(member) for member in found.members]
    assert places == ["members.0 (own)", "mlp, included from one.yaml", "cnn, included from two.yaml"]


def test_a_teacher_comes_with_the_student_that_is_included(tmp_path):
    student = "{name: s, backbone: 'baseline:mlp', pretrained: false, train: {distill: {teacher: bag}}}"
    folds = "{name: f, backbone: 'baseline:mlp', pretrained: false, folds: 3}"
    votes = "[{name: bag, method: fold-average, members: [f]}, {name: vote, members: [s, f]}]"
    (tmp_path / "one.yaml").write_text(
        f"suite: one\ndata: toyfaces\nmembers: [{student}, {folds}]\nensembles: {votes}\n"
    )
    (tmp_path / "both.yaml").write_text("suite: both\ndata: toyfaces\ninclude: [one.yaml]\n")
    suite = load_suite(tmp_path / "both.yaml")
    assert [ensemble.name for ensemble in suite.ensembles] == ["bag"]
    assert [member.name for member in suite.taught] == ["s"]


def test_a_suite_may_include_and_have_no_member_of_its_own(tmp_path):
    found = load_suite(including(tmp_path, {"one.yaml": MLP, "two.yaml": CNN}))
    assert [member.name for member in found.members] == ["mlp", "cnn"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: {trian: {epochs: 2}}\n", "defaults.trian: unknown key; did you mean 'train'?"),
        (
            "defaults: {train: {epochs: 0}}\n",
            "defaults.train.epochs: Input should be greater than or equal to 1, found 0",
        ),
        ("defaults: {options: {width: {a: 1}}}\n", "defaults.options.width: Input should be a valid number"),
        ("ensembles: [{name: v, member: [mlp]}]\n", "ensembles.0.member: unknown key; did you mean 'members'?"),
        ("defaults: {train: {distill: {weight: 1}}}\n", "members.0.train.distill.teacher: must name an ensemble"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load_suite(write(tmp_path, MINIMAL + text))
    assert str(caught.value).split(": ", 1)[1].startswith(message)


def test_a_member_of_its_own_mistake_is_told_of_the_member(tmp_path):
    row = "  - {name: own, backbone: 'baseline:mlp', pretrained: false, train: {epochs: -1}}\n"
    with pytest.raises(UserError, match=r"members\.1\.train\.epochs: .* found -1"):
        load_suite(write(tmp_path, MINIMAL + row + "defaults: {train: {epochs: 3}}\n"))


@pytest.mark.parametrize(
    ("files", "text", "message"),
    [
        ({"one.yaml": MLP}, "", "both.yaml: include: no file two.yaml beside this suite"),
        (
            {"one.yaml": MLP, "two.yaml": "{name: x, epochs: 3}"},
            "",
            "two.yaml: members.0.epochs: unknown key; known: name, backbone",
        ),
        (
            {"one.yaml": MLP, "two.yaml": MLP.replace("false", "false, image_size: 64")},
            "",
            "'mlp' of one.yaml and two.yaml differ",
        ),
        ({"one.yaml": MLP}, "suite: both\ninclude: [both.yaml]\n", "both.yaml includes this suite again"),
        (
            {"one.yaml": MLP},
            "suite: both\ninclude: [one.yaml]\ndata: fer2013\n",
            "is of toyfaces, and this suite of fer2013",
        ),
        ({"one.yaml": MLP}, "suite: both\ninclude: one.yaml\n", "include: Input should be a list, found 'one.yaml'"),
        (
            {"one.yaml": MLP},
            f"suite: both\ninclude: [one.yaml]\nmembers: [{MLP}]\n",
            "members: the name 'mlp' is used twice, here and for a member of one.yaml",
        ),
        ({}, "suite: both\n", "members: Field required"),
    ],
)
def test_mistakes_in_what_is_included_are_told(tmp_path, files, text, message):
    path = including(tmp_path, files, text) if text else including(tmp_path, files)
    with pytest.raises(UserError) as caught:
        load_suite(path)
    assert message in str(caught.value)
