import mmap

import torch

from fer_bench.suite import memory

CPU = torch.device("cpu")


def test_the_peak_stays_when_memory_is_freed_and_can_be_forgotten():
    size = 256 * 2**20
    memory.reset_peak(CPU)
    before = memory.occupied(CPU)
    block = mmap.mmap(-1, size)  # no allocator keeps it when it is closed
    block.write(bytes([1]) * size)
    assert memory.occupied(CPU) >= before + 0.9 * size
    block.close()
    assert memory.peak_memory(CPU) >= before + 0.9 * size
    if (memory.OWN / "clear_refs").exists():
        memory.reset_peak(CPU)
        assert memory.peak_memory(CPU) <= memory.occupied(CPU) + 0.1 * size
