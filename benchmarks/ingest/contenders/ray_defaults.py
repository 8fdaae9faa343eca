"""The same steps on Ray Data as its documentation has them, with its defaults: read, check, materialize, filter, write.

On the local disk: for every day of every block it makes a folder first, which on S3 is an object whose PUT rclone refuses
(411), and Ray tries each ten times, with half a minute between.

Both outputs come from one reading only because the checked rows are materialized; without that the plan runs twice.
"""

import secrets

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from benchmarks.ingest.contenders.polars_streaming import reasons, typed
from benchmarks.ingest.job import COLUMNS, TYPES, Job, contend


def check(block: pa.Table) -> pa.Table:
    """The block with typed columns, `raw_<name>`, `reasons`, and whether there are none."""
    rows = pl.DataFrame(pl.from_arrow(block)).lazy()
    arrived = rows.with_columns(pl.col(name).alias(f"raw_{name}") for name in TYPES).with_columns(**typed())
    told = arrived.with_columns(reasons=reasons(list(COLUMNS)))
    return told.with_columns(good=pl.col("reasons").list.len() == 0).collect().to_arrow()


def derive(block: pa.Table) -> pa.Table:
    """The contract's columns of good rows, and the derived ones."""
    total = pl.col("pieces") * pl.col("cents")
    rows = pl.DataFrame(pl.from_arrow(block)).select(
        *COLUMNS,
        total_cents=total,
        net_euros=total * (1 - pl.col("discount").fill_null(0)) / 100,
        email_domain=pl.col("email").str.split_exact("@", 1).struct.field("field_1"),
        day=pl.col("sold_at").dt.date().cast(pl.String),
    )
    return rows.to_arrow()


def main() -> None:
    """Start Ray, then run every job."""
    import ray
    from ray.data.expressions import col

    folder = f"/tmp/pt-{secrets.token_hex(3)}"  # noqa: S108 - a socket's path has at most 107 characters
    ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder)

    def run(job: Job) -> None:
        text = pc.ConvertOptions(
            column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        rows = ray.data.read_csv(job.inputs, convert_options=text)
        checked = rows.map_batches(check, batch_format="pyarrow").materialize()
        good = checked.filter(expr=col("good")).map_batches(derive, batch_format="pyarrow")
        good.write_parquet(f"{job.output}/good", partition_cols=["day"], compression="zstd")
        bad = checked.filter(expr=~col("good"))
        bad.write_parquet(f"{job.output}/bad", compression="zstd")

    contend(run)
    ray.shutdown()


if __name__ == "__main__":
    main()
