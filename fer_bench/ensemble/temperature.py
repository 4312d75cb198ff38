"""Temperature scaling (Guo et al., 2017): one number that makes probabilities as sure as they are right."""

import numpy as np

from fer_bench.ensemble.votes import FLOOR, log_rows

LIMIT = 4.0  # of the log-temperature: beyond e^4 a prediction is all but uniform, or all but certain


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature at which probabilities (N, C) have the least negative log-likelihood of the labels (N,).

    This is ``CalibratedClassifierCV(FrozenEstimator(...), method="temperature")`` of scikit-learn, which asks for five
    rows of every class and so could not serve small boards.
    """
    from scipy.optimize import minimize_scalar

    log = log_rows(probabilities[None])[0]
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = log * np.exp(-log_temperature)
        top = scaled.max(axis=1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[rows, labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-LIMIT, LIMIT), method="bounded", options={"xatol": 1e-9}).x))


def cooled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(log p / temperature) of probabilities (..., C)."""
    rows = np.asarray(probabilities, dtype=np.float64)
    log = np.log(np.maximum(rows / rows.sum(axis=-1, keepdims=True), FLOOR)) / temperature
    raised = np.exp(log - log.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
