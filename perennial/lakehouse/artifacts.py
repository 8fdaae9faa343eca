"""A version's files on S3: weights, description, metrics, golden rows, reference sample; then a manifest, last.

The manifest's own SHA-256 is in the table of versions, so what is read is what was registered or nothing. Weights are
safetensors, all else is JSON, Parquet and text: no file from storage is ever executed, and none is read that is larger than
was registered.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from perennial.lakehouse.lake import Lake

MANIFEST = "manifest.json"
WEIGHTS, MODEL, METRICS, GOLDEN, REFERENCE, ENVIRONMENT, PIPELINE = (
    "weights.safetensors",
    "model.json",
    "metrics.json",
    "golden.parquet",
    "reference.parquet",
    "environment.json",
    "pipeline.txt",
)
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_FILE_NAME = r"^[a-z0-9_-]{1,64}\.[a-z0-9]{1,16}$"
MOST_REFERENCE_ROWS = 1_000_000
LARGEST_MANIFEST = 64 * 1024


class ArtifactRefused(ValueError):
    """A version's files are not those that were registered: missing, cut short, changed, or not what they claim."""


class FileEntry(BaseModel, frozen=True):
    """One file as the manifest lists it."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel, frozen=True):
    """What an artifact, or a checkpoint, consists of."""

    files: dict[Annotated[str, Field(pattern=_FILE_NAME)], FileEntry]

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "Manifest":
        """The manifest of these files."""
        return cls(
            files={name: FileEntry(size=len(data), sha256=_sha256(data)) for name, data in sorted(files.items())}
        )

    def check(self, where: str, name: str, data: bytes) -> bytes:
        """The file's bytes, if they are the listed ones.

        Raises:
            ArtifactRefused: the file is not listed, has another size or another checksum.
        """
        entry = self.files.get(name)
        if entry is None:
            raise refused(where, name, f"is not in the manifest, which lists {sorted(self.files)}")
        if len(data) != entry.size:
            raise refused(where, name, f"has {len(data)} bytes where the manifest says {entry.size}")
        if _sha256(data) != entry.sha256:
            raise refused(where, name, f"has SHA-256 {_sha256(data)} where the manifest says {entry.sha256}")
        return data


def artifact_uri(lake: Lake, pipeline: str, artifact_id: str) -> str:
    """Where an artifact lies: computed from names, never taken from a row or a request."""
    for name in (pipeline, artifact_id):
        if not _NAME.fullmatch(name):
            raise ArtifactRefused(f"{name!r} is no artifact's name: 1 to 64 lower-case letters, digits, _ or -")
    return lake.uri(f"artifacts/{pipeline}/{artifact_id}")


def write_artifact(lake: Lake, pipeline: str, artifact_id: str, files: Mapping[str, bytes]) -> str:
    """Write the files, look at what arrived, then write the manifest; return the manifest's SHA-256."""
    where = artifact_uri(lake, pipeline, artifact_id)
    storage = lake.files()
    for name, data in files.items():
        storage.pipe_file(f"{where}/{name}", data)
        landed = storage.info(f"{where}/{name}")["size"]  # an upload may answer 200 and then an error
        if landed != len(data):
            raise refused(where, name, f"arrived with {landed} of {len(data)} bytes. Run the flow again")
    manifest = Manifest.of(files).model_dump_json(indent=1).encode()
    storage.pipe_file(f"{where}/{MANIFEST}", manifest)
    return _sha256(manifest)


def read_artifact_file(lake: Lake, pipeline: str, artifact_id: str, manifest_sha256: str, name: str) -> bytes:
    """One file of an artifact, checked against the manifest, and that against its registered checksum.

    Raises:
        ArtifactRefused: anything is missing or not as registered; the message names the file.
    """
    manifest = read_manifest(lake, pipeline, artifact_id, manifest_sha256)
    where, entry = artifact_uri(lake, pipeline, artifact_id), manifest.files.get(name)
    return manifest.check(where, name, _read(lake.files(), where, name, entry.size) if entry else b"")


def read_manifest(lake: Lake, pipeline: str, artifact_id: str, manifest_sha256: str) -> Manifest:
    """What an artifact consists of, checked against its registered checksum.

    Raises:
        ArtifactRefused: it is missing or not as registered.
    """
    where = artifact_uri(lake, pipeline, artifact_id)
    raw = _read(lake.files(), where, MANIFEST, LARGEST_MANIFEST)
    if _sha256(raw) != manifest_sha256:
        raise refused(where, MANIFEST, f"has SHA-256 {_sha256(raw)} where the version's row says {manifest_sha256}")
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise refused(where, MANIFEST, f"is not a manifest: {error}") from error


def dump_json(value: Any) -> bytes:
    """A JSON file, readable by people."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def dump_parquet(rows: pl.DataFrame) -> bytes:
    """A Parquet file."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def read_reference(lake: Lake, pipeline: str, artifact_id: str, manifest_sha256: str) -> pl.DataFrame:
    """The reference sample of the training window: event time, inputs, score and label, as drift compares with."""
    data = read_artifact_file(lake, pipeline, artifact_id, manifest_sha256, REFERENCE)
    return parquet_rows(artifact_uri(lake, pipeline, artifact_id), REFERENCE, data, MOST_REFERENCE_ROWS)


def parquet_rows(where: str, name: str, data: bytes, most: int) -> pl.DataFrame:
    """The rows of a Parquet file; how many it claims is asked before any is unpacked.

    Raises:
        ArtifactRefused: it is no Parquet file, or holds more than `most` rows.
    """
    try:
        claimed = pq.read_metadata(io.BytesIO(data)).num_rows
        if claimed > most:
            raise refused(where, name, f"claims {claimed:,} rows where at most {most:,} are written")
        return pl.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise refused(where, name, f"is no Parquet file: {error}") from error


def delete_artifact(lake: Lake, pipeline: str, artifact_id: str) -> None:
    """Remove the files of an artifact that no version's row names."""
    lake.files().rm(artifact_uri(lake, pipeline, artifact_id), recursive=True)


def _read(storage: Any, where: str, name: str, most: int) -> bytes:
    """The file, if it is no larger than `most`; a larger one is not read at all."""
    try:
        size = storage.info(f"{where}/{name}")["size"]
        if size > most:
            raise refused(where, name, f"has {size} bytes where at most {most} belong there")
        return bytes(storage.cat_file(f"{where}/{name}"))
    except FileNotFoundError as error:
        raise refused(where, name, "is not there") from error


def refused(where: str, name: str, what: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"{where}/{name} {what}. The model is not loaded and nothing was changed. Restore the file from a backup or a "
        "replica of the bucket, roll back to another version, or train again."
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
