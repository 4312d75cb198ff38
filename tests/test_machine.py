"""What a CPU is asked before training: precision, threads, micro-batch."""

import json

import pytest
import torch

from fer_bench import train
from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.models import build
from fer_bench.train import machine
from fer_bench.train.machine import Timing, Way

CPU = torch.device("cpu")
REAL = machine.timed  # the suite of tests has a clock of its own


@pytest.fixture(autouse=True)
def _four_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("FER_BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(machine, "_asked", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


def asked(backbone="baseline:mlp", **settings):
    member = Member(
        name="m", backbone=backbone, pretrained=False, image_size=48, train=Train(**{"batch_size": 64} | settings)
    )
    return build(member, None), member


def clock(seconds, share=1.0):
    """Time by a table of way -> seconds an image; ways that are not in it must not be asked for."""
    ways = []

    def timed(network, way):
        ways.append(way)
        return Timing(seconds[way], share)

    return timed, ways


def probed(monkeypatch, seconds, share=1.0, has_bf16=False, **settings):
    timed, ways = clock(seconds, share)
    monkeypatch.setattr(machine, "timed", timed)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    network, member = asked(**settings)
    return train.choose_engine(network, member, CPU), ways


def test_threads_are_halved_while_that_is_faster(monkeypatch):
    seconds = {Way("fp32", 4, 32): 4.0, Way("fp32", 2, 32): 3.0, Way("fp32", 1, 32): 2.9}
    engine, ways = probed(monkeypatch, seconds, backbone="resnet10t")
    assert (engine.threads, engine.micro_batch) == (2, None)
    assert len(ways) == 3


def test_a_tenth_faster_is_too_little(monkeypatch):
    engine, ways = probed(monkeypatch, {Way("fp32", 4, 32): 1.0, Way("fp32", 2, 32): 0.95}, backbone="resnet10t")
    assert engine.threads == 4
    assert len(ways) == 2


def test_batches_are_cut_while_that_is_faster_after_the_threads_are_chosen(monkeypatch):
    seconds = {Way("fp32", 4, 64): 4.0, Way("fp32", 2, 64): 5.0, Way("fp32", 4, 32): 3.0, Way("fp32", 4, 16): 3.0}
    engine, _ = probed(monkeypatch, seconds)
    assert (engine.threads, engine.micro_batch) == (4, 32)


def test_a_micro_batch_keeps_eight_images(monkeypatch):
    seconds = {Way("fp32", 4, 16): 4.0, Way("fp32", 2, 16): 9.0, Way("fp32", 4, 8): 1.0}
    engine, _ = probed(monkeypatch, seconds, batch_size=16)
    assert engine.micro_batch == 8


def test_a_batch_that_does_not_fit_into_memory_is_tried_in_halves_as_in_training(monkeypatch):
    seconds = {Way("fp32", 4, 16): 4.0, Way("fp32", 2, 16): 9.0, Way("fp32", 4, 8): 4.0}
    told = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"

    def timed(network, way):
        if way not in seconds:
            raise RuntimeError(told)
        return Timing(seconds[way], 1.0)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    network, member = asked()
    assert machine.probe(network, member, timed) == (Way("fp32", 4, 16), False)  # another day may have more room
    told = "some other trouble"
    with pytest.raises(RuntimeError, match="other trouble"):
        machine.probe(network, member, timed)


def test_copies_of_an_image_count(monkeypatch):
    seconds = {Way("fp32", 4, 48): 1.0, Way("fp32", 2, 48): 9.0, Way("fp32", 4, 24): 9.0}
    assert probed(monkeypatch, seconds, batch_size=16, repeats=3)[0].micro_batch == 48


def test_batch_normalisation_keeps_its_batch(monkeypatch):
    engine, ways = probed(monkeypatch, {Way("fp32", 4, 32): 4.0, Way("fp32", 2, 32): 4.0}, backbone="resnet10t")
    assert engine.micro_batch is None
    assert {way.images for way in ways} == {32}


def test_beside_other_work_nothing_is_chosen_nor_kept(monkeypatch, tmp_path):
    engine, ways = probed(monkeypatch, {Way("fp32", 4, 64): 1.0}, share=0.5)
    assert (engine.threads, engine.micro_batch) == (4, 64)
    assert len(ways) == 1
    assert not (tmp_path / "probes.json").exists()
    again, ways = probed(monkeypatch, {})  # but this process does not change its mind
    assert (again, ways) == (engine, [])


def test_answers_are_kept_for_the_next_process(monkeypatch, tmp_path):
    seconds = {Way("fp32", 4, 64): 4.0, Way("fp32", 2, 64): 3.0, Way("fp32", 1, 64): 9.0, Way("fp32", 2, 32): 9.0}
    first, _ = probed(monkeypatch, seconds)
    machine._asked.clear()
    assert probed(monkeypatch, {}) == (first, [])
    machine._asked.clear()
    other = {Way("fp32", 4, 32): 1.0, Way("fp32", 2, 32): 2.0, Way("fp32", 4, 16): 9.0}
    assert probed(monkeypatch, other, batch_size=32)[0].threads == 4  # another batch is another question
    assert len(json.loads((tmp_path / "probes.json").read_text())) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"k": 1}'])
