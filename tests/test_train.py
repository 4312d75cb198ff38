import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from fer_bench import predict, train
from fer_bench.config import Augment, Member, Train
from fer_bench.errors import UserError
from fer_bench.models import BaselineMLP, build, to_gray, to_input
from fer_bench.suite import members
from fer_bench.train import precision
from fer_bench.train.steps import Averaging

CPU = torch.device("cpu")
ENGINE = train.Engine(CPU)


def job(n=96, backbone="baseline:mlp", seed=0, augment=None, **settings):
    """A learnable toy: the class is where the bright band is."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % 7
    images = rng.integers(0, 60, (n, 48, 48)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * 6 : label * 6 + 6] += 150
    fixed = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "optimizer": "adam", "weight_decay": 0.0}
    member = Member(
        name="m",
        backbone=backbone,
        pretrained=False,
        train=Train.model_validate(fixed | settings),
        augment=augment or Augment(flip=0),
    )
    torch.manual_seed(train.derive(seed, "init"))
    network = build(member, None)

    def validate(module):
        p = predict.probabilities(dataclasses.replace(network, module=module), images, device=CPU)
        return 0.0, float((p.argmax(1) == labels).mean())

    return train.Job(network, member, images, labels, seed, validate)


def bits(fitted):
    return [tensor.numpy().tobytes() for tensor in fitted.module.state_dict().values()]


RICH = {"epochs": 3, "ema": 0.9, "mixup": 0.4, "cutmix": 0.4, "clip_grad": 1.0, "label_smoothing": 0.1}


def test_fitting_learns():
    fitted = train.fit(job(epochs=30), ENGINE)
    assert fitted.history[-1]["validation_accuracy"] > 0.95
    assert [entry["epoch"] for entry in fitted.history] == list(range(1, 31))
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"] / 3


def test_same_seed_same_bits_and_another_seed_others():
    settings = {**RICH, "augment": Augment(shift=0.1, rotate=5, erase=0.3)}
    first = bits(train.fit(job(**settings), ENGINE))
    assert first == bits(train.fit(job(**settings), ENGINE))
    assert first != bits(train.fit(job(seed=1, **settings), ENGINE))


@pytest.mark.parametrize("backbone", ["baseline:mlp", "resnet10t"])
@pytest.mark.parametrize("stop_after", [1, 6, 8])
def test_stopping_anywhere_and_going_on_gives_the_same_bits(tmp_path, stop_after, backbone):
    settings = {**RICH, "backbone": backbone, "augment": Augment(shift=0.1), "n": 80, "epochs": 2}
    whole = train.fit(job(**settings), ENGINE)
    asked = itertools.count(1)
    with pytest.raises(train.StoppedError):
        train.fit(
            job(**settings),
            ENGINE,
            checkpoint=tmp_path / "run.pt",
            should_stop=lambda: next(asked) > stop_after,
        )
    torch.manual_seed(12345)  # the random state of the process must not matter
    resumed = train.fit(job(**settings), ENGINE, checkpoint=tmp_path / "run.pt")
    assert bits(resumed) == bits(whole)
    plain = [{k: e[k] for k in ("epoch", "train_loss", "validation_accuracy")} for e in resumed.history]
    assert plain == [{k: e[k] for k in ("epoch", "train_loss", "validation_accuracy")} for e in whole.history]


def test_epochs_see_every_image_in_another_order():
    this = job(n=32, batch_size=8)
    orders = [torch.randperm(32, generator=torch.Generator().manual_seed(train.derive(0, e, "order"))) for e in (0, 1)]
    assert not torch.equal(*orders)
    assert this.steps == 4


@pytest.mark.parametrize(("batch_size", "shown"), [(4000, 20), (8, 8)])
def test_speed_counts_the_images_that_a_step_shows(monkeypatch, batch_size, shown):
    seconds = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))  # so that every step takes one second
    seen: list[train.Progress] = []
    fitted = train.fit(job(n=20, epochs=1, batch_size=batch_size), ENGINE, report=seen.append)
    monkeypatch.undo()
    assert [where.images_per_second for where in seen] == [shown] * len(seen)
    assert fitted.history[0]["images_per_second"] == fitted.micro_batch == shown


def test_divergence_is_noticed():
    this = job(n=640, lr=1e30, optimizer="sgd", momentum=0.0, schedule="constant")
    with pytest.raises(train.DivergedError, match="no finite value"):
        train.fit(this, ENGINE)


@pytest.mark.parametrize("micro_batch", [16, 5, 3])
def test_micro_batches_add_up_to_the_batch(micro_batch):
    whole = train.fit(job(epochs=1, optimizer="sgd", lr=0.1), ENGINE)
    parts = train.fit(job(epochs=1, optimizer="sgd", lr=0.1), train.Engine(CPU, micro_batch=micro_batch))
    for a, b in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("too large"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
    ids=["torch", "cudnn"],
)
def test_full_memory_halves_the_micro_batch(monkeypatch, error):
    class Small(BaselineMLP):
        def forward(self, x):
            if self.training and len(x) > 6:
                raise error
            return super().forward(x)

    monkeypatch.setattr("fer_bench.models.baselines.BASELINES", {"mlp": Small})
    small = train.fit(job(epochs=1, optimizer="sgd", lr=0.1), ENGINE)
    monkeypatch.undo()
    whole = train.fit(job(epochs=1, optimizer="sgd", lr=0.1), ENGINE)
    assert small.micro_batch == 4
    for a, b in zip(whole.module.parameters(), small.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_one_step_of_sgd_is_the_textbook_step():
    this = job(n=16, epochs=1, optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant", label_smoothing=0.1)
    before = [p.detach().clone() for p in this.network.module.parameters()]
    twin = job(n=16).network.module
    x = torch.from_numpy(this.images).float().unsqueeze(1) / 255
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(twin(x), torch.from_numpy(this.labels))
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    fitted = train.fit(this, ENGINE)
    for old, gradient, new in zip(before, gradients, fitted.module.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * gradient, atol=1e-5)
    assert fitted.history[0]["train_loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_a_sharpness_aware_step_takes_the_gradient_uphill():
    plain = {"epochs": 1, "optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "constant"}
    this = job(n=16, sam={"radius": 0.3}, **plain)
    twin = job(n=16).network.module
    before = [p.detach().clone() for p in twin.parameters()]
    x, labels = torch.from_numpy(this.images).float().unsqueeze(1) / 255, torch.from_numpy(this.labels)

    def gradients():
        return torch.autograd.grad(torch.nn.functional.cross_entropy(twin(x), labels), list(twin.parameters()))

    here = gradients()
    length = sum(float((g**2).sum()) for g in here) ** 0.5
    with torch.no_grad():
        for p, g in zip(twin.parameters(), here, strict=True):
            p += 0.3 * g / length
    uphill = gradients()
    fitted = train.fit(this, ENGINE)
    for old, gradient, new in zip(before, uphill, fitted.module.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * gradient, atol=1e-5)
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(here, uphill, strict=True))
    assert fitted.history[0]["train_loss"] == train.fit(job(n=16, **plain), ENGINE).history[0]["train_loss"]


def test_every_kth_step_is_sharpness_aware():
    def fitted(steps, **settings):
        return bits(train.fit(job(n=16 * steps, epochs=1, schedule="constant", **settings), ENGINE))

    always, second = {"radius": 0.3}, {"radius": 0.3, "every": 2}
    assert fitted(1, sam=second) == fitted(1, sam=always) != fitted(1)
    assert fitted(2, sam=second) != fitted(2, sam=always)


def test_running_statistics_move_once_in_a_sharpness_aware_step():
    def statistics(**settings):
        state = train.fit(job(n=16, backbone="resnet10t", epochs=1, **settings), ENGINE).module.state_dict()
        return {key: value for key, value in state.items() if key.endswith(("running_mean", "running_var"))}

    plain, sharp = statistics(), statistics(sam={"radius": 0.3})
    assert len(plain) > 10
    assert all(torch.equal(plain[key], sharp[key]) for key in plain)


def test_gradients_that_are_not_finite_spoil_no_running_statistics():
    this = job(n=16, backbone="resnet10t", epochs=1, sam={"radius": 0.3})

    def spoiled(module):
        assert all(torch.isfinite(value).all() for key, value in module.state_dict().items() if "running" in key)
        return 0.0, 0.0

    this = dataclasses.replace(this, validate=spoiled)
    hook = this.network.module.fc.weight.register_hook(lambda gradient: gradient * float("nan"))
    train.fit(this, ENGINE)
    hook.remove()


def test_a_teacher_has_its_share_of_the_target():
    plain = {"n": 48, "epochs": 1}
    turned = (np.arange(48) % 7 + 3) % 7
    other = dataclasses.replace(job(**plain), labels=turned)
    taught = job(distill={"weight": 1}, **plain)
    taught = dataclasses.replace(taught, teacher=np.eye(7, dtype=np.float32)[turned])
    assert bits(train.fit(taught, ENGINE)) == bits(train.fit(other, ENGINE))
    unsure = job(distill={"weight": 0.35}, **plain)
    unsure = dataclasses.replace(unsure, teacher=np.full((48, 7), 1 / 7, np.float32))
    smoothed = train.fit(job(label_smoothing=0.35, **plain), ENGINE)  # smoothing is a teacher that knows nothing
    for a, b in zip(train.fit(unsure, ENGINE).module.parameters(), smoothed.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_copies_without_augmentation_change_nothing_and_with_it_differ():
    plain = {"epochs": 1, "optimizer": "sgd", "lr": 0.1}
    once, thrice = (train.fit(job(repeats=n, **plain), ENGINE) for n in (1, 3))
    for a, b in zip(once.module.parameters(), thrice.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert (once.micro_batch, thrice.micro_batch) == (16, 48)
    seen = []

    def note(module, inputs):
        if module.training:
            seen.append(inputs[0].flatten(1).clone())

    this = job(n=16, repeats=3, augment=Augment(shift=0.2), **plain)
    this.network.module.register_forward_pre_hook(note)
    train.fit(this, ENGINE)
    first, second, third = seen[0].split(16)
    assert not any(torch.equal(a, b) for pair in ((first, second), (second, third)) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize(
    ("side", "epochs", "start", "sides"),
    [
        (96, 10, 0.5, [48, 48, 56, 64, 72, 72, 80, 88, 96, 96]),  # 48 + 6 an epoch, in whole eights
        (64, 5, 0.5, [32, 40, 48, 56, 64]),
        (48, 5, 0.1, [32, 32, 32, 32, 48]),  # 5, 16 and 26 are below the least side
        (75, 3, 1.0, [75, 75, 75]),
        (96, 1, 0.5, [96]),
    ],
)
def test_images_grow_to_the_full_side(side, epochs, start, sides):
    member = Member(name="m", backbone="resnet10t", image_size=side, train=Train(epochs=epochs, start_size=start))
    assert [member.side_at(epoch) for epoch in range(epochs)] == sides


def test_a_network_is_fed_the_side_of_the_epoch_and_scored_at_its_own():
    this = job(n=16, backbone="resnet10t", epochs=3, start_size=0.5)
    this = dataclasses.replace(this, member=this.member.model_copy(update={"image_size": 64}))
    this = dataclasses.replace(this, network=build(this.member, None))
    seen = []
    this.network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    train.fit(dataclasses.replace(this, validate=lambda module: (0.0, 0.0)), ENGINE)
    assert seen == [32, 48, 64]


@pytest.mark.parametrize("swa", [0, 0.5])
def test_faces_sampled_once_reach_the_network_sharper(swa):
    """Of all batches, those that renew statistics too: how much neighbouring pixels differ.

    About twice as much as before; a third more where faces are moved as before and only resized bicubic.
    """
    detail = {}
    for sampling in ("twice", "once"):
        this = job(backbone="resnet10t", augment=Augment(rotate=10, shift=0.06), swa=swa)
        network = dataclasses.replace(this.network, side=64, sampling=sampling)
        member = this.member.model_copy(update={"image_size": 64, "sampling": sampling})
        seen: list[float] = []
        network.module.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(float(inputs[0].diff(dim=2).square().mean()))
        )
        this = dataclasses.replace(this, network=network, member=member, validate=lambda module: (0.0, 0.0))
        train.fit(this, ENGINE)
        detail[sampling] = seen
    assert len(detail["once"]) == len(detail["twice"]) >= 12
    assert all(once > 1.8 * twice for once, twice in zip(detail["once"], detail["twice"], strict=True))


def test_ema_is_scored_instead_of_the_last_weights():
    slow = train.fit(job(epochs=1, ema=0.999), ENGINE)
    last = train.fit(job(epochs=1), ENGINE)
    assert bits(slow) != bits(last)


@pytest.mark.parametrize(("share", "last"), [(0.5, 2), (0.1, 1)])
def test_swa_scores_the_mean_of_the_last_epochs_with_statistics_of_its_own(share, last):
    this = job(epochs=4, swa=share, backbone="resnet10t")
    trained, ends = this.network.module, []

    def report(where):
        if where.entry is not None:
            ends.append(copy.deepcopy(list(trained.parameters())))

    fitted = train.fit(this, ENGINE, report=report)
    for found, *of_epochs in zip(fitted.module.parameters(), *ends[-last:], strict=True):
        torch.testing.assert_close(found, torch.stack(of_epochs).mean(0))
    # six batches show every image once, unchanged, so the means of the first layer are those of all images together
    x = to_input(to_gray(torch.from_numpy(this.images)), this.network)
    first, norm = list(fitted.module.get_submodule("conv1").children())[:2]
    with torch.no_grad():
        means = first(x).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    assert fitted.history[-1]["validation_accuracy"] == pytest.approx(this.validate(fitted.module)[1], abs=1e-6)


def test_swa_cuts_batches_where_memory_is_full():
    def refuse(module, inputs):
        if module.training and len(inputs[0]) > 6:
            raise torch.OutOfMemoryError("too large")

    this = job(epochs=2, swa=0.5, backbone="resnet10t")
    this.network.module.register_forward_pre_hook(refuse)
    fitted = train.fit(this, ENGINE)
    cut = train.fit(job(epochs=2, swa=0.5, backbone="resnet10t"), train.Engine(CPU, micro_batch=4))
    assert fitted.micro_batch == 4
    assert bits(fitted) == bits(cut)


@pytest.mark.parametrize("stop_after", [7, 11, 14])
def test_swa_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path, stop_after):
    settings = {"epochs": 3, "swa": 0.67, "backbone": "resnet10t", "augment": Augment(shift=0.1), "n": 80}
    whole = train.fit(job(**settings), ENGINE)
    asked, path = itertools.count(1), tmp_path / "run.pt"
    with pytest.raises(train.StoppedError):
        train.fit(job(**settings), ENGINE, checkpoint=path, should_stop=lambda: next(asked) > stop_after)
    assert bits(train.fit(job(**settings), ENGINE, checkpoint=path)) == bits(whole)


def test_the_average_is_that_of_timm():
    from timm.utils import ModelEmaV3

    module = job(backbone="resnet10t").network.module
    theirs, ours = (ModelEmaV3(module, decay=0.9, use_warmup=True) for _ in range(2))
    averaging = Averaging.of(ours, module)
    for step in range(1, 5):
        module.train()(torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(step)))
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        theirs.update(module, step=step)
        averaging.update(step)
    expected, found = (ema.module.state_dict() for ema in (theirs, ours))
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_schedule_rises_peaks_and_ends_at_its_share(schedule):
    how = Train(schedule=schedule, warmup=0.25, final_lr=0.01)
    factors = [train.lr_factor(how, step, 100) for step in range(100)]
    assert int(np.argmax(factors)) == 24
    assert factors[24] == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.01)
    assert all(np.diff(factors[:25]) > 0)
    assert all(np.diff(factors[25:]) < 0)
    halfway = (factors[24 + 37] + factors[24 + 38]) / 2  # half of the way down a cosine is the mean of its ends
    assert halfway == pytest.approx((1 + 0.01) / 2, abs=1e-6)


def test_constant_schedule_and_no_warmup():
    assert train.lr_factor(Train(schedule="constant"), 0, 10) == 1
    assert train.lr_factor(Train(schedule="cosine", warmup=0), 0, 1) == pytest.approx(Train().final_lr)


def test_class_weights_have_mean_one_over_the_images():
    labels = np.repeat(np.arange(7), [40, 5, 40, 70, 45, 30, 50])
    for kind in ("none", "sqrt", "balanced"):
        weights = train.class_weights(labels, kind)
        assert weights[labels].mean() == pytest.approx(1, abs=1e-6)
    balanced = train.class_weights(labels, "balanced") * np.bincount(labels)
    assert balanced == pytest.approx(np.full(7, len(labels) / 7))
    assert train.class_weights(labels, "sqrt")[1] / train.class_weights(labels, "sqrt")[0] == pytest.approx(
        math.sqrt(8)
    )


def test_class_weights_match_the_weighted_loss_of_the_textbook():
    this = job(n=16, epochs=1, optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant", class_weights="balanced")
    weights = torch.from_numpy(train.class_weights(this.labels, "balanced"))
    twin = job(n=16).network.module
    x = torch.from_numpy(this.images).float().unsqueeze(1) / 255
    each = torch.nn.functional.cross_entropy(twin(x), torch.from_numpy(this.labels), reduction="none")
    expected = (weights[torch.from_numpy(this.labels)] * each).mean().item()
    assert train.fit(this, ENGINE).history[0]["train_loss"] == pytest.approx(expected, abs=1e-5)


def test_damaged_checkpoint_is_put_aside(tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(b"PK\x03\x04 not a checkpoint")
    fitted = train.fit(job(), ENGINE, checkpoint=path)
    assert bits(fitted) == bits(train.fit(job(), ENGINE))


def test_bf16_runs_and_stays_close():
    plain = train.fit(job(epochs=20), ENGINE)
    mixed = train.fit(job(epochs=20), train.Engine(CPU, precision="bf16"))
    assert mixed.precision == "bf16"
    assert abs(plain.history[-1]["validation_accuracy"] - mixed.history[-1]["validation_accuracy"]) < 0.1
    assert mixed.module.state_dict()["layers.1.weight"].dtype == torch.float32


def test_seeds_of_purposes_differ():
    seeds = {train.derive(s, e, k) for s in range(3) for e in range(3) for k in ("order", "augment")}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_fp16_on_the_cpu_is_refused():
    this = job(precision="fp16")
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        train.choose_engine(this.network, this.member, CPU)


def test_threads_are_set_for_the_run_alone_and_kept_over_a_stop(tmp_path):
    path, before, seen, asked = tmp_path / "run.pt", torch.get_num_threads(), [], itertools.count()
    with pytest.raises(train.StoppedError):
        train.fit(job(), train.Engine(CPU, threads=1), checkpoint=path, should_stop=lambda: next(asked) > 3)
    fitted = train.fit(
        job(),
        train.Engine(CPU, threads=3),
        checkpoint=path,
        report=lambda where: seen.append(torch.get_num_threads()),
    )
    assert fitted.threads == 1
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 5),
        ({"cpu.max": "max 100000\n"}, 5),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "800000 100000\n"}, 5),
        ({"cpu.max": "nonsense"}, 5),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5),
    ],
)
def test_threads_are_no_more_than_a_container_is_granted(tmp_path, monkeypatch, files, threads):
    monkeypatch.setattr(precision, "GROUP", tmp_path)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with train.using_threads(5):
        members.pick_device("cpu")
        assert torch.get_num_threads() == threads


def stopped(path, engine):
    asked = itertools.count()
    with pytest.raises(train.StoppedError):
        train.fit(job(), engine, checkpoint=path, should_stop=lambda: next(asked) > 3)


def test_a_stopped_run_goes_on_with_no_more_threads_than_the_process_has(tmp_path):
    path = tmp_path / "run.pt"
    with train.using_threads(3):
        stopped(path, train.Engine(CPU, threads=3))
    with train.using_threads(2):
        assert train.fit(job(), train.Engine(CPU, threads=1), checkpoint=path).threads == 2


def test_a_stopped_run_keeps_its_precision(tmp_path):
    path, bf16 = tmp_path / "run.pt", train.Engine(CPU, "bf16")
    whole = train.fit(job(), bf16)
    assert bits(whole) != bits(train.fit(job(), ENGINE))
    stopped(path, bf16)
    resumed = train.fit(job(), ENGINE, checkpoint=path)  # as where a probe has another answer by now
    assert (resumed.precision, bits(resumed)) == ("bf16", bits(whole))


def test_a_checkpoint_without_threads_or_in_a_precision_of_other_devices_goes_on_with_what_is_here(tmp_path):
    path = tmp_path / "run.pt"
    for change in ({"precision": "fp16"}, {}):
        stopped(path, ENGINE)
        held = {key: value for key, value in torch.load(path).items() if key not in ("precision", "threads")}
        torch.save(held | change, path)
        fitted = train.fit(job(), ENGINE, checkpoint=path)
        assert (fitted.precision, fitted.threads) == ("fp32", torch.get_num_threads())
        path.unlink()


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_a_compiled_network_learns_the_same(monkeypatch):
    compiled = []

    def traced(module):
        compiled.append(module)
        return real(module, backend="aot_eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    fitted = train.fit(job(), train.Engine(CPU, compiles=True))
    assert len(compiled) == 1
    assert list(fitted.module.state_dict()) == list(train.fit(job(), ENGINE).module.state_dict())
    assert bits(fitted) == bits(train.fit(job(), ENGINE))


def test_a_missing_compiler_is_told_in_one_line(monkeypatch):
    def fail(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        UserError, match=r"--compile: torch.compile does not work here \(InvalidCxxCompiler: No working"
    ):
        train.refuse_no_compiler(CPU)
