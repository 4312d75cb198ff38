from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fer_bench import records
from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.records import checkpoint_path
from fer_bench.suite import estimate, members, probe
from fer_bench.suite.plan import Options, Run
from fer_bench.train import Engine, Fitted

COUNTS = {"Training": 1000, "PublicTest": 100, "PrivateTest": 200}
MEMBER = Member(
    name="m", backbone="baseline:mlp", pretrained=False, views=("none", "flip"), train=Train(epochs=3, batch_size=64)
)
IN_FULL = MEMBER.model_copy(update={"train": MEMBER.train.model_copy(update={"precision": "fp32"})})
"""bf16, which some machines choose, copies the images first."""
WORK = 3 * 1000 + 0.35 * (3 * 100 + 2 * (100 + 200))  # epochs and their validation, then two passes over both parts


def setting(tmp_path) -> Any:
    options = Options(runs_dir=tmp_path)
    return SimpleNamespace(board=tmp_path, facts={"counts": COUNTS}, device=torch.device("cpu"), options=options)


def run(member=MEMBER, state="new", seed=0):
    return Run(member, seed, None, {"seed": seed, "name": member.name}, state)


def measure(member, device):
    return estimate.Measured(10, 0.01, 0.5, 100)


def whole(promised):
    return pytest.approx(estimate.START_SECONDS + promised)


def test_a_run_takes_its_images_and_its_steps(tmp_path):
    forecast = estimate.Forecast(setting(tmp_path), measure=measure)
    assert forecast.known(run()) is None
    assert forecast.seconds(run()) == whole(0.01 * WORK + 0.5 * 3 * 15)  # 15 full batches of 64 in 1000
    assert forecast.known(run()) == forecast.seconds(run())
    assert forecast.known(run(state="done")) == 0


def test_copies_second_passes_and_small_sides_count(tmp_path):
    train = {"epochs": 3, "repeats": 2, "sam": {"radius": 0.1, "every": 4}, "start_size": 0.5, "swa": 0.3}
    member = MEMBER.model_copy(update={"image_size": 64, "train": Train.model_validate(train)})
    forecast = estimate.Forecast(setting(tmp_path), measure=measure)
    pixels = (32**2 + 48**2 + 64**2) / 3 / 64**2
    renewed = estimate.FORWARD_SHARE / 3  # one epoch of three is averaged
    extra = 0.01 * 3 * 1000 * (pixels * 2 * 1.25 - 1 + renewed)
    assert forecast.seconds(run(member)) == whole(0.01 * WORK + 0.5 * 3 * 15 + extra)


def test_jobs_share_a_processor_until_one_shows_its_speed(tmp_path):
    forecast = estimate.Forecast(setting(tmp_path), jobs=4, measure=measure)
    promised = 0.01 * WORK + 0.5 * 45
    assert forecast.seconds(run()) == whole(4 * promised)
    forecast.learn(run(), seconds=promised, share=0.5)  # it takes twice as long as promised
    assert forecast.seconds(run(seed=1)) == whole(2 * promised)
    other = MEMBER.model_copy(update={"image_size": 64})
    assert forecast.seconds(run(other)) == whole(2 * promised)  # what one network shows corrects the others


@pytest.mark.parametrize(("device", "alone", "slowed"), [("cpu", 4, 1.75), ("cuda", 2.5, 2.5)])
def test_what_is_measured_beside_other_runs_counts_them_once(tmp_path, monkeypatch, device, alone, slowed):
    """Four jobs, three of them busy: on a CPU they have three quarters as many threads as the measuring process."""
    monkeypatch.setattr(estimate, "environment", lambda device: {"hardware": "h", "device": device.type, "threads": 8})
    here = setting(tmp_path)
    here.device = torch.device(device)
    forecast = estimate.Forecast(here, jobs=4, measure=measure)
    promised = 0.01 * WORK + 0.5 * 45
    assert forecast.seconds(run()) == whole(alone * promised)
    forecast.beside = 3
    other = MEMBER.model_copy(update={"image_size": 64})
    assert forecast.seconds(run(other)) == whole(alone / slowed * promised)
    assert forecast.seconds(run()) == whole(alone * promised)  # measured before
    forecast.learn(run(), seconds=3 * promised, share=1)
    assert forecast.seconds(run(other)) == whole(3 / slowed * promised)
    forecast.learn(run(other), seconds=3 / slowed * promised, share=1)  # as it was told: the ratio is 3, not less
    third = MEMBER.model_copy(update={"image_size": 96})
    assert forecast.seconds(run(third)) == whole(3 / slowed * promised)


