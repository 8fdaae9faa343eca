"""What arrives, brought to a contract's columns; and what of it may stand in quarantine."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from perennial.rules.arrival import fit_columns, fit_kept, keep, without_values
from perennial.rules.compiled import ContractMistake
from perennial.rules.contract import check_block
from perennial.rules.personal import Pseudonyms
from perennial.rules.unique import Around
from perennial.spec import References, load_pipeline
from perennial.spec.sources import Source
from tests.shop import FILE, shop, write_shop

SHOP = Pseudonyms(bytes(32), "shop")
GOOD = {"order_id": "1", "product": "pen", "ordered_at": "2024-05-01T12:00:00Z", "pieces": "2", "returned": None}


def source(folder: Path, words: str = "") -> Source:
    """The orders, with more declared of them."""
    text = FILE.replace("error_budget_share=0.5", f"error_budget_share=0.5, {words}")
    text = text.replace('key=["product"]', 'key=["product"], personal=["product"]') if "personal" in words else text
    return load_pipeline("shop", write_shop(folder, text)).source("orders")


def block(*rows: dict[str, str | None]) -> pl.DataFrame:
    """Rows of text, each with its place."""
    names = dict.fromkeys(name for row in rows for name in row)
    frame = pl.DataFrame(
        [{name: row.get(name) for name in names} for row in rows], schema=dict.fromkeys(names, pl.String)
    )
    return frame.with_columns(_position=pl.int_range(pl.len()).cast(pl.String))


def test_what_is_let_in_is_counted_as_a_warning(tmp_path: Path) -> None:
    arrived = block(GOOD, GOOD).with_columns(gift=pl.lit("card"))
    fitted, warned = fit_columns("shop", source(tmp_path), arrived, from_header=True)
    assert fitted.equals(arrived)
    assert {name: (check.severity, check.rows) for name, check in warned.failed.items()} == {
        "columns:not in the contract(gift)": ("warn", 2)
    }


def test_rows_of_json_may_use_a_former_name_one_by_one(tmp_path: Path) -> None:
    declared = source(tmp_path, 'renamed={"amount": "pieces", "number": "pieces"}')
    rows = [{**GOOD, "pieces": None, "amount": "3"}, GOOD, {**GOOD, "pieces": None, "number": "4"}]
    fitted, warned = fit_columns("shop", declared, block(*rows), from_header=False)
    assert fitted["pieces"].to_list() == ["3", "2", "4"]
    assert not {"amount", "number"} & set(fitted.columns)
    assert not warned.failed


def test_what_quarantined_rows_lack_is_null_only_where_it_may_be(tmp_path: Path) -> None:
    lacking = {name: value for name, value in GOOD.items() if name not in ("returned", "pieces")}
    fitted = fit_kept(source(tmp_path), block(lacking))
    assert fitted["returned"].to_list() == [None]
    assert "pieces" not in fitted.columns


def test_what_the_contract_does_not_name_is_kept_under_seal_names_and_all(tmp_path: Path) -> None:
    declared = source(tmp_path, 'personal=["product"]')
    arrived = block({**GOOD, "product": "q7x PEN", "q7x mail": "q7x"}).drop("_position")
    arrived = arrived.with_columns(_raw=pl.lit('{"q7x": 1}'))
    kept, line = keep(declared, SHOP, arrived), keep(declared, SHOP, pl.DataFrame({"line": ["1,q7x"]}))
    assert "q7x" not in kept.write_json() + line.write_json()
    assert kept["pieces"].to_list() == ["2"]
    assert SHOP.reveal(kept).select(arrived.columns).equals(arrived)
    assert SHOP.reveal(line)["line"].to_list() == ["1,q7x"]


def test_references_of_personal_columns_are_compared_as_pseudonyms(tmp_path: Path) -> None:
    declared = replace(source(tmp_path, 'personal=["product"]'), rules=[References("prices", on="product")])
    known = {declared.rules[0].name: pl.DataFrame({"product": SHOP.of(pl.Series(["pen"]))})}
    checked = check_block(declared, block(GOOD, {**GOOD, "product": "ink"}), Around(known, pseudonyms=SHOP))
    assert checked.good["product"].to_list() == ["pen"], "checked plain, compared as a pseudonym"
    assert checked.bad["_failed_checks"].to_list() == [["product:in_source(prices)"]]


def test_a_checks_own_words_are_left_out(tmp_path: Path) -> None:
    mistake = ContractMistake("the check raised ValueError: q7x is no number", "Order", "pieces")
    told = without_values(shop(tmp_path).source("orders"), mistake)
    assert "q7x" not in str(told)
    with pytest.raises(ContractMistake, match=r"Order cannot be run: pieces.*orders has personal columns"):
        raise told
