"""Suite YAML -> frozen models.

A suite asks the questions: which members (a member is a fully resolved configuration), which seeds, which ensembles.
Unknown and duplicate keys are refused with their path. A member without its name, as ``identity_of`` gives it, is
part of a run's identity: two members that train alike share one run, and a changed setting is another run. A key that
is added later must have a neutral default and be left out of the identity while it holds that default.
"""

from fer_bench.config.base import Frozen
from fer_bench.config.ensembles import PARAMETERS, Ensemble, Greedy
from fer_bench.config.members import ADDED, Augment, Distill, Member, Sam, Train, Tuned, identity_of
from fer_bench.config.reading import first_problem, merge, read_yaml
from fer_bench.config.suite import PROTOCOL, Suite, load_suite, schema, suite_file

__all__ = [
    "ADDED",
    "PARAMETERS",
    "PROTOCOL",
    "Augment",
    "Distill",
    "Ensemble",
    "Frozen",
    "Greedy",
    "Member",
    "Sam",
    "Suite",
    "Train",
    "Tuned",
    "first_problem",
    "identity_of",
    "load_suite",
    "merge",
    "read_yaml",
    "schema",
    "suite_file",
]
