"""Validation alone: twelve rules over typed rows, as a contract, as one Polars `select` by hand, in Great Expectations.

Ours and the `select` give a mask per rule, the peer counts; all must be equal. Run it with `make bench-validation`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandera.polars as pa
import polars as pl

from perennial.rules.judges import judge_by_pandera, judge_fused

ROUNDS = 7
ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers-data/bin/python"  # make peers-data
COUNTRIES = ["AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL"]


class Sale(pa.DataFrameModel):
    """Grain: one sale."""

    sale_id: int = pa.Field(gt=0)
    product: str = pa.Field(str_matches=r"^[A-Z]{3}-\d{4}$")
    country: str = pa.Field(isin=COUNTRIES)
    pieces: int = pa.Field(ge=1, le=500)
    cents: int = pa.Field(ge=0, lt=10_000_000)
    discount: float = pa.Field(in_range=(0, 1), nullable=True)
    email: str = pa.Field(str_contains="@", str_length={"max_value": 254})
    currency: str = pa.Field(eq="EUR")
    channel: str = pa.Field(notin=["test"])


def sales(rows: int) -> pl.DataFrame:
    """Sales of which about 1% break a rule, and a few are empty where they must not be; seeded."""
    number = pl.int_range(rows, eager=True).alias("n").to_frame()
    draw = pl.col("n").hash(7)
    kind = pl.when(draw % 100 == 0).then(pl.col("n").hash(8) % 8)  # null for good rows

    def pick(words: list[str], seed: int) -> pl.Expr:
        return pl.lit(pl.Series(words)).gather(pl.col("n").hash(seed) % len(words))

    return number.select(
        sale_id=pl.when(kind == 0).then(-1).otherwise(pl.col("n") + 1),
        product=pl.when(kind == 1).then(pl.lit("abc"))
        .otherwise(pick(["ABC-", "XYZ-", "QQQ-"], 1) + (1000 + draw % 9000).cast(pl.String)),
        country=pl.when(kind == 2).then(pl.lit("XX")).otherwise(pick(COUNTRIES, 2)),
        pieces=pl.when(kind == 3).then(501).otherwise(1 + draw % 500).cast(pl.Int64),
        cents=pl.when(kind == 4).then(None).otherwise(draw % 10_000_000).cast(pl.Int64),
        discount=pl.when(draw % 3 == 0).then(None).otherwise((draw % 100).cast(pl.Float64) / 100),
        email=pl.when(kind == 5).then(pl.lit("nobody")).otherwise(pick(["a.b@example.org", "c@example.com"], 3)),
        currency=pl.when(kind == 6).then(pl.lit("USD")).otherwise(pl.lit("EUR")),
        channel=pl.when(kind == 7).then(pl.lit("test")).otherwise(pick(["web", "shop"], 4)),
    )  # fmt: skip


def by_hand(rows: pl.DataFrame) -> dict[str, pl.Series]:
    """The same rules as one would write them in Polars for this one table."""
    column = pl.col
    rules = {f"{name}:not_nullable": column(name).is_null() for name in rows.columns if name != "discount"}
    rules |= {
        "sale_id:greater_than(0)": column("sale_id") <= 0,
        r"product:str_matches('^[A-Z]{3}-\d{4}$')": ~column("product").str.contains(r"^[A-Z]{3}-\d{4}$"),
        f"country:isin({COUNTRIES})": ~column("country").is_in(COUNTRIES),
        "pieces:greater_than_or_equal_to(1)": column("pieces") < 1,
        "pieces:less_than_or_equal_to(500)": column("pieces") > 500,
        "cents:greater_than_or_equal_to(0)": column("cents") < 0,
        "cents:less_than(10000000)": column("cents") >= 10_000_000,
        "discount:in_range(0, 1)": ~column("discount").is_between(0, 1),
        "email:str_contains('@')": ~column("email").str.contains("@"),
        "email:str_length(None, 254)": column("email").str.len_chars() > 254,
        "currency:equal_to(EUR)": column("currency") != "EUR",
        "channel:notin(['test'])": column("channel").is_in(["test"]),
    }
    return rows.select(failed.alias(name) for name, failed in rules.items()).to_dict()


def main(rows: int) -> None:
    """Measure, check that the masks are equal, and print a table."""
    block = sales(rows)
    contenders: dict[str, Callable[[], dict[str, pl.Series]]] = {
        "one select by hand": lambda: by_hand(block),
        "the contract, fused": lambda: judge_fused(Sale, block),
        "the contract, pandera alone": lambda: judge_by_pandera(Sale, block),
    }
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):  # the first round warms up
        found = {}
        for name, run in contenders.items():
            started, spent = time.perf_counter(), time.process_time()
            found[name] = run()
            if number:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - spent)
        _compare(found)
    if PEERS.exists():
        name = "Great Expectations (pandas)"
        contenders[name] = dict  # for the table
        cpu[name], wall[name] = by_great_expectations(block, found["one select by hand"])
    base = "one select by hand"
    print(f"{rows:,} rows, 12 rules and 8 columns that must not be empty; {ROUNDS} interleaved rounds, equal masks")
    print("| | CPU s, median | CPU s, least | wall s, median | wall s, least | CPU against by hand |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in contenders:
        ratio = statistics.median(cpu[name]) / statistics.median(cpu[base])
        figures = (statistics.median(cpu[name]), min(cpu[name]), statistics.median(wall[name]), min(wall[name]))
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {ratio:.2f} |")


def by_great_expectations(block: pl.DataFrame, masks: dict[str, pl.Series]) -> tuple[list[float], list[float]]:
    """CPU and wall seconds of the peer, in its own environment, once its counts are those of the masks."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        block.write_parquet(file.name)
        command = [PEERS, "-W", "ignore", "-m", "benchmarks.validation_gx", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, cwd=ROOT)
    told = json.loads(done.stdout.splitlines()[-1])
    wanted = {name.split(":isin")[0]: int(mask.sum()) for name, mask in masks.items() if mask.any()}
    assert told["failed"] == wanted, (told["failed"], wanted)
    return [told["cpu"]], [told["wall"]]


def _compare(found: dict[str, dict[str, pl.Series]]) -> None:
    base, *others = (
        {name: mask.fill_null(value=False) for name, mask in masks.items() if mask.any()} for masks in found.values()
    )
    assert len(base) == 8, sorted(base)
    for other in others:
        assert set(other) == set(base), set(other) ^ set(base)
        assert all(other[name].equals(base[name]) for name in base)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000)
