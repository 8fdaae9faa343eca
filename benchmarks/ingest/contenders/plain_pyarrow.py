"""The floor: a loop that only parses and writes Parquet. No rules, no quarantine, no days."""

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.fs as fs
import pyarrow.parquet as pq

from benchmarks.ingest.job import COLUMNS, INTEGERS, UNREAD, Job, contend


def run(job: Job) -> None:
    """See the module."""
    files = fs.S3FileSystem(
        access_key=job.access_key, secret_key=job.secret_key, endpoint_override=job.endpoint, region="us-east-1"
    )
    types = {name: pa.string() for name in COLUMNS}
    types |= dict.fromkeys(INTEGERS, pa.int64()) | {"discount": pa.float64(), "sold_at": pa.timestamp("us", "UTC")}
    for number, key in enumerate(job.keys):
        with files.open_input_stream(key) as source:
            reader = pc.open_csv(
                source,
                read_options=pc.ReadOptions(block_size=32 * 1024 * 1024),
                convert_options=pc.ConvertOptions(column_types=types, null_values=["", UNREAD]),
            )
            with (
                files.open_output_stream(f"{job.output}/good/{number}.parquet") as sink,
                pq.ParquetWriter(sink, reader.schema, compression="zstd", compression_level=3) as writer,
            ):
                for batch in reader:
                    writer.write_batch(batch)


if __name__ == "__main__":
    contend(run)
