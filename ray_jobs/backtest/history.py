"""The rows that are replayed and the labels as they became known, so that every moment sees only what was known by it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log
from perennial.lakehouse.tables import read_snapshot
from perennial.spec import Pipeline
from ray_jobs.train.rows import LABEL_KNOWN_AT, event_time_of

ROW, KNOWN_AT = "_row", "_known_at"


@dataclass(frozen=True)
class History:
    """Rows of features by event time, and every label with the moment from which it was known.

    Args:
        rows: `_row` 0, 1, ..., the key, the event time, `_known_at` (the moment of the prediction), the inputs.
        labels: `_row`, `label`, `known_at`, in the order in which they became known; corrections beside what they correct.
    """

    rows: pl.DataFrame
    labels: pl.DataFrame

    def labelled(self, at: datetime, label: str) -> pl.DataFrame:
        """The rows whose prediction and label were known by a moment, each with the label as known then."""
        known = self.labels.filter(pl.col("known_at") <= at).unique(ROW, keep="last", maintain_order=True)
        rows = self.rows.filter(pl.col(KNOWN_AT) <= at).join(known, on=ROW, how="inner", maintain_order="left")
        return rows.drop_nulls("label").rename({"label": label, "known_at": LABEL_KNOWN_AT})

    def with_labels(self, rows: pl.DataFrame, at: datetime, name: str) -> pl.DataFrame:
        """Some of the rows with the label known by a moment, null where none was."""
        known = self.labels.filter(pl.col("known_at") <= at).unique(ROW, keep="last", maintain_order=True)
        return rows.join(known.select(ROW, pl.col("label").alias(name)), on=ROW, how="left", maintain_order="left")

    def until(self, moment: datetime) -> "History":
        """The same rows with the labels known by a moment."""
        return History(self.rows, self.labels.filter(pl.col("known_at") <= moment))

    @property
    def fingerprint(self) -> str:
        """Of every value in it; the same history has the same, whichever snapshots it was read from."""
        told = hashlib.sha256()
        for frame in (self.rows, self.labels):
            told.update(str(frame.schema).encode())
            for part in frame.iter_slices(1 << 20):
                told.update(part.hash_rows().to_numpy().tobytes())
        return told.hexdigest()


def read_history(
    lake: Lake, pipeline: Pipeline, snapshot_id: int, as_of: datetime, end: datetime, last: datetime
) -> History:
    """The history that a snapshot of the features and the log of labels tell, as known by `as_of`.

    Without the rows that no decision up to the moment `last` and no window up to `end` can ask for: what comes in later
    changes nothing that was found out.
    """
    key, event_time = list(pipeline.entity_source.key), event_time_of(pipeline)
    table = read_snapshot(lake, lake.table(pipeline.name, "features"), snapshot_id)
    rows = pl.DataFrame(pl.from_arrow(table)).drop(pipeline.label.name, LABEL_KNOWN_AT)
    rows = rows.filter((pl.col(event_time) < end) | (pl.col(KNOWN_AT) <= last))
    rows = rows.sort(event_time, *(name for name in key if name != event_time)).with_row_index(ROW)
    log = read_log(lake, pipeline, pipeline.label_source.name, as_of)
    value = pipeline.label.expression.cast(pl.Float64).alias("label")
    labels = log.select(*key, value, pl.col(KNOWN_AT).alias("known_at"))
    found = labels.join(rows.select(*key, ROW), on=key, how="inner", maintain_order="left")
    return History(rows, found.select(ROW, "label", "known_at"))


def pack(history: History) -> tuple[pa.Table, pa.Table]:
    """As Ray's object store keeps it, without a copy per process."""
    return history.rows.to_arrow(), history.labels.to_arrow()


def unpack(rows: pa.Table, labels: pa.Table) -> History:
    """The history again."""
    return History(pl.DataFrame(pl.from_arrow(rows)), pl.DataFrame(pl.from_arrow(labels)))
