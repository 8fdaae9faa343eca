"""What a source has brought so far, and what is new: a position that is committed together with the rows."""

import fnmatch
import hashlib
import io
from collections.abc import Callable
from datetime import datetime

import polars as pl
from pydantic import BaseModel
from pyiceberg.table import Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.tables import ensure_table
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Files

POSITION = "perennial.position"
"""Table property: `<uri of a Parquet manifest> <its SHA-256>`, of all files ever committed. It outlives snapshots."""

_FILES = {"path": pl.String, "etag": pl.String, "bytes": pl.Int64, "batch_id": pl.String}


class ArrivedFile(BaseModel, frozen=True):
    """A file that has not been committed yet; the same path with another ETag is a new file: a correction."""

    path: str
    etag: str
    bytes: int


class Batch(BaseModel, frozen=True):
    """The files that one run brings in. The same files after the same position are the same batch, whoever runs it."""

    pipeline: str
    source: str
    batch_id: str
    previous: str  # the position this batch follows
    files: list[ArrivedFile]
    as_of: datetime

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)


class PositionMoved(RuntimeError):
    """Another run committed files of this source meanwhile. Nothing of this batch was; plan again."""


class PositionDamaged(RuntimeError):
    """The manifest that a table's position names is not the one that was written."""


def plan_batch(lake: Lake, pipeline: Pipeline, source: Files, as_of: datetime) -> Batch:
    """What has arrived since the table's position; a batch without files when nothing has."""
    table = ensure_table(lake, raw_table(lake, pipeline.name, source.name), raw_schema(source))
    previous = table.properties.get(POSITION, "")
    committed = set(read_manifest(lake, previous).select("path", "etag").iter_rows())
    arrived = [file for file in list_landing(lake, source.pattern) if (file.path, file.etag) not in committed]
    words = [previous, *(f"{file.path}@{file.etag}" for file in arrived)]
    return Batch(
        pipeline=pipeline.name,
        source=source.name,
        batch_id=hashlib.sha256("\n".join(words).encode()).hexdigest()[:16],
        previous=previous,
        files=arrived,
        as_of=as_of,
    )


def list_landing(lake: Lake, pattern: str) -> list[ArrivedFile]:
    """The files below `landing/` that match the pattern, sorted by path; `*` stays within a folder."""
    root = lake.uri("landing").removeprefix("s3://")
    folder = pattern.split("*")[0].rsplit("/", 1)[0] if "*" in pattern else pattern
    found = lake.files().find(f"{root}/{folder}", detail=True)
    files = [
        ArrivedFile(path=path.removeprefix(f"{root}/"), etag=str(info.get("ETag", "")).strip('"'), bytes=info["size"])
        for path, info in sorted(found.items())
    ]
    depth = pattern.count("/")
    return [f for f in files if f.path.count("/") == depth and fnmatch.fnmatchcase(f.path, pattern)]


def write_manifest(lake: Lake, batch: Batch) -> str:
    """Write the manifest that holds the batch's files and all before them; return it as a position."""
    new = pl.DataFrame([{**file.model_dump(), "batch_id": batch.batch_id} for file in batch.files], schema=_FILES)
    buffer = io.BytesIO()
    pl.concat([read_manifest(lake, batch.previous), new]).write_parquet(buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    uri = lake.uri(f"positions/{batch.pipeline}/{batch.source}/{batch.batch_id}-{digest[:8]}.parquet")
    lake.files().pipe_file(uri, buffer.getvalue())
    return f"{uri} {digest}"


def read_manifest(lake: Lake, position: str) -> pl.DataFrame:
    """Every file that was committed up to a position.

    Raises:
        PositionDamaged: its bytes are not those whose SHA-256 the table names.
    """
    if not position:
        return pl.DataFrame(schema=_FILES)
    uri, digest = position.split(" ")
    content = lake.files().cat_file(uri)
    if hashlib.sha256(content).hexdigest() != digest:
        raise PositionDamaged(
            f"{uri} is not the manifest the table's property {POSITION} names (SHA-256 {digest}). Nothing was read or "
            "written. Restore the object from a backup or an older version of it."
        )
    return pl.read_parquet(io.BytesIO(content))


def expect_position(batch: Batch) -> Callable[[Table], None]:
    """The committer's check: the table is still where the batch was planned, or `PositionMoved` is raised."""

    def check(table: Table) -> None:
        if table.properties.get(POSITION, "") != batch.previous:
            raise PositionMoved(
                f"batch {batch.batch_id} of {batch.pipeline}/{batch.source}: another run committed files of this source "
                "since it was planned. Nothing of this batch was committed; running ingest again brings it in."
            )

    return check
