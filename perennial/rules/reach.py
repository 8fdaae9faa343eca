"""Which moments, of which keys, a version of a source's row counts at: what has to be built again when it comes late. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from perennial.rules.flatten import flatten
from perennial.rules.joins import MOMENT
from perennial.rules.versions import leaves
from perennial.spec.history import History, Window
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import AsOf, Join, Lookup, Source

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Reach:
    """Spans of moments [`_a`, `_b`), in microseconds, each with the values that the entity's columns must have.

    Args:
        by: the entity's columns.
        spans: these columns, `_a` and `_b`.
    """

    by: tuple[str, ...]
    spans: pl.DataFrame

    def begins(self) -> datetime:
        """The first moment of any span."""
        return _EPOCH + timedelta(microseconds=int(self.spans["_a"].min()))  # type: ignore[arg-type]  # whole numbers

    def may_hold(self, moment: pl.Expr) -> pl.Expr:
        """Whether a moment lies between the first and the last of the spans."""
        instant = moment.dt.epoch("us")
        return (instant >= int(self.spans["_a"].min())) & (instant < int(self.spans["_b"].max()))  # type: ignore[arg-type]

    def may_reach(self, least: int, most: int) -> bool:
        """Whether moments in [least, most], in microseconds, may lie in a span."""
        return len(self.spans.filter((pl.col("_a") <= most) & (pl.col("_b") > least))) > 0


def reached_moments(pipeline: Pipeline, source: Source, versions: pl.DataFrame, late: pl.DataFrame) -> list[Reach]:
    """For every use that the pipeline makes of a source, the moments that late versions change.

    Args:
        versions: all versions of the rows that came late, with `_known_at`; `late`: those that came late.
    """
    first = late.group_by(source.key).agg(_changed=pl.col(MOMENT).min().dt.epoch("us"))
    known = flatten(source, versions).join(first, on=list(source.key), nulls_equal=True)
    found = []
    for use in (*pipeline.joins, *pipeline.history):
        if use.source != source.name:
            continue
        happened = pl.col(MOMENT if isinstance(use, Lookup) else str(source.event_time))
        counted = known.with_columns(_happened=happened.dt.epoch("us")).drop_nulls(["_happened", *use.columns.values()])
        ends = leaves(counted["_happened"].to_numpy(), _window(use))
        spans = counted.select(
            *(pl.col(theirs).alias(ours) for ours, theirs in use.columns.items()),
            _a=pl.max_horizontal("_changed", "_happened"),
            _b=pl.Series(ends),
        ).filter(pl.col("_a") < pl.col("_b"))
        if len(spans):
            found.append(Reach(tuple(use.columns), spans.unique()))
    return found


def _window(use: Join | History) -> Window:
    """How long a version counts for a use of its source."""
    if isinstance(use, AsOf):
        return use.tolerance + timedelta(microseconds=1)  # an event just as old as tolerated still counts
    if isinstance(use, History):
        return use.reach_back if use.window is None else use.window
    return None


def touched_rows(rows: pl.DataFrame, reaches: Sequence[Reach]) -> pl.DataFrame:
    """The rows, with `_known_at` and flattened, whose moment lies in a span of their values."""
    numbered = rows.with_row_index("_row").with_columns(_moment=pl.col(MOMENT).dt.epoch("us"))
    found = [pl.DataFrame(schema={"_row": pl.UInt32})]
    for reach in reaches:
        how = {"on": list(reach.by)} if reach.by else {"how": "cross"}
        near = numbered.select("_row", "_moment", *reach.by).join(reach.spans, **how)
        found.append(
            near.filter((pl.col("_moment") >= pl.col("_a")) & (pl.col("_moment") < pl.col("_b"))).select("_row")
        )
    return numbered.join(pl.concat(found).unique(), on="_row", how="semi", maintain_order="left").select(rows.columns)