def test_a_damaged_file_of_answers_is_as_none(monkeypatch, tmp_path, text):
    (tmp_path / "probes.json").write_text(text)
    seconds = {Way("fp32", 4, 64): 1.0, Way("fp32", 2, 64): 9.0, Way("fp32", 4, 32): 9.0}
    assert len(probed(monkeypatch, seconds)[1]) == 3
    assert '"threads": 4' in (tmp_path / "probes.json").read_text()


@pytest.mark.parametrize(("half", "precision"), [(1.0, "bf16"), (2.6, "fp32")])
def test_bf16_must_win_by_a_fifth(monkeypatch, half, precision):
    seconds = {Way(p, t, 32): s for p, s in (("fp32", 3.0), ("bf16", half)) for t in (4, 2)}
    engine, _ = probed(monkeypatch, seconds, has_bf16=True, backbone="resnet10t")
    assert engine.precision == precision


def test_a_precision_that_is_asked_for_is_taken(monkeypatch):
    seconds = {Way("bf16", 4, 32): 1.0, Way("bf16", 2, 32): 2.0}
    assert probed(monkeypatch, seconds, backbone="resnet10t", precision="bf16")[0].precision == "bf16"


def test_fp16_on_the_cpu_is_refused():
    network, member = asked(precision="fp16")
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        train.choose_engine(network, member, CPU)


def test_one_thread_and_batch_normalisation_leave_nothing_to_ask(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    engine, ways = probed(monkeypatch, {}, backbone="resnet10t")
    assert (engine.precision, engine.threads, engine.micro_batch, ways) == ("fp32", 1, None, [])


def test_a_pass_is_timed_and_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.undo()
    network, _ = asked("resnet10t")
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    threads = torch.get_num_threads()
    found = REAL(network, Way("fp32", 1, 4))
    assert found.image_seconds > 0
    assert 0 < found.share < 1.5
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items())
    assert all(p.grad is None for p in network.module.parameters())
    assert torch.get_num_threads() == threads


def test_a_pass_that_fails_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.undo()
    network, _ = asked("resnet10t")
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    passes = iter([machine._pass])

    def fails_at_the_second(*words):
        next(passes, refuse)(*words)

    monkeypatch.setattr(machine, "_pass", fails_at_the_second)
    with pytest.raises(RuntimeError, match="no room"):
        REAL(network, Way("fp32", 1, 4))
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items())
    assert all(p.grad is None for p in network.module.parameters())


def refuse(*words):
    raise RuntimeError("no room")
