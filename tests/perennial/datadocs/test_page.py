"""What a page says, read as text: numbers with their batches, problems first, hostile text as text."""

import json
import re

import polars as pl

from perennial.datadocs.history import Series, read_history
from perennial.datadocs.page import index_page
from perennial.datadocs.text import percent, text, volume
from tests.perennial.datadocs.world import HOSTILE, ORIGIN, batch_rows, chosen, column_names, page


def test_a_history_has_a_value_for_every_batch_and_none_where_it_did_not_look() -> None:
    rows = batch_rows(batches=4, columns=5)
    later = rows.with_columns(
        checks=pl.when(pl.int_range(pl.len()) < 2).then(pl.col("checks").list.head(1)).otherwise("checks")
    )
    series = {check.name: check.counts for check in read_history(later).checks}
    assert series["csv:columns"][:2] == [None, None]
    assert None not in series["csv:columns"][2:]
    assert {len(counts) for counts in series.values()} == {4}


def test_what_fails_now_comes_before_what_failed_once_and_that_before_what_never_failed() -> None:
    history = read_history(batch_rows(batches=120, columns=50))
    failing = [check.newest or 0 for check in history.checks]
    hits = [check.hits for check in history.checks]
    quiet_from = hits.index(0)
    assert not any(hits[quiet_from:])
    assert not any(failing[sum(1 for count in failing if count) :])
    troubled = [any(check.total for check in history.checks_of(column.name)) for column in history.columns]
    assert troubled == sorted(troubled, reverse=True)


def test_a_share_that_leaps_above_its_usual_one_is_marked() -> None:
    assert Series("price", [10, 12, 9, 400], [1000] * 4).jumped
    assert not Series("price", [400, 380, 410, 420], [1000] * 4).jumped
    assert not Series("price", [400], [1000]).jumped
    assert not Series("price", [None, None], [1000] * 2).jumped


def test_every_batch_has_its_row_and_every_figure_of_a_batch_names_one() -> None:
    rows = batch_rows()
    shown = page()
    anchors = set(re.findall(r'<tr id="b-([0-9a-f]{16})"', shown))
    assert anchors == set(rows["batch_id"])
    named = re.findall(r'<data title="batch ([0-9a-f]{16}), [a-z]+ [^"]+ UTC" data-row="b-([0-9a-f]{16})">', shown)
    assert len(named) > 2 * 200
    assert all(title == row and row in anchors for title, row in named)
    assert len(named) == shown.count("<data ")


def test_the_numbers_behind_the_plots_are_those_of_the_rows() -> None:
    rows = batch_rows()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page())[1])  # type: ignore[index]  # it is there
    assert [batch[0] for batch in data["batches"]] == rows["batch_id"].to_list()
    history = read_history(rows)
    by_name = [
        {found["check"]: found["failed_rows"] for found in row["checks"]}
        | {rule["name"]: 0 if rule["passed"] else row["rows"] for rule in row["rules"]}
        for row in rows.to_dicts()
    ]
    for at, check in enumerate(history.checks):
        assert data["series"][f"c{at}"]["n"] == [found[check.name] for found in by_name]


def test_hostile_names_and_values_are_text() -> None:
    shown = page(batches=5, columns=3)
    assert HOSTILE not in shown
    assert "<img" not in shown
    assert shown.count("<script") == 2
    assert "\u202e" not in shown
    assert "\\u202egnp" in shown


def test_values_of_sensitive_columns_are_masked_and_so_is_what_the_contract_does_not_name() -> None:
    shown = page(batches=5, columns=6)
    assert "ada@example.com" not in shown
    assert "masked" in shown
    found = chosen(batch_rows(5, 6), 6)
    (line,) = found["csv:columns"][0].values
    assert line.masked
    assert {value.column for value in found["Reading:adds_up"][0].values if value.masked} == {"email"}
    open_ = chosen(batch_rows(5, 6), 6, sensitive=())
    assert open_["csv:columns"][0].values[0].shown == "ada@example.com;7"


def test_examples_are_a_few_per_check_from_the_newest_batches() -> None:
    rows = batch_rows(batches=5, columns=6)
    found = chosen(rows, 6)
    newest = rows["batch_id"].to_list()[::-1]
    assert {len(examples) for examples in found.values()} == {3}
    assert [example.batch_id for example in found["email:greater_than(0)"]] == newest[:3]


def test_the_index_has_a_row_per_source_also_without_a_batch() -> None:
    shown = index_page(ORIGIN, {"readings": batch_rows(7, 3), "planes": batch_rows(0, 3)})
    assert "no batch yet" in shown
    assert 'href="readings.html"' in shown


def test_figures_are_neither_nothing_nor_all_when_they_are_not() -> None:
    assert [percent(share) for share in (0, 0.00001, 0.0012, 0.25, 0.99999, 1, None)] == [
        *("0%", "<0.01%", "0.12%", "25.0%", ">99.9%", "100%"),
        "\N{EN DASH}",
    ]
    assert [volume(size) for size in (0, 999, 1500, 123_456, 7.5e9)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "123 kB",
        "7.5 GB",
    ]
    assert text("a" * 300).endswith("</bdi><i> … 300 characters</i>")
    assert column_names(3)[0] == "email"
