"""Mistakes in a pipeline's file: each is refused before anything runs, with the file, the line and what would be right."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from perennial.spec import PipelineError, list_pipelines, load_pipeline
from tests.shop import FILE, shop, write_shop

MISTAKES = {
    # what is wrong: text of the right file, text of the wrong one, the wrong line, what the message says
    "syntax": ("def features(orders", "def features orders", "def features orders", "SyntaxError"),
    "an import that is not there": ("import polars as pl", "import polards as pl", "import polards", "polards"),
    "no pipeline": ("pipeline = Pipeline", "pipe = Pipeline", "", r"no `pipeline = Pipeline\(...\)` at the top"),
    "another name": ('name="shop"', 'name="store"', 'name="store"', "'store'; name it 'shop', as its file"),
    "a label of a Python function": (
        'pl.col("returned"))',
        'pl.col("returned").map_batches(lambda column: ~column))',
        'label=Label("returned"',
        "label of 'returned' calls a Python function",
    ),
    "no sources": ("sources=[", "sources=[] and [", "sources=", "at least one source"),
    "one name twice": ('Files("prices"', 'Files("orders"', "sources=", r"two sources have one name: \['orders'"),
    "a source's name": ('"orders", "orders/*', '"Orders", "orders/*', 'Files("Orders"', "'Orders' must match"),
    "no key given": (' key=["product"],', "", 'Files("prices"', "missing 1 required keyword-only argument: 'key'"),
    "an empty key": ('key=["product"]', "key=[]", 'Files("prices"', "'prices' has no key: name the columns"),
    "a key's column": ('key=["product"]', 'key=["pieces"]', "pieces", r"'pieces'; there are \['product', 'cents'"),
    "an event time's column": ('event_time="ordered_at"', 'event_time="cents"', 'event_time="cents"', "no column"),
    "a known column": ('At("valid_from")', 'At("valid")', 'At("valid")', "known of source 'prices'.*'valid_from'"),
    "a sensitive column": (
        'key=["product"],',
        'key=["product"], sensitive=["email"],',
        'sensitive=["email"]',
        "sensitive of source 'prices'.*'email'; there are",
    ),
    "an event time without zone": (
        "ordered_at: UtcMicroseconds",
        "ordered_at: pl.Datetime",
        "ordered_at: pl.Datetime",
        "'ordered_at' of 'orders' must be UtcMicroseconds, it is Datetime",
    ),
    "an entity without event time": (
        'event_time="ordered_at",',
        "",
        'Files("orders"',
        "'orders' has no event_time.*name the column of the instant",
    ),
    "a column of ours": (
        "cents: int = pa.Field(gt=0)",
        'cents: int = pa.Field(alias="_cents")',
        'alias="_cents"',
        "'_cents' of prices: names that begin with _ are",
    ),
    "a format that no name says": (
        '"prices/*.csv"',
        '"prices/*.txt"',
        '"prices/*.txt"',
        "do not say what the files are",
    ),
    "an error budget": ("budget_share=0.5", "budget_share=50", "error_budget_share=50", r"50 must lie in \[0, 1\]"),
    "a severity of no check": (
        "budget_share=0.5",
        'budget_share=0.5,\n              severity={"pieces:less_than": "warn"}',
        '"pieces:less_than"',
        r"no check 'pieces:less_than'; there are .*'pieces:less_than_or_equal_to\(100\)'",
    ),
    "a severity that is none": (
        "budget_share=0.5",
        'budget_share=0.5,\n              severity={"pieces": "ignore"}',
        '"pieces": "ignore"',
        "'ignore' of 'pieces' must be one of",
    ),
    "a judge that is none": (
        "budget_share=0.5",
        'budget_share=0.5, judge="me"',
        'judge="me"',
        r"'me' of source 'orders' must be one of \('fused'",
    ),
    "a key's rule that is none": ("budget_share=0.5", 'budget_share=0.5, same_key="twice"', "same_key=", "'violation'"),
    "a pattern that cannot be searched": ("^[a-z]+$", "(?=a)b", "product: str", "product:str_matches.*look-around"),
    "a bound of another type": (
        "cents: int = pa.Field(gt=0)",
        'cents: int = pa.Field(gt="0")',
        "cents: int",
        "cents:gr",
    ),
    "a check of another type": (
        "pieces: int = pa.Field(ge=1, le=100)",
        "pieces: str = pa.Field(ge=1)",
        "pieces:",
        "cannot",
    ),
    "a default": (
        "returned: bool = pa.Field(",
        "returned: bool = pa.Field(default=False, ",
        "returned:",
        "fill the empty",
    ),
    "an instant without zone": (
        "cents: int = pa.Field(gt=0)",
        "cents: pl.Datetime",
        "cents: pl.Datetime",
        "'cents' of Price is Datetime.*: instants are UtcMicroseconds",
    ),
    "a warning of pandera's": (
        "pa.Field(ge=1,",
        "pa.Field(raise_warning=True, ge=1,",
        "pieces:",
        "severity={'pieces:gr",
    ),
    "a column of a check": (
        'pl.col("pieces") > 10',
        'pl.col("amount") > 10',
        "def no_bulk",
        "check Order:no_bulk_of_gold .*ColumnNotFoundError.*amount",
    ),
    "a check of all rows at once": (
        'select(~((pl.col("product") == "gold") & (pl.col("pieces") > 10)))',
        'select(pl.col("pieces").sum() > 10)',
        "def no_bulk",
        "Order cannot judge row by row",
    ),
    "a batch rule that is none": ("budget_share=0.5", "budget_share=0.5, rules=[3]", "rules=[3]", "3 is none of RowC"),
    "freshness without time": (
        'known=At("valid_from")',
        'known=At("valid_from"),\n              rules=[Freshness(hours=3)]',
        "rules=[Fresh",
        "Freshness needs event_time",
    ),
    "a batch rule's severity": (
        "budget_share=0.5",
        'budget_share=0.5,\n              rules=[RowCount(severity="quarantine")]',
        "rules=[Row",
        r"'quarantine' of RowCount must be one of \('block', 'warn'\)",
    ),
    "a batch rule's share": (
        "budget_share=0.5",
        "budget_share=0.5,\n              rules=[RowCount(at_least_share=3)]",
        "rules=[Row",
        "0 <= at_least_share <= at_most_share",
    ),
    "a batch rule's history": (
        "budget_share=0.5",
        "budget_share=0.5,\n              rules=[RowCount(batches=200)]",
        "rules=[Row",
        "RowCount compares with 3 to 100 batches, not 200",
    ),
    "a batch rule's column": (
        "budget_share=0.5",
        'budget_share=0.5,\n              rules=[NullShare("weight", 0.1)]',
        '"weight"',
        "no column 'weight'",
    ),
    "a reference's source": (
        "budget_share=0.5",
        'budget_share=0.5,\n              rules=[References("price", on="product")]',
        '"price"',
        r"'price' is not declared; there are \['orders', 'prices'\]",
    ),
    "a reference's column": (
        "budget_share=0.5",
        'budget_share=0.5,\n              rules=[References("prices", on={"product": "name"})]',
        '"name"',
        "no column 'name' in 'prices'",
    ),
    "a reference's type": (
        "budget_share=0.5",
        'budget_share=0.5,\n              rules=[References("prices", on={"pieces": "product"})]',
        '"pieces"',
        "'pieces' is Int64 and 'product' of 'prices' is String",
    ),
    "a schema policy": (
        "error_budget_share=0.5",
        'schema_policy="allow"',
        'schema_policy="allow"',
        r"schema_policy 'allow' of 'orders' must be one of .*'additive'",
    ),
    "a former name that is in use": (
        "error_budget_share=0.5",
        'renamed={"pieces": "product"}',
        'renamed={"pieces"',
        "'pieces' is a column of the contract, so it is no former name",
    ),
    "a rename to nowhere": (
        "error_budget_share=0.5",
        'renamed={"count": "piece"}',
        'renamed={"count"',
        "'count' became 'piece', which the contract does not have; it has .*'pieces'",
    ),
    "a partition that is none": (
        "budget_share=0.5",
        'budget_share=0.5, partition="hour"',
        'partition="hour"',
        r"partition 'hour' of 'orders' must be one of \('day',\), or left out",
    ),
    "a partition by no time": (
        'key=["product"]',
        'key=["product"], partition="day"',
        'partition="day"',
        "source 'prices' is partitioned by day, of what. Name its event_time",
    ),
    "a personal column that is not there": (
        "error_budget_share=0.5",
        'personal=["customer"]',
        'personal=["customer"]',
        "personal of source 'orders': there is no column 'customer'; there are .*'product'",
    ),
    "a personal column that is no text": (
        "error_budget_share=0.5",
        'personal=["pieces"]',
        'personal=["pieces"]',
        "'pieces' must be text, because its pseudonym is; it is Int64. Declare it str",
    ),
    "a personal column that is no list": (
        "error_budget_share=0.5",
        'personal="product"',
        'personal="product"',
        r"personal of source 'orders' must be a list: \['product'\]",
    ),
    "a join of a pseudonym with a value": (
        "error_budget_share=0.5",
        'personal=["product"]',
        'Lookup("prices"',
        "is personal in 'orders' only: a pseudonym equals no plain value",
    ),
    "no entity among two": ('entity="orders",', "", "pipeline = ", r"entity= one of \['orders', 'prices'\]"),
    "an unknown entity": ('entity="orders"', 'entity="order"', 'entity="order"', r"'order'.*there are \['orders'"),
    "one source joined twice": (
        'joins=[Lookup("prices", on="product")]',
        'joins=[Lookup("prices", on="product"),\n           Lookup("prices", on={"product": "product"})]',
        "joins=",
        "two joins bring the source 'prices'.*Declare it as two sources",
    ),
    "a join's keys of unlike types": (
        'on="product")',
        'on={"pieces": "product"})',
        'Lookup("prices"',
        "'pieces' is Int64 and 'product' of 'prices' is String: they would never be equal",
    ),
    "a join that brings the label": (
        'joins=[Lookup("prices"',
        'joins=[Lookup("orders", on="order_id"), Lookup("prices"',
        'Lookup("orders"',
        r"'orders' looks into the future: it brings \['returned'\]",
    ),
    "a join by the label": (
        'joins=[Lookup("prices", on="product")]',
        'joins=[Lookup("orders", on="returned")]',
        'Lookup("orders"',
        "goes by 'returned', of which the label is made",
    ),
    "a delay backwards": (
        'At("valid_from")',
        'At("valid_from", timedelta(hours=-5))',
        'At("valid_from", t',
        "looks into the future: its delay",
    ),
    "hours before backwards": (
        'At("valid_from")',
        'Before("valid_from", hours=-5)',
        'Before("valid_from"',
        "must be 0 or more before 'valid_from'",
    ),
    "an unknown joined source": ('Lookup("prices"', 'Lookup("price"', 'Lookup("price"', r"\['orders', 'prices'\]"),
    "a join as of no time": (
        'Lookup("prices", on="product")',
        'AsOf("prices", by="product", tolerance=timedelta(1))',
        'AsOf("prices"',
        "needs a source with an event_time; use Lookup",
    ),
    "our side of a join": ('on="product"', 'on={"item": "product"}', "item", "side of 'orders': there is no .*'item'"),
    "their side of a join": ('on="product"', 'on={"product": "item"}', "item", "join with 'prices'.*no column 'item'"),
    "no label": ('label=Label("returned", pl.col("returned")),', "", "pipeline = ", "required.*argument: 'label'"),
    "a label that is none": ('Label("returned", pl.col("returned"))', '"returned"', 'label="re', r"must be Label\("),
    "a label's column": ('pl.col("returned"))', 'pl.col("back"))', 'pl.col("back")', "no column 'back'.*'returned'"),
    "a label called like a column": (
        'Label("returned"',
        'Label("pieces"',
        'Label("pieces"',
        "'pieces' is called like a col",
    ),
    "a label called like an input": ('Label("returned"', 'Label("cents"', 'Label("cents"', "a name that no column has"),
    "a label's unknown source": ('pl.col("returned"))', 'pl.col("cents"), source="x")', 'source="x"', "label names"),
    "a label's source without the key": (
        'pl.col("returned"))',
        'pl.col("cents"), source="prices")',
        'source="prices"',
        r"lacks \['order_id'\] of the entity's key",
    ),
    "a flow that has no schedule": (
        "    features=features",
        '    schedules=[Schedule("train", "0 * * * *")],\n    features=features',
        '"train"',
        "'train' cannot be scheduled; there are .*'ingest'",
    ),
    "a cron of four fields": (
        "    features=features",
        '    schedules=[Schedule("ingest", "0 * * *")],\n    features=features',
        "0 * * *",
        "must have five fields.*such as '0 3",
    ),
    "an hour that no day has": (
        "    features=features",
        '    schedules=[\n        Daily("monitor", hour=25),\n    ],\n    features=features',
        "hour=25",
        r"cron '0 25 \* \* \*'",
    ),
    "a feature's column": ('cents="prices_cents"', 'cents="prices_cent"', "prices_cent", "prices_cent.*prices_cents"),
    "a feature from the label": ('"pieces", hour', '"returned", hour', '"returned", hour', "column.*returned"),
    "a feature that is an instant": ('hour=pl.col("ordered_at").dt.hour()', 'at="ordered_at"', "at=", "number, a bool"),
    "a method that is not there": (".dt.hour()", ".dt.our()", ".dt.our()", "AttributeError.*our"),
    "a name that is not there": ("pl.col(", "pq.col(", "pq.col", "NameError.*pq"),
    "canary shares that do not grow": (
        "    features=features",
        "    rollout=Rollout(canary=(0.5, 0.1)),\n    features=features",
        "canary=",
        "must be shares between 0 and 1 that grow",
    ),
    "a share of the log of nothing": (
        "    features=features",
        "    serving=Serving(log_share=0.0),\n    features=features",
        "log_share=",
        "a share above 0",
    ),
    "a freshness of what is not looked up": (
        "    features=features",
        '    serving=Serving(\n        freshness={"stations": 3}),\n    features=features',
        "stations",
        r"names 'stations', which the endpoint does not look up; it holds \[",
    ),
    "an unknown slice": (
        "    features=features",
        '    promotion=Promotion(\n        slices=["ordered_at"]),\n    features=features',
        "slices=",
        r"slices of the promotion: there is no column 'ordered_at'; there are \['product'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_its_file_its_line_and_what_would_be_right(tmp_path: Path, mistake: str) -> None:
    right, wrong, place, says = MISTAKES[mistake]
    names = "At, Before, Files, Label, Lookup,"
    text = FILE.replace(
        names,
        f"AsOf, Daily, Promotion, Rollout, Schedule, Serving, Freshness, NullShare, References, RowCount, {names}",
    )
    assert right in text
    if mistake in ("a name that is not there",):  # within features() only
        before, after = text.split("return orders")
        text = f"{before}return orders{after.replace(right, wrong, 1)}"
    else:
        text = text.replace(right, wrong, 1)
    folder = write_shop(tmp_path / "pipelines", text)
    with pytest.raises(PipelineError, match=f"(?s){says}") as raised:
        load_pipeline("shop", folder)
    found = re.match(rf"{re.escape(str(folder))}/shop\.py:(\d+): ", str(raised.value))
    assert found, f"no file and line: {raised.value}"
    assert place in text.splitlines()[int(found[1]) - 1], str(raised.value)


def test_a_pipeline_that_is_not_there_is_refused_with_those_there_are(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "pipelines")
    assert list_pipelines(folder) == ["shop"]
    for name in ("store", "../shop", ""):
        with pytest.raises(PipelineError, match=rf"no pipeline '{re.escape(name)}' in .*; there are: shop"):
            load_pipeline(name, folder)


def test_a_cron_may_have_steps_lists_ranges_and_names(tmp_path: Path) -> None:
    schedule = 'schedules=[Schedule("ingest", "*/15 8-18,22 1 JAN-MAR mon-FRI")],'
    text = FILE.replace("import At,", "import Schedule, At,").replace(
        "features=features,", f"features=features,{schedule}"
    )
    assert len(load_pipeline("shop", write_shop(tmp_path / "pipelines", text)).schedules) == 1


def test_the_pipelines_of_this_repository_are_right() -> None:
    assert [load_pipeline(name).name for name in list_pipelines()] == list_pipelines()


def test_a_pipeline_without_mistakes_says_what_was_declared(tmp_path: Path) -> None:
    pipeline = shop(tmp_path / "pipelines")
    assert pipeline.entity_source.name == pipeline.label_source.name == "orders"
    assert pipeline.joins[0].columns == {"product": "product"}
    assert pipeline.source("prices").known.delay == timedelta(0)  # type: ignore[union-attr]  # it has one
    assert pipeline.metric == "roc_auc"
    with pytest.raises(KeyError, match=r"no source 'price'; it has \['orders', 'prices'\]"):
        pipeline.source("price")
