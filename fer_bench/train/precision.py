"""How numbers are kept: mixed precision by device and network, and the memory that a process frees."""

import contextlib
import ctypes
import json
import platform
import time

import torch

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.files import cache_dir, write_atomic
from fer_bench.models import Network


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The autocast context of a precision; none for fp32."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.amp.autocast(device.type, kinds[precision]) if precision in kinds else contextlib.nullcontext()


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back and clearing it anew in every step.

    Raised CPU training of small networks by 9 to 36 % where it was measured (benchmark/LOG.md). Returns whether it
    was possible.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        return bool(libc.mallopt(mmap_threshold, 1 << 30)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def choose_precision(network: Network, member: Member, device: torch.device) -> str:
    """Resolve ``precision: auto``: bf16 (else fp16) on CUDA; on the CPU the faster of fp32 and bf16 for the network.

    A CPU without bf16 instructions takes fp32 unprobed. bf16 must win by a fifth, so that chance does not decide.
    """
    refuse_precision(member, device)
    wanted = member.train.precision
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        with torch.cuda.device(device):  # older GPUs emulate bf16, slowly
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "fp32"
    return _remembered(network, member)


def refuse_precision(member: Member, device: torch.device) -> None:
    """Raise a UserError where a member asks for a precision that the device does not train in."""
    if member.train.precision == "fp16" and device.type != "cuda":
        raise UserError(f"train.precision: fp16 needs a CUDA device, this run is on {device}; use auto, bf16 or fp32")


def _remembered(network: Network, member: Member) -> str:
    """The probe's answer, asked once a network and machine, so that a run never changes its mind half-way."""
    path = cache_dir() / "precision.json"
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    key = f"{platform.node()} {torch.__version__} {member.backbone} {network.side} {sorted(member.options.items())}"
    if key not in known:
        faster = _probe_seconds(network, "fp32") > 1.2 * _probe_seconds(network, "bf16")
        known[key] = "bf16" if faster else "fp32"
        with contextlib.suppress(OSError):
            write_atomic(path, json.dumps(known, indent=1, sort_keys=True).encode())
    return known[key]


def _probe_seconds(network: Network, precision: str) -> float:
    """Best of three forward and backward passes of 16 blank images on the CPU, after one to warm up."""
    x = torch.zeros(16, network.channels, network.side, network.side).contiguous(memory_format=torch.channels_last)
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            loss = network.module(x).float().square().mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    network.module.zero_grad(set_to_none=True)
    network.module.load_state_dict(state)
    return min(seconds[1:])
