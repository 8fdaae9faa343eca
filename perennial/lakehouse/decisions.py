"""Decisions are rows: drift found or not, promoted or rejected, rolled out or back, each with its evidence.

One append-only table answers why a model serves. An effect first claims the decision it acts on, by
compare-and-commit; a second claimant is told so.
"""

from datetime import UTC, datetime
from typing import Literal

import polars as pl
import pyarrow as pa
from pydantic import BaseModel
from pyiceberg.expressions import And, EqualTo
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, read_snapshot

Kind = Literal["monitor", "claim", "promotion", "rollout", "rollout_step", "retrain", "notice", "reproduction"]

SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("pipeline", pa.string()),
        ("kind", pa.string()),
        ("version", pa.int32()),
        ("window_start", pa.timestamp("us", "UTC")),
        ("window_end", pa.timestamp("us", "UTC")),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("evidence", pa.string()),
        ("policy", pa.string()),
        ("run_id", pa.string()),
        ("as_of", pa.timestamp("us", "UTC")),
        ("recorded_at", pa.timestamp("us", "UTC")),
    ]
)
SYSTEM_PROPERTIES = {"perennial.schema-version": "1"}


class Decision(BaseModel, frozen=True):
    """One row of the decisions table.

    Args:
        decision_id: what makes it the same decision when a run is repeated; one row per (kind, decision_id).
        evidence: JSON: the figures the verdict rests on.
        policy: JSON: the thresholds it was judged by.
        run_id: the flow run that recorded it.
        as_of: the moment whose knowledge it rests on.
    """

    decision_id: str
    pipeline: str
    kind: Kind
    verdict: str
    reason: str
    as_of: datetime
    version: int | None = None
    window_start: datetime | None = None
    window_end: datetime | None = None
    evidence: str = "{}"
    policy: str = "{}"
    run_id: str = ""


def record_decision(lake: Lake, decision: Decision) -> Decision:
    """Commit the decision, once; return the row as it stands: an earlier one under the same id is kept and returned."""
    ensure_table(lake, lake.system("decisions"), SCHEMA, SYSTEM_PROPERTIES)
    key = f"{decision.kind}/{decision.decision_id}"

    def not_there_yet(table: Table) -> None:
        rows = table.scan(EqualTo(term="decision_id", value=decision.decision_id), selected_fields=("kind",)).to_arrow()
        if decision.kind in rows.column("kind").to_pylist():
            raise _AlreadyRecorded

    row = decision.model_dump() | {"recorded_at": datetime.now(UTC)}
    try:
        append_once(lake, lake.system("decisions"), pa.Table.from_pylist([row], SCHEMA), key, expect=not_there_yet)
    except _AlreadyRecorded:
        pass  # an earlier run recorded it and its snapshot has expired since: the row is what counts
    standing = find_decision(lake, decision.kind, decision.decision_id)
    assert standing is not None
    return standing


def claim_decision(lake: Lake, decision_id: str, claimant: str, as_of: datetime) -> bool:
    """Whether `claimant` may act on the decision: true for the first one that asks, and whenever that one asks again."""
    acted_on = find_decision(lake, "monitor", decision_id)
    if acted_on is None:
        raise LookupError(
            f"there is no decision {decision_id!r} to claim; look into the table of decisions for its id."
        )
    claim = Decision(
        decision_id=decision_id,
        pipeline=acted_on.pipeline,
        kind="claim",
        verdict="claimed",
        reason=f"claimed by {claimant}",
        as_of=as_of,
        version=acted_on.version,
        run_id=claimant,
    )
    return record_decision(lake, claim).run_id == claimant


def find_decision(lake: Lake, kind: Kind, decision_id: str) -> Decision | None:
    """The decision's row, or None."""
    if current_snapshot_id(lake, lake.system("decisions")) is None:
        return None
    its_own = And(EqualTo("decision_id", decision_id), EqualTo("kind", kind))  # statistics rule out all other files
    rows = read_snapshot(lake, lake.system("decisions"), row_filter=its_own).to_pylist()
    if not rows:
        return None
    return Decision.model_validate({name: rows[0][name] for name in Decision.model_fields})


def read_decisions(lake: Lake, pipeline: str | None = None) -> pl.DataFrame:
    """All decisions in the order they were recorded, of one pipeline or of all."""
    if current_snapshot_id(lake, lake.system("decisions")) is None:
        return pl.from_arrow(SCHEMA.empty_table())  # type: ignore[return-value]
    row_filter = EqualTo(term="pipeline", value=pipeline) if pipeline else None
    rows = pl.from_arrow(read_snapshot(lake, lake.system("decisions"), row_filter=row_filter))
    assert isinstance(rows, pl.DataFrame)
    return rows.sort("recorded_at")


class _AlreadyRecorded(Exception):
    pass
