"""Files that were taken before under another name: said, and kept in the source's position."""

from collections.abc import Sequence

from prefect import get_run_logger, task

from perennial.lakehouse.commit import set_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import POSITION, Batch, PositionMoved, expect_position, position_after
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.sources.files import RenamedFile

SHOWN = 10


def tell_renamed(files: Sequence[RenamedFile]) -> None:
    """Say which files bring nothing, because their rows came when they stood elsewhere or before they were touched."""
    if files:
        shown = ", ".join(
            f"{file.path} (touched)" if file.path == file.former else f"{file.path} (was {file.former})"
            for file in files[:SHOWN]
        )
        more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
        get_run_logger().warning(
            "%s: renamed since their rows came, which are not read again: %s%s",
            "1 file" if len(files) == 1 else f"{len(files):,} files",
            shown,
            more,
        )


@task(timeout_seconds=600)
def record_renamed(lake: Lake, batch: Batch) -> None:
    """Commit where files stand now whose rows came before, of a batch that has nothing else to say."""
    position = {POSITION: position_after(lake, batch)}
    try:
        set_once(lake, raw_table(lake, batch.pipeline, batch.source), position, expect_position(batch))
    except PositionMoved as moved:
        get_run_logger().info("names of renamed files are left to the next run: %s", moved)
