"""What a pipeline asks of a version before it may serve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

CLASS_METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error", "accuracy", "precision", "recall", "f1")
VALUE_METRICS = ("rmse", "mae", "quantile_loss")
MetricName = Literal[
    "roc_auc",
    "pr_auc",
    "log_loss",
    "brier",
    "calibration_error",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "rmse",
    "mae",
    "quantile_loss",
]


@dataclass(frozen=True)
class Promotion:
    """When a challenger may replace the champion: judged on the newest labelled rows, which neither was trained on.

    Args:
        metric: what it is judged by; None: ROC AUC where classes are told apart, RMSE for regression.
        quantile: of `quantile_loss`, in (0, 1).
        holdout: how much of the newest event time is kept from training for the judgement.
        minimum_rows: labelled rows below which the answer is *inconclusive*.
        minimum_gain: how much better the challenger must be, in the metric's unit.
        slices: columns of the features whose values must not fare worse than `allowed_slice_loss`, in the metric's unit
            (of an error, RMSE say, as a share of the champion's on that slice);
            values with fewer than `minimum_slice_rows` rows decide nothing.
        maximum_calibration_error: expected calibration error above which a challenger is rejected, unless the champion's
            is as large: both then meet a season that neither knows. None: not asked.
        beats_last_label: whether it must beat the answer "as the last label that was known", beside a constant.
        changed_signature: what follows where the champion's inputs are gone from the features, so that the two cannot be
            compared: *inconclusive*, or the challenger is judged alone (`"judge_alone"`), as a first version is.
        maximum_latency_ms: the fastest of twenty one-row requests through a replica's code, without the network.
        maximum_artifact_bytes: of all files of the version.
        score_tolerance: how far a replica's score may lie from training's, in the label's standard deviations.
        approval: how long somebody has to approve in Prefect's UI after both gates are passed; nobody answering is a
            rejection. None: nobody is asked.
    """

    metric: MetricName | None = None
    quantile: float = 0.5
    holdout: timedelta = timedelta(days=7)
    minimum_rows: int = 500
    minimum_gain: float = 0.0
    slices: Sequence[str] = ()
    allowed_slice_loss: float = 0.05
    minimum_slice_rows: int = 200
    maximum_calibration_error: float | None = 0.25
    beats_last_label: bool = True
    changed_signature: Literal["inconclusive", "judge_alone"] = "inconclusive"
    maximum_latency_ms: float = 1_000.0
    maximum_artifact_bytes: int = 512 * 1024**2
    score_tolerance: float = 1e-6
    approval: timedelta | None = None

    def mistakes(self, task: str) -> Iterator[tuple[str, str]]:
        """What cannot be right, each with the word that it is said of."""
        known = VALUE_METRICS if task == "regression" else CLASS_METRICS
        if self.metric is not None and self.metric not in known:
            yield f"metric {self.metric!r} says nothing of a {task} model; there are {list(known)}.", "metric"
        if not 0 < self.quantile < 1:
            yield f"quantile is {self.quantile}, it must lie between 0 and 1.", "quantile"
        if self.changed_signature not in ("inconclusive", "judge_alone"):
            said = f"changed_signature is {self.changed_signature!r}; it is 'inconclusive' or 'judge_alone'."
            yield said, "changed_signature"
        for name in ("holdout", "approval"):
            span = getattr(self, name)
            if span is not None and span <= timedelta(0):
                yield f"{name} is {span}: say how long.", name
        for name in ("minimum_rows", "minimum_slice_rows", "maximum_latency_ms", "maximum_artifact_bytes"):
            if getattr(self, name) <= 0:
                yield f"{name} is {getattr(self, name)}, it must be more than 0.", name
