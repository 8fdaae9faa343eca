"""Rows that broke the contract, kept with every check they failed.

Two tables cannot be committed together, so the `raw` commit names the staged quarantine files: its outbox. Appending
them is idempotent by batch id, and whoever comes next finishes it first.
"""

from pyiceberg.exceptions import NoSuchTableError

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import QUARANTINE, raw_table
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.tables import ensure_table

OUTBOX = "perennial.outbox"
"""Property of a raw table: `<batch id> <uri of a staged manifest> ...` of its last commit."""

FINISHED = "perennial.finished."
"""Property of the quarantine table, by source: the last batch whose outbox was appended."""


def finish_quarantine(lake: Lake, pipeline: str, source: str) -> bool:
    """Append what the last raw commit of a source left in its outbox; whether there was anything left to do."""
    try:
        raw = lake.catalog().load_table(raw_table(lake, pipeline, source))
    except NoSuchTableError:
        return False
    batch, *manifests = raw.properties.get(OUTBOX, "").split(" ")
    if not manifests:
        return False
    quarantine = ensure_table(lake, lake.table(pipeline, "quarantine"), QUARANTINE)
    if quarantine.properties.get(FINISHED + source) == batch:
        return False
    committed = append_once(
        lake,
        lake.table(pipeline, "quarantine"),
        staged_files(quarantine, manifests),
        f"{source}/{batch}",
        properties={FINISHED + source: batch},
    )
    return not committed.already
