"""Data files that were written and are not committed: named by Iceberg manifests on S3, so that any run can publish them."""

import uuid
from collections.abc import Iterable, Sequence

import polars as pl
import pyarrow as pa
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestEntry, ManifestEntryStatus, ManifestFile, write_manifest
from pyiceberg.table import Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier, ensure_table, write_files


def stage_files(lake: Lake, table: Table, files: Sequence[DataFile], batch: str) -> str:
    """Write a manifest of the files below `staging/`; return its URI, or "" when there is nothing to name."""
    if not files:
        return ""
    uri = lake.uri(f"staging/{batch}/{uuid.uuid4()}.avro")
    with write_manifest(
        format_version=2,
        spec=table.spec(),
        schema=table.schema(),
        output_file=table.io.new_output(uri),
        snapshot_id=0,  # none yet: the commit gives the files theirs
        avro_compression="deflate",
    ) as writer:
        for file in files:
            writer.add_entry(
                ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=0, sequence_number=None, data_file=file
                )
            )
    return uri


def stage_rows(lake: Lake, identifier: Identifier, schema: pa.Schema | None, rows: pl.DataFrame, batch: str) -> str:
    """Write rows as data files of a table; return the manifest's URI, "" without rows.

    Args:
        schema: the columns of a table that is made, or changed, if need be; None: it got its columns before.
    """
    if rows.is_empty():
        return ""
    table = ensure_table(lake, identifier, schema) if schema else lake.catalog().load_table(identifier)
    return stage_files(lake, table, write_files(table, rows.to_arrow(), batch), batch)


def staged_files(table: Table, manifests: Iterable[str]) -> list[DataFile]:
    """The data files that staged manifests name."""
    spec_id = table.spec().spec_id
    return [entry.data_file for uri in manifests for entry in _entries(table.io, uri, spec_id)]


def staged_paths(io: FileIO, uri: str) -> list[str]:
    """The addresses of the data files that a staged manifest names; what is no manifest names none."""
    return [] if not uri.endswith(".avro") else [entry.data_file.file_path for entry in _entries(io, uri, 0)]


def _entries(io: FileIO, uri: str, spec_id: int) -> list[ManifestEntry]:
    manifest = ManifestFile.from_args(
        manifest_path=uri, manifest_length=len(io.new_input(uri)), partition_spec_id=spec_id, added_snapshot_id=0
    )
    return manifest.fetch_manifest_entry(io)
