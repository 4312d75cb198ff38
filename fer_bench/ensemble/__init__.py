"""Members' probabilities (M, N, C) to one prediction (N, C): M members, N images, C classes.

``votes`` need no fit: soft and hard voting, geometric mean. ``weights``, ``greedy`` and ``stacking`` are fitted on
validation rows, ``temperature`` calibrates before or after. ``combining`` runs any of them by its name and scores
what was fitted by cross-fitting; ``outoffold`` makes members of fold runs; ``recorded`` does all that for the arrays of
records. ``oracle`` is a diagnostic that nothing else uses.
"""

from fer_bench.ensemble.combining import FOLDS, Combined, combine, fit, is_fitted
from fer_bench.ensemble.greedy import greedy_counts
from fer_bench.ensemble.recorded import Recipe, combine_records, fit_records, passes
from fer_bench.ensemble.stacking import fit_logistic, fit_trees
from fer_bench.ensemble.temperature import cooled, fit_temperature
from fer_bench.ensemble.votes import geometric_mean, hard_vote, soft_vote
from fer_bench.ensemble.weights import fit_weights

__all__ = [
    "FOLDS",
    "Combined",
    "Recipe",
    "combine",
    "combine_records",
    "cooled",
    "fit",
    "fit_logistic",
    "fit_records",
    "fit_temperature",
    "fit_trees",
    "fit_weights",
    "geometric_mean",
    "greedy_counts",
    "hard_vote",
    "is_fitted",
    "passes",
    "soft_vote",
]
