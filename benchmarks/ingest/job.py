"""The job that every contender does, as far as it needs no library: each runs in an environment of its own.

A contender is a module with `main()`, which hands its function to `contend`. It does one job per line on its standard
input: first a small one that warms it up, then the one that is measured.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

COUNTRIES = ("AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL")
PRODUCT = r"^[A-Z]{3}-\d{4}$"
COLUMNS = (
    "sale_id",
    "product",
    "country",
    "pieces",
    "cents",
    "discount",
    "email",
    "currency",
    "channel",
    "sold_at",
    "note",
)
INTEGERS = ("sale_id", "pieces", "cents")
OPTIONAL = ("discount", "note")
DAYS = 30
UNREAD = "n/a"  # what stands in a field that cannot be read as its type

RULES = {
    "sale_id:greater_than(0)": "sale_id <= 0",
    f"product:str_matches('{PRODUCT}')": f"NOT regexp_matches(product, '{PRODUCT}')",
    f"country:isin({list(COUNTRIES)})": f"country NOT IN {COUNTRIES}",
    "pieces:greater_than_or_equal_to(1)": "pieces < 1",
    "pieces:less_than_or_equal_to(500)": "pieces > 500",
    "cents:greater_than_or_equal_to(0)": "cents < 0",
    "cents:less_than(10000000)": "cents >= 10000000",
    "discount:in_range(0, 1)": "NOT (discount BETWEEN 0 AND 1)",
    "email:str_contains('@')": "NOT contains(email, '@')",
    "email:str_length(None, 254)": "length(email) > 254",
    "currency:equal_to(EUR)": "currency <> 'EUR'",
    "channel:notin(['test'])": "channel IN ('test')",
}
"""The twelve rules by the names that the contract gives them, and where a row fails each, as SQL says it."""

TYPES = {
    **{name: f"{name}:type(Int64)" for name in INTEGERS},
    "discount": "discount:type(Float64)",
    "sold_at": "sold_at:type(Datetime(time_unit='us', time_zone='UTC'))",
}
"""The check that a field fails which cannot be read as its type."""


@dataclass(frozen=True)
class Job:
    """One job. `inputs`: the files, on the disk; `keys`: of them on S3; `output`: the folder or prefix for what is made."""

    inputs: list[str]
    keys: list[str]
    output: str
    endpoint: str
    access_key: str
    secret_key: str

    def line(self) -> str:
        """As it travels to a contender."""
        return json.dumps(asdict(self)) + "\n"


def contend(run: Callable[[Job], None]) -> None:
    """Do the jobs that arrive, and say so after each."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        job = Job(**json.loads(line))
        if not job.output.startswith("lake/"):
            Path(job.output).mkdir(parents=True)
        run(job)
        answer.write("done\n")
        answer.flush()
