"""What a model is worth on rows it was not trained on: metrics with intervals, beside a constant's."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perennial.rules.metrics import METRICS, Measure, bootstrap_each, evaluate


def evaluate_model(
    task: str,
    y: NDArray[np.float64],
    scores: NDArray[np.float64],
    constant: ArrayLike,
    *,
    threshold: float = 0.5,
    quantile: float = 0.5,
) -> dict[str, Any]:
    """Each metric as {value, low, high, constant}; a figure that is not defined on these rows is null.

    Args:
        constant: what a model without inputs would answer: the mean of the training labels, or the share of each class.
        threshold: at which a row is decided positive.
        quantile: of the quantile loss.
    """
    measures = [Measure(name, threshold, quantile) for name in METRICS[task]]
    found: dict[str, Any] = {
        "rows": len(y),
        "label_mean": _known(float(y.mean())) if len(y) else None,
        "training_label_mean": np.asarray(constant, dtype=np.float64).tolist(),
        "threshold": threshold,
        "quantile": quantile,
    }
    blind = np.broadcast_to(np.asarray(constant, dtype=np.float64), scores.shape)
    for each, interval in zip(measures, bootstrap_each(measures, y, scores), strict=True):
        figures = interval._asdict() | {"constant": evaluate(each, y, blind)}
        found[each.name] = {name: _known(value) for name, value in figures.items()}
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