def test_a_checkpoint_leaves_the_rest_of_the_steps(tmp_path):
    path = checkpoint_path(tmp_path, run().identity)
    path.parent.mkdir()
    torch.save({"epoch": 1, "step": 3}, path)
    forecast = estimate.Forecast(setting(tmp_path), measure=measure)
    left = forecast.seconds(run(state="resume")) - estimate.START_SECONDS
    assert left == pytest.approx((0.01 * WORK + 0.5 * 45) * (45 - 15 - 3) / 45)
    path.write_bytes(b"damaged")
    assert forecast.seconds(run(state="resume")) == forecast.seconds(run())


def test_the_board_knows_what_this_machine_has_done(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "environment", lambda device: {"hardware": "this one", "device": "cpu", "threads": 2})
    record = {"kind": "member", "name": "m", "run_id": "a", "timing": {"train_seconds": 60.0, "predict_seconds": 6.0}}
    record |= {"identity": {"member": MEMBER.model_dump(mode="json", exclude={"name"})}}
    measured = 0.01 * WORK + 0.5 * 45
    for hardware, threads, expected in (("this one", 2, 66.0), ("another", 2, measured), ("this one", 1, measured)):
        found = record | {"environment": {"hardware": hardware, "device": "cpu", "threads": threads}}
        monkeypatch.setattr(records, "load_all", lambda board, found=found: [found])
        forecast = estimate.Forecast(setting(tmp_path), measure=measure)
        assert forecast.seconds(run()) == whole(expected)
        assert forecast.finished == {"a"}


def test_runs_that_used_fewer_threads_than_they_had_are_known_and_so_are_those_that_shared_them(tmp_path, monkeypatch):
    here = {"hardware": "this one", "device": "cpu", "threads": 4}
    monkeypatch.setattr(estimate, "environment", lambda device: here)
    record = {"kind": "member", "name": "m", "run_id": "a", "timing": {"train_seconds": 60.0, "predict_seconds": 6.0}}
    record |= {"identity": {"member": MEMBER.model_dump(mode="json", exclude={"name"})}}
    chosen = members._chosen(Engine(torch.device("cpu")), Fitted(torch.nn.Identity(), [], 60.0, 64, "fp32", 1))
    for jobs, there in ((1, here | chosen), (2, here | {"threads": 2, "jobs": 2} | chosen)):
        monkeypatch.setattr(records, "load_all", lambda board, there=there: [record | {"environment": there}])
        assert estimate.Forecast(setting(tmp_path), jobs, measure).seconds(run()) == whole(66.0)
        assert estimate.Forecast(setting(tmp_path), 3 - jobs, measure).seconds(run()) != whole(66.0)


def test_a_run_whose_weights_are_kept_is_only_scored(tmp_path, monkeypatch):
    wide = MEMBER.model_copy(update={"views": ("none", "flip", "ten-crop", "rotate")})  # 2 + 10 + 2 distinct views
    scoring = 0.01 * 0.35 * 14 * (100 + 200)
    forecast = estimate.Forecast(setting(tmp_path), measure=measure)
    assert forecast.seconds(run(wide, "score")) == whole(scoring)
    forecast.note_finished(run())
    assert forecast.seconds(run(wide)) == whole(scoring)
    assert forecast.seconds(run(wide, "redo")) == whole(0.01 * (3 * 1035) + scoring + 0.5 * 45)


