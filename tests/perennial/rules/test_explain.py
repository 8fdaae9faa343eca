"""What is shown as a value's rows gives the value: counted and aggregated anew from them, on random streams."""

import math
import statistics
from pathlib import Path

import polars as pl
import pytest

from perennial.rules.explain import counted_versions, explain
from perennial.spec import Pipeline, load_pipeline
from perennial.spec.load import contract_columns
from tests.ray_jobs.features.parcels import FILE, arrivals, write_parcels

INSTANT = pl.Datetime("us", "UTC")


def logs(pipeline: Pipeline, seed: int) -> dict[str, pl.DataFrame]:
    """Every source's log, in the order it became known."""
    days = [arrivals(seed, day) for day in range(4)]
    return {
        source.name: pl.DataFrame(
            [row for day in days for row in day[source.name]], {**contract_columns(source), "_known_at": INSTANT}
        ).sort("_known_at", maintain_order=True)
        for source in pipeline.sources
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_the_rows_that_are_shown_give_the_value(tmp_path: Path, seed: int) -> None:
    pipeline = load_pipeline("parcels", write_parcels(tmp_path / "pipelines"))
    tables = logs(pipeline, seed)
    rows = tables["parcels"].unique("parcel", keep="first", maintain_order=True)
    counted = 0
    for number in range(len(rows)):
        row = rows[number]
        found = {each.name: each for each in explain(pipeline, row, tables)}
        for feature in pipeline.history:
            (evidence,) = found[feature.name].evidence
            assert evidence.value == found[feature.name].value
            if row["depot"][0] is None and feature.columns:
                assert (evidence.rows, evidence.value in (None, 0)) == (0, True)
                continue
            values = counted_versions(pipeline, feature, row, tables[feature.source])["_value"].to_list()
            assert evidence.rows == len(values)
            counted += len(values)
            match feature.aggregate:
                case "count":
                    assert evidence.value == len(values)
                case _ if not values:
                    assert evidence.value is None
                case "mean":
                    assert math.isclose(evidence.value, statistics.fmean(values))
                case "max":
                    assert evidence.value == max(values)
                case _:
                    assert min(values) - 1e-9 <= evidence.value <= max(values) + 1e-9
        force = found["force"].evidence[0]
        assert (force.value is None) == (force.rows == 0)
        if force.newest:
            assert force.newest[0]["storms_force"] == force.value
            assert force.known_at is not None
            assert force.known_at <= row["_known_at"][0]
    assert counted > 100


def test_values_that_no_page_shows_are_left_out(tmp_path: Path) -> None:
    text = Path(write_parcels(tmp_path / "pipelines") / "parcels.py").read_text()
    text = text.replace(
        'key=["parcel"], event_time="sent_at")', 'key=["parcel"], event_time="sent_at", sensitive=["grams"])'
    )
    pipeline = load_pipeline("parcels", write_parcels(tmp_path / "pipelines", text))
    tables = logs(pipeline, 1)
    rows = tables["parcels"].unique("parcel", keep="first", maintain_order=True).filter(pl.col("grams") > 0)
    found = {each.name: each for each in explain(pipeline, rows[-1], tables)}
    for name in ("grams", "heaviest", "all_sent"):
        assert found[name].value is None
        assert all("_value" not in row for row in found[name].evidence[0].newest)
    assert found["all_sent"].evidence[0].rows > 0


def test_values_inside_what_no_page_shows_are_left_out_too(tmp_path: Path) -> None:
    text = FILE.replace("Pipeline, Tab", "Json, Pipeline, Tab")
    for column, source in (("grams: float", "sent_at"), ("force: float", "began_at")):
        text = text.replace(f"    {column}", f"    note: str = pa.Field(nullable=True)\n    {column}")
        flat = ', sensitive=["note"], flatten={"depth": Json("note", "depth")}'
        text = text.replace(f'event_time="{source}")', f'event_time="{source}"{flat})')
    text = text.replace('"max", "grams"', '"max", "depth"').replace('"storms_force"', '"storms_depth"')
    pipeline = load_pipeline("parcels", write_parcels(tmp_path / "pipelines", text))
    noted = pl.lit('{"depth": 7.0}').alias("note")
    tables = {n: t.with_columns(noted) if "note" in t.columns else t for n, t in logs(pipeline, 1).items()}
    rows = tables["parcels"].unique("parcel", keep="first", maintain_order=True).filter(pl.col("depot").is_not_null())
    shown = [each for row in range(len(rows)) for each in explain(pipeline, rows[row], tables)]
    for name in ("heaviest", "force"):
        found = [each for each in shown if each.name == name]
        assert {each.value for each in found} == {None}
        assert any(each.evidence[0].rows for each in found)
        assert "7.0" not in str(found)
        assert all("note" in each.evidence[0].column.columns for each in found)
