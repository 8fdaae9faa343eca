"""The job of `benchmarks.features` in PySpark with window functions: two threads of one JVM. Runs in the peers' environment.

Both frames are kept in Spark's memory before the first job, as the others have them in theirs. A line on the standard input
is a job: a folder to write the result to as Parquet, or `nowhere`, where every value is computed and none is written.
"""

import os
import sys
from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f

NOWHERE = "nowhere"
HOUR, DAY, WEEK = (hours * 3_600_000_000 for hours in (1, 24, 168))  # microseconds


def main(folder: Path) -> None:
    """Start the JVM, read the frames, then run every job."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "6g")
        .config("spark.local.dir", str(folder / "spark"))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    frames = [_in_memory(session.read.parquet(f"file://{folder}/{name}.parquet")) for name in ("payments", "checks")]
    for line in sys.stdin:
        made, place = features(*frames), line.strip()
        if place == NOWHERE:
            made.write.format("noop").mode("overwrite").save()
        else:
            made.write.parquet(f"file://{place}")
        answer.write("done\n")
        answer.flush()
    session.stop()


def features(payments: DataFrame, checks: DataFrame) -> DataFrame:
    """Payments and checks as one stream by account, sorted once: an as-of join is the last check that went by."""
    nothing: Any = f.lit(None)
    stream = payments.select("payment", "account", "at", "cents", nothing.cast("double").alias("score")).unionByName(
        checks.select(
            nothing.cast("long").alias("payment"), "account", "at", nothing.cast("double").alias("cents"), "score"
        )
    )
    by_account = Window.partitionBy("account").orderBy("at")
    hour, day, week = (by_account.rangeBetween(1 - span, 0) for span in (HOUR, DAY, WEEK))
    so_far = by_account.rangeBetween(Window.unboundedPreceding, 0)
    check = f.when(f.col("score").isNotNull(), f.struct("at", "score"))
    found = stream.select(
        "payment",
        "at",
        f.count("cents").over(hour).alias("count_1h"),
        f.sum("cents").over(hour).alias("sum_1h"),
        f.count("cents").over(day).alias("count_1d"),
        f.mean("cents").over(day).alias("mean_1d"),
        f.max("cents").over(day).alias("max_1d"),
        f.sum("cents").over(week).alias("sum_7d"),
        f.stddev_samp("cents").over(week).alias("std_7d"),
        f.min("cents").over(week).alias("min_7d"),
        f.last(check, ignorenulls=True).over(so_far).alias("check"),
    ).where(f.col("payment").isNotNull())
    age = f.col("at") - f.col("check.at")
    scores = {name: f.when(age <= span, f.col("check.score")) for name, span in (("day", DAY), ("week", WEEK))}
    return found.withColumns({f"{name}_score": score for name, score in scores.items()}).drop("at", "check")


def _in_memory(frame: DataFrame) -> DataFrame:
    kept = frame.persist(StorageLevel.MEMORY_ONLY)
    kept.count()
    return kept


if __name__ == "__main__":
    main(Path(sys.argv[1]))
