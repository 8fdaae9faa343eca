"""What the endpoint answered, on its way into the `predictions` table: exactly once, whoever dies when.

answer ─► file beside the replica ─► segment on S3 ─► rows in `predictions`, each with its `_segment` ─► segment gone

A segment is written under a name of its own and may be shipped again. Whether it is committed is asked of the rows, so
the answer outlives every snapshot; its object is deleted only after the rows were seen in the table.
"""

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, GreaterThanOrEqual, In, LessThanOrEqual
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.evolution import check_columns
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table

SEGMENT = "_segment"
INSTANT = pa.timestamp("us", "UTC")
PROBABILITIES = pa.list_(pa.struct({"class": pa.string(), "probability": pa.float64()}))
COMMIT_BYTES = 64 << 20
REQUESTS_AT_ONCE = 8
COMMIT_SEGMENTS = 200  # pyiceberg prunes files by an IN of up to 200 values


class SegmentTruncated(RuntimeError):
    """S3 said that it has a segment, and has fewer bytes of it. The rows are still beside the replica."""


class _CommittedMeanwhile(Exception):
    pass


def prediction_schema(
    identity: Mapping[str, pa.DataType],
    inputs: Mapping[str, Literal["number", "category"]],
    *,
    many_classes: bool = False,
) -> pa.Schema:
    """Columns of `predictions`, but for `_segment`.

    `role` is who gave the score: `champion` and `canary` answered a client, `shadow` scored the same request unheard, `batch`
    is `score`. Where a version failed, `score` is null and `error` says why. `weight`: how many answered rows one stands for.

    Args:
        identity: the entity's key columns and its event time, with their types.
        inputs: the model's inputs; one that is also part of the identity keeps its type there.
        many_classes: whether rows are told apart into classes: `predicted` is the likeliest, `score` its probability, and
            `probabilities` has every class.
    """
    told = {"predicted": pa.string(), "probabilities": PROBABILITIES} if many_classes else {}
    kinds = {"number": pa.float64(), "category": pa.string()}
    fields = {
        "request_id": pa.string(),
        "row_index": pa.int32(),
        **identity,
        "_known_at": INSTANT,
        **{name: kinds[kind] for name, kind in inputs.items() if name not in identity},
        "score": pa.float64(),
        **told,
        "version": pa.int32(),
        "role": pa.string(),
        "answered_at": INSTANT,
        "latency_ms": pa.float64(),
        "error": pa.string(),
        "weight": pa.float64(),
    }
    return pa.schema(list(fields.items()))


def check_log(lake: Lake, pipeline: str, schema: pa.Schema) -> None:
    """Refuse columns that `predictions` cannot take: what is answered could never be committed, nor what comes after it.

    Raises:
        SchemaRefused: an input that was a number is a category now, say.
    """
    try:
        check_columns(lake.catalog().load_table(lake.table(pipeline, "predictions")), schema)
    except NoSuchTableError:
        return


