"""Which files that look new are ones that were taken already, under another name or before they were touched.

A file is the same where its bytes are: the same MD5 and size. It is renamed if a file of that content was taken and does
not stand any more where it was taken; each such place accounts for one file, so a copy beside its original is new
(docs/decisions/0016-renamed-files.md).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from perennial.lakehouse.sources.files import FilePart

Stands = Callable[["Former"], bool]
"""Whether a file still is where it was taken, in the version that was taken."""


class Former(NamedTuple):
    """Where a file stood when it was taken, and its version then."""

    path: str
    etag: str


def find_renamed(taken: pl.DataFrame, new: Iterable["FilePart"], stands: Stands) -> "dict[str, Former]":
    """Where the files stood that were taken before, by the identities that they have now.

    Args:
        taken: the manifest of a position, in the order in which files were taken.
        new: files whose path and ETag were not taken; those without a digest are not known by their content.
        stands: asked about places only where a file of the same content was taken.
    """
    arrived = [part for part in new if part.digest]
    contents = {"digest": pl.String, "bytes": pl.Int64}
    wanted = pl.DataFrame([(part.digest, part.bytes) for part in arrived], contents, orient="row")
    same = taken.join(wanted, list(contents), "semi", maintain_order="left")
    if same.is_empty():
        return {}
    last = {path: (digest, size) for path, digest, size in _last(taken).select("path", "digest", "bytes").iter_rows()}
    places: dict[tuple[str, int], list[Former]] = defaultdict(list)
    for path, etag, digest, size in same.filter(~pl.col("moved")).select("path", "etag", "digest", "bytes").iter_rows():
        places[digest, size].append(Former(path, etag))
    found: dict[str, Former] = {}
    for part in sorted(arrived, key=lambda part: last.get(part.path) != (part.digest, part.bytes)):  # the touched first
        left = places[part.digest, part.bytes]
        touched = last.get(part.path) == (part.digest, part.bytes)
        # a name that went back to what it was before its last version is a correction, and no rename
        former = next((old for old in reversed(left) if (old.path == part.path) == touched and not stands(old)), None)
        if former:
            left.remove(former)
            found[part.identity] = former
    return found


def known(taken: pl.DataFrame) -> set[Former]:
    """The version of every name that was taken last: a file that goes back to a version before that is new."""
    return {Former(*row) for row in _last(taken).select("path", "etag").iter_rows()}


def _last(taken: pl.DataFrame) -> pl.DataFrame:
    return taken.unique("path", keep="last", maintain_order=True)
