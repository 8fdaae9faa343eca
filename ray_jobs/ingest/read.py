"""Parts of a batch as blocks of rows, whatever kind of source they come from."""

from collections.abc import Iterator, Sequence

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Part
from perennial.lakehouse.sources.files import FilePart
from perennial.lakehouse.sources.kafka import KafkaPart
from perennial.spec.kafka import Kafka
from perennial.spec.sources import Files, Source
from ray_jobs.ingest.files import read_files
from ray_jobs.ingest.kafka import read_kafka

Arrived = tuple[pl.DataFrame, pl.DataFrame]
"""Rows with `_position`; and what could not be read as rows: as it arrived, with `_position` and `_failed_checks`."""


def read_parts(lake: Lake, source: Source, parts: Sequence[Part], block_bytes: int) -> Iterator[Arrived]:
    """Yield blocks of at most about `block_bytes`, so that a reader's memory does not grow with its parts."""
    match source:
        case Files():
            yield from read_files(lake, [part for part in parts if isinstance(part, FilePart)], block_bytes)
        case Kafka():
            yield from read_kafka(lake, source, [part for part in parts if isinstance(part, KafkaPart)], block_bytes)
        case _:
            raise TypeError(f"source {source.name!r}: nothing is known of the kind {type(source).__name__}.")
