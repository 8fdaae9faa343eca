"""The same rules as one would write them in Polars for this one table: a streaming query with two sinks.

It reads and writes the local disk: its S3 client refuses the answers of the benchmark's S3 server (200 to a range).
"""

import polars as pl

from benchmarks.ingest.job import COUNTRIES, INTEGERS, OPTIONAL, PRODUCT, RULES, TYPES, Job, contend


def typed() -> dict[str, pl.Expr]:
    """The fields that are no text, read as what they are; null where they cannot be."""
    column = pl.col
    read = {name: column(name).cast(pl.Int64, strict=False) for name in INTEGERS}
    read["discount"] = column("discount").cast(pl.Float64, strict=False)
    instant = column("sold_at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", strict=False)
    return {**read, "sold_at": instant.dt.replace_time_zone("UTC")}


def checks(columns: list[str]) -> dict[str, pl.Expr]:
    """Where a row fails each check. Fields as they arrived are called `raw_<name>`, where they are no text."""
    column = pl.col
    failed = [
        column("sale_id") <= 0,
        ~column("product").str.contains(PRODUCT),
        ~column("country").is_in(COUNTRIES),
        column("pieces") < 1,
        column("pieces") > 500,
        column("cents") < 0,
        column("cents") >= 10_000_000,
        ~column("discount").is_between(0, 1),
        ~column("email").str.contains("@", literal=True),
        column("email").str.len_chars() > 254,
        column("currency") != "EUR",
        column("channel").is_in(["test"]),
    ]
    told = dict(zip(RULES, failed, strict=True))
    told |= {check: column(name).is_null() & column(f"raw_{name}").is_not_null() for name, check in TYPES.items()}
    raw = {name: column(f"raw_{name}" if name in TYPES else name) for name in columns}
    return told | {f"{name}:not_nullable": raw[name].is_null() for name in columns if name not in OPTIONAL}


def reasons(columns: list[str]) -> pl.Expr:
    """The names of the checks that a row fails."""
    names = [pl.when(mask).then(pl.lit(name)) for name, mask in checks(columns).items()]
    return pl.concat_list(names).list.drop_nulls()


def run(job: Job) -> None:
    """See the module."""
    rows = pl.scan_csv(job.inputs, infer_schema=False)
    columns = rows.collect_schema().names()
    arrived = rows.with_columns(pl.col(name).alias(f"raw_{name}") for name in TYPES).with_columns(**typed())
    told = arrived.with_columns(bad=pl.any_horizontal(*checks(columns).values()).fill_null(value=False))
    total = pl.col("pieces") * pl.col("cents")
    good = (
        told.filter(~pl.col("bad"))
        .select(columns)
        .with_columns(
            total_cents=total,
            net_euros=total * (1 - pl.col("discount").fill_null(0)) / 100,
            email_domain=pl.col("email").str.split_exact("@", 1).struct.field("field_1"),
            day=pl.col("sold_at").dt.date(),
        )
    )
    raw = [pl.col(f"raw_{name}").alias(name) if name in TYPES else pl.col(name) for name in columns]
    bad = told.filter("bad").with_columns(reasons=reasons(columns)).select(*raw, "reasons")
    sinks = [
        good.sink_parquet(
            pl.PartitionBy(f"{job.output}/good", key="day", include_key=True), compression="zstd", mkdir=True, lazy=True
        ),
        bad.sink_parquet(f"{job.output}/bad.parquet", compression="zstd", lazy=True),
    ]
    pl.collect_all(sinks, engine="streaming")


if __name__ == "__main__":
    contend(run)