def ship_segment(lake: Lake, pipeline: str, name: str, rows: pa.Table) -> None:
    """Write a segment to S3, whole or not at all. Shipping it again changes nothing.

    Raises:
        SegmentTruncated: S3 has fewer bytes than were sent; nothing may be deleted here.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    content = sink.getvalue()
    files, path = lake.arrow_files(), f"{_folder(lake, pipeline)}/{name}.parquet"
    with files.open_output_stream(path) as stream:
        stream.write(content)
    arrived = files.get_file_info(path).size
    if arrived != content.size:
        raise SegmentTruncated(
            f"{path} has {arrived} bytes on S3 and {content.size} were sent; its {len(rows)} rows are kept beside the "
            "replica and shipped again."
        )


def commit_predictions(lake: Lake, pipeline: str) -> int:
    """Bring the segments that are shipped by now into `predictions`; return how many rows this call committed.

    Those that arrive meanwhile are the next call's: under steady traffic there is always one more. Killed at any moment and
    started again it loses and doubles nothing; of two at once, one commits each segment.
    """
    committed = 0
    waiting = {info.base_name for info in _segments(lake, pipeline)}
    while names := _oldest(info for info in _segments(lake, pipeline) if info.base_name in waiting):
        found = _committed(lake, pipeline, names)
        _delete(lake, pipeline, found)
        fresh = [name for name in names if name not in found]
        if fresh:
            committed += _commit_segments(lake, pipeline, fresh)
    return committed


def _commit_segments(lake: Lake, pipeline: str, names: Sequence[str]) -> int:
    try:
        rows = _read_segments(lake, pipeline, names)
    except FileNotFoundError:
        return 0  # another run has just committed and deleted one of them: the caller looks again
    identifier = lake.table(pipeline, "predictions")
    ensure_table(lake, identifier, rows.schema)
    # Of two runs with the same segments each has a key of its own: the rows tell which of them committed.
    key = f"predictions/{hashlib.sha256(chr(10).join(names).encode()).hexdigest()}/{uuid.uuid4().hex}"

    def none_is_there(table: Table) -> None:
        if _in_table(table, names):
            raise _CommittedMeanwhile

    try:
        done = append_once(lake, identifier, rows, key, expect=none_is_there)
    except _CommittedMeanwhile:
        return 0
    _delete(lake, pipeline, names)
    return 0 if done.already else len(rows)


def _read_segments(lake: Lake, pipeline: str, names: Sequence[str]) -> pa.Table:
    files, folder = lake.arrow_files(), _folder(lake, pipeline)

    def read(name: str) -> pa.Table:
        rows = pq.read_table(f"{folder}/{name}.parquet", filesystem=files)
        return rows.append_column(SEGMENT, pa.repeat(pa.scalar(name), len(rows)))

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:  # small objects: S3's latency is what they cost
        return pa.concat_tables(threads.map(read, names), promote_options="default")


def _segments(lake: Lake, pipeline: str) -> list[FileInfo]:
    selector = FileSelector(_folder(lake, pipeline), allow_not_found=True)
    return [info for info in lake.arrow_files().get_file_info(selector) if info.extension == "parquet"]


def _oldest(segments: Iterable[FileInfo]) -> list[str]:
    """The oldest segments that fit into one commit: names begin with the time they were opened."""
    names: list[str] = []
    size = 0
    for info in sorted(segments, key=lambda info: info.base_name):
        if len(names) < COMMIT_SEGMENTS and (not names or size + info.size < COMMIT_BYTES):
            names.append(info.base_name.removesuffix(".parquet"))
            size += info.size
    return names


def _committed(lake: Lake, pipeline: str, names: Sequence[str]) -> set[str]:
    catalog, identifier = lake.catalog(), lake.table(pipeline, "predictions")
    if not catalog.table_exists(identifier):
        return set()
    return _in_table(catalog.load_table(identifier), names)


def _in_table(table: Table, names: Sequence[str]) -> set[str]:
    if SEGMENT not in table.schema().column_names:
        return set()
    row_filter = And(  # the bounds prune files by their statistics, also where a list is too long for that
        In(SEGMENT, names),
        GreaterThanOrEqual(SEGMENT, min(names)),
        LessThanOrEqual(SEGMENT, max(names)),
    )
    found = table.scan(row_filter=row_filter, selected_fields=(SEGMENT,)).to_arrow()
    return set(found.column(SEGMENT).unique().to_pylist())


def _delete(lake: Lake, pipeline: str, names: set[str] | Sequence[str]) -> None:
    if not names:
        return
    # Not pyarrow: after a deletion it writes a marker object for the folder, which rclone answers with 500.
    files = lake.files()
    paths = [f"{_folder(lake, pipeline)}/{name}.parquet" for name in names]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
        list(threads.map(files.rm_file, paths))  # S3 deletes what is gone already, too


def _folder(lake: Lake, pipeline: str) -> str:
    return lake.uri(f"prediction_log/{pipeline}").removeprefix("s3://")
