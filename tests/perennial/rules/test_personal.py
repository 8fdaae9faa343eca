"""Pseudonyms are HMAC-SHA-256 of the value, the same everywhere in a pipeline; a seal gives back what arrived."""

import hashlib
import hmac
import time

import polars as pl
import pytest

from perennial.rules.personal import SEALED, KeyChanged, Pseudonyms

KEY = bytes(range(32))
SHOP = Pseudonyms(KEY, "shop")
MAILS = pl.Series("email", ["ann@example.org", None, "bob@example.org", "ann@example.org", ""])


def test_a_pseudonym_is_the_values_hmac_under_a_key_of_its_own() -> None:
    key = hmac.new(KEY, b"pseudonym", hashlib.sha512).digest()
    expected = hmac.new(key, b"shop\0ann@example.org", hashlib.sha256).hexdigest()[:32]
    assert SHOP.of(MAILS)[0] == f"psn_{expected}"


def test_equal_values_have_one_pseudonym_and_null_has_none() -> None:
    made = SHOP.of(MAILS)
    assert made[0] == made[3]
    assert made[1] is None
    assert made.n_unique() == MAILS.n_unique()
    assert SHOP.of(MAILS.alias("customer_email")).to_list() == made.to_list()


def test_another_pipeline_and_another_key_make_other_pseudonyms() -> None:
    others = [Pseudonyms(KEY, "store"), Pseudonyms(bytes(32), "shop")]
    assert len({p.of(MAILS)[0] for p in [SHOP, *others]}) == 3
    assert others[0].fingerprint == SHOP.fingerprint != others[1].fingerprint


def test_what_quarantine_keeps_holds_no_plain_value_and_gives_it_back() -> None:
    rows = pl.DataFrame({"email": MAILS, "phone": ["1", "2", None, 'quo"te', "line\nbreak"], "pieces": range(5)})
    kept = SHOP.keep(rows, ["email", "phone", "not there"])
    text = kept.write_json()
    assert not any(value in text for value in ("ann@", "bob@", "quo", "line"))
    assert kept["email"].to_list() == SHOP.of(MAILS).to_list()
    assert SHOP.reveal(kept).equals(rows)
    assert SHOP.keep(rows, ["email"]).equals(SHOP.keep(rows, ["email"])), "a rerun would write another row"


def test_rows_sealed_with_another_key_are_refused_by_name() -> None:
    kept = SHOP.keep(MAILS.to_frame(), ["email"])
    with pytest.raises(KeyChanged, match=r"rows of shop in quarantine.*Nothing was read.*Put the former key back"):
        Pseudonyms(bytes(32), "shop").reveal(kept)


def test_rows_without_a_seal_and_empty_blocks_stay_as_they_are() -> None:
    rows = pl.DataFrame({"pieces": [1]})
    assert SHOP.keep(rows, ["email"]).equals(rows)
    assert SHOP.reveal(rows).equals(rows)
    empty = SHOP.keep(MAILS.to_frame().clear(), ["email"])
    assert empty.schema == {"email": pl.String, SEALED: pl.String}
    assert SHOP.reveal(empty.drop(SEALED)).is_empty()


def test_hundreds_of_thousands_of_values_a_second() -> None:
    values = pl.Series("email", [f"person{number}@example.org" for number in range(100_000)])
    before = time.process_time()
    SHOP.of(values)
    assert 100_000 / (time.process_time() - before) > 100_000
