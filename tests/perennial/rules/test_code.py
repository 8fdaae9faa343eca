"""Hashes of a pipeline's code: another wherever the values may be another, the same in every process and everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perennial.rules.features import (
    code_hash,
    contract_hash,
    feature_code_hash,
    feature_hashes,
    pipeline_code_hash,
    repair_hash,
)
from perennial.spec import Pipeline, load_pipeline
from tests.shop import FILE, shop, write_shop

HEAD = """
import helped

LIM = 1
CODES = {"pen": 1, "ink": 2}


def scaled(column):
    return pl.col(column).round(DIGITS)


DIGITS = 2


def slowly(series):
    return series * FACTOR


FACTOR = 3


def mend(rows):
    return rows.filter(pl.col("pieces") > LIM)


def features(orders: pl.LazyFrame) -> pl.LazyFrame:
    named = orders.with_columns(code=pl.col("product").replace_strict(CODES, default=0), spare=pl.col("pieces"))
    return named.select(
        "code", capped=pl.col("pieces").clip(upper_bound=LIM), cents=scaled("prices_cents"),
        slow=pl.col("pieces").cast(pl.Float64).map_batches(slowly, return_dtype=pl.Float64), hour=pl.col("ordered_at").dt.hour(),
        far=pl.col("pieces") + helped.OFFSET,
    )


pipeline ="""
TEXT = FILE[: FILE.index("def features")] + HEAD.lstrip() + FILE[FILE.index("pipeline =") + len("pipeline =") :]
TEXT = TEXT.replace("error_budget_share=0.5", "error_budget_share=0.5, repair=mend").replace("le=100", "le=MOST")
TEXT = TEXT.replace("class Order", "MOST = 100\n\n\nclass Order", 1)


@pytest.fixture(autouse=True)
def _beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own that the pipeline imports."""
    (tmp_path / "helped.py").write_text("OFFSET = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helped", raising=False)


def load(folder: Path, text: str = TEXT) -> Pipeline:
    """The pipeline, from a folder of its own: what was loaded before stays as it is."""
    return load_pipeline("shop", write_shop(folder, text))


# text of the file, what it becomes, the features whose hash is another
EDITS = {
    "a constant": ("LIM = 1", "LIM = 2", {"capped", "slow"}),
    "a helper's constant": ("DIGITS = 2", "DIGITS = 0", {"cents", "slow"}),
    "a helper": (".round(DIGITS)", ".round(DIGITS) + 1", {"cents", "slow"}),
    "a mapping": ('"ink": 2', '"ink": 3', {"code", "slow"}),
    "a constant of a Python function": ("FACTOR = 3", "FACTOR = 4", {"slow"}),
    "an argument that does not print": ("dt.hour()", "dt.convert_time_zone('Asia/Tokyo').dt.hour()", {"hour", "slow"}),
    "what no feature reads": ('spare=pl.col("pieces")', 'spare=pl.col("pieces") * 2', {"slow"}),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_features_refer_to_is_their_code(tmp_path: Path, what: str) -> None:
    right, wrong, changed = EDITS[what]
    one = load(tmp_path / "one")
    before = feature_code_hash(one), pipeline_code_hash(one), feature_hashes(one)
    other = load(tmp_path / "other", TEXT.replace(right, wrong, 1))
    after = feature_hashes(other)
    assert (feature_code_hash(other) != before[0], pipeline_code_hash(other) != before[1]) == (True, True)
    assert {name for name in after if after[name] != before[2][name]} == changed


def test_a_module_of_ones_own_is_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = feature_code_hash(load(tmp_path / "one"))
    (tmp_path / "helped.py").write_text("OFFSET = 60\n")
    monkeypatch.delitem(sys.modules, "helped")
    assert feature_code_hash(load(tmp_path / "one")) != before


def test_contracts_repairs_and_labels_are_what_they_refer_to(tmp_path: Path) -> None:
    hashes = [contract_hash, repair_hash]
    before = [told(load(tmp_path / "one").source("orders")) for told in hashes]
    after = [told(load(tmp_path / "two", TEXT.replace("MOST = 100", "MOST = 90")).source("orders")) for told in hashes]
    assert (after[0] != before[0], after[1] != before[1]) == (True, False)
    after = [told(load(tmp_path / "three", TEXT.replace("LIM = 1", "LIM = 2")).source("orders")) for told in hashes]
    assert (after[0] != before[0], after[1] != before[1]) == (False, True)
    labels = [
        TEXT.replace('pl.col("returned"))', f'pl.col("returned").cast(pl.Float64).round({digits}))')
        for digits in (0, 1)
    ]
    assert len({pipeline_code_hash(load(tmp_path / f"l{n}", text)) for n, text in enumerate(labels)}) == 2


def test_a_closure_and_a_default_are_code() -> None:
    def adder(by: int, and_then: int = 0):  # type: ignore[no-untyped-def]
        return lambda value: value + by + and_then

    assert len({code_hash(adder(by, then)) for by in (1, 2) for then in (0, 5)}) == 4
    assert code_hash(adder(1)) == code_hash(adder(1))


def test_every_process_gives_the_same_hashes(tmp_path: Path) -> None:
    folder = write_shop(
        tmp_path / "p",
        TEXT.replace("CODES = {", "KINDS = {'a', 'b', 'c'}\nCODES = {").replace(
            "def features(orders: pl.LazyFrame) -> pl.LazyFrame:\n",
            "def features(orders: pl.LazyFrame) -> pl.LazyFrame:\n    KINDS\n",
        ),
    )
    told = (
        "import sys; from pathlib import Path; from perennial.spec import load_pipeline;"
        "from perennial.rules.features import *;"
        f"p = load_pipeline('shop', Path({str(folder)!r})); print(feature_code_hash(p), pipeline_code_hash(p), feature_hashes(p))"
    )
    path = f"{Path(__file__).resolve().parents[3]}{os.pathsep}{tmp_path}"
    lines = {
        subprocess.run(
            [sys.executable, "-c", told],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(lines) == 1


def test_the_same_file_elsewhere_is_the_same_code(tmp_path: Path) -> None:
    assert pipeline_code_hash(load(tmp_path / "here")) == pipeline_code_hash(load(tmp_path / "there"))
    assert pipeline_code_hash(shop(tmp_path / "plain")) == pipeline_code_hash(shop(tmp_path / "plain again"))
