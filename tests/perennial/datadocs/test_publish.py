"""Against a real catalog and a real S3 server: pages from the two tables, made when there is something new."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from perennial.datadocs.publish import page_path, publish_pages
from perennial.lakehouse.batches import finish_batch
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import QUARANTINE, raw_table
from perennial.lakehouse.results import RESULT, BatchResult, CheckResult, ColumnResult, Verdict, stage_result
from perennial.lakehouse.tables import ensure_table
from perennial.spec import Pipeline, load_pipeline
from tests.shop import FILE, NOON, write_shop

NUMBERS = pa.schema([("number", pa.int64())])  # what raw holds is of no matter here


@pytest.fixture
def secretive(tmp_path: Path) -> Pipeline:
    """The shop, where nobody may see which product was ordered."""
    return shop_where(tmp_path, 'sensitive=["product"]')


def shop_where(folder: Path, declared: str) -> Pipeline:
    text = FILE.replace("error_budget_share=0.5", f"error_budget_share=0.5, {declared}")
    text = text.replace('key=["product"],', f'key=["product"], {declared},')  # prices are joined by it
    return load_pipeline("shop", write_shop(folder / "pipelines", text))


def bring(lake: Lake, number: int, rows: list[tuple[str, list[str]]], verdict: Verdict = "published") -> str:
    """A batch of orders was committed, with these rows in quarantine: product and failed checks; return its id."""
    counted: dict[str, int] = {}
    for _, checks in rows:
        counted |= {check: counted.get(check, 0) + 1 for check in checks}
    found = BatchResult(
        source="orders",
        batch_id=f"{number:016x}",
        verdict=verdict,
        reasons=[],
        as_of=NOON + timedelta(hours=number),
        run_id="run",
        contract_version="c0ffee",
        arrived="1 files (7 bytes)",
        parts=1,
        bytes=7,
        rows=100,
        quarantined_rows=len(rows),
        newest_event_at=NOON,
        checks=[CheckResult(check=name, severity="quarantine", failed_rows=count) for name, count in counted.items()],
        rules=[],
        columns=[ColumnResult(column="pieces", nulls=0)],
    )
    ensure_table(lake, raw_table(lake, "shop", "orders"), NUMBERS)
    properties = {RESULT: stage_result(lake, "shop", found)}
    append_once(lake, raw_table(lake, "shop", "orders"), [], found.batch_id, properties=properties)
    kept = [
        {
            "source": "orders",
            "raw_row": json.dumps({"order_id": str(at), "product": product, "note": "of no contract"}),
            "failed_checks": checks,
            "position": f"orders/{number}.csv#{at}",
            "batch_id": found.batch_id,
        }
        for at, (product, checks) in enumerate(rows)
    ]
    ensure_table(lake, lake.table("shop", "quarantine"), QUARANTINE)
    append_once(lake, lake.table("shop", "quarantine"), pa.Table.from_pylist(kept, QUARANTINE), found.batch_id)
    finish_batch(lake, "shop", "orders")
    return found.batch_id


def read(lake: Lake, page: str) -> str:
    return lake.files().cat_file(lake.uri(page_path("shop", page))).decode()


def test_a_page_is_made_for_a_new_batch_only(lake: Lake, secretive: Pipeline) -> None:
    orders = secretive.source("orders")
    assert publish_pages(lake, secretive, orders, None) is None
    for number in (1, 2):
        batch = bring(lake, number, [("gold", ["pieces:less_than(100)"])])
        row = publish_pages(lake, secretive, orders, None)
        assert row
        assert row["batch_id"] == batch
        assert f"orders/{number}.csv#0" in read(lake, "orders")
        assert publish_pages(lake, secretive, orders, None) is None
    index = read(lake, "index")
    assert 'href="orders.html"' in index
    assert "no batch yet" in index


@pytest.mark.parametrize("word", ["sensitive", "personal"])
def test_hidden_values_and_fields_of_no_contract_reach_no_page(lake: Lake, tmp_path: Path, word: str) -> None:
    bring(lake, 1, [("a secret product", ["product:str_matches(^[a-z]+$)"])])
    pipeline = shop_where(tmp_path, f'{word}=["product"]')
    publish_pages(lake, pipeline, pipeline.source("orders"), None)
    page = read(lake, "orders")
    assert "secret" not in page
    assert "of no contract" not in page
    assert page.count('class="masked"') == 2


def test_rows_that_failed_nothing_but_the_refusal_of_their_batch_are_no_examples(
    lake: Lake, secretive: Pipeline
) -> None:
    clean = [("pen", ["batch:refused"])] * 1_500
    bring(lake, 1, [*clean, ("pen", ["pieces:less_than(100)", "batch:refused"])], "refused")
    publish_pages(lake, secretive, secretive.source("orders"), None)
    page = read(lake, "orders")
    assert "orders/1.csv#1500" in page
    assert "orders/1.csv#0" not in page
