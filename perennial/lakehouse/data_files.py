"""Rows on their way into data files that no table refers to yet: sorted into the table's partitions, near one size.

A file grows row group by row group until it has reached the target size, however small the blocks are that rows come in;
so a table gets one small file per partition and writer at most. Files under way wait in memory while they are small, and
else on the local disk, without a name, so that nothing is left of them whoever dies.
"""

import itertools
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    _get_parquet_writer_kwargs,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from perennial.lakehouse.lake import OneRequestFileIO
from perennial.rules.schema import SchemaRefused

TARGET_BYTES = 64 << 20  # of a data file on S3
BUFFER_BYTES = 128 << 20  # of rows in memory, before they become row groups of their partitions' files
ROW_GROUP_ROWS = 1 << 20
IN_MEMORY_BYTES = 1 << 20  # of a file under way
MEMORY_BYTES = 64 << 20  # of all of them
DICTIONARY_BYTES = 32 << 10  # at 2 MiB the dictionary of a column of many values cost a fifth of the time and more room
SAMPLE_ROWS = 10_000
OPEN_FILES = 128  # on the local disk: processes may have 1,024 in all
THREADS = 4

Partition = tuple[object, ...]


class DataFiles:
    """Data files of one table in the making.

    Memory: the rows that wait, once more in the order of their partitions, and the small files under way.

    Args:
        batch: what the rows belong to; the files' names carry it.
        part: which part of it, where several write at once.
        target_bytes: a file's size on S3 at which the next one is begun.
    """

    def __init__(self, table: Table, batch: str, part: int = 0, target_bytes: int = TARGET_BYTES) -> None:
        self.table, self.target_bytes = table, target_bytes
        self._waiting: dict[Partition, list[pa.Table]] = {}
        self._waiting_bytes = 0
        self._open: dict[Partition, _File] = {}
        self._done: list[DataFile] = []
        self._format = _Format(table)
        attempt = uuid.uuid5(uuid.NAMESPACE_URL, f"{batch}/{part}/{uuid.uuid4()}")  # never overwrites another's
        self._names = (f"{part:05}-{number}-{attempt}.parquet" for number in itertools.count())

    def add(self, rows: pl.DataFrame | pa.Table) -> None:
        """Take rows with some or all of the table's columns.

        Raises:
            SchemaRefused: they have others.
        """
        for partition, part in self._by_partition(rows):
            self._waiting.setdefault(partition, []).append(part)
        self._waiting_bytes += int(rows.estimated_size() if isinstance(rows, pl.DataFrame) else rows.nbytes)
        if self._waiting_bytes >= BUFFER_BYTES:
            self._write()

    def close(self) -> list[DataFile]:
        """End the files under way; return all that were written."""
        self._write()
        self._end(list(self._open))
        return self._done

    def _by_partition(self, rows: pl.DataFrame | pa.Table) -> Iterator[tuple[Partition, pa.Table]]:
        """The rows of each partition, in the order they came in: sorted once, then sliced."""
        fields, schema = self.table.spec().fields, self.table.schema()
        if not fields or not len(rows):
            if len(rows):
                yield (), self._conform(rows)
            return
        frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(pl.from_arrow(rows))
        values = {}
        for field in fields:
            source = schema.find_field(field.source_id)
            transform = field.transform.pyarrow_transform(source.field_type)
            values[field.name] = transform(frame[source.name].to_arrow())
        order = pc.sort_indices(pa.table(values), sort_keys=[(name, "ascending") for name in values])
        keys, index = pl.DataFrame(values), pl.Series(order)
        if not index.is_sorted():
            keys, frame = keys[index], frame[index]  # Polars gathers text in a third of Arrow's time
        arrow, start = self._conform(frame), 0
        for length, value in keys.select(run=pl.struct(pl.all()).rle()).unnest("run").iter_rows():
            yield tuple(value.values()), arrow.slice(start, length)
            start += length

    def _conform(self, rows: pl.DataFrame | pa.Table) -> pa.Table:
        if isinstance(rows, pl.DataFrame):
            rows = rows.to_arrow(compat_level=pl.CompatLevel.newest())  # texts as they lie in Polars, not copied
        return conform(rows, self.table, self._format.schema)

    def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if waiting and not self._open:
            self._format.choose_dictionaries(max((tables[0] for tables in waiting.values()), key=len))
        for partition in waiting:
            if partition not in self._open:
                self._open[partition] = _File(self._format, partition, next(self._names))
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda item: self._open[item[0]].write(pa.concat_tables(item[1])), waiting.items()))
        self._make_room()

    def _make_room(self) -> None:
        """End files that are full; bring the largest in memory to the disk, and the largest there to S3, where they are too many."""
        by_size = sorted(self._open, key=lambda partition: self._open[partition].bytes)
        in_memory = 0
        for partition in by_size:
            file = self._open[partition]
            in_memory += 0 if file.on_disk else file.bytes
            if in_memory > MEMORY_BYTES:
                file.leave_memory()
        on_disk = [partition for partition in by_size if self._open[partition].on_disk]
        full = [partition for partition in by_size if self._open[partition].bytes >= self.target_bytes]
        self._end(list(dict.fromkeys([*full, *on_disk[OPEN_FILES:]])))

    def _end(self, partitions: list[Partition]) -> None:
        files = [self._open.pop(partition) for partition in partitions]
        with ThreadPoolExecutor(THREADS) as threads:
            self._done += threads.map(_File.end, files)


