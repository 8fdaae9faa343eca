"""How the columns of a contract, of its table and of what arrives differ, and which differences a policy accepts."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from perennial.spec.sources import SchemaPolicy

PSEUDONYM = "pseudonym"
_WIDER = {"int": "long", "float": "double"}
_DECIMAL = re.compile(r"decimal\((\d+), ?(\d+)\)")
_SHOWN = 20  # differences; a file of ten thousand unknown columns is shown by its first ones

Kind = Literal["new", "gone", "renamed", "widened", "other type", "not in the contract", "missing"]


class SchemaRefused(ValueError):
    """Columns changed in a way that the source's policy does not accept. Nothing was changed and nothing published."""


@dataclass(frozen=True)
class Difference:
    """One column that is not the same here and there.

    Args:
        column: its name in the contract; where the contract has none, its name there.
        there: its type in the table or the file, None where it is not there; `here`: in the contract.
        former: its name in the table, where that is another one.
        accept: what the user would write to accept it; None: the policy accepts it.
    """

    column: str
    kind: Kind
    there: str | None
    here: str | None
    former: str | None = None
    accept: str | None = None


def compare_with_table(
    table: Mapping[str, str],
    contract: Mapping[str, str],
    policy: SchemaPolicy = "additive",
    renamed: Mapping[str, str | None] | None = None,
) -> list[Difference]:
    """What the table would have to become, in the contract's order, then the columns that are gone.

    Args:
        table: column to Iceberg type, as the table has them; `contract`: as they are to be.
        renamed: former name to today's, or to None for a column that is gone and no other one. None for tables that are
            made from others: what goes there and what comes are never the same column.
    """
    names = renamed or {}
    former = {new: old for old, new in names.items() if new and old in table and new not in table}
    found = [
        difference
        for column, here in contract.items()
        if (difference := _compare(column, table.get(former.get(column, column)), here, policy, former.get(column)))
    ]
    gone = [name for name in table if name not in contract and name not in former.values()]
    for name in gone:
        accept = None
        if name not in names and policy == "forbid":
            accept = f'keep it in the contract, or renamed={{"{name}": None}}: it stays in the table, null from now on'
        found.append(Difference(name, "gone", table[name], None, accept=accept))
        new = names.get(name)
        if new in table:
            found[-1] = replace(
                found[-1], accept=f'the table has {new} as well: renamed={{"{name}": None}} leaves both as they are'
            )
    if renamed is None:  # nobody declares a policy for it either
        return [
            replace(d, accept=_other_type(d.there, d.here)) if d.accept and d.there and d.here else d for d in found
        ]
    return [_ask_whether_renamed(difference, found, renamed) for difference in found]


def _compare(column: str, there: str | None, here: str, policy: SchemaPolicy, former: str | None) -> Difference | None:
    ours = column.startswith("_")  # Perennial's own, added by a newer version of it
    additive = None if policy != "forbid" or ours else 'schema_policy="additive", at least for the next run'
    if there is None:
        return Difference(column, "new", None, here, accept=additive)
    if there != here and not widens(there, here):
        return Difference(column, "other type", there, here, former, _other_type(there, here))
    if there != here:
        accept = None if policy == "promote" else 'schema_policy="promote"'
        return Difference(column, "widened", there, here, former, accept)
    return Difference(column, "renamed", there, here, former, additive) if former else None


def _other_type(there: str, here: str) -> str:
    if there.startswith(PSEUDONYM) and here.startswith(PSEUDONYM):
        return f"put back the key that the table was written with ({there}), or write to another environment"
    if PSEUDONYM in (there.split(" ")[0], here.split(" ")[0]):
        return (
            "what is in the table cannot change in place: bring the source in under another name or into another "
            "environment, and drop this table"
        )
    return f"give it type {there} again, or a name that the table does not have"


def widens(there: str, here: str) -> bool:
    """Whether Iceberg may widen the one type to the other in place: every value stays what it is."""
    if (was := _DECIMAL.fullmatch(there)) and (now := _DECIMAL.fullmatch(here)):
        return was[2] == now[2] and int(was[1]) < int(now[1])
    return _WIDER.get(there) == here


