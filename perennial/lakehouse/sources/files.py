"""Files: which have arrived since a position, which is a manifest of all files that were ever committed."""

import hashlib
import io
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.objects import Objects
from perennial.lakehouse.sources.renamed import Former, find_renamed, known
from perennial.spec.sources import Files

if TYPE_CHECKING:
    from perennial.lakehouse.positions import Batch

_FILES = {
    "path": pl.String,
    "etag": pl.String,
    "bytes": pl.Int64,
    "digest": pl.String,
    "moved": pl.Boolean,  # the file was found under another name, which stands in the manifest too
    "batch_id": pl.String,
}
_MD5 = re.compile(r"[0-9a-f]{32}").fullmatch
_READ_BYTES = 8 * 1024 * 1024
_MODIFIED = ("mtime", "updated", "last_modified", "LastModified", "modified", "created")
SMALL_BYTES = 2 * 1024 * 1024  # of a file that is fetched whole
LOOKED_AT = 20  # files that are asked for one by one; more are listed together


class FilePart(BaseModel, frozen=True):
    """A file that has not been committed yet; the same path with another ETag is a new file: a correction.

    `etag`: on file systems without ETags, the size and the time of the last change. `digest`: the MD5 of its content, as S3
    tells it by the ETag of an object that came in one piece; empty until the file was read, where it does not.
    """

    kind: Literal["file"] = "file"
    path: str  # below `landing/`, or a URI
    etag: str
    bytes: int
    digest: str = ""

    @property
    def identity(self) -> str:
        """What tells this part from every other of its source: it goes into the batch's id."""
        return f"{self.path}@{self.etag}"

    @property
    def weight(self) -> int:
        """How much work it is to read, in bytes."""
        return self.bytes


class RenamedFile(FilePart, frozen=True):
    """A file whose rows came already, when it stood elsewhere: `former` is its path then, `former_etag` its version."""

    former: str
    former_etag: str


class PositionDamaged(RuntimeError):
    """The manifest that a table's position names is not the one that was written."""


@dataclass(frozen=True)
class Place:
    """The file system of a source's files.

    Args:
        files: lists them; made when it is asked for, because a client costs up to 0.8 s that readers need not spend.
        read: reads them.
        location: a part's path as both know it; `path`: the other way.
        objects: reads small ones whole, with their ETags; None where the file system has none.
    """

    files: Callable[[], AbstractFileSystem]
    read: FileSystem
    location: Callable[[str], str]
    path: Callable[[str], str]
    objects: Callable[[], Objects] | None = None


def place_of(lake: Lake, pattern: str) -> Place:
    """Where a source's files lie. S3 is read with the lake's endpoint and keys, other systems as fsspec is configured."""
    if "://" not in pattern:
        root = lake.uri("landing/").removeprefix("s3://")
        path = operator.methodcaller("removeprefix", root)
        return Place(lake.files, lake.arrow_files(), partial(operator.add, root), path, lake.objects)
    if pattern.startswith("s3://"):
        location = operator.methodcaller("removeprefix", "s3://")
        return Place(lake.files, lake.arrow_files(), location, partial(operator.add, "s3://"), lake.objects)
    files, _ = url_to_fs(pattern, use_listings_cache=False)
    return Place(lambda: files, PyFileSystem(FSSpecHandler(files)), files._strip_protocol, files.unstrip_protocol)


def new_parts(lake: Lake, source: Files, previous: str) -> tuple[list[FilePart], list[RenamedFile]]:
    """The files that arrived since a position, and those of them that were taken before, as far as their ETags tell."""
    taken, listed = read_manifest(lake, previous), list_files(lake, source)
    committed, standing = known(taken), {Former(file.path, file.etag) for file in listed}
    new = [file for file in listed if Former(file.path, file.etag) not in committed]
    return part_renamed(new, find_renamed(taken, new, standing.__contains__))


def renamed_parts(
    lake: Lake, source: Files, batch: "Batch", parts: Sequence[FilePart]
) -> tuple[list[FilePart], list[RenamedFile]]:
    """As `new_parts`, of parts whose digests are known now that they were read; asked of the files as they are now."""
    place, asked = place_of(lake, source.pattern), itertools.count()
    claimed = {Former(file.former, file.former_etag) for file in batch.renamed}

    @cache
    def listed() -> set[Former]:
        return {Former(file.path, file.etag) for file in list_files(lake, source)}

    def stands(file: Former) -> bool:
        if file in claimed:
            return True
        return file in listed() if next(asked) >= LOOKED_AT else _version_now(place, file.path) == file.etag

    return part_renamed(parts, find_renamed(read_manifest(lake, batch.previous), parts, stands))


def part_renamed(parts: Sequence[FilePart], found: dict[str, Former]) -> tuple[list[FilePart], list[RenamedFile]]:
    """The parts that are new, and those that were found to have been taken before."""
    renamed = [
        RenamedFile(**part.model_dump(), former=former.path, former_etag=former.etag)
        for part in parts
        if (former := found.get(part.identity))
    ]
    return [part for part in parts if part.identity not in found], renamed


