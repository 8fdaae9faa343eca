"""A contract applied to a block of rows as they arrived: which keep it, which break it, and every check they fail.

pandera is the judge. Parsing comes before it, because a field that is not a number at all is a broken row and not a
broken file; so is a field that the file's own format could not hold.
"""

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from perennial.rules.batch import BatchCounts, FailedCheck
from perennial.rules.compiled import ContractMistake, compile_contract
from perennial.rules.judges import Masks, judge_by_pandera, judge_fused
from perennial.rules.parsing import parse_block
from perennial.rules.unique import Around, fingerprints, seed_of, unique_check, unique_sets
from perennial.spec.checks import References, Severity
from perennial.spec.derived import derive_columns
from perennial.spec.load import contract_columns
from perennial.spec.sources import Source


@dataclass(frozen=True)
class CheckedBlock:
    """Both halves of a block, and what was found in it.

    `good` has the contract's columns and types; `bad` the fields as they arrived and `_failed_checks`. Both keep
    `_position`. `prints`: fingerprints of all rows, `a0`, `b0` and so on, with `_position`, where values must be unique.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    counts: BatchCounts
    prints: pl.DataFrame | None = None

    def joined_by(self, unreadable: pl.DataFrame) -> "CheckedBlock":
        """The block, and beside it what could not even be read as rows: with `_position` and `_failed_checks`.

        Such a reason is counted without its values: `csv:columns`, not `csv:columns(expected 5, found 2)`.
        """
        if unreadable.is_empty():
            return self
        reasons = unreadable["_failed_checks"].explode().str.replace(r"\(.*$", "").value_counts()
        counts = BatchCounts(
            rows=len(unreadable),
            quarantined_rows=len(unreadable),
            failed={name: FailedCheck(severity="quarantine", rows=rows) for name, rows in reasons.iter_rows()},
        )
        bad = pl.concat([self.bad, unreadable], how="diagonal")
        return replace(self, bad=bad, counts=BatchCounts.total([self.counts, counts]))


class ColumnsMissing(ValueError):
    """A file lacks columns that the contract promises: no row of it can be judged."""


def check_block(source: Source, arrived: pl.DataFrame, around: Around | None = None) -> CheckedBlock:
    """Judge a block.

    Args:
        arrived: the fields as text or in types of their own, null where empty, and `_position`. Columns that the
            contract does not name are kept in what is quarantined and left out of what is published.
        around: what the block cannot see by itself.

    Raises:
        ColumnsMissing: the contract promises columns that did not arrive.
        ContractMistake: a check of the contract cannot be run; says nothing of the data.
    """
    columns = contract_columns(source)
    missing = [name for name in columns if name not in arrived.columns]
    if missing:
        raise ColumnsMissing(
            f"source {source.name!r}: the columns {missing} of the contract are missing; there are "
            f"{[name for name in arrived.columns if not name.startswith('_')]}. Nothing was published. Correct the file, "
            "or the contract in the pipeline's file, and run ingest again."
        )
    parsed, lost = parse_block(arrived, columns, source.time_zone)
    masks = {type_check(name, columns[name]): mask for name, mask in lost.items()}
    judge = judge_by_pandera if source.judge == "pandera" else judge_fused
    masks |= _without_ours(judge(source.contract, parsed), lost)
    around, sets = around or Around(), unique_sets(source)
    if (check := unique_check(source)) in sets:
        masks[check] = parsed.select(pl.struct(sets[check]).is_duplicated()).to_series()
    for check, positions in around.repeated.items():
        elsewhere = arrived["_position"].is_in(positions.implode())
        masks[check] = masks[check] | elsewhere if check in masks else elsewhere
    # what is in tables is a pseudonym, so that is what is compared with it
    keys = around.pseudonyms.replace(parsed, source.personal) if around.pseudonyms else parsed
    for rule in source.rules:
        if isinstance(rule, References):
            masks[rule.name] = _unknown(keys, rule, around.known[rule.name])
    checked = _split(source, arrived, parsed, {name: mask for name, mask in masks.items() if mask.any()})
    return replace(checked, prints=_prints(source, arrived, keys, around)) if sets else checked


def derive(source: Source, good: pl.DataFrame) -> pl.DataFrame:
    """Rows that keep the contract, with the columns that the source derives of them.

    Raises:
        ContractMistake: an expression cannot be computed on rows that keep the contract; says nothing of the data.
    """
    try:
        return derive_columns(source.derived, good)
    except pl.exceptions.PolarsError as error:
        raise ContractMistake(
            f"the derived columns {list(source.derived)} of source {source.name!r} cannot be computed on rows that keep the "
            f"contract: {type(error).__name__}: {str(error).partition(chr(10))[0]}. Nothing was published. Correct derived= "
            "in the pipeline's file and run ingest again.",
            source.contract.__name__,
            "derived",
        ) from error


def check_names(source: Source) -> list[str]:
    """Every check that a row of the source can fail, by the names that quarantine and reports have."""
    types = [type_check(name, dtype) for name, dtype in contract_columns(source).items()]
    names = [*types, *(check.name for check in compile_contract(source.contract))]
    if source.same_key != "correction":
        names.append(unique_check(source))
    return [*names, *(rule.name for rule in source.rules if isinstance(rule, References))]


def severity_of(source: Source, name: str) -> Severity:
    """What is done about a row that fails a check, as the source declares it; by default it is quarantined.

    A field that could not be read cannot be published, whatever is declared of its column.
    """
    for rule in source.rules:
        if isinstance(rule, References) and rule.name == name:
            return rule.severity
    for key in severity_keys(name):
        if (declared := source.severity.get(key)) and not (declared == "warn" and ":type(" in name):
            return declared
    return "quarantine"


def severity_keys(name: str) -> list[str]:
    """How a source may speak of a check: by its name, by its name without values, or by its column."""
    return [name, name.split("(")[0], name.split(":")[0]]


def type_check(column: str, dtype: Any) -> str:
    """The check that a field fails when it cannot be read as its type."""
    return f"{column}:type({dtype})"


def _without_ours(masks: Masks, lost: dict[str, pl.Series]) -> Masks:
    """A field that could not be read has its own reason; that it is null now is our doing."""
    for column, unread in lost.items():
        if (name := f"{column}:not_nullable") in masks:
            masks[name] = masks[name] & ~unread
    return masks


def _prints(source: Source, arrived: pl.DataFrame, parsed: pl.DataFrame, around: Around) -> pl.DataFrame:
    each = [
        fingerprints(parsed, columns, seed_of(source, check, around.seed, around.batch)).rename(
            {"a": f"a{number}", "b": f"b{number}"}
        )
        for number, (check, columns) in enumerate(unique_sets(source).items())
    ]
    return pl.concat([arrived.select("_position"), *each], how="horizontal")


def _unknown(rows: pl.DataFrame, rule: References, known: pl.DataFrame) -> pl.Series:
    """Where rows refer to a key that nobody has."""
    ours = list(rule.columns)
    keys = known.select(pl.col(theirs).alias(mine) for mine, theirs in rule.columns.items())
    told = rows.select(ours).with_row_index("_row").drop_nulls(ours)
    lacking = told.join(keys, on=ours, how="anti")["_row"]
    return pl.zeros(len(rows), pl.Int8, eager=True).scatter(lacking, 1).cast(pl.Boolean)


def _split(source: Source, arrived: pl.DataFrame, parsed: pl.DataFrame, masks: Masks) -> CheckedBlock:
    severities = {name: severity_of(source, name) for name in masks}
    rows = parsed.with_columns(arrived["_position"])
    withheld = [mask for name, mask in masks.items() if severities[name] != "warn"]
    if withheld:
        bad = pl.select(pl.any_horizontal(withheld).fill_null(value=False)).to_series()
        good = rows.filter(~bad)
        broken = arrived.filter(bad).with_columns(
            _failed_checks=_names({n: mask.filter(bad) for n, mask in masks.items()})
        )
    else:
        good, broken = rows, arrived.head(0).with_columns(_failed_checks=pl.lit([], dtype=pl.List(pl.String)))
    newest: Any = good[source.event_time].max() if source.event_time else None
    counts = BatchCounts(
        rows=len(arrived),
        quarantined_rows=len(broken),
        failed={name: FailedCheck(severity=severities[name], rows=int(mask.sum())) for name, mask in masks.items()},
        nulls={name: nulls for name in parsed.columns if (nulls := arrived[name].null_count())},
        newest_event_at=newest,
    )
    return CheckedBlock(good, broken, counts)


def _names(masks: Masks) -> pl.Series:
    """For each row the names of the checks it fails, without a loop over the rows."""
    failed = pl.DataFrame({str(number): mask for number, mask in enumerate(masks.values())})
    told = [pl.when(pl.col(str(n))).then(pl.lit(name)) for n, name in enumerate(masks)]
    return failed.select(pl.concat_list(told).list.drop_nulls()).to_series()
