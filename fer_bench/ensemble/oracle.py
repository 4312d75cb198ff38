"""How far a choice made on the test rows would have inflated their figure: a diagnostic, and never a result.

Each question is answered twice, once by the validation rows and once by the test rows, and both answers are scored on
the test rows. No record, row or suite sees what comes out.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fer_bench.ensemble.greedy import greedy_counts
from fer_bench.ensemble.votes import normalised, soft_vote
from fer_bench.ensemble.weights import fit_weights

MOST_FOR_SUBSETS = 10  # 1,023 votes; twice as many with each further member
MOST_TITLES = 3

Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(probabilities (M, N, C), labels (N,)) -> weights (M,)"""


@dataclass(frozen=True, eq=False)
class Part:
    """What M candidates predict for N rows."""

    probabilities: np.ndarray  # (M, N, C)
    labels: np.ndarray  # (N,)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the share of test rows that it gets right."""

    what: str
    accuracy: float


@dataclass(frozen=True)
class Inflation:
    """One question: the choice of the validation rows, and the one that the test rows would have made."""

    question: str
    honest: Choice
    oracle: Choice

    @property
    def difference(self) -> float:
        """By how much the figure would have been inflated, as a share."""
        return self.oracle.accuracy - self.honest.accuracy


def best_of(question: str, titles: Sequence[str], validation: Part, test: Part) -> Inflation:
    """Pick one of M candidates; the first wins a tie."""
    return _asked(question, titles, validation, test, lambda p, y: _only(accuracies(p, y).argmax(), len(p)))


def best_votes(titles: Sequence[str], validation: Part, test: Part) -> Iterator[Inflation]:
    """Pick among the soft votes of M candidates: any subset (of at most ten), with replacement, or with weights."""
    if len(titles) <= MOST_FOR_SUBSETS:
        yield _asked("subset that votes", titles, validation, test, best_subset)
    yield _asked("greedy selection, by accuracy", titles, validation, test, _greedy)
    yield _asked("weights, by likelihood", titles, validation, test, lambda p, y: fit_weights(p, y, pull=1e-3))


def accuracies(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of right answers of each of M predictions (M, N, C); the lower class wins a tie."""
    return (normalised(probabilities).argmax(axis=2) == labels).mean(axis=1)


def best_subset(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return equal weights (M,) for the most accurate soft vote of a subset; the smallest, first one wins a tie."""
    rows = normalised(probabilities)
    members = range(len(rows))
    subsets = [list(s) for size in members for s in itertools.combinations(members, size + 1)]
    scores = [(rows[subset].sum(axis=0).argmax(axis=1) == labels).mean() for subset in subsets]
    return np.isin(members, subsets[int(np.argmax(scores))]).astype(np.float64)


def _greedy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    generator = np.random.default_rng(0)
    return greedy_counts(probabilities, labels, generator, bags=1, share=1, size=20, metric="accuracy")


def _only(index: np.integer, members: int) -> np.ndarray:
    return np.eye(members)[index]


def _asked(question: str, titles: Sequence[str], validation: Part, test: Part, choose: Choose) -> Inflation:
    honest, oracle = (_choice(titles, choose(part.probabilities, part.labels), test) for part in (validation, test))
    return Inflation(question, honest, oracle)


def _choice(titles: Sequence[str], weights: np.ndarray, test: Part) -> Choice:
    vote = soft_vote(test.probabilities, weights.tolist())
    return Choice(_in_words(titles, weights / weights.sum()), float((vote.argmax(axis=1) == test.labels).mean()))


def _in_words(titles: Sequence[str], shares: np.ndarray) -> str:
    """Titles with their shares of the vote, the heaviest first; without where they are equal."""
    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    equal = np.allclose(shares[order], shares[order[0]])
    said = [titles[i] if equal else f"{titles[i]} {shares[i]:.2f}" for i in order]
    more = [f"{len(said) - MOST_TITLES} more"] if len(said) > MOST_TITLES else []
    return ", ".join(said[:MOST_TITLES] + more)
