"""Names on snapshots: the rows a version learned from stay readable for as long as the version may be needed."""

from collections.abc import Callable
from datetime import datetime

from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.table import Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from perennial.lakehouse.stages import read_stages
from perennial.lakehouse.tables import Identifier, dotted

TAG_TRIES = 20
DONE = frozenset(("archived", "rejected"))


def version_tag(version: int) -> str:
    """What the snapshot of a version's training rows is called."""
    return f"version-{version}"


def tag_snapshot(lake: Lake, identifier: Identifier, snapshot_id: int, tag: str) -> None:
    """Keep a snapshot from expiry under a name. A tag that is there already stays.

    Raises:
        ValueError: the tag is on another snapshot.
    """

    def change(table: Table) -> bool:
        standing = table.metadata.refs.get(tag)
        if standing is None:
            table.manage_snapshots().create_tag(snapshot_id, tag).commit()
        elif standing.snapshot_id != snapshot_id:
            raise ValueError(
                f"tag {tag} of {dotted(identifier)} is on snapshot {standing.snapshot_id}, not on {snapshot_id}; it was "
                "left."
            )
        return True

    _until_it_lands(lake, identifier, f"snapshot {snapshot_id} is not tagged {tag}", change)


def release_tags(lake: Lake, pipeline: str, before: datetime) -> list[int]:
    """Take the tags off the training rows of versions that were archived or rejected before a moment.

    A version that serves, is tried out, waits to be judged, or left its last stage later keeps its tag; so does a
    snapshot that another version was trained from, because every version has a tag of its own. Nothing is deleted here:
    the snapshots expire as any other does from then on.

    Returns:
        The versions whose tags were taken off now.
    """
    identifier = lake.table(pipeline, "features")
    released = []
    for number in _done_since(lake, pipeline, before):
        tag = version_tag(number)

        def change(table: Table, tag: str = tag) -> bool:
            if tag not in table.metadata.refs:
                return False
            table.manage_snapshots().remove_tag(tag).commit()
            return True

        try:
            if _until_it_lands(lake, identifier, f"tag {tag} is still there", change):
                released.append(number)
        except NoSuchTableError:
            return released
    return released


def _done_since(lake: Lake, pipeline: str, before: datetime) -> list[int]:
    latest = {step.version: step for step in read_stages(lake, pipeline)}  # from old to new: the last one stays
    done = {number for number, step in latest.items() if step.stage in DONE and step.recorded_at < before}
    return [version.version for version in read_versions(lake, pipeline) if version.version in done]


def _until_it_lands(lake: Lake, identifier: Identifier, otherwise: str, change: Callable[[Table], bool]) -> bool:
    for _ in range(TAG_TRIES):
        try:
            return change(lake.catalog().load_table(identifier))
        except CommitFailedException:
            continue  # somebody committed meanwhile; a tag asks for nothing of the table's head
    raise RuntimeError(f"{dotted(identifier)} changed {TAG_TRIES} times meanwhile: {otherwise}. Run the flow again.")
