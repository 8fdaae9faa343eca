"""The same rules as SQL: one pass over the CSV into a table of DuckDB's, from there two `COPY`. On the local disk."""

import duckdb

from benchmarks.ingest.job import COLUMNS, INTEGERS, OPTIONAL, RULES, TYPES, Job, contend


def checked(inputs: list[str]) -> str:
    """The query of typed columns, `raw_<name>` of those that are no text, and `reasons`."""
    casts = dict.fromkeys(INTEGERS, "BIGINT") | {"discount": "DOUBLE", "sold_at": "TIMESTAMP"}
    typed = [f"TRY_CAST({name} AS {casts[name]}) AS {name}" if name in casts else name for name in COLUMNS]
    raw = [f"{name} AS raw_{name}" for name in casts]
    told = dict(RULES)
    told |= {check: f"{name} IS NULL AND raw_{name} IS NOT NULL" for name, check in TYPES.items()}
    told |= {
        f"{name}:not_nullable": f"{'raw_' if name in TYPES else ''}{name} IS NULL"
        for name in COLUMNS
        if name not in OPTIONAL
    }
    quoted = {name.replace("'", "''"): sql for name, sql in told.items()}
    cases = ", ".join(f"CASE WHEN {sql} THEN '{name}' END" for name, sql in quoted.items())
    return (
        f"SELECT *, list_filter([{cases}], lambda r: r IS NOT NULL) AS reasons FROM "
        f"(SELECT {', '.join([*typed, *raw])} FROM read_csv({inputs}, all_varchar=true, header=true))"
    )


def run(job: Job) -> None:
    """See the module."""
    total = "pieces * cents"
    derived = (
        f"{total} AS total_cents, {total} * (1 - coalesce(discount, 0)) / 100 AS net_euros, "
        "split_part(email, '@', 2) AS email_domain, sold_at::DATE AS day"
    )
    raw = ", ".join(f"raw_{name} AS {name}" if name in TYPES else name for name in COLUMNS)
    with duckdb.connect(f"{job.output}/checked.duckdb") as connection:
        connection.execute("SET threads = 2; SET preserve_insertion_order = false; SET memory_limit = '4GB'")
        connection.execute(f"CREATE TABLE checked AS {checked(job.inputs)}")
        written = "(FORMAT parquet, COMPRESSION zstd"
        connection.execute(
            f"COPY (SELECT {', '.join(COLUMNS)}, {derived} FROM checked WHERE len(reasons) = 0) "
            f"TO '{job.output}/good' {written}, PARTITION_BY (day), WRITE_PARTITION_COLUMNS true)"
        )
        connection.execute(
            f"COPY (SELECT {raw}, reasons FROM checked WHERE len(reasons) > 0) TO '{job.output}/bad.parquet' {written})"
        )


if __name__ == "__main__":
    contend(run)
