import numpy as np
import pytest

from fer_bench.ensemble import soft_vote
from fer_bench.errors import UserError


@pytest.fixture
def members():
    return np.random.default_rng(0).dirichlet(np.ones(7), size=(3, 20))  # (M, N, C)


@pytest.mark.parametrize("weights", [None, [1, 2, 5], [0.5, 0.5, 0]])
def test_equals_sklearn_voting(members, weights):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.ensemble import VotingClassifier
    from sklearn.preprocessing import LabelEncoder

    class Stored(ClassifierMixin, BaseEstimator):
        def __init__(self, rows):
            self.rows = rows

        def predict_proba(self, index):
            return self.rows[index]

    voting = VotingClassifier(
        [(str(i), Stored(rows)) for i, rows in enumerate(members)], voting="soft", weights=weights
    )
    voting.estimators_, voting.le_ = [Stored(rows) for rows in members], LabelEncoder().fit(range(7))
    np.testing.assert_allclose(soft_vote(members, weights), voting.predict_proba(np.arange(20)), rtol=1e-12)


def test_stored_rows_vote_in_float64_and_sum_to_one(members):
    vote = soft_vote(members.astype(np.float16))
    assert vote.dtype == np.float64
    np.testing.assert_allclose(vote.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(vote, members.mean(axis=0), atol=5e-4)


def test_one_member_is_itself_and_order_does_not_matter(members):
    np.testing.assert_allclose(soft_vote(members[:1]), members[0], rtol=1e-12)
    np.testing.assert_allclose(soft_vote(members[::-1]), soft_vote(list(members)), rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "must be equal in number; got 2 weights, 3 members"),
        ([0, 0, 0], "not all zero"),
        ([1, -1, 1], "non-negative"),
        ([1, float("nan"), 1], "non-negative"),
    ],
)
def test_weights_that_are_no_mean_are_refused(members, weights, message):
    with pytest.raises(UserError, match=message):
        soft_vote(members, weights)


def test_one_prediction_is_not_an_ensemble(members):
    with pytest.raises(ValueError, match=r"got shape \(20, 7\)"):
        soft_vote(members[0])
