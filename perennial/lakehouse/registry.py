"""Model versions are facts: one row per version in an append-only table, never changed, numbered within the pipeline."""

import json
from datetime import datetime
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.decisions import SYSTEM_PROPERTIES
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage
from perennial.lakehouse.tables import Identifier, ensure_table, read_snapshot

BUILT_AS_OF = "perennial.as-of"


class ModelVersion(BaseModel, frozen=True):
    """One trained model and all that it takes to trust, serve and rebuild it.

    Args:
        version: 1, 2, 3 ... within the pipeline; 0 until it is registered.
        training_key: the same key is the same training: registering it again returns the version there is.
        artifact_id: names the files on S3; `manifest_sha256` makes them these files and no others.
        row_hash: SHA-256 over the training and validation rows, in their order; `holdout_row_hash`: over the holdout's.
        code_hash: of all that decides what a model sees: features, joins, label and contracts; `feature_code_hash` and
            `contract_hash` are its parts.
        lock_hash: of everything installed; the artifact's `environment.json` names it.
        metrics: JSON: metric -> {value, low, high} on the holdout rows, and what else training measured.
        parent_version: the champion when it was trained.
        holdout_start: first event time that was kept from training; the training window ends there.
    """

    pipeline: str
    version: int = 0
    training_key: str
    artifact_id: str
    manifest_sha256: str
    features_snapshot_id: int
    raw_snapshot_ids: str = "{}"
    training_rows: int
    validation_rows: int
    holdout_rows: int
    row_hash: str
    holdout_row_hash: str | None = None
    contract_hash: str
    feature_code_hash: str
    code_hash: str | None = None
    seed: int
    params: str
    metrics: str
    lock_hash: str
    parent_version: int | None = None
    reason: str
    as_of: datetime
    train_start: datetime
    holdout_start: datetime
    holdout_end: datetime
    created_at: datetime

    def read_metrics(self) -> dict[str, Any]:
        """`metrics`, parsed: `{"roc_auc": {"value": ..., "low": ..., "high": ..., "constant": ...}, "rows": ...}`."""
        found: dict[str, Any] = json.loads(self.metrics)
        return found


class NoSuchVersion(LookupError):
    """A version that was never registered."""


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    str | None: pa.string(),
    int: pa.int64(),
    int | None: pa.int64(),
    datetime: pa.timestamp("us", "UTC"),
}
_VERSIONS = pa.schema([(name, _ARROW_TYPES[field.annotation]) for name, field in ModelVersion.model_fields.items()])


def register_version(lake: Lake, version: ModelVersion) -> ModelVersion:
    """Give a trained model its number and its row, once; a training key seen before returns the version it has."""
    identifier = lake.system("versions")
    ensure_table(lake, identifier, _VERSIONS, SYSTEM_PROPERTIES)
    while True:
        known = read_versions(lake, version.pipeline)
        for standing in known:
            if standing.training_key == version.training_key:
                return standing
        number = 1 + max((standing.version for standing in known), default=0)
        numbered = version.model_copy(update={"version": number})

        def number_is_free(table: Table, number: int = number) -> None:
            same = _of(version.pipeline)
            taken = table.scan(same, selected_fields=("version", "training_key")).to_arrow().to_pylist()
            if any(row["version"] == number or row["training_key"] == version.training_key for row in taken):
                raise _TakenMeanwhile

        key = f"{version.pipeline}/{version.training_key}"
        try:
            append_once(
                lake, identifier, pa.Table.from_pylist([numbered.model_dump()], _VERSIONS), key, expect=number_is_free
            )
        except _TakenMeanwhile:
            continue  # look again: the next number, or the version that won with this training key


def read_versions(lake: Lake, pipeline: str) -> list[ModelVersion]:
    """All versions of a pipeline, oldest first."""
    rows = _rows(lake, lake.system("versions"), pipeline)
    return sorted((ModelVersion.model_validate(row) for row in rows), key=lambda version: version.version)


def find_training(lake: Lake, pipeline: str, training_key: str) -> ModelVersion | None:
    """The version that was trained under this key, if there is one."""
    return next((v for v in read_versions(lake, pipeline) if v.training_key == training_key), None)


def read_version(lake: Lake, pipeline: str, version: int) -> ModelVersion:
    """One version.

    Raises:
        NoSuchVersion: it was never registered; the message lists those there are.
    """
    known = {standing.version: standing for standing in read_versions(lake, pipeline)}
    if version not in known:
        raise NoSuchVersion(
            f"pipeline {pipeline} has no version {version}; it has {sorted(known)}. Nothing was changed. "
            "Train one, or name one of those."
        )
    return known[version]


def champion(lake: Lake, pipeline: str, as_of: datetime | None = None) -> ModelVersion | None:
    """The version that serves: now, or at a past moment."""
    step = champion_stage(lake, pipeline, as_of)
    return read_version(lake, pipeline, step.version) if step else None


def snapshot_as_of(lake: Lake, identifier: Identifier, as_of: datetime) -> int | None:
    """The newest snapshot built with what was known by `as_of`; else the current one, and None where there is none.

    A rerun thereby finds the snapshot it was built for, also where a later build has replaced it since.
    """
    try:
        table = lake.catalog().load_table(identifier)
    except NoSuchTableError:
        return None
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    snapshot = current = table.current_snapshot()
    while snapshot is not None:
        built = snapshot.summary.additional_properties.get(BUILT_AS_OF) if snapshot.summary else None
        if built and datetime.fromisoformat(built) <= as_of:
            return snapshot.snapshot_id
        snapshot = by_id.get(snapshot.parent_snapshot_id) if snapshot.parent_snapshot_id else None
    return current.snapshot_id if current else None


def _rows(lake: Lake, identifier: Identifier, pipeline: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = read_snapshot(lake, identifier, row_filter=_of(pipeline)).to_pylist()
    except NoSuchTableError:
        return []
    return rows


def _of(pipeline: str) -> EqualTo:
    return EqualTo("pipeline", pipeline)


class _TakenMeanwhile(Exception):
    pass
