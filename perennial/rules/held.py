"""Sources that are ready to be asked for the features of a row, by whoever holds them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from perennial.rules.flatten import flatten
from perennial.rules.history_state import HistoryState
from perennial.rules.join_state import JoinState
from perennial.rules.versions import Past
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import AsOf, Join


@dataclass(frozen=True)
class Held:
    """A source's past, where history features are of it, and what is joined of it."""

    past: Past | None = None
    joined: JoinState | None = None


def hold(pipeline: Pipeline, name: str, log: pl.DataFrame) -> Held:
    """A source's log as a replica holds it, by key."""
    source, features = pipeline.source(name), pipeline.history_sources.get(name)
    joins = [join for join in pipeline.joins if join.source == name]
    return Held(
        past=HistoryState(log, source, features) if features else None,
        joined=JoinState(flatten(source, log), *join_words(pipeline, joins[0])) if joins else None,
    )


def join_words(
    pipeline: Pipeline, join: Join
) -> tuple[dict[str, str], str, str | None, timedelta | None, Sequence[str]]:
    """What `join_known` has to be told of a join: its columns, prefix, event time, tolerance and key."""
    source = pipeline.source(join.source)
    if isinstance(join, AsOf):
        return join.columns, join.source, source.event_time, join.tolerance, source.correction_key
    return join.columns, join.source, None, None, source.correction_key
