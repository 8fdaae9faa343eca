"""The same rules in PySpark on two threads of one JVM, which has done a small job before; on the local disk.

The checked rows are persisted, since both outputs are made of them: without it the CSV would be read twice.
"""

from pyspark import StorageLevel
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from benchmarks.ingest.job import COLUMNS, COUNTRIES, INTEGERS, OPTIONAL, PRODUCT, RULES, TYPES, Job, contend


def main() -> None:
    """Start the JVM, then run every job."""
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "6g")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )

    def run(job: Job) -> None:
        schema = ", ".join(f"{name} STRING" for name in COLUMNS)
        arrived = session.read.csv(job.inputs, schema=schema, header=True, escape='"')
        column = f.col
        casts = {name: f"TRY_CAST(raw_{name} AS BIGINT)" for name in INTEGERS}
        casts |= {"discount": "TRY_CAST(raw_discount AS DOUBLE)", "sold_at": "TRY_CAST(raw_sold_at AS TIMESTAMP)"}
        raw = [column(name).alias(f"raw_{name}") if name in TYPES else column(name) for name in COLUMNS]
        typed = arrived.select(*raw).select("*", *(f.expr(sql).alias(name) for name, sql in casts.items()))
        failed = [
            column("sale_id") <= 0,
            ~column("product").rlike(PRODUCT),
            ~column("country").isin(*COUNTRIES),
            column("pieces") < 1,
            column("pieces") > 500,
            column("cents") < 0,
            column("cents") >= 10_000_000,
            ~column("discount").between(0, 1),
            ~column("email").contains("@"),
            f.length("email") > 254,
            column("currency") != "EUR",
            column("channel").isin("test"),
        ]
        told = dict(zip(RULES, failed, strict=True))
        told |= {check: column(name).isNull() & column(f"raw_{name}").isNotNull() for name, check in TYPES.items()}
        told |= {
            f"{name}:not_nullable": column(f"raw_{name}" if name in TYPES else name).isNull()
            for name in COLUMNS
            if name not in OPTIONAL
        }
        reasons = f.array_compact(f.array(*(f.when(mask, f.lit(name)) for name, mask in told.items())))
        checked = typed.withColumn("reasons", reasons).persist(StorageLevel.MEMORY_AND_DISK)
        total = column("pieces") * column("cents")
        good = checked.where(f.size("reasons") == 0).select(
            *COLUMNS,
            total.alias("total_cents"),
            (total * (1 - f.coalesce("discount", f.lit(0.0))) / 100).alias("net_euros"),
            f.substring_index("email", "@", -1).alias("email_domain"),
            f.to_date("sold_at").alias("day"),
        )
        good.write.partitionBy("day").parquet(f"file://{job.output}/good")
        bad = [column(f"raw_{name}").alias(name) if name in TYPES else column(name) for name in COLUMNS]
        checked.where(f.size("reasons") > 0).select(*bad, "reasons").write.parquet(f"file://{job.output}/bad")
        checked.unpersist(blocking=True)

    contend(run)
    session.stop()


if __name__ == "__main__":
    main()