def _ask_whether_renamed(
    difference: Difference, found: Iterable[Difference], renamed: Mapping[str, str | None]
) -> Difference:
    """A column that goes while one of its type comes may be the same under a new name: old rows would lose it."""
    if difference.kind != "gone" or difference.column in renamed:
        return difference
    alike = [d.column for d in found if d.kind == "new" and d.here == difference.there]
    if not alike:
        return difference
    column = difference.column
    new = (difflib.get_close_matches(column, alike, 1, cutoff=0.0) or alike)[0]
    accept = (
        f'renamed={{"{column}": "{new}"}} if {new} is the same column under a new name; '
        f'renamed={{"{column}": None}} if it is not'
    )
    return replace(difference, accept=accept)


def compare_with_file(
    arrived: Sequence[str],
    contract: Mapping[str, bool],
    policy: SchemaPolicy,
    renamed: Mapping[str, str | None],
) -> list[Difference]:
    """What a file's columns lack or have besides those of the contract; their order does not matter.

    Args:
        arrived: the file's columns under the contract's names, see `names_today`.
        contract: column to whether it may be left out: it is nullable, and neither key nor time.
        renamed: a column that is declared gone may go on arriving.
    """
    missing = [name for name in contract if name not in arrived]
    unknown = [name for name in arrived if name not in contract and name not in renamed]
    found = []
    for name in missing:
        accept = None
        if unknown:
            guess = (difflib.get_close_matches(name, unknown, 1, cutoff=0.0) or unknown)[0]
            accept = f'renamed={{"{plain(guess)}": "{name}"}} if it arrives as {plain(guess)}; or correct the file'
        elif policy == "forbid" and contract[name]:
            accept = 'schema_policy="additive": it is null then; or correct the file'
        elif not contract[name]:
            accept = "nullable=True in the contract, if it is neither key nor time; or correct the file"
        found.append(Difference(name, "missing", None, "may be null" if contract[name] else "is needed", accept=accept))
    for name in unknown:
        accept = None
        if missing or policy == "forbid":
            accept = f'renamed={{"{plain(name)}": None}} if no column of the contract is it; or add it to the contract'
        found.append(Difference(name, "not in the contract", "is there", None, accept=accept))
    return found


def names_today(arrived: Sequence[str], renamed: Mapping[str, str | None]) -> dict[str, str]:
    """Former name to today's, for the columns that arrive under a former one and not under today's as well."""
    return {old: new for old, new in renamed.items() if new and old in arrived and new not in arrived}


def explain(what: str, there: str, here: str, differences: Sequence[Difference], where: str) -> str | None:
    """Why the differences are refused and what to write to accept them, or None where all are accepted.

    Args:
        what: whose columns changed; `there` and `here`: the headings of the two sides.
        where: in which file and call the user would write it.
    """
    refused = [difference for difference in differences if difference.accept]
    if not refused:
        return None
    rows = [("column", there, here, "")] + [
        (plain(d.column), _side(d.there, d.former), _side(d.here), d.kind if d.accept else f"{d.kind} (accepted)")
        for d in sorted(differences, key=lambda d: d.accept is None)[:_SHOWN]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    more = len(differences) - _SHOWN
    return "\n".join(
        [
            f"{what}. Nothing was changed, nothing published, and what arrived is where it was.",
            *(line.rstrip() for line in lines),
            *([f"  and {more} more"] if more > 0 else []),
            f"To accept it, in {where}:",
            *(f"  {plain(d.column)}: {d.accept}" for d in refused[:_SHOWN]),
        ]
    )


def _side(kind: str | None, former: str | None = None) -> str:
    return (f"{kind} (as {former})" if former else kind) if kind else "-"


def plain(name: str) -> str:
    """A name as it may stand in a message: names of a file's columns are anybody's text."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 60 else text[:57] + "..."
