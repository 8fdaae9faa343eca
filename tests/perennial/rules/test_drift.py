"""Effect sizes from which inputs count as drifted, and the names of decisions."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from perennial.rules.drift import drift_bound, monitor_decision_id, policy_hash
from perennial.spec import Monitoring

POLICY = Monitoring()
START, END = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(("rows", "values"), [(500, 3), (500, 300), (5_000, 3), (5_000, 2_000)])
def test_two_samples_of_one_world_do_not_count_as_drifted(rows: int, values: int) -> None:
    random = np.random.default_rng(5)
    numbers, categories = 0, 0
    for _ in range(40):
        a, b = random.normal(size=(2, rows))
        numbers += wasserstein_distance(a, b) / a.std() >= drift_bound("number", POLICY, rows, rows, 0)
        shares = [np.bincount(random.integers(0, values, rows), minlength=values) / rows for _ in range(2)]
        categories += jensenshannon(*shares) >= drift_bound("category", POLICY, rows, rows, values)
    assert (numbers, categories) == (0, 0)


def test_a_real_shift_counts_as_drifted_at_any_size() -> None:
    assert drift_bound("number", POLICY, 500, 5_000, 0) < 0.2
    assert drift_bound("category", POLICY, 500, 5_000, 20) < 0.2


def test_two_hundred_columns_of_one_world_raise_no_alarm_together() -> None:
    random = np.random.default_rng(6)
    shifts = [wasserstein_distance(*random.normal(size=(2, 1_000))) for _ in range(200)]
    assert max(shifts) < drift_bound("number", replace(POLICY, drift_effect_size=0.02), 1_000, 1_000, 0, columns=200)


def test_the_decision_has_one_id_per_pipeline_version_window_and_policy() -> None:
    ids = {
        monitor_decision_id("flights", 1, START, END, POLICY),
        monitor_decision_id("flights", 2, START, END, POLICY),
        monitor_decision_id("taxis", 1, START, END, POLICY),
        monitor_decision_id("flights", 1, START, END.replace(hour=4), POLICY),
        monitor_decision_id("flights", 1, START, END, replace(POLICY, minimum_rows=501)),
        monitor_decision_id("flights", 1, START, END, POLICY, late=1),
    }
    assert len(ids) == 6
    assert f"flights-v1-20130401-20130501-{policy_hash(POLICY)[:8]}" in ids
