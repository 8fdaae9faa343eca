"""Parts as blocks that the contract has judged: rows for `raw` and for quarantine, without a plain personal value."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from perennial.faults import fault_point
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.personal import open_pseudonyms
from perennial.lakehouse.positions import Part
from perennial.rules.arrival import fit_columns, keep, without_values
from perennial.rules.batch import BatchCounts
from perennial.rules.compiled import ContractMistake
from perennial.rules.contract import check_block, derive
from perennial.rules.unique import Around
from perennial.spec.sources import Files, Source
from ray_jobs.ingest.chunks import Arrived, PartsUnreadable
from ray_jobs.ingest.kafka import Limit
from ray_jobs.ingest.kept import broken_rows, held_bytes, refused_rows
from ray_jobs.ingest.read import read_parts

BLOCK_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class StagedBlock:
    """A block's rows for `raw`, for quarantine, and what the contract found in it."""

    good: pl.DataFrame
    kept: pl.DataFrame
    counts: BatchCounts
    prints: pl.DataFrame | None

    @property
    def bytes(self) -> int:
        """Memory of both halves."""
        return int(self.good.estimated_size()) + held_bytes(self.kept)


def judge_parts(
    lake: Lake,
    pipeline: str,
    source: Source,
    parts: Sequence[Part],
    around: Around,
    refused: bool,
    limit: Limit,
) -> Iterator[StagedBlock]:
    """Yield the parts' rows, judged.

    Args:
        around: what a block cannot see by itself.
        refused: all rows go to quarantine.
        limit: of what messages may have together.

    Raises:
        SchemaRefused: a file's columns are not what the source's policy accepts.
        PartsUnreadable: after all others were judged.
    """
    pseudonyms = open_pseudonyms(lake, pipeline) if source.personal else None
    around = replace(around, pseudonyms=pseudonyms)  # only now: a key does not travel
    hide = partial(keep, source, pseudonyms) if pseudonyms else None
    for rows, unreadable in _read(lake, source, parts, limit):
        rows = rows.drop("_failed_checks", strict=False)  # a field of this name would hide the reasons that we give
        fault_point("read")
        fitted, warned = fit_columns(pipeline, source, rows, from_header=_from_header(source, rows))
        try:
            checked = check_block(source, fitted, around)
            derived = derive(source, checked.good)
        except ContractMistake as mistake:
            if pseudonyms is None:
                raise
            raise without_values(source, mistake) from None  # what a check says of a row may be the row
        counts = BatchCounts.total([checked.joined_by(unreadable).counts, warned])
        # the contract has seen the plain values, and nothing after it does
        good = pseudonyms.replace(derived, source.personal) if pseudonyms else derived
        fault_point("transform")
        if refused:
            kept = refused_rows(rows, checked, unreadable, hide)
            yield StagedBlock(good.head(0), kept, counts, checked.prints)
        else:
            yield StagedBlock(good, broken_rows(rows, checked, unreadable, hide), counts, checked.prints)


def _read(lake: Lake, source: Source, parts: Sequence[Part], limit: Limit) -> Iterator[Arrived]:
    try:
        yield from read_parts(lake, source, parts, BLOCK_BYTES, limit)
    except PartsUnreadable as error:
        if not source.personal:
            raise
        # a reader quotes what it cannot read
        untold = f"what is wrong is not shown, because {source.name} has personal columns"
        raise PartsUnreadable(dict.fromkeys(error.reasons, untold)) from None


def _from_header(source: Source, rows: pl.DataFrame) -> bool:
    """Whether a block's columns are those of its files: rows of JSON, and messages, bring their names one by one."""
    if not isinstance(source, Files) or rows.is_empty():
        return isinstance(source, Files)
    path = re.sub(r"(@\d+)?#\d+$", "", rows["_position"][0])
    return source.format_of(path) != "jsonl"
