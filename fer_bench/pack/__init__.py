"""Finished records from the machine that trained them into a checkout, as one small file.

People train where the GPU is and commit where the repository is. ``archive`` is the file, ``judge`` decides what a
board takes of it, ``move`` is the two commands. No torch, no data set.
"""

from fer_bench.pack.judge import Verdict
from fer_bench.pack.move import Packed, pack, unpack

__all__ = ["Packed", "Verdict", "pack", "unpack"]
