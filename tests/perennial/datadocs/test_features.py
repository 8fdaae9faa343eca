"""The feature page as text: everything that is said of an input, and text of anybody is only ever shown."""

import re

import polars as pl

from perennial.datadocs.features import feature_rows, features_page
from perennial.rules.lineage import readable
from tests.perennial.datadocs.card_world import HARM
from tests.perennial.datadocs.features_world import figures, page


def row(name: str) -> str:
    """The row of an input in the page's table, as text."""
    found = re.search(rf'<tr><th scope="row"><a href="#f-{name}">.*?</tr>', page())
    assert found
    return re.sub(r"<[^>]*>", "|", found.group())


def test_an_input_has_meaning_unit_lineage_freshness_null_share_and_worth() -> None:
    late = row("late_share")
    for said in ("share", "arrivals.delay, arrivals.carrier", "2026-09-03 06:00", "10.0%", "0.0312"):
        assert said in late, said
    both = row("empty")
    assert "flights.a" in both
    assert "arrivals.b" in both
    assert "100%" in both
    assert "2026-09-03" in both, "the stalest source says how far it is known"


def test_spreads_are_drawn_but_not_of_what_no_page_shows() -> None:
    sections = dict(re.findall(r'<section id="f-(\w+)">(.*?)</section>', page(), flags=re.S))
    assert sections["late_share"].count("<rect") == 2
    assert sections["carrier"].count("<rect") == 3
    assert "(others)" in sections["carrier"]
    assert "Not shown" in sections["name_length"]
    assert "No values" in sections["empty"]


def test_without_a_champion_nothing_is_said_of_worth() -> None:
    assert "No version serves" in features_page(figures(), "local", None)
    assert {each["loss when shuffled"] for each in feature_rows(figures(), None)} == {"\N{EN DASH}"}


def test_text_of_anybody_is_shown_and_never_run() -> None:
    assert "<script>alert" not in page()
    assert "&lt;script&gt;alert(1)" in page()
    assert HARM not in page()


def test_an_expression_is_told_without_the_marks_of_its_printing() -> None:
    assert readable(str(pl.col("delay") > 15)) == "[delay > 15]"
    told = readable(str(pl.col("place").is_in(["a"]) & (pl.col("delay") * 0.5 > pl.col("bound"))))
    assert "col(" not in told
    assert "dyn" not in told
    assert told.count("(") == told.count(")")
