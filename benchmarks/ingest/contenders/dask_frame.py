"""The same rules in Dask: partitions of CSV on the local disk, checked by pandas, on the two threads of its default.

Both outputs come from one computation.
"""

import dask
import dask.dataframe as dd
import pandas as pd

from benchmarks.ingest.job import COLUMNS, COUNTRIES, INTEGERS, OPTIONAL, PRODUCT, RULES, TYPES, Job, contend


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """The fields that are no text, read as what they are; null where they cannot be."""
    read = {name: pd.to_numeric(rows[name], errors="coerce") for name in (*INTEGERS, "discount")}
    read["sold_at"] = pd.to_datetime(rows["sold_at"], format="%Y-%m-%dT%H:%M:%SZ", errors="coerce", utc=True)
    return rows.assign(**read)


def reasons(raw: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """The names of the checks that each row fails, joined by a line end; empty for a good row."""
    failed = [
        rows["sale_id"] <= 0,
        ~rows["product"].str.match(PRODUCT),
        ~rows["country"].isin(COUNTRIES),
        rows["pieces"] < 1,
        rows["pieces"] > 500,
        rows["cents"] < 0,
        rows["cents"] >= 10_000_000,
        ~rows["discount"].between(0, 1) & rows["discount"].notna(),
        ~rows["email"].str.contains("@", regex=False),
        rows["email"].str.len() > 254,
        rows["currency"] != "EUR",
        rows["channel"].isin(["test"]),
    ]
    told = dict(zip(RULES, failed, strict=True))
    told |= {check: rows[name].isna() & raw[name].notna() for name, check in TYPES.items()}
    told |= {f"{name}:not_nullable": raw[name].isna() for name in COLUMNS if name not in OPTIONAL}
    names = pd.Series("", index=rows.index, dtype="string")
    for name, mask in told.items():
        mask = mask.fillna(value=False).astype(bool)
        if mask.any():
            names[mask] = names[mask] + name + "\n"
    return names


def check(raw: pd.DataFrame) -> pd.DataFrame:
    """Fields as they arrived, the typed ones as `typed_<name>`, derived columns and reasons."""
    rows = typed(raw)
    total = rows["pieces"] * rows["cents"]
    return raw.assign(
        **{f"typed_{name}": rows[name] for name in TYPES},
        total_cents=total,
        net_euros=total * (1 - rows["discount"].fillna(0)) / 100,
        email_domain=raw["email"].str.partition("@")[2],
        day=rows["sold_at"].dt.strftime("%Y-%m-%d"),
        reasons=reasons(raw, rows),
    )


def keep_good(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without reasons, in their types."""
    good = rows[rows["reasons"] == ""]
    types = {name: good[f"typed_{name}"].astype("int64") for name in INTEGERS}
    types |= {"discount": good["typed_discount"], "sold_at": good["typed_sold_at"]}
    kept = good.assign(**types, total_cents=good["total_cents"].astype("int64"))
    return kept[[*COLUMNS, "total_cents", "net_euros", "email_domain", "day"]]


def keep_bad(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with reasons, as they arrived."""
    bad = rows[rows["reasons"] != ""]
    return bad[[*COLUMNS, "reasons"]]


def run(job: Job) -> None:
    """See the module."""
    raw = dd.read_csv(job.inputs, dtype="string", keep_default_na=False, na_values=[""])
    checked = raw.map_partitions(check)
    good, bad = checked.map_partitions(keep_good), checked.map_partitions(keep_bad)
    dask.compute(
        good.to_parquet(
            f"{job.output}/good", partition_on=["day"], compression="zstd", write_index=False, compute=False
        ),
        bad.to_parquet(f"{job.output}/bad", compression="zstd", write_index=False, compute=False),
        num_workers=2,
    )


if __name__ == "__main__":
    contend(run)
