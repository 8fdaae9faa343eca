"""Put the pages where people open them: made from `batches` and `quarantine`, and only when there is something new."""

import re
from collections.abc import Collection
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, EqualTo, In

from perennial.datadocs.examples import choose_examples
from perennial.datadocs.frame import MARK
from perennial.datadocs.page import Origin, index_page, source_page
from perennial.lakehouse.batches import batches_table, last_finished, read_batches
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import QUARANTINE
from perennial.lakehouse.tables import dotted
from perennial.spec.load import contract_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Source

BATCHES = 120
INDEX_BATCHES = 30
EXAMPLE_BATCHES = 5
EXAMPLE_ROWS = 1_000  # of a batch that are looked through for examples
_NOTE = (
    f"Up to three rows per check. The first {EXAMPLE_ROWS:,} failing rows of each of the last {EXAMPLE_BATCHES} batches "
    "that have any were looked through."
)
_MARKED = re.compile(rf'<meta name="{MARK}" content="([^"]*)">')


def page_path(pipeline: str, source: str) -> str:
    """Where a source's page lies in the environment; the pipeline's index is `index.html` beside it."""
    return f"reports/{pipeline}/data/{source}.html"


def publish_pages(lake: Lake, pipeline: Pipeline, source: Source, runs: str | None) -> dict[str, Any] | None:
    """Make a source's page and the pipeline's index anew; return the row of the newest batch.

    Args:
        runs: what the address of a flow run begins with in Prefect's UI.

    Returns:
        None when the page shows the newest batch already, or there is no batch yet.
    """
    newest = last_finished(lake, pipeline.name, source.name)
    path = lake.uri(page_path(pipeline.name, source.name))
    if newest is None or newest == _shown(lake, path):
        return None
    rows = read_batches(lake, pipeline.name, source.name, BATCHES)
    origin = _origin(lake, pipeline, runs)
    sensitive = {*source.sensitive, *source.personal}
    chosen = choose_examples(
        read_failing(lake, pipeline.name, source.name, rows), sensitive, contract_columns(source), _check_names(rows)
    )
    lake.files().pipe_file(path, source_page(origin, source.name, newest, rows, chosen, _NOTE).encode())
    index = {
        each.name: rows.tail(INDEX_BATCHES)
        if each.name == source.name
        else read_batches(lake, pipeline.name, each.name, INDEX_BATCHES)
        for each in pipeline.sources
    }
    lake.files().pipe_file(lake.uri(page_path(pipeline.name, "index")), index_page(origin, index).encode())
    return rows.row(-1, named=True)


def read_failing(lake: Lake, pipeline: str, source: str, batches: pl.DataFrame) -> pl.DataFrame:
    """Some quarantined rows of the last batches that have any, the newest batch first; memory is bounded."""
    with_any = batches.filter(pl.col("quarantined_rows") > 0).tail(EXAMPLE_BATCHES)
    wanted = dict(with_any.select("batch_id", (pl.col("verdict") == "refused").cast(pl.Int8)).reverse().iter_rows())
    columns = ["batch_id", "position", "raw_row", "failed_checks"]
    found = [pl.DataFrame(pl.from_arrow(QUARANTINE.empty_table().select(columns)))]
    try:
        table = lake.catalog().load_table(lake.table(pipeline, "quarantine"))
    except NoSuchTableError:
        return found[0]
    if wanted:
        scan = table.scan(And(EqualTo(term="source", value=source), In("batch_id", list(wanted))))
        files = [task.file.file_path for task in scan.plan_files()]
        found += [_head(lake, files, source, batch, refused, columns) for batch, refused in wanted.items()]
    return pl.concat(found)


def _head(
    lake: Lake, files: Collection[str], source: str, batch: str, refused: int, columns: list[str]
) -> pl.DataFrame:
    """The first failing rows of a batch, of whichever of the files have them."""
    theirs = (ds.field("batch_id") == batch) & (ds.field("source") == source)
    theirs &= pc.list_value_length(ds.field("failed_checks")) > refused  # every row of a refused batch fails for that
    found, left = [QUARANTINE.empty_table().select(columns)], EXAMPLE_ROWS
    for file in files:
        fragment = ds.ParquetFileFormat().make_fragment(file.removeprefix("s3://"), lake.arrow_files())
        rows = fragment.head(left, columns=columns, filter=theirs, batch_size=EXAMPLE_ROWS, use_threads=False)
        found.append(rows)
        left -= len(rows)
        if not left:
            break
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(found, promote_options="permissive")))


def _check_names(rows: pl.DataFrame) -> frozenset[str]:
    names = rows.select(pl.col("checks").explode().struct.field("check")).to_series()
    return frozenset(names.drop_nulls())


def _origin(lake: Lake, pipeline: Pipeline, runs: str | None) -> Origin:
    quarantine = lake.table(pipeline.name, "quarantine")
    return Origin(lake.environment, pipeline.name, dotted(batches_table(lake, pipeline.name)), dotted(quarantine), runs)


def _shown(lake: Lake, path: str) -> str | None:
    """After which batch the page was made, from its first bytes; None when there is none."""
    try:
        start = lake.files().cat_file(path, start=0, end=4096)
    except FileNotFoundError:
        return None
    marked = _MARKED.search(start.decode(errors="replace"))
    return marked and marked[1]
