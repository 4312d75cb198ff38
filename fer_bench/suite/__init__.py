"""The order of the stages and who runs them: the only module that sees both halves, training and records.

``plan`` says which runs a suite asks for and what is done already, ``members`` trains and scores one run, ``votes``
combines records, ``estimate`` guesses time and memory, ``apply`` predicts with finished runs, ``progress`` shows
what goes on, and ``stages`` is the order of it all.
"""

from fer_bench.suite.plan import Options
from fer_bench.suite.stages import Outcome, dry_run, fetch_weights, run

__all__ = ["Options", "Outcome", "dry_run", "fetch_weights", "run"]
