"""Fitting a network: precision, schedule, averaged weights, checkpoints, guards against divergence and full memory.

All randomness of a step is a pure function of (seed, epoch, step), so a run that was stopped anywhere goes on with
the same bits and a checkpoint holds no random state. Nothing in a step waits for the device. ``precision`` and
``schedule`` say how, ``state`` holds what a run is given and changes, ``steps`` makes one step, ``loop`` all of them,
``swa`` the statistics of averaged weights.
"""

from fer_bench.train.loop import fit
from fer_bench.train.machine import choose_engine
from fer_bench.train.precision import (
    autocast,
    bound_threads,
    refuse_no_compiler,
    refuse_precision,
    using_threads,
)
from fer_bench.train.schedule import class_weights, derive, lr_factor, make_optimizer
from fer_bench.train.state import (
    DivergedError,
    Engine,
    Fitted,
    Job,
    Progress,
    State,
    StoppedError,
    load_checkpoint,
    restore,
    save,
)
from fer_bench.train.steps import is_full

__all__ = [
    "DivergedError",
    "Engine",
    "Fitted",
    "Job",
    "Progress",
    "State",
    "StoppedError",
    "autocast",
    "bound_threads",
    "choose_engine",
    "class_weights",
    "derive",
    "fit",
    "is_full",
    "load_checkpoint",
    "lr_factor",
    "make_optimizer",
    "refuse_no_compiler",
    "refuse_precision",
    "restore",
    "save",
    "using_threads",
]