def test_a_network_is_measured_on_its_device():
    found = estimate.measure(IN_FULL, torch.device("cpu"))
    assert found.parameters == 48 * 48 * 120 + 120 + 120 * 84 + 84 + 84 * 7 + 7
    assert found.image_seconds > 0
    assert found.step_seconds > 0
    assert found.image_bytes == 4 * (120 + 84 + 7)  # the layers' outputs in fp32


def test_a_forward_pass_alone_holds_two_layers_at_a_time(monkeypatch):
    monkeypatch.setattr(probe, "grown", lambda device, work: bool(work()) and 0)  # as where no system tells
    found = estimate.measure(IN_FULL, torch.device("cpu"))
    assert found.largest_bytes == 4 * 120
    assert found.scored_bytes == 4 * 2 * 120  # a layer's output before and after its ReLU


def test_memory_is_copies_of_the_weights_data_activations_and_scoring():
    found = estimate.Measured(1000, 0.0, 0.0, image_bytes=300, largest_bytes=100, scored_bytes=10)
    train = Train(batch_size=64, ema=0.9)
    member = MEMBER.model_copy(update={"train": train})
    data, scored = 48 * 48 * 1300 + 4 * 7 * 1000, 10 * 256
    fixed = 5 * 4 * 1000 + data  # weights, gradients, two of Adam, average
    training = (300 + 2 * 100) * 64
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    peak = estimate.peak_bytes
    assert peak(member, found, COUNTS, gpu, only_scored=False) == fixed + training
    assert peak(member, found, COUNTS, cpu, only_scored=False) == fixed + training + estimate.SCRATCH
    assert peak(member, found, COUNTS, gpu, only_scored=True) == 4000 + 48 * 48 * 1300 + scored
    few = member.model_copy(update={"train": Train(batch_size=8, optimizer="sgd")})
    wide = estimate.Measured(1000, 0.0, 0.0, image_bytes=300, largest_bytes=100, scored_bytes=1000)
    assert peak(few, wide, COUNTS, gpu, only_scored=False) == 3 * 4000 + data + 1000 * 256  # more than training needs
    seen = estimate.Measured(1000, 0.0, 0.0, image_bytes=300, largest_bytes=100, pass_bytes=700)
    assert peak(member, seen, COUNTS, gpu, only_scored=False) == fixed + 700 * 64
    cut = estimate.Measured(1000, 0.0, 0.0, image_bytes=300, largest_bytes=100, micro_batch=16)
    assert peak(member, cut, COUNTS, gpu, only_scored=False) == fixed + (300 + 2 * 100) * 16


def test_a_dry_run_counts_what_the_process_holds_already(tmp_path, monkeypatch):
    held = iter([10**9, 0])
    monkeypatch.setattr(estimate, "occupied", lambda device: next(held))
    monkeypatch.setattr(estimate, "measure", measure)
    rows = [estimate.rows(setting(tmp_path), [run()])[0] for _ in range(2)]
    assert rows[0]["bytes"] == rows[1]["bytes"] + 10**9


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("[enforce fail] can't allocate memory")])
def test_a_network_that_cannot_be_trained_here_takes_no_time_and_says_why(tmp_path, error):
    asked = []

    def fails(member, device):
        asked.append(member.name)
        raise error

    half = MEMBER.model_copy(update={"train": Train(precision="fp16")})
    for member, measured, why in ((MEMBER, fails, "out of memory"), (half, None, "train.precision: fp16 needs a CUDA")):
        forecast = estimate.Forecast(setting(tmp_path), measure=measured)
        assert forecast.known(run(member)) is None
        assert forecast.seconds(run(member)) == 0
        assert forecast.known(run(member)) == 0
        with pytest.raises(UserError, match=why):
            forecast.measured(member)
    assert asked == ["m"]
