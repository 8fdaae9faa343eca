"""What of a block goes to quarantine: as it arrived, with where it stood and every check it failed."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from perennial.lakehouse.raw import QUARANTINE
from perennial.rules.batch import REFUSED
from perennial.rules.contract import CheckedBlock
from perennial.rules.raw_rows import ARRIVED_SCHEMA, encode_rows

NOT_FIELDS = ("_position", "_failed_checks")


Hide = Callable[[pl.DataFrame], pl.DataFrame] | None
"""What of rows that arrived may stand in quarantine; None: all of them."""


def broken_rows(
    arrived: pl.DataFrame, checked: CheckedBlock, unreadable: pl.DataFrame, hide: Hide = None
) -> pl.DataFrame:
    """The rows of a block that broke the contract, and what could not be read as rows.

    Encoded apart and block by block, because blocks may differ in their fields: a field that did not arrive must not
    come to look like one that arrived empty.
    """
    reasons = checked.bad.select(NOT_FIELDS)
    few = arrived.filter(pl.col("_position").is_in(reasons["_position"].implode()))  # half the cost of joining them all
    broken = few.join(reasons, on="_position", maintain_order="left")
    return pl.concat([_encode(broken, hide), _encode(unreadable, hide)])


def refused_rows(
    arrived: pl.DataFrame, checked: CheckedBlock, unreadable: pl.DataFrame, hide: Hide = None
) -> pl.DataFrame:
    """All rows of a block whose batch is refused: after the checks each failed itself, `batch:refused`."""
    own = arrived.join(checked.bad.select(NOT_FIELDS), on="_position", how="left", maintain_order="left")
    every = pl.concat([_encode(own, hide), _encode(unreadable, hide)])
    return every.with_columns(pl.concat_list(pl.col("failed_checks").fill_null([]), pl.lit([REFUSED])))


def quarantine_rows(
    kept: pl.DataFrame, *, source: str, batch_id: str, run_id: str, contract_version: str, as_of: datetime, at: datetime
) -> pl.DataFrame:
    """The rows as the quarantine table has them."""
    moment = pl.Datetime("us", "UTC")
    return kept.with_columns(
        source=pl.lit(source),
        batch_id=pl.lit(batch_id),
        run_id=pl.lit(run_id),
        contract_version=pl.lit(contract_version),
        as_of=pl.lit(as_of).cast(moment),
        quarantined_at=pl.lit(at).cast(moment),
    ).select(QUARANTINE.names)


def held_bytes(kept: pl.DataFrame) -> int:
    """Memory of the rows once each holds its copy of the schema, as they do when they are written."""
    return int(kept.drop(ARRIVED_SCHEMA).estimated_size()) + int(kept[ARRIVED_SCHEMA].str.len_bytes().sum())


def _encode(rows: pl.DataFrame, hide: Hide) -> pl.DataFrame:
    fields = rows.drop(NOT_FIELDS)
    where = rows.select(failed_checks=pl.col("_failed_checks").cast(pl.List(pl.String)), position="_position")
    return pl.concat([encode_rows(hide(fields) if hide else fields), where], how="horizontal")