def conform(rows: pa.Table, table: Table, target: pa.Schema) -> pa.Table:
    """The rows with exactly the table's columns, in its order and the target's types; columns the rows lack become null.

    Raises:
        SchemaRefused: the rows have a column that the table does not: another run renamed it meanwhile.
    """
    strange = [name for name in rows.column_names if name not in target.names]
    if strange:
        raise SchemaRefused(
            f"{'.'.join(table.name())} has no columns {strange} any more: a run with another version of the pipeline's file "
            "changed the table meanwhile. Nothing of this batch was published. Run again with the newer file."
        )
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in target
    ]
    return pa.Table.from_arrays(columns, schema=target)


class _Format:
    """What all files of a table have in common."""

    def __init__(self, table: Table) -> None:
        schema = sanitize_column_names(table.schema())
        self.table = table
        # with the columns' ids, which Iceberg reads Parquet by; texts as views, which need no copy
        fields = [_as_view(field) for field in schema_to_pyarrow(schema)]
        self.schema = pa.schema(fields)
        self.options = _get_parquet_writer_kwargs(table.properties) | {
            "dictionary_pagesize_limit": DICTIONARY_BYTES,
            "write_batch_size": 1024,  # rows between two looks at the dictionary
            "store_schema": False,  # readers know the table's, in which no text is a view
        }
        self.statistics = compute_statistics_plan(schema, table.properties)
        self.columns = parquet_path_to_id_mapping(schema)

    def choose_dictionaries(self, rows: pa.Table) -> None:
        """Make no dictionaries, in files begun from now on, of columns in which each would be given up as too large.

        In each of a hundred files one was made and given up: half of the time that all of the encoding took.
        """
        many = set()
        for name, column in zip(rows.column_names, rows.slice(0, SAMPLE_ROWS).columns, strict=True):
            if pa.types.is_nested(column.type):
                continue
            values = pl.Series(pl.from_arrow(column)).unique()
            if values.to_frame().estimated_size() > DICTIONARY_BYTES:
                many.add(name)
        self.options["use_dictionary"] = [path for path in self.columns if path not in many] or False

    def partition_key(self, partition: Partition) -> PartitionKey | None:
        """The partition as Iceberg writes it down; None where the table has none."""
        spec = self.table.spec()
        if not spec.fields:
            return None
        values = [PartitionFieldValue(field, value) for field, value in zip(spec.fields, partition, strict=True)]
        return PartitionKey(values, spec, self.table.schema())


def _as_view(field: pa.Field) -> pa.Field:
    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    return field.with_type(pa.string_view()) if text else field


class _File:
    """One file under way."""

    def __init__(self, form: _Format, partition: Partition, name: str) -> None:
        self._format, self._key = form, form.partition_key(partition)
        self._path = form.table.location_provider().new_data_location(name, self._key)
        self._spool = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - `end` closes it
        self._writer = pq.ParquetWriter(self._spool, form.schema, store_decimal_as_integer=True, **form.options)

    @property
    def bytes(self) -> int:
        """Size so far."""
        return self._spool.tell()

    @property
    def on_disk(self) -> bool:
        """Whether it has grown out of memory."""
        return bool(self._spool._rolled)  # type: ignore[attr-defined]  # typeshed does not know it

    def leave_memory(self) -> None:
        """Go on on the local disk."""
        self._spool.rollover()

    def write(self, rows: pa.Table) -> None:
        """Append rows as a row group."""
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def end(self) -> DataFile:
        """Bring it to S3."""
        self._writer.close()
        size, io = self.bytes, self._format.table.io
        self._spool.seek(0)
        if isinstance(io, OneRequestFileIO) and not self.on_disk:
            io.write(self._path, self._spool.read())
            self._spool.close()
        else:
            with self._spool, io.new_output(self._path).create(overwrite=True) as output:
                shutil.copyfileobj(self._spool, output, 4 << 20)
        statistics = data_file_statistics_from_parquet_metadata(
            self._writer.writer.metadata, self._format.statistics, self._format.columns
        )
        written = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self._path,
            file_format=FileFormat.PARQUET,
            partition=self._key.partition if self._key else Record(),
            file_size_in_bytes=size,
            sort_order_id=None,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )
        written.spec_id = (
            self._format.table.spec().spec_id
        )  # no field of the record: a manifest tells it of all its files
        return written
