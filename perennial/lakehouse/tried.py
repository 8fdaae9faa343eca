"""What the prediction log says of a roll-out: both versions' requests, step by step, with the labels that have come."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, In, LessThan

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.stages import read_stages
from perennial.lakehouse.tables import read_snapshot
from perennial.lakehouse.trials import Trial
from perennial.rules.rollout import LOSSES, Arm, Seen, match_in_time
from perennial.spec import Pipeline

BEFORE_REQUESTS = 20_000
"""Of the champion's requests before a roll-out, so many of the newest ones count."""
_LOOK_BACK = [timedelta(minutes=10 * 8**power) for power in range(7)]
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_JUDGED = ["request_id", "row_index", "version", "role", "answered_at", "latency_ms", "score", "error"]


def read_before(
    lake: Lake, pipeline: Pipeline, version: int, moment: datetime, columns: Sequence[str] = ()
) -> pl.DataFrame:
    """Rows that the version answered before a moment, with at least `BEFORE_REQUESTS` where there are so many.

    Newest first. It looks back stretch by stretch, each longer than the last, so that a long log is not read whole.
    """
    parts: list[pl.DataFrame] = []
    end = moment
    for start in (*(moment - span for span in _LOOK_BACK), _FIRST):
        parts.append(_read(lake, pipeline.name, start, end, [*_JUDGED, *columns], [version], ["champion", "canary"]))
        end = start
        if sum(part.height for part in parts) >= BEFORE_REQUESTS:
            break
    rows = pl.concat([part for part in parts if part.height] or parts[:1], how="vertical")
    return rows.sort("answered_at", "request_id", "row_index", descending=True) if rows.height else rows


def read_steps(
    lake: Lake, pipeline: Pipeline, trial: Trial, champion: int, until: datetime, labels_as_of: datetime | None = None
) -> list[Seen]:
    """The live steps of a trial so far, the current one last; losses only where labels are asked for.

    Steps begin where the registry says; so another run, or one that was killed and started again, sees the same.
    """
    began = [
        step
        for step in read_stages(lake, pipeline.name)
        if step.decision_id == trial.rollout and step.share is not None
    ]
    live = sorted(
        (s for s in began if s.stage in ("shadow", "canary")), key=lambda step: (step.stage != "shadow", step.share)
    )
    if not live:
        return []
    key = list(pipeline.entity_source.key)
    rows = _read(
        lake, pipeline.name, live[0].recorded_at, until, [*_JUDGED, *key], [trial.version, champion],
        ["champion", "canary", "shadow"],
    )  # fmt: skip
    ends = [*(step.recorded_at for step in live[1:]), until]
    return [
        _seen(
            lake,
            pipeline,
            _within(rows, step.recorded_at, end),
            step.stage,
            step.share or 0.0,
            trial.version,
            labels_as_of,
        )
        for step, end in zip(live, ends, strict=True)
    ]


def step_name(stage: str, share: float) -> str:
    """As people read it: `shadow`, `canary 5%`."""
    return f"canary {100 * share:g}%" if stage == "canary" else stage


def labels_of(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame, as_of: datetime) -> pl.Series:
    """(n,) the rows' labels as numbers, null where none was known by `as_of`."""
    key = list(pipeline.entity_source.key)
    nothing = pl.Series("_label", [None] * rows.height, pl.Float64)
    if pipeline.model.task not in LOSSES:  # of many classes: no loss is compared
        return nothing
    try:
        known = read_known(lake, pipeline, pipeline.label_source.name, as_of)
    except NoSuchTableError:
        return nothing
    labels = known.select(*key, pipeline.label.expression.cast(pl.Float64).alias("_label"))
    return rows.join(labels, on=key, how="left", nulls_equal=True, maintain_order="left")["_label"]


def losses(pipeline: Pipeline, challenger: pl.Series, champion: pl.Series, label: pl.Series) -> NDArray[np.float64]:
    """(m,) challenger's less champion's loss on rows that both scored and whose label is known."""
    whole = pl.DataFrame({"a": challenger, "b": champion, "y": label}).drop_nulls()
    return _difference(pipeline, *((whole[name] - whole["y"]).abs() for name in "ab"))


