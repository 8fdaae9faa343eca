"""Names of windows and decisions, and the effect size from which an input counts as drifted. Pure."""

import hashlib
import json
import math
from dataclasses import asdict
from datetime import datetime
from statistics import NormalDist
from typing import Literal

from perennial.rules.past import late_ending
from perennial.spec import Monitoring

CHANCE = 0.025  # on one side, for all columns of a window together


def drift_bound(
    kind: Literal["number", "category"],
    policy: Monitoring,
    rows: int,
    reference_rows: int,
    values: int,
    columns: int = 1,
) -> float:
    """The effect size that an input must reach: the policy's, moved up by what two samples of one world differ by.

    Two finite samples never agree, and the more categories there are the less: without this, small windows and columns
    of many values would always count as drifted. Numbers: Wasserstein/sigma of two samples stays below about 1.5 standard
    errors. Categories: the squared Jensen-Shannon distance of two samples is a chi-square, on average (values - 1) / 8
    squared standard errors, and up to 2 ln 2 times that where most values are seen once; squares add. With `columns`
    inputs the largest of so many differences must stay below (Bonferroni), so many columns raise no alarm by number.
    Source: Lin 1991, doi:10.1109/18.61115, for the distance; second-order expansion for the rest.
    """
    error = math.sqrt(1 / max(rows, 1) + 1 / max(reference_rows, 1))
    more = _quantile(CHANCE / max(columns, 1)) - _quantile(CHANCE)
    if kind == "number":
        return policy.drift_effect_size + (1.5 + more) * error
    freedom = max(values - 1, 1)
    deviations = (2 + more) * math.sqrt(2 * freedom)
    chance = 2 * math.log(2) * error**2 / 8 * (freedom + deviations)
    return math.sqrt(policy.drift_effect_size**2 + chance)


def policy_hash(policy: Monitoring) -> str:
    """SHA-256 of the policy's values: another policy may come to another verdict on the same window."""
    return hashlib.sha256(json.dumps(asdict(policy), sort_keys=True, default=str).encode()).hexdigest()


def window_name(start: datetime, end: datetime) -> str:
    """`20130401-20130501`; the time of day is added where a bound is not midnight UTC."""
    return "-".join(f"{at:%Y%m%d}" if at.time() == at.time().min else f"{at:%Y%m%dT%H%M%S}" for at in (start, end))


def monitor_decision_id(
    pipeline: str, version: int, start: datetime, end: datetime, policy: Monitoring, late: int = 0
) -> str:
    """The same pipeline, version, window and policy give the same id, so a rerun cannot decide twice.

    A window that late labels reopened has an id more for each time.
    """
    return f"{pipeline}-v{version}-{window_name(start, end)}-{policy_hash(policy)[:8]}{late_ending(late)}"


def say_metric(metric: str) -> str:
    """How a metric is written for people."""
    return {"roc_auc": "ROC AUC", "log_loss": "Log loss", "rmse": "RMSE", "mae": "MAE"}.get(metric, metric)


def _quantile(chance: float) -> float:
    return -NormalDist().inv_cdf(chance)
