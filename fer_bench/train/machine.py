"""What a CPU is asked before it trains a network: precision, threads and micro-batch, by a short probe that is kept."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from fer_bench.config import Member
from fer_bench.files import cache_dir, recall, remember
from fer_bench.models import Network, place
from fer_bench.train.precision import autocast, half_on_cuda, refuse_precision, using_threads
from fer_bench.train.state import Engine
from fer_bench.train.steps import is_full

BF16_GAIN, HALVING_GAIN = 1.2, 1.1
"""How many times faster than the usual way another one has to be, so that chance does not decide."""

IMAGES, LEAST_IMAGES = 32, 8
"""Of a pass at most, where batches are not cut; of a micro-batch at least."""

SECONDS = 3.0
"""After so many a probe makes no further pass, of three."""

FREE_SHARE = 0.85
"""Share of its threads' time that a probe gets from the processor; with less, other work runs beside it."""

_asked: dict[str, "Way"] = {}
"""The answers of this process, which never changes its mind."""


@dataclass(frozen=True)
class Way:
    """How passes are made. ``images`` are those of one pass."""

    precision: str
    threads: int
    images: int


@dataclass(frozen=True)
class Timing:
    """The fastest of a few passes, and the processor time of all of them over that of the threads."""

    image_seconds: float
    share: float


Clock = Callable[[Network, Way], Timing]


def choose_engine(network: Network, member: Member, device: torch.device) -> Engine:
    """Choose precision, threads and micro-batch for a network on a device.

    ``precision: auto`` is bf16 (else fp16) on CUDA, and on the CPU the faster of fp32 and bf16; a processor without
    bf16 instructions takes fp32 unasked. Threads are those that the process has (``OMP_NUM_THREADS``, or its share of
    ``--jobs``), or half as many, a quarter and so on as long as that is faster: a small one may gain nothing.
    A batch is cut into micro-batches as long as that is faster, but never for a network with batch normalisation,
    whose statistics would be those of other images: there only full memory cuts it.

    Answers are kept for each machine, network and batch size. While other work runs beside the probe all threads and
    whole batches are taken, and that is not kept.

    Raises:
        UserError: the device does not train in the precision that the member asks for.
    """
    refuse_precision(member, device)
    if device.type != "cpu":
        return Engine(device, _asked_for(member) or (half_on_cuda(device) if device.type == "cuda" else "fp32"))
    way = _way(network, member)
    return Engine(device, way.precision, way.images if _can_cut(network) else None, way.threads)


def _asked_for(member: Member) -> str | None:
    return None if member.train.precision == "auto" else member.train.precision


def _can_cut(network: Network) -> bool:
    """Whether no image of a batch changes what the network makes of another."""
    return not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.module.modules())


def _way(network: Network, member: Member) -> Way:
    """The answer of this process, else the kept one, else that of a probe."""
    key, path = _key(network, member), cache_dir() / "probes.json"
    if key not in _asked:
        try:
            _asked[key] = Way(**recall(path)[key])
        except (LookupError, TypeError):
            _asked[key], is_certain = probe(network, member, timed)
            if is_certain:
                remember(path, key, asdict(_asked[key]))
    return _asked[key]


def _key(network: Network, member: Member) -> str:
    train = member.train
    # "placed" parts these answers from those of a time when the probe timed another layout
    how = f"{network.side} px placed, batch {train.batch_size} x {train.repeats}, {train.precision}"
    host = f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.node()}"
    return f"{member.backbone} {sorted(member.options.items())}: {how}, {host}"


def probe(network: Network, member: Member, clock: Clock) -> tuple[Way, bool]:
    """Return the fastest way, and whether processor and memory were free enough to tell. ``clock`` times one way.

    Passes have fewer images where those of a batch do not fit into memory, as in training.
    """
    batch = member.train.batch_size * member.train.repeats
    images = most = batch if _can_cut(network) else min(batch, IMAGES)
    while True:
        try:
            way, is_certain = _fastest(network, member, clock, images)
            return way, is_certain and images == most
        except RuntimeError as error:
            if images <= 2 or not is_full(error):
                raise
        images = (images + 1) // 2


def _fastest(network: Network, member: Member, clock: Clock, images: int) -> tuple[Way, bool]:
    can_cut = _can_cut(network)
    way = Way("fp32", torch.get_num_threads(), images)
    way = replace(way, precision=_asked_for(member) or _precision(network, way, clock))
    parts = {"threads": 1} | ({"images": LEAST_IMAGES} if can_cut else {})
    if all(getattr(way, part) // 2 < least for part, least in parts.items()):
        return way, True
    found = clock(network, way)
    if found.share < FREE_SHARE:
        return way, False
    for part, least in parts.items():
        while (half := getattr(way, part) // 2) >= least:
            smaller = replace(way, **{part: half})
            timing = clock(network, smaller)
            if timing.image_seconds * HALVING_GAIN > found.image_seconds:
                break
            way, found = smaller, timing
    return way, True


def _precision(network: Network, way: Way, clock: Clock) -> str:
    if not torch.cpu._is_avx512_bf16_supported():
        return "fp32"
    full, half = (clock(network, replace(way, precision=precision)) for precision in ("fp32", "bf16"))
    return "bf16" if half.image_seconds * BF16_GAIN < full.image_seconds else "fp32"


def timed(network: Network, way: Way) -> Timing:
    """Time up to three forward and backward passes of blank images on the CPU, after one to warm up.

    The network is placed as for training, whose layout and convolutions are what counts.
    """
    place(network.module, torch.device("cpu"))
    x = torch.zeros(way.images, network.channels, network.side, network.side)
    x = x.contiguous(memory_format=torch.channels_last)
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    try:
        with using_threads(way.threads):
            return _passes(network, x, way)
    finally:
        network.module.zero_grad(set_to_none=True)
        network.module.load_state_dict(state)


def _passes(network: Network, x: Tensor, way: Way) -> Timing:
    seconds: list[float] = []
    _pass(network, x, way.precision)
    start, spent = time.perf_counter(), time.process_time()
    while len(seconds) < 3 and sum(seconds) < SECONDS:
        before = time.perf_counter()
        _pass(network, x, way.precision)
        seconds.append(time.perf_counter() - before)
    share = (time.process_time() - spent) / (way.threads * (time.perf_counter() - start))
    return Timing(min(seconds) / way.images, share)


def _pass(network: Network, x: Tensor, precision: str) -> None:
    with autocast(x.device, precision):
        loss = network.module(x).float().square().mean()
    loss.backward()
