"""What was found in a batch, before it is committed: staged on S3, named by the raw commit, a row of `batches` after it."""

import hashlib
import uuid
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch
from perennial.lakehouse.sources.files import FilePart
from perennial.rules.batch import BatchCounts, RuleResult
from perennial.rules.batch import Verdict as Judged
from perennial.rules.contract import check_names, severity_of
from perennial.rules.features import contract_hash
from perennial.spec.checks import Severity
from perennial.spec.load import contract_columns
from perennial.spec.sources import Source

RESULT = "perennial.result"
"""Property of a raw table: `<batch id> <uri of a staged result> <its SHA-256>` of its last commit."""

Verdict = Literal["published", "refused"]


class CheckResult(BaseModel, frozen=True):
    """How many rows of a batch failed a check."""

    check: str
    severity: Severity
    failed_rows: int


class ColumnResult(BaseModel, frozen=True):
    """How many rows of a batch had no value in a column."""

    column: str
    nulls: int


class BatchResult(BaseModel, frozen=True):
    """What is known of a batch before it is committed: a row of `batches` but for the commit's snapshot and time.

    Args:
        reasons: why it was refused, and what nobody may overlook of a published one.
        arrived: what the batch consists of, as people read it.
        parts, bytes: files or partitions, and the size of files; None of what is not files.
        rows: that arrived, unreadable ones included.
        newest_event_at: of the rows that are published; None where rows tell of no instant.
        checks: also those that no row failed.
        rules: the batch rules of the source, and how the batch stands to them.
        columns: also those without a missing value.
    """

    source: str
    batch_id: str
    verdict: Verdict
    reasons: list[str]
    as_of: datetime
    run_id: str
    contract_version: str
    arrived: str
    parts: int
    bytes: int | None
    rows: int
    quarantined_rows: int
    newest_event_at: datetime | None
    checks: list[CheckResult]
    rules: list[RuleResult]
    columns: list[ColumnResult]


class ResultDamaged(RuntimeError):
    """The staged result that a raw table names is not the one that was written."""


def batch_result(
    source: Source, batch: Batch, counts: BatchCounts, judged: Judged, quarantined_rows: int, run_id: str
) -> BatchResult:
    """All that is known of a judged batch; all rows of a refused one are quarantined, whatever was counted."""
    severities = {name: severity_of(source, name) for name in check_names(source)}
    severities |= {name: check.severity for name, check in counts.failed.items()}  # and what is no row, such as a line
    sizes = [part.bytes for part in batch.parts if isinstance(part, FilePart)]
    failed = {name: check.rows for name, check in counts.failed.items()}
    return BatchResult(
        source=source.name,
        batch_id=batch.batch_id,
        verdict="refused" if judged.refusal else "published",
        reasons=[reason for reason in (batch.alarm, judged.refusal) if reason],
        as_of=batch.as_of,
        run_id=run_id,
        contract_version=contract_hash(source),
        arrived=batch.contents,
        parts=len(batch.parts),
        bytes=sum(sizes) if sizes else None,
        rows=counts.rows,
        quarantined_rows=quarantined_rows,
        newest_event_at=counts.newest_event_at,
        checks=[
            CheckResult(check=name, severity=severity, failed_rows=failed.get(name, 0))
            for name, severity in severities.items()
        ],
        rules=judged.rules,
        columns=[ColumnResult(column=name, nulls=counts.nulls.get(name, 0)) for name in contract_columns(source)],
    )


def stage_result(lake: Lake, pipeline: str, result: BatchResult) -> str:
    """Write a result below `results/`; return what the raw commit names it by, under `RESULT`."""
    content = result.model_dump_json().encode()
    uri = lake.uri(f"results/{pipeline}/{result.source}/{result.batch_id}-{uuid.uuid4()}.json")
    lake.files().pipe_file(uri, content)
    return f"{result.batch_id} {uri} {hashlib.sha256(content).hexdigest()}"


def read_result(lake: Lake, uri: str, digest: str) -> BatchResult:
    """A staged result.

    Raises:
        ResultDamaged: it is not the one that was written.
    """
    content = lake.files().cat_file(uri)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ResultDamaged(
            f"{uri} is not the result the raw table's property {RESULT} names (SHA-256 {digest}). Its batch is "
            "committed; only its row in `batches` is missing. Restore the object from a backup or an older version of it."
        )
    return BatchResult.model_validate_json(content)
