"""Files: which have arrived since a position, which is a manifest of all files that were ever committed."""

import fnmatch
import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.spec.sources import Files

if TYPE_CHECKING:
    from perennial.lakehouse.positions import Batch

_FILES = {"path": pl.String, "etag": pl.String, "bytes": pl.Int64, "batch_id": pl.String}


class FilePart(BaseModel, frozen=True):
    """A file that has not been committed yet; the same path with another ETag is a new file: a correction."""

    kind: Literal["file"] = "file"
    path: str
    etag: str
    bytes: int

    @property
    def identity(self) -> str:
        """What tells this part from every other of its source: it goes into the batch's id."""
        return f"{self.path}@{self.etag}"

    @property
    def weight(self) -> int:
        """How much work it is to read, in bytes."""
        return self.bytes


class PositionDamaged(RuntimeError):
    """The manifest that a table's position names is not the one that was written."""


def new_parts(lake: Lake, source: Files, previous: str) -> list[FilePart]:
    """The files that arrived since a position."""
    committed = set(read_manifest(lake, previous).select("path", "etag").iter_rows())
    return [file for file in list_landing(lake, source.pattern) if (file.path, file.etag) not in committed]


def describe(parts: Sequence[FilePart]) -> str:
    """How many files, of how many bytes."""
    return f"{len(parts):,} files ({sum(part.bytes for part in parts):,} bytes)"


def source_id(lake: Lake, source: Files) -> str:
    """Where the files lie."""
    return f"{lake.bucket}/{lake.environment}/{source.pattern}"


def position_after(lake: Lake, batch: "Batch") -> str:
    """Write the manifest of the batch's files and all before them: `<its URI> <its SHA-256>` is the position."""
    arrived = [part for part in batch.parts if isinstance(part, FilePart)]
    new = pl.DataFrame([{**part.model_dump(), "batch_id": batch.batch_id} for part in arrived], schema=_FILES)
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
            f"{uri} is not the manifest that the table's position names (SHA-256 {digest}). Nothing was read or "
            "written. Restore the object from a backup or an older version of it."
        )
    return pl.read_parquet(io.BytesIO(content))


def list_landing(lake: Lake, pattern: str) -> list[FilePart]:
    """The files below `landing/` that match the pattern, sorted by path; `*` stays within a folder."""
    root = lake.uri("landing").removeprefix("s3://")
    folder = pattern.split("*")[0].rsplit("/", 1)[0] if "*" in pattern else pattern
    found = lake.files().find(f"{root}/{folder}", detail=True)
    files = [
        FilePart(path=path.removeprefix(f"{root}/"), etag=str(info.get("ETag", "")).strip('"'), bytes=info["size"])
        for path, info in sorted(found.items())
    ]
    depth = pattern.count("/")
    return [f for f in files if f.path.count("/") == depth and fnmatch.fnmatchcase(f.path, pattern)]
