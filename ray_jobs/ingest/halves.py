"""The two halves of what a task stages: rows for `raw` and rows for quarantine, on their way into files; and what it tells."""

import json
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from perennial.faults import fault_point
from perennial.lakehouse.raw import QUARANTINE, raw_table
from perennial.lakehouse.staging import StagedRows
from perennial.rules.batch import BatchCounts
from perennial.rules.features import contract_hash, known_at
from perennial.spec.sources import Source
from ray_jobs.ingest.judge import StagedBlock
from ray_jobs.ingest.kept import quarantine_rows

if TYPE_CHECKING:
    from ray_jobs.ingest.stage import StageRequest


class Halves:
    """The rows for `raw` and those for quarantine, on their way into files."""

    def __init__(self, request: "StageRequest", source: Source) -> None:
        lake, batch = request.lake, request.batch
        self.request, self.source, self.version = request, source, contract_hash(source)
        self.counts = BatchCounts(rows=0, quarantined_rows=0)
        self.rows = StagedRows(lake, raw_table(lake, batch.pipeline, source.name), batch.batch_id)
        self.quarantine = StagedRows(lake, lake.table(batch.pipeline, "quarantine"), batch.batch_id, QUARANTINE)

    def add(self, judged: StagedBlock) -> None:
        """Take a block, with where its rows came from."""
        request, source, batch = self.request, self.source, self.request.batch
        self.counts = BatchCounts.total([self.counts, judged.counts])
        self.rows.add(
            known_at(source, judged.good, batch.as_of).with_columns(
                _source=pl.lit(source.name),
                _batch_id=pl.lit(batch.batch_id),
                _committed_at=pl.lit(request.committed_at).cast(pl.Datetime("us", "UTC")),
                _contract_version=pl.lit(self.version),
            )
        )
        self.quarantine.add(
            quarantine_rows(
                judged.kept,
                source=source.name,
                batch_id=batch.batch_id,
                run_id=request.run_id,
                contract_version=self.version,
                as_of=batch.as_of,
                at=request.committed_at,
            )
        )

    def stage(self, prints: str, **told: dict[str, int] | dict[str, str]) -> pa.Table:
        """Bring both to S3 and tell of them, and of what was `told` of the parts."""
        rows = self.rows.stage()
        fault_point("files-half-written")
        counts = self.counts.model_dump_json()
        found = {name: json.dumps(parts) for name, parts in told.items()}
        return report(prints=prints, counts=counts, rows=rows, quarantine=self.quarantine.stage(), **found)


def report(**found: str) -> pa.Table:
    """One row of what a task tells of its work: addresses of what it wrote, and what it found, as JSON."""
    nothing = {
        "prints": "",
        "rows": "",
        "quarantine": "",
        "unreadable": "{}",
        "reached": "{}",
        "digests": "{}",
        "refused": "",
    }
    return pa.Table.from_pylist(
        [{**nothing, "counts": BatchCounts(rows=0, quarantined_rows=0).model_dump_json(), **found}]
    )