def _losses_in_time(
    lake: Lake, pipeline: Pipeline, challenger: pl.DataFrame, champion: pl.DataFrame, as_of: datetime
) -> NDArray[np.float64]:
    """(m,) the same of versions that answered requests of their own: each beside the champion's next one in time."""
    errors = [
        rows.select(
            pl.col("answered_at").dt.epoch("us").alias("at"),
            (pl.col("score") - labels_of(lake, pipeline, rows, as_of)).abs().alias("error"),
        ).drop_nulls()
        for rows in (challenger, champion)
    ]
    places = match_in_time(*(rows["at"].to_numpy().astype(np.float64) for rows in errors))
    return _difference(pipeline, *(rows["error"][place] for rows, place in zip(errors, places, strict=True)))


def _difference(pipeline: Pipeline, challenger: pl.Series, champion: pl.Series) -> NDArray[np.float64]:
    if pipeline.model.task not in LOSSES:
        return np.empty(0)
    return LOSSES[pipeline.model.task](challenger.to_numpy(), champion.to_numpy())


def arm_of(rows: pl.DataFrame) -> Arm:
    """One version's requests, a place each, in the order of the rows."""
    return Arm(
        at=rows["answered_at"].dt.epoch("us").to_numpy().astype(np.float64) / 1e6,
        failed=rows["error"].is_not_null().to_numpy(),
        latency_ms=_numbers(rows.select(pl.when(pl.col("error").is_null()).then("latency_ms")).to_series()),
        score=_numbers(rows["score"]),
    )


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    return values.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _seen(
    lake: Lake, pipeline: Pipeline, rows: pl.DataFrame, stage: str, share: float, version: int, as_of: datetime | None
) -> Seen:
    name, none = step_name(stage, share), np.empty(0)
    if rows.is_empty():
        empty = Arm(none, np.empty(0, dtype=np.bool_), none, none)
        return Seen(name, empty, empty, stage == "shadow", none)
    requests = rows.filter(pl.col("row_index") == 0).sort("answered_at", "request_id")
    if stage == "canary":
        challenger = requests.filter((pl.col("version") == version) & (pl.col("role") == "canary"))
        # a request that a canary failed on was answered by the champion after it: its time is not the champion's own
        others = requests.filter((pl.col("version") != version) & (pl.col("role") == "champion"))
        champion = others.join(challenger.select("request_id"), on="request_id", how="anti")
        found = none if as_of is None else _losses_in_time(lake, pipeline, challenger, champion, as_of)
        return Seen(name, arm_of(champion), arm_of(challenger), paired=False, losses=found)
    shadows = rows.filter(pl.col("role") == "shadow")
    answered = rows.filter((pl.col("role") == "champion") & (pl.col("version") != version))
    pairs = answered.join(shadows, on=["request_id", "row_index"], how="inner", suffix="_shadow").unique(
        ["request_id", "row_index"], keep="first"
    )
    pairs = pairs.sort("answered_at", "request_id", "row_index")
    both = pairs.filter(pl.col("row_index") == 0)
    theirs = both.select(*_JUDGED)
    ours = both.select("answered_at", *(pl.col(f"{n}_shadow").alias(n) for n in ("latency_ms", "score", "error")))
    found = none
    if as_of is not None and pairs.height:
        label = labels_of(lake, pipeline, pairs, as_of)
        found = losses(pipeline, pairs["score_shadow"], pairs["score"], label)
    return Seen(name, arm_of(theirs), arm_of(ours), paired=True, losses=found)


def _within(rows: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    return rows.filter(pl.col("answered_at").is_between(start, end, closed="left")) if rows.height else rows


def _read(
    lake: Lake,
    pipeline: str,
    start: datetime,
    end: datetime,
    columns: Sequence[str],
    versions: Sequence[int],
    roles: Sequence[str],
) -> pl.DataFrame:
    row_filter: BooleanExpression = And(
        In("role", roles),
        GreaterThanOrEqual(term="answered_at", value=start.isoformat()),
        LessThan(term="answered_at", value=end.isoformat()),
        EqualTo("version", versions[0]) if len(versions) == 1 else In("version", versions),
    )
    try:
        table = lake.catalog().load_table(lake.table(pipeline, "predictions"))
        there = [name for name in dict.fromkeys(columns) if name in table.schema().column_names]
        rows = pl.from_arrow(
            read_snapshot(lake, lake.table(pipeline, "predictions"), columns=there, row_filter=row_filter)
        )
    except NoSuchTableError:  # nothing was ever answered
        return pl.DataFrame()
    assert isinstance(rows, pl.DataFrame)
    missing = [name for name in columns if name not in there]  # a table of before: nothing of it had failed
    return rows.with_columns(pl.lit(None, pl.String).alias(name) for name in dict.fromkeys(missing))
