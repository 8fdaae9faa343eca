"""Parts of a batch as blocks of rows, whatever kind of source they come from."""

from collections.abc import Iterator, Sequence

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Part
from perennial.lakehouse.sources.files import FilePart, digests
from perennial.lakehouse.sources.kafka import KafkaPart
from perennial.spec.kafka import Kafka
from perennial.spec.sources import Files, Source
from ray_jobs.ingest.chunks import Arrived
from ray_jobs.ingest.files import read_files
from ray_jobs.ingest.kafka import Limit, read_kafka
from ray_jobs.ingest.raw_files import FileRange
from ray_jobs.ingest.split import split_files


def split_parts(lake: Lake, source: Source, parts: Sequence[Part], slots: int) -> list[Part]:
    """The parts, the largest cut into several, so that `slots` tasks have about the same to read."""
    match source:
        case Files():
            return list(split_files(lake, source, [part for part in parts if isinstance(part, FilePart)], slots))
        case _:
            return list(parts)


def part_digests(lake: Lake, source: Source, parts: Sequence[Part]) -> dict[str, str]:
    """Digests of the parts' content by identity, of those that have one and whose listing did not tell it."""
    match source:
        case Files():
            # of a file in several ranges, whoever reads the first one tells it
            whole = [p for p in parts if isinstance(p, FilePart) and not (isinstance(p, FileRange) and p.start)]
            return digests(lake, source, whole)
        case _:
            return {}


def read_parts(lake: Lake, source: Source, parts: Sequence[Part], block_bytes: int, limit: Limit) -> Iterator[Arrived]:
    """Yield blocks of at most about `block_bytes`, so that a reader's memory does not grow with its parts.

    Args:
        limit: of what messages may have together.

    Raises:
        PartsUnreadable: the parts at fault; a technical failure is raised as itself.
    """
    match source:
        case Files():
            yield from read_files(lake, source, [part for part in parts if isinstance(part, FilePart)], block_bytes)
        case Kafka():
            yield from read_kafka(
                lake, source, [part for part in parts if isinstance(part, KafkaPart)], block_bytes, limit
            )
        case _:
            raise TypeError(f"source {source.name!r}: nothing is known of the kind {type(source).__name__}.")
