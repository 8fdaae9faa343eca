"""Skew: what the endpoint was given as features, against the same features computed offline from the tables."""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log, read_moments
from perennial.rules.features import compute_features
from perennial.rules.tabular import InputKind
from perennial.spec import Pipeline


def match_shares(
    lake: Lake, pipeline: Pipeline, logged: pl.DataFrame, inputs: Mapping[str, InputKind], as_of: datetime
) -> tuple[dict[str, float], int]:
    """Per input the share of logged values that the offline computation gives exactly, and of how many rows.

    A row is compared where its entity is in `raw`; a client that asks about rows which never land there is not skewed.
    Values are compared as they were logged: numbers as float64, categories as text, a missing value equals a missing.

    Args:
        logged: a sample of the window's answers with the entity's key and the inputs.
    """
    key = list(pipeline.entity_source.key)
    if logged.is_empty():
        return {}, 0
    known = read_moments(lake, pipeline, as_of)
    rows = known.join(logged.select(key).unique(), on=key, how="semi", nulls_equal=True)
    if rows.is_empty():
        return {}, 0
    tables = {source: read_log(lake, pipeline, source, as_of) for source in pipeline.looked_up}
    offline = compute_features(pipeline, rows, tables)
    names = {name: f"_offline_{name}" for name in inputs}
    wanted = offline.select(*key, *(pl.col(name).alias(alias) for name, alias in names.items()))
    both = logged.unique(key, keep="last", maintain_order=True).join(wanted, on=key, how="inner", nulls_equal=True)
    same = both.select(_as_logged(name, kind).eq_missing(_as_logged(names[name], kind)).mean().alias(name) for name, kind in inputs.items())  # fmt: skip
    return {name: float(share) for name, share in same.row(0, named=True).items()}, both.height


def _as_logged(name: str, kind: InputKind) -> pl.Expr:
    return pl.col(name).cast(pl.Float64).fill_nan(None) if kind == "number" else pl.col(name).cast(pl.String)
