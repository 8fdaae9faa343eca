"""Data files that were written and are not committed: named by Iceberg manifests on S3, so that any run can publish them."""

import uuid
from collections.abc import Iterable, Sequence

import polars as pl
import pyarrow as pa
from pyiceberg.avro.file import AvroFile
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    MANIFEST_ENTRY_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    write_manifest,
)
from pyiceberg.table import Table

from perennial.lakehouse.data_files import DataFiles
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier, ensure_table


def stage_files(lake: Lake, table: Table, files: Sequence[DataFile], batch: str) -> str:
    """Write a manifest of the files below `staging/`; return its URI, or "" when there is nothing to name."""
    if not files:
        return ""
    uri = lake.uri(f"staging/{batch}/{uuid.uuid4()}.avro")
    with write_manifest(
        format_version=2,
        spec=table.specs()[files[0].spec_id],
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


class StagedRows:
    """Rows of a batch on their way into staged data files of a table. Memory: see `DataFiles`.

    Args:
        schema: the columns of a table that is made, or changed, once there is a row for it; None: it got its columns before.
    """

    def __init__(self, lake: Lake, identifier: Identifier, batch: str, schema: pa.Schema | None = None) -> None:
        self.lake, self.identifier, self.batch, self.schema = lake, identifier, batch, schema
        self._files: DataFiles | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows with some or all of the table's columns."""
        if rows.is_empty():
            return
        if self._files is None:
            lake, name = self.lake, self.identifier
            table = ensure_table(lake, name, self.schema) if self.schema else lake.catalog().load_table(name)
            self._files = DataFiles(table, self.batch)
        self._files.add(rows)

    def stage(self) -> str:
        """Bring the files to S3; return the URI of the manifest that names them, "" where there were no rows."""
        return stage_files(self.lake, self._files.table, self._files.close(), self.batch) if self._files else ""


def staged_files(table: Table, manifests: Iterable[str]) -> list[DataFile]:
    """The data files that staged manifests name."""
    return [file for uri in manifests for file in _read(table.io, uri)]


def staged_paths(io: FileIO, uri: str) -> list[str]:
    """The addresses of the data files that a staged manifest names; what is no manifest names none."""
    return [] if not uri.endswith(".avro") else [file.file_path for file in _read(io, uri)]


def _read(io: FileIO, uri: str) -> list[DataFile]:
    with AvroFile[ManifestEntry](
        io.new_input(uri),
        MANIFEST_ENTRY_SCHEMAS[2],
        read_types={-1: ManifestEntry, 2: DataFile},
        read_enums={0: ManifestEntryStatus, 101: FileFormat, 134: DataFileContent},
    ) as reader:
        files = [entry.data_file for entry in reader]
        for file in files:  # the table may have been partitioned otherwise meanwhile
            file.spec_id = int(reader.header.meta["partition-spec-id"])
        return files
