"""What a model is worth on rows it was not trained on: metrics with intervals, beside a constant's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perennial.rules.metrics import bootstrap, evaluate

METRICS = {"binary": ("roc_auc", "log_loss", "brier"), "regression": ("rmse", "mae")}


def evaluate_model(task: str, y: NDArray[np.float64], scores: NDArray[np.float64], constant: float) -> dict[str, Any]:
    """Each metric as {value, low, high, constant}; a figure that is not defined on these rows is null.

    Args:
        constant: the mean of the training labels, which a model without inputs would answer.
    """
    found: dict[str, Any] = {"rows": len(y), "label_mean": _known(float(y.mean())), "training_label_mean": constant}
    for metric in METRICS[task]:
        interval = bootstrap(metric, y, scores)._asdict()
        found[metric] = {name: _known(value) for name, value in interval.items()}
        found[metric]["constant"] = _known(evaluate(metric, y, np.full(len(y), constant)))
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
