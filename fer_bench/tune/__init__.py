"""Search space + objective -> best values. Knows nothing of faces or networks, and never imports torch.

``space`` says what is searched and ``families`` what by default; ``storage`` is where a study lives, ``study`` what it
is, ``points`` proposes, ``claims`` deals out, ``alive`` tells who is still there and ``budget`` what is left;
``worker`` is one process at work, ``supervise`` several, ``display`` what people see meanwhile; ``result``,
``figures`` and ``suitefile`` are the end.
"""

from fer_bench.tune.budget import Budget, parse_seconds
from fer_bench.tune.families import default_space
from fer_bench.tune.result import Result, changes, conclude
from fer_bench.tune.space import Space, SpaceFile, lay_over, load_file, member_with
from fer_bench.tune.storage import parse as parse_storage
from fer_bench.tune.study import PRUNERS, Plan, nearest_other, opened
from fer_bench.tune.supervise import supervise
from fer_bench.tune.worker import (
    Attempt,
    FailedError,
    HopelessError,
    LostError,
    Objective,
    Outcome,
    PrunedError,
    StoppedError,
    work,
)

__all__ = [
    "PRUNERS",
    "Attempt",
    "Budget",
    "FailedError",
    "HopelessError",
    "LostError",
    "Objective",
    "Outcome",
    "Plan",
    "PrunedError",
    "Result",
    "Space",
    "SpaceFile",
    "StoppedError",
    "changes",
    "conclude",
    "default_space",
    "lay_over",
    "load_file",
    "member_with",
    "nearest_other",
    "opened",
    "parse_seconds",
    "parse_storage",
    "supervise",
    "work",
]
