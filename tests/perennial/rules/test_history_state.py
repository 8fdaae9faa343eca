"""The past in memory gives the same bits as the past in one frame: whole, in two parts, after a trip, and cut to what is needed."""

from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.rules.history import add_history
from perennial.rules.history_state import HistoryState
from perennial.rules.versions import Versions
from perennial.spec import History
from perennial.spec.load import contract_columns
from tests.perennial.rules.test_history import INSTANT, SALES, frames, logs, minutes, moments, some_features


def log_of(rows: list[Any]) -> pl.DataFrame:
    """A log in the order in which it became known."""
    return pl.DataFrame(rows, {**contract_columns(SALES), "_known_at": INSTANT}, orient="row")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(moments, logs, st.integers(0, 25), minutes, some_features)
def test_a_state_answers_as_the_whole_log_does(
    asked: list[Any], log: list[Any], cut: int, since: Any, features: list[History]
) -> None:
    rows, _ = frames(asked, log)
    whole = log_of(log)
    expected = add_history(rows, Versions(whole, SALES), features, ["sale"])
    state = HistoryState(whole, SALES, features)
    parts = HistoryState(log_of(log[:cut]), SALES, features).merged(log_of(log[cut:]))
    kept = pl.DataFrame(pl.from_arrow(state.to_arrow()))
    for one in (state, parts, HistoryState(kept, SALES, features)):
        assert add_history(rows, one, features, ["sale"]).equals(expected)
    later = pl.col("_known_at") >= since
    assert add_history(rows.filter(later), state.since(since), features, ["sale"]).equals(expected.filter(later))
