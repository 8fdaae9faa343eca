"""Files that a sweep has sentenced: named by the table itself, so that no writer can publish one any more."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from pyiceberg.io import FileIO
from pyiceberg.table import Table

CONDEMNED = "perennial.condemned"
"""Table property: the address of the list of files that the last sweep deletes."""


class FilesGone(RuntimeError):
    """Files that were to be published lay unpublished for so long that a sweep deleted them, or is about to."""


def refuse_condemned(table: Table, paths: Iterable[str]) -> None:
    """Stop a commit that would publish a file a sweep has sentenced.

    Those of earlier sweeps have been deleted by now, so what is neither listed nor missing is safe to publish: a sweep
    that begins later moves the table's head, and the commit that this look was for fails.

    Raises:
        FilesGone: the message names the first of them.
    """
    listed = table.properties.get(CONDEMNED)
    if not listed:
        return
    condemned = _read(table.io, listed)
    wanted = list(paths)
    gone = [path for path in wanted if path in condemned] or _missing(table.io, wanted)
    if gone:
        raise FilesGone(
            f"{len(gone)} of {len(wanted)} files that were to be committed to {'.'.join(table.name())} are gone, such as "
            f"{gone[0]}: they had been unpublished for longer than a sweep waits. Nothing was committed. Run the flow again."
        )


def _missing(io: FileIO, paths: list[str]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        there = list(pool.map(lambda path: io.new_input(path).exists(), paths))
    return [path for path, found in zip(paths, there, strict=True) if not found]


@lru_cache(maxsize=16)
def _lines(content: bytes) -> frozenset[str]:
    return frozenset(content.decode().splitlines())


def _read(io: FileIO, uri: str) -> frozenset[str]:
    with io.new_input(uri).open() as stream:
        return _lines(stream.read())
