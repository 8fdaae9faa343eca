"""Which differences of columns a policy accepts, and what a refusal says."""

from collections.abc import Mapping

import pytest

from perennial.rules.schema import compare_with_file, compare_with_table, explain, names_today, widens
from perennial.spec.sources import SchemaPolicy

TABLE = {"order_id": "long", "pieces": "int", "note": "string"}


def verdicts(
    contract: Mapping[str, str], policy: SchemaPolicy, renamed: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Each column that differs: its kind, and a ! where it is refused."""
    found = compare_with_table(TABLE, contract, policy, {} if renamed is None else renamed)
    return {d.column: f"{d.kind}{'!' if d.accept else ''}" for d in found}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("forbid", {"gift": "new!", "pieces": "widened!", "note": "gone!"}),
        ("additive", {"gift": "new", "pieces": "widened!", "note": "gone"}),
        ("promote", {"gift": "new", "pieces": "widened", "note": "gone"}),
    ],
)
def test_each_policy_accepts_its_differences_and_no_others(policy: SchemaPolicy, expected: dict[str, str]) -> None:
    assert verdicts({"order_id": "long", "pieces": "long", "gift": "boolean"}, policy) == expected


@pytest.mark.parametrize("policy", ["forbid", "additive", "promote"])
def test_the_same_columns_in_another_order_are_no_difference(policy: SchemaPolicy) -> None:
    assert verdicts(dict(reversed(TABLE.items())), policy) == {}


@pytest.mark.parametrize("now", ["short", "string", "double", "timestamptz"])
def test_no_policy_accepts_a_type_that_does_not_hold_every_value(now: str) -> None:
    assert verdicts({**TABLE, "pieces": now}, "promote") == {"pieces": "other type!"}


def test_widening_is_what_iceberg_allows_and_nothing_else() -> None:
    assert widens("int", "long")
    assert widens("float", "double")
    assert widens("decimal(9, 2)", "decimal(18, 2)")
    assert not widens("decimal(9, 2)", "decimal(18, 4)"), "pyiceberg's own promote() lets another scale through"
    assert not widens("string", "binary"), "and this"
    assert not widens("long", "int")
    assert not widens("int", "double")


def test_a_declared_rename_is_one_and_an_undeclared_one_asks() -> None:
    contract = {"order_id": "long", "items": "int", "note": "string"}
    assert verdicts(contract, "additive", {"pieces": "items"}) == {"items": "renamed"}
    assert verdicts(contract, "forbid", {"pieces": "items"}) == {"items": "renamed!"}
    assert verdicts(contract, "additive") == {"items": "new", "pieces": "gone!"}
    assert verdicts(contract, "additive", {"pieces": None}) == {"items": "new", "pieces": "gone"}


def test_a_rename_that_was_made_is_no_difference_any_more() -> None:
    assert compare_with_table({"items": "int"}, {"items": "int"}, "forbid", {"pieces": "items"}) == []


def test_a_rename_onto_a_column_that_is_there_is_refused() -> None:
    found = compare_with_table({"a": "int", "b": "int"}, {"b": "int"}, "additive", {"a": "b"})
    assert [d.kind for d in found if d.accept] == ["gone"]
    assert str(found[0].accept).startswith("the table has b as well")


def test_a_renamed_column_may_be_widened_at_once() -> None:
    found = compare_with_table({"a": "int"}, {"b": "long"}, "promote", {"a": "b"})
    assert [(d.kind, d.former, d.accept) for d in found] == [("widened", "a", None)]


def test_tables_made_from_others_are_not_asked_for_renames() -> None:
    assert [d.accept for d in compare_with_table({"a": "int"}, {"b": "int"})] == [None, None]
    (wider,) = compare_with_table({"a": "int"}, {"a": "long"})
    assert str(wider.accept).startswith("give it type int again")


def test_a_refusal_shows_both_sides_and_what_to_write() -> None:
    found = compare_with_table(TABLE, {"order_id": "long", "items": "int", "gift": "boolean"}, "additive", {})
    text = explain("raw_orders cannot change", "raw_orders", "contract Order", found, "shop.py, Files('orders', ...)")
    assert text == "\n".join(
        [
            "raw_orders cannot change. Nothing was changed, nothing published, and what arrived is where it was.",
            "  column  raw_orders  contract Order",
            "  pieces  int         -               gone",
            "  items   -           int             new (accepted)",
            "  gift    -           boolean         new (accepted)",
            "  note    string      -               gone (accepted)",
            "To accept it, in shop.py, Files('orders', ...):",
            '  pieces: renamed={"pieces": "items"} if items is the same column under a new name; '
            'renamed={"pieces": None} if it is not',
        ]
    )


CONTRACT = {"order_id": False, "pieces": False, "note": True}


def file_verdicts(arrived: list[str], policy: SchemaPolicy, renamed: Mapping[str, str | None]) -> dict[str, str]:
    """As above, of a file's columns."""
    return {
        d.column: f"{d.kind}{'!' if d.accept else ''}" for d in compare_with_file(arrived, CONTRACT, policy, renamed)
    }


@pytest.mark.parametrize(
    ("arrived", "policy", "expected"),
    [
        (["note", "pieces", "order_id"], "forbid", {}),
        (["order_id", "pieces"], "forbid", {"note": "missing!"}),
        (["order_id", "pieces"], "additive", {"note": "missing"}),
        (["order_id", "note"], "additive", {"pieces": "missing!"}),
        (["order_id", "pieces", "note", "gift"], "forbid", {"gift": "not in the contract!"}),
        (["order_id", "pieces", "note", "gift"], "additive", {"gift": "not in the contract"}),
        (["order_id", "pieces", "notes"], "additive", {"note": "missing!", "notes": "not in the contract!"}),
    ],
)
def test_a_files_columns_are_judged_by_the_same_policy(
    arrived: list[str], policy: SchemaPolicy, expected: dict[str, str]
) -> None:
    assert file_verdicts(arrived, policy, {}) == expected


def test_a_column_that_is_declared_gone_may_go_on_arriving() -> None:
    assert file_verdicts(["order_id", "pieces", "note", "gift"], "forbid", {"gift": None}) == {}


def test_a_column_arrives_under_its_former_name_only_where_todays_is_not_there() -> None:
    assert names_today(["order_id", "amount"], {"amount": "pieces", "count": "pieces"}) == {"amount": "pieces"}
    assert names_today(["pieces", "amount"], {"amount": "pieces"}) == {}


def test_a_columns_name_cannot_break_a_line_of_the_refusal() -> None:
    found = compare_with_file(["order_id", "pieces", "note", "a\nb" * 50], CONTRACT, "forbid", {})
    text = explain("other columns", "arrived", "contract", found, "shop.py")
    assert text is not None
    assert "a\\nb" in text
    assert max(len(line) for line in text.splitlines()) < 250
