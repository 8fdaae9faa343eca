"""The same rules as SQL: two `COPY`, each reading the CSV. One reading into a table of DuckDB's took more CPU."""

import duckdb

from benchmarks.ingest.job import COLUMNS, INTEGERS, OPTIONAL, RULES, TYPES, Job, contend


def typed(inputs: list[str]) -> str:
    """The query of typed columns, and of `raw_<name>` for those that are no text."""
    casts = dict.fromkeys(INTEGERS, "BIGINT") | {"discount": "DOUBLE", "sold_at": "TIMESTAMP"}
    columns = [f"TRY_CAST({name} AS {casts[name]}) AS {name}" if name in casts else name for name in COLUMNS]
    raw = [f"{name} AS raw_{name}" for name in casts]
    return f"SELECT {', '.join([*columns, *raw])} FROM read_csv({inputs}, all_varchar=true, header=true)"


def checks() -> dict[str, str]:
    """Where a row fails each check."""
    told = dict(RULES)
    told |= {check: f"{name} IS NULL AND raw_{name} IS NOT NULL" for name, check in TYPES.items()}
    return told | {
        f"{name}:not_nullable": f"{'raw_' if name in TYPES else ''}{name} IS NULL"
        for name in COLUMNS
        if name not in OPTIONAL
    }


def run(job: Job) -> None:
    """See the module."""
    total = "pieces * cents"
    derived = (
        f"{total} AS total_cents, {total} * (1 - coalesce(discount, 0)) / 100 AS net_euros, "
        "split_part(email, '@', 2) AS email_domain, sold_at::DATE AS day"
    )
    raw = ", ".join(f"raw_{name} AS {name}" if name in TYPES else name for name in COLUMNS)
    bad = f"coalesce({' OR '.join(f'({sql})' for sql in checks().values())}, false)"
    quoted = {name.replace("'", "''"): sql for name, sql in checks().items()}
    cases = ", ".join(f"CASE WHEN {sql} THEN '{name}' END" for name, sql in quoted.items())
    written = "(FORMAT parquet, COMPRESSION zstd"
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET preserve_insertion_order = false; SET memory_limit = '4GB'")
        connection.execute(
            f"COPY (SELECT {', '.join(COLUMNS)}, {derived} FROM ({typed(job.inputs)}) WHERE NOT {bad}) "
            f"TO '{job.output}/good' {written}, PARTITION_BY (day), WRITE_PARTITION_COLUMNS true)"
        )
        connection.execute(
            f"COPY (SELECT {raw}, list_filter([{cases}], lambda r: r IS NOT NULL) AS reasons "
            f"FROM ({typed(job.inputs)}) WHERE {bad}) TO '{job.output}/bad.parquet' {written})"
        )


if __name__ == "__main__":
    contend(run)