def describe(parts: Sequence[FilePart]) -> str:
    """How many files, of how many bytes."""
    return f"{len(parts):,} {'file' if len(parts) == 1 else 'files'} ({sum(part.bytes for part in parts):,} bytes)"


def source_id(lake: Lake, source: Files) -> str:
    """Where the files lie."""
    return source.pattern if "://" in source.pattern else f"{lake.bucket}/{lake.environment}/{source.pattern}"


def position_after(lake: Lake, batch: "Batch") -> str:
    """Write the manifest of the batch's files and all before them: `<its URI> <its SHA-256>` is the position."""
    arrived = [part for part in batch.parts if isinstance(part, FilePart)] + list(batch.renamed)
    about = {"moved": False, "batch_id": batch.batch_id}
    new = pl.DataFrame([{**part.model_dump(include=set(_FILES)), **about} for part in arrived], schema=_FILES)
    former = pl.DataFrame(
        [(file.former, file.former_etag, True) for file in batch.renamed],
        schema={"path": pl.String, "etag": pl.String, "moved": pl.Boolean},
        orient="row",
    )
    taken = read_manifest(lake, batch.previous).update(former, on=["path", "etag"])
    buffer = io.BytesIO()
    pl.concat([taken, new]).write_parquet(buffer)
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
    taken = pl.read_parquet(io.BytesIO(content))
    if "digest" not in taken.columns:  # written before files were known by their content
        md5: pl.Expr = pl.when(pl.col("etag").str.contains("^[0-9a-f]{32}$")).then("etag").otherwise(pl.lit(""))
        taken = taken.with_columns(digest=md5, moved=pl.lit(value=False))
    return taken.select(*_FILES)


def list_files(lake: Lake, source: Files) -> list[FilePart]:
    """The files that match the source's pattern, sorted by path; hidden ones, whose names begin with a dot, do not."""
    place = place_of(lake, source.pattern)
    pattern = place.location(source.pattern)
    matches = re.compile(glob_translate(pattern)).match
    folder, *wild = re.split(r"/(?=[^/]*[*?\[])", pattern, maxsplit=1)
    try:
        if not wild:
            found = [place.files().info(pattern)]
        elif "/" in wild[0]:
            found = list(place.files().find(folder, detail=True).values())
        else:
            found = place.files().ls(folder, detail=True)
    except FileNotFoundError:
        return []
    hidden = re.compile(r"/\.").search
    files = [
        FilePart(
            path=place.path(info["name"]), etag=(etag := version_of(info)), bytes=info["size"], digest=md5_of(etag)
        )
        for info in found
        if info["type"] == "file" and matches(info["name"]) and not hidden(info["name"].removeprefix(folder))
    ]
    return sorted(files, key=lambda file: file.path)


def is_read_at_once(source: Files, part: FilePart) -> bool:
    """Whether a file is read by one request that tells its version, so that nobody has to ask again whether it changed."""
    return part.bytes <= SMALL_BYTES and ("://" not in source.pattern or source.pattern.startswith("s3://"))


def changed_parts(lake: Lake, source: Files, parts: Iterable[FilePart]) -> set[str]:
    """Identities of the files that are not any more what was listed: rewritten, still being written, or gone."""
    parts = list(parts)
    if len(parts) > LOOKED_AT:
        now = {file.path: file.etag for file in list_files(lake, source)}
    else:
        place = place_of(lake, source.pattern)
        now = {part.path: _version_now(place, part.path) for part in parts}
    return {part.identity for part in parts if now.get(part.path) != part.etag}


def version_of(info: dict[str, Any]) -> str:
    """What changes when a file changes, from what its file system says of it."""
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return str(info[name]).strip('"')
    changed = next((str(info[name]) for name in _MODIFIED if info.get(name) is not None), "")
    return f"{info['size']}-{changed}"


def md5_of(etag: str) -> str:
    """The MD5 of an object's content as far as its ETag is one: not of an upload in several parts, nor off S3."""
    return etag if _MD5(etag) else ""


def digests(lake: Lake, source: Files, parts: Iterable[FilePart]) -> dict[str, str]:
    """The MD5s of the content of files whose ETags do not tell it, by identity. They are read once more, in pieces.

    A file that is gone has none: who reads it finds out.
    """
    place, found = place_of(lake, source.pattern), {}
    for part in parts:
        if part.digest:
            continue
        md5 = hashlib.md5(usedforsecurity=False)
        try:
            with place.read.open_input_stream(place.location(part.path), buffer_size=0) as file:
                while piece := file.read(_READ_BYTES):
                    md5.update(piece)
        except FileNotFoundError:
            continue
        found[part.identity] = md5.hexdigest()
    return found


def _version_now(place: Place, path: str) -> str:
    try:
        return version_of(place.files().info(place.location(path)))
    except FileNotFoundError:
        return ""
