"""Batches as the table has them, many and wide, with names and values that attack the page."""

import json
import random
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import polars as pl

from perennial.datadocs.examples import Example, choose_examples
from perennial.datadocs.page import Origin, source_page
from perennial.lakehouse.batches import BATCHES

HOSTILE = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202egnp"
START = datetime(2026, 7, 26, 6, tzinfo=UTC)
ORIGIN = Origin("local", "shop", "local_shop.batches", "local_shop.quarantine", "http://127.0.0.1:9/runs/flow-run/")


def column_names(columns: int) -> list[str]:
    return ["email", HOSTILE, *(f"sensor_{number:03}_reading" for number in range(columns - 2))]


def check_names(columns: int) -> list[str]:
    return [f"{name}:greater_than(0)" for name in column_names(columns)] + ["csv:columns", "Reading:adds_up"]


def batch_rows(batches: int = 120, columns: int = 200, seed: int = 3) -> pl.DataFrame:
    """Rows of `batches`; batches 40, 41 and 97 are refused, and one check in nine fails now and then."""
    chance = random.Random(seed)
    return pl.DataFrame([_row(chance, number, columns) for number in range(batches)], _schema())


def _schema() -> pl.Schema:
    return pl.DataFrame(pl.from_arrow(BATCHES.empty_table())).schema


def _row(chance: random.Random, number: int, columns: int) -> dict[str, object]:
    rows, refused = chance.randint(9_000, 15_000), number in (40, 41, 97)
    checks = [
        {"check": name, "severity": "quarantine" if at % 3 else "warn", "failed_rows": _failed(chance, at)}
        for at, name in enumerate(check_names(columns))
    ]
    if refused:
        checks[0]["failed_rows"] = rows // 5
    nulls = [
        {"column": name, "nulls": chance.randint(0, rows // 40) if at % 5 == 0 else 0}
        for at, name in enumerate(column_names(columns))
    ]
    return {
        "source": "readings",
        "batch_id": f"{chance.getrandbits(64):016x}",
        "verdict": "refused" if refused else "published",
        "reasons": ["20.0% of its rows broke the contract, over the budget of 2.0%."] if refused else [],
        "as_of": START + timedelta(days=number),
        "committed_at": START + timedelta(days=number, minutes=2),
        "run_id": f"5b2c9a10-7c62-4f9e-9d53-{number:012x}",
        "contract_version": "3f2a9c01",
        "snapshot_id": chance.getrandbits(62),
        "arrived": "3 files (1,234,567 bytes)",
        "parts": 3,
        "bytes": rows * 140,
        "rows": rows,
        "quarantined_rows": sum(int(str(check["failed_rows"])) for check in checks) // 2,
        "newest_event_at": START + timedelta(days=number, hours=-3 - chance.random()),
        "checks": checks,
        "rules": [
            {
                "name": "rows:share_of_median(0.5, 2.0)",
                "severity": "warn",
                "passed": number % 50 != 7,
                "detail": f"{rows:,} rows, allowed 6,000 to 24,000",
            }
        ],
        "columns": nulls,
    }


def _failed(chance: random.Random, at: int) -> int:
    return chance.randint(1, 40) if at % 9 == 0 and chance.random() < 0.2 else 0


def quarantined(rows: pl.DataFrame, columns: int) -> pl.DataFrame:
    """Rows of `quarantine`: four for every check, of the newest batches."""
    ids = rows["batch_id"].to_list()[::-1]
    raw_row = {name: f"value {at}" for at, name in enumerate(column_names(columns))}
    raw_row |= {"email": "ada@example.com", HOSTILE: HOSTILE}
    return pl.DataFrame(
        [
            {
                "batch_id": ids[number],
                "position": f"readings/{number}.csv#{at}",
                "raw_row": json.dumps({"line": "ada@example.com;7"} if check == "csv:columns" else raw_row),
                "failed_checks": ["csv:columns(expected 5, found 2)" if check == "csv:columns" else check],
            }
            for number in range(4)
            for at, check in enumerate(check_names(columns))
        ]
    )


def chosen(rows: pl.DataFrame, columns: int, sensitive: tuple[str, ...] = ("email",)) -> dict[str, list[Example]]:
    return choose_examples(quarantined(rows, columns), sensitive, column_names(columns), check_names(columns))


@lru_cache
def page(batches: int = 120, columns: int = 200) -> str:
    rows = batch_rows(batches, columns)
    return source_page(ORIGIN, "readings", "mark", rows, chosen(rows, columns), "A note.")
