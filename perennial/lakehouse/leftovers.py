"""Objects that nobody can need any more: found by reachability and age, condemned in the tables, and only then deleted.

Reachable is what any snapshot of any branch or tag refers to, now or when the table's state was last noted before the
safe age, and whatever a property or a retained snapshot names: positions, outboxes, the manifests of staged files.
Age alone would take the files of a snapshot that expired an hour ago from its readers: the note is what prevents that.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.condemned import CONDEMNED
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.staging import staged_paths
from perennial.lakehouse.tables import Identifier
from perennial.rules.upkeep import is_left_over, safe_age

NOTE_EVERY = timedelta(hours=1)
NOTES_KEPT = timedelta(days=30)
JOBS_KEPT = timedelta(days=7)  # requests and results of remote jobs: a restarted run looks its own up


class Leftover(BaseModel, frozen=True):
    """An object that nobody can need: what it was, where it is, since when."""

    kind: str
    path: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class Reach:
    """What metadata leads to, and the longest time from a file's writing to its commit."""

    paths: set[str]
    longest_publish: timedelta = timedelta(0)


def note_state(lake: Lake, identifier: Identifier, now: datetime) -> None:
    """Keep the table's metadata as it is, so that a later sweep knows what could be read at this time."""
    table = lake.catalog().load_table(identifier)
    notes = _notes(lake, identifier)
    if not notes or now - notes[-1] >= NOTE_EVERY:
        lake.files().pipe_file(_note(lake, identifier, now), lake.files().cat_file(table.metadata_location))


def find_leftovers(lake: Lake, identifiers: Sequence[Identifier], now: datetime) -> list[Leftover]:
    """What lies in the tables' folders, and in `staging/`, `positions/`, `results/` and `jobs/`, and can be needed by nobody.

    A table whose state was not noted before its safe age is left alone: what expired since cannot be told apart.
    """
    if not identifiers:
        return []
    staging = _list(lake, lake.uri("staging"))  # listed first, looked up after: what is committed meanwhile is seen
    open_ = _open_staging(lake, staging, now - safe_age(timedelta(0)))
    found = [left for identifier in identifiers for left in _in_table(lake, identifier, open_, now)]
    return found + _beside_tables(lake, identifiers, staging, open_, now)


def delete_leftovers(lake: Lake, identifiers: Sequence[Identifier], found: Sequence[Leftover], now: datetime) -> int:
    """Condemn them in the tables, look once more, delete; return how many objects were deleted.

    The tables' heads move with the sentence: a writer that was stopped with some of these files in its hands is refused
    by the catalog, looks again, finds its files condemned, and gives up.
    """
    if not found:
        return 0
    listed = lake.uri(f"maintenance/condemned/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex}.txt")
    lake.files().pipe_file(listed, "\n".join(left.path for left in found).encode())
    live: set[str] = set()
    for identifier in identifiers:
        append_once(lake, identifier, [], f"sweep/{listed}", properties={CONDEMNED: listed})
        table = lake.catalog().load_table(identifier)
        live |= walk(table.io, table.metadata, {}).paths | _metadata_files(table)
    live |= named_uris(lake)
    doomed = [left.path for left in found if left.path not in live]
    for path in doomed:
        lake.files().rm_file(path)
    return len(doomed)


def walk(io: FileIO, metadata: TableMetadata, modified: dict[str, datetime]) -> Reach:
    """Everything that the snapshots of a table's metadata refer to.

    Raises:
        FileNotFoundError: a manifest is missing; nothing may be deleted from such a table.
    """
    paths: set[str] = set()
    manifests: dict[str, ManifestFile] = {}
    for snapshot in metadata.snapshots:
        paths.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(io)}
    committed = {s.snapshot_id: datetime.fromtimestamp(s.timestamp_ms / 1000, UTC) for s in metadata.snapshots}
    longest = timedelta(0)
    for path, manifest in manifests.items():
        paths.add(path)
        for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
            file = entry.data_file.file_path
            paths.add(file)
            if entry.snapshot_id in committed and file in modified:
                longest = max(longest, committed[entry.snapshot_id] - modified[file])
    paths |= {statistics.statistics_path for statistics in metadata.statistics}
    return Reach(paths, longest)


def named_uris(lake: Lake) -> set[str]:
    """Every address in the lake that a property, or a retained snapshot, of any of its tables names."""
    texts: list[str] = []
    catalog = lake.catalog()
    for namespace in catalog.list_namespaces():
        if namespace[0].startswith(f"{lake.environment}_"):
            for table in map(catalog.load_table, catalog.list_tables(namespace)):
                texts += table.properties.values()
                for snapshot in table.metadata.snapshots:
                    texts += snapshot.summary.additional_properties.values() if snapshot.summary else []
    address = re.compile(re.escape(lake.uri("")) + r"[^\s\"',\]}]+")
    return {found for text in texts for found in address.findall(text)}


