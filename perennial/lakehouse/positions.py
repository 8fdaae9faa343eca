"""What a source has brought so far, and what is new: a position that is committed together with the rows.

The committer and the flow see a position as an opaque string; the modules of `perennial.lakehouse.sources` read it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from pydantic import BaseModel
from pyiceberg.table import Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import ensure_raw
from perennial.lakehouse.sources import files, kafka
from perennial.lakehouse.sources.files import FilePart, RenamedFile
from perennial.lakehouse.sources.kafka import KafkaPart
from perennial.spec.kafka import Kafka
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Files, Source

POSITION = "perennial.position"
"""Table property: the source's position, set in the commit that brings the rows. It outlives snapshots."""

Part = FilePart | KafkaPart
"""What is read on its own, of any kind of source: it has `kind`, `identity` and `weight`."""


class Batch(BaseModel, frozen=True):
    """What one run brings in. The same parts after the same position are the same batch, whoever runs it."""

    pipeline: str
    source: str
    source_id: str
    batch_id: str
    previous: str  # the position this batch follows
    parts: list[Part]
    renamed: list[RenamedFile] = []  # files whose rows came before, under another name: they go into the position only
    contents: str  # how much it is, as people read it
    alarm: str = ""  # what nobody may overlook: data that is gone, a source that is another one than before
    as_of: datetime

    @property
    def is_empty(self) -> bool:
        """Whether nothing new has arrived."""
        return not self.parts


class PositionMoved(RuntimeError):
    """Another run committed data of this source meanwhile. Nothing of this batch was; plan again."""


def plan_batch(lake: Lake, pipeline: Pipeline, source: Source, as_of: datetime) -> Batch:
    """What has arrived since the table's position; a batch without parts when nothing has."""
    table = ensure_raw(lake, pipeline.name, source)
    previous = table.properties.get(POSITION, "")
    parts: Sequence[Part]
    renamed: list[RenamedFile] = []
    alarm = ""
    match source:
        case Files():
            parts, renamed = files.new_parts(lake, source, previous)
            source_id = files.source_id(lake, source)
        case Kafka():
            parts = kafka.new_parts(lake, source, previous)
            source_id, alarm = kafka.source_id(parts), kafka.alarm(previous, parts)
        case _:
            raise TypeError(f"source {source.name!r}: nothing is known of the kind {type(source).__name__}.")
    return Batch(
        pipeline=pipeline.name,
        source=source.name,
        source_id=source_id,
        batch_id=_batch_id(previous, parts),
        previous=previous,
        parts=list(parts),
        renamed=renamed,
        contents=_describe(parts),
        alarm=alarm,
        as_of=as_of,
    )


def changed_parts(lake: Lake, source: Source, batch: Batch, doubted: Collection[str] = ()) -> set[str]:
    """Identities of the parts that are not any more what was planned, so that what was read of them is worth nothing.

    Args:
        doubted: identities of parts to ask about, whatever is known of them: by default those whose reader could not tell.
    """
    match source:
        case Files():
            parts = [part for part in batch.parts if isinstance(part, FilePart)]
            alike = Counter((part.digest, part.bytes) for part in parts if part.digest)
            asked = [  # of files that are alike one may have been the other's name a moment ago
                part
                for part in parts
                if part.identity in doubted
                or alike[part.digest, part.bytes] > 1
                or not files.is_read_at_once(source, part)
            ]
            return files.changed_parts(lake, source, asked)
        case _:
            return set()


def leave_out(batch: Batch, identities: Collection[str]) -> Batch:
    """The batch without some of its parts, which stay new: another batch, with an id of its own."""
    parts = [part for part in batch.parts if part.identity not in identities]
    changes = {"parts": parts, "batch_id": _batch_id(batch.previous, parts), "contents": _describe(parts)}
    return batch.model_copy(update=changes)


def know_contents(lake: Lake, source: Source, batch: Batch, digests: dict[str, str]) -> Batch:
    """The batch once its parts were read: without files whose content was taken before, under a name that is gone.

    Args:
        digests: of the content of parts whose listing did not tell it, by identity.
    """
    match source:
        case Files():
            read = [part for part in batch.parts if isinstance(part, FilePart)]
            told = [part.model_copy(update={"digest": digests.get(part.identity, part.digest)}) for part in read]
            parts, renamed = files.renamed_parts(lake, source, batch, told)
            changes = {"parts": parts, "renamed": [*batch.renamed, *renamed]}
            if renamed:
                changes |= {"batch_id": _batch_id(batch.previous, parts), "contents": _describe(parts)}
            return batch.model_copy(update=changes)
        case _:
            return batch


def cut_batch(batch: Batch, reached: dict[str, int]) -> tuple[Batch, bool]:
    """The batch without what its readers did not get to, and whether it must be staged again, under another id.

    It keeps its id where nothing behind was read: whoever reads the same batch may get further or less far. One of them
    commits it, with the position that it reached, and for the others it is done.

    Args:
        reached: where parts were not read to their ends, by their identities.
    """
    if not reached:
        return batch, False
    parts, read_behind = kafka.cut_parts([part for part in batch.parts if isinstance(part, KafkaPart)], reached)
    changes = {"parts": parts, "contents": _describe(parts)}
    if read_behind:
        changes["batch_id"] = _batch_id(batch.previous, parts)
    return batch.model_copy(update=changes), read_behind


def position_after(lake: Lake, batch: Batch) -> str:
    """The source's position once this batch is committed; a batch without parts and renamed files has none."""
    if batch.parts and isinstance(batch.parts[0], KafkaPart):
        return kafka.position_after(batch)
    return files.position_after(lake, batch)


def expect_position(batch: Batch) -> Callable[[Table], None]:
    """The committer's check: the table is still where the batch was planned, or `PositionMoved` is raised."""

    def check(table: Table) -> None:
        if table.properties.get(POSITION, "") != batch.previous:
            raise PositionMoved(
                f"batch {batch.batch_id} of {batch.pipeline}/{batch.source}: another run committed data of this source "
                "since it was planned. Nothing of this batch was committed; running ingest again brings it in."
            )

    return check


def _batch_id(previous: str, parts: Sequence[Part]) -> str:
    return hashlib.sha256("\n".join([previous, *(part.identity for part in parts)]).encode()).hexdigest()[:16]


def _describe(parts: Sequence[Part]) -> str:
    landed = [part for part in parts if isinstance(part, FilePart)]
    messages = [part for part in parts if isinstance(part, KafkaPart)]
    return kafka.describe(messages) if messages else files.describe(landed)
