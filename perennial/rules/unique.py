"""Values that no two rows may share: within a block, within its batch, and with the table, as the source declares."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
import polars.selectors as cs

from perennial.rules.compiled import check_name, schema_of
from perennial.rules.personal import Pseudonyms
from perennial.spec.sources import Source

_OTHER = 0x9E3779B97F4A7C15  # the seed of the second half differs in about every second bit


@dataclass(frozen=True)
class Around:
    """What a block cannot see by itself.

    Args:
        known: for each `References` rule, by its name, the keys that the other source has.
        seed: of the batch's fingerprints: whoever does not know it learns nothing of a value from one.
        batch: of the rows, where rows of several batches are judged side by side.
        repeated: by check, the positions of rows whose values stand in another block as well, or in the table.
        pseudonyms: of a source with personal columns, by which its rows are compared with others.
    """

    known: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    seed: int = 0
    batch: str = ""
    repeated: Mapping[str, pl.Series] = field(default_factory=dict)
    pseudonyms: Pseudonyms | None = None


def unique_sets(source: Source) -> dict[str, list[str]]:
    """Each check that looks for another row of the same values, with the columns that make them."""
    schema = schema_of(source.contract)
    sets = {check_name(schema.name, "multiple_fields_uniqueness"): list(schema.unique)} if schema.unique else {}
    sets |= {check_name(name, "field_uniqueness"): [name] for name, column in schema.columns.items() if column.unique}
    if source.same_key != "correction":
        sets[unique_check(source)] = list(source.key)
    return sets


def unique_check(source: Source) -> str:
    """The check that a row fails when its key stands in another row, where that is a violation."""
    return f"unique({', '.join(source.key)})"


def is_forever(source: Source, check: str) -> bool:
    """Whether a check looks at all the table has; every other one looks no further than a row's own batch."""
    return source.same_key == "violation" and check == unique_check(source)


def seed_of(source: Source, check: str, seed: int, batch: str) -> int:
    """The seed of a check's fingerprints: the same value in another batch is another value, but for what is forever."""
    return seed if is_forever(source, check) else seed ^ zlib.crc32(batch.encode())


def fingerprints(rows: pl.DataFrame, columns: list[str], seed: int) -> pl.DataFrame:
    """128 bits per row, `a` and `b`, equal where the values are: among a billion values no two are taken for one.

    A hash depends on the type, and integers do not come back from a table in the type they went in.
    """
    same = rows.select(columns).with_columns(cs.integer().cast(pl.Int64, wrap_numerical=True))
    values = pl.struct(pl.all())
    return same.select(a=values.hash(seed), b=values.hash(seed ^ _OTHER))