def _in_table(lake: Lake, identifier: Identifier, open_: set[str], now: datetime) -> list[Leftover]:
    location = lake.catalog().load_table(identifier).location()
    listed = _list(lake, location)
    table = lake.catalog().load_table(identifier)
    modified = {path: left.modified_at for path, left in listed.items()}
    reach = walk(table.io, table.metadata, modified)
    before = now - safe_age(reach.longest_publish)
    noted_at = max((note for note in _notes(lake, identifier) if note <= before), default=None)
    if noted_at is None:
        return []
    note = FromInputFile.table_metadata(table.io.new_input(_note(lake, identifier, noted_at)))
    live = reach.paths | walk(table.io, note, {}).paths | _metadata_files(table) | open_
    return [
        left
        for path, left in sorted(listed.items())
        if path not in live and is_left_over(left.modified_at, noted_at, reach.longest_publish)
    ]


def _beside_tables(
    lake: Lake, identifiers: Sequence[Identifier], staging: dict[str, Leftover], open_: set[str], now: datetime
) -> list[Leftover]:
    """Staged manifests and positions that no table names, of batches and pipelines that are nobody's work any more."""
    folders = [lake.catalog().load_table(identifier).location() + "/" for identifier in identifiers]
    names = {identifier[0].removeprefix(f"{lake.environment}_") for identifier in identifiers}
    named, before = named_uris(lake), now - safe_age(timedelta(0))
    io = lake.catalog().load_table(identifiers[0]).io
    ours = [
        left
        for path, left in staging.items()
        if path not in open_
        and (not path.endswith(".avro") or any(file.startswith(tuple(folders)) for file in staged_paths(io, path)))
    ]
    places = [f"{place}/{name}" for place in ("positions", "results") for name in sorted(names)]
    places.append("maintenance/condemned")
    named_once = [left for place in places for left in _list(lake, lake.uri(place)).values()]
    unnamed = [left for left in [*ours, *named_once] if left.path not in named and left.modified_at < before]
    jobs = [left for left in _list(lake, lake.uri("jobs")).values() if left.modified_at < now - JOBS_KEPT]
    return unnamed + jobs + [note for identifier in identifiers for note in _old_notes(lake, identifier, now)]


def _open_staging(lake: Lake, staging: dict[str, Leftover], before: datetime) -> set[str]:
    """Staged manifests of open publishes, and their files: written to since `before`, or named by a table."""
    named = named_uris(lake)
    newest: dict[str, datetime] = {}
    for path, left in staging.items():
        batch = path.rsplit("/", 1)[0]
        newest[batch] = max(newest.get(batch, left.modified_at), left.modified_at)
    manifests = {path for path in staging if newest[path.rsplit("/", 1)[0]] >= before or path in named}
    catalog = lake.catalog()
    return manifests | {file for uri in manifests for file in staged_paths(catalog._load_file_io(location=uri), uri)}


def _metadata_files(table: Table) -> set[str]:
    return {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}


def _notes(lake: Lake, identifier: Identifier) -> list[datetime]:
    folder = _note(lake, identifier, datetime.fromtimestamp(0, UTC)).rsplit("/", 1)[0]
    stamps = (path.rsplit("/", 1)[-1].removesuffix(".metadata.json") for path in _list(lake, folder))
    return sorted(datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC) for stamp in stamps)


def _old_notes(lake: Lake, identifier: Identifier, now: datetime) -> list[Leftover]:
    """Notes that no sweep will go by: all that are older than a month, but for the newest of them."""
    old = [note for note in _notes(lake, identifier) if note < now - NOTES_KEPT][:-1]
    return [Leftover(kind="note", path=_note(lake, identifier, note), bytes=0, modified_at=note) for note in old]


_STAMP = "%Y%m%dT%H%M%S"


def _note(lake: Lake, identifier: Identifier, at: datetime) -> str:
    return lake.uri(f"maintenance/notes/{'.'.join(identifier)}/{at.strftime(_STAMP)}.metadata.json")


def _list(lake: Lake, folder: str) -> dict[str, Leftover]:
    inside = folder.removeprefix("s3://").rstrip("/") + "/"  # and not in a folder whose name only begins alike
    found = lake.files().find(inside, detail=True)
    return {
        f"s3://{path}": Leftover(
            kind=_kind(path), path=f"s3://{path}", bytes=info["size"], modified_at=info["LastModified"]
        )
        for path, info in found.items()
        if info["type"] == "file" and path.startswith(inside)
    }


def _kind(path: str) -> str:
    kinds = {
        "/data/": "data file",
        "/metadata/": "metadata",
        "/staging/": "staged manifest",
        "/positions/": "position",
        "/results/": "result",
        "/jobs/": "job",
    }
    return next((kind for part, kind in kinds.items() if part in path), "object")
