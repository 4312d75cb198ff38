"""Stacking: a classifier of scikit-learn on the members' log-probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fer_bench.ensemble.votes import log_rows

Predict = Callable[[np.ndarray], np.ndarray]


def fit_logistic(probabilities: np.ndarray, labels: np.ndarray, strength: float) -> Predict:
    """Fit multinomial logistic regression on (M, N, C); returns (M, K, C) -> (K, C).

    ``strength`` of the L2 penalty is relative to the mean loss of an image, so it does not change with N.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    logistic = LogisticRegression(C=1 / (strength * len(labels)), max_iter=2000)
    return _fitted(make_pipeline(StandardScaler(), logistic), probabilities, labels)


def fit_trees(
    probabilities: np.ndarray,
    labels: np.ndarray,
    seed: int,
    *,
    iterations: int,
    learning_rate: float,
    leaves: int,
    leaf_images: int,
    features: float,
) -> Predict:
    """Fit gradient-boosted trees on (M, N, C); returns (M, K, C) -> (K, C).

    ``features`` is the share of the inputs that is tried at each split.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(
        max_iter=iterations,
        learning_rate=learning_rate,
        max_leaf_nodes=leaves,
        min_samples_leaf=leaf_images,
        max_features=features,
        max_bins=63,
        early_stopping=False,
        random_state=seed,
    )
    return _fitted(trees, probabilities, labels)


def _fitted(classifier: Any, probabilities: np.ndarray, labels: np.ndarray) -> Predict:
    """Fit and return the prediction; a class that the labels lack gets probability 0."""
    classes = probabilities.shape[2]
    classifier.fit(_features(probabilities), labels)

    def predict(stacked: np.ndarray) -> np.ndarray:
        found = np.zeros((stacked.shape[1], classes))
        found[:, classifier.classes_] = classifier.predict_proba(_features(stacked))
        return found

    return predict


def _features(probabilities: np.ndarray) -> np.ndarray:
    """Return (M, N, C) as log-probabilities (N, M * C), one member after the other."""
    return log_rows(probabilities).transpose(1, 0, 2).reshape(probabilities.shape[1], -1)
