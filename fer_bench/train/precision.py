"""What arithmetic is done in: mixed precision and threads."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from fer_bench.config import Member
from fer_bench.errors import UserError

GROUP = Path("/sys/fs/cgroup")
"""Where Linux shows a container what it is granted."""


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The autocast context of a precision; none for fp32."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.amp.autocast(device.type, kinds[precision]) if precision in kinds else contextlib.nullcontext()


def half_on_cuda(device: torch.device) -> str:
    """bf16, or fp16 on older GPUs, which emulate bf16 slowly."""
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def refuse_precision(member: Member, device: torch.device) -> None:
    """Raise a UserError where a member asks for a precision that the device does not train in."""
    if member.train.precision == "fp16" and device.type != "cuda":
        raise UserError(f"train.precision: fp16 needs a CUDA device, this run is on {device}; use auto, bf16 or fp32")


def refuse_no_compiler(device: torch.device) -> None:
    """Raise a UserError where ``torch.compile`` cannot work on the device."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # a missing compiler fails in many ways
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise UserError(
            f"--compile: torch.compile does not work here ({why}); install a C++ compiler, or leave --compile out"
        ) from None


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Let torch work with so many threads meanwhile, or with those that it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bound_threads() -> None:
    """Let torch have no more threads than processors are granted: a container sees all of its host's."""
    granted = _granted()
    if granted is not None and granted < torch.get_num_threads():
        torch.set_num_threads(granted)


def _granted() -> int | None:
    """Processors whose time the control group may take, rounded up; None where it has no bound."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = map(int, " ".join((GROUP / name).read_text() for name in names).split())
            return math.ceil(quota / period) if quota > 0 else None
    return None
