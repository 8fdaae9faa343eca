"""A source of which every row is known, the runs that bring it in, and a checker that trusts nobody.

Every row that arrives has a number of its own. What stands in `raw` and in `quarantine` is read with a catalog and a
file system of the checker's own and compared with what was sent, number by number.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from tests.shop import put

FIRST = 1_000_000_000
_NUMBER = re.compile(r"\b1\d{9}\b")  # no other field of a row looks like it
_HEADER = "order_id,product,ordered_at,pieces,returned\n"
_BROKEN = ("{0},pen,2024-05-01T12:00:00Z,0,true", "{0},gold,2024-05-01T12:00:00Z,50,", "{0},P1,soon,1,", "{0},pen")


@dataclass(frozen=True)
class Findings:
    """What a check found; all zero is what is promised."""

    lost: int
    doubled: int
    phantom: int

    @property
    def clean(self) -> bool:
        """Whether the tables hold exactly what was sent."""
        return not (self.lost or self.doubled or self.phantom)


@dataclass
class World:
    """One lakehouse with a source whose rows are counted.

    Args:
        settings: as a run reads them.
        random: decides what arrives.
    """

    settings: Settings
    random: Random
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)

    @property
    def lake(self) -> Lake:
        """Where it lies."""
        return self.settings.lake

    def arrive(self, files: int | None = None, *, renew: bool = True) -> None:
        """Some files arrive.

        One in five has the name of one that was brought in: a correction, with new rows. Now and then every row is
        broken, so that the batch is refused whole. `renew=False`: neither, for files that arrive while runs plan.
        """
        former = list(self.paths) if renew else []
        spoiled = renew and self.random.random() < 0.1
        for _ in range(files or self.random.randint(1, 4)):
            path = f"orders/{self.random.randrange(10**9)}.csv"
            if former and self.random.random() < 0.2:
                path = former.pop(self.random.randrange(len(former)))
            put(self.lake, path, self._rows(self.random.randint(4, 60), spoiled))
            self.paths = sorted({*self.paths, path})

    def _rows(self, count: int, spoiled: bool) -> str:
        broken = self.random.sample(range(count), count if spoiled else self.random.randint(0, count // 4))
        lines = [_HEADER]
        for line in range(count):
            number = FIRST + self.sent.total()
            if line in broken:
                lines.append(self.random.choice(_BROKEN).format(number) + "\n")
                self.sent["quarantine", number] += 1
            else:
                lines.append(f"{number},ink,2024-05-01T12:{number % 60:02}:00Z,{1 + number % 9},\n")
                self.sent["raw", number] += 1
        return "".join(lines)

    def delete_old_metadata_at_every_commit(self) -> None:
        """The tables keep one former metadata.json, so that every commit has something to clean up."""
        for name in ("raw_orders", "quarantine"):
            # by the lake's own catalog, which knows how to delete: docs/parts.md
            with self.lake.catalog().load_table(self.lake.table("shop", name)).transaction() as transaction:
                transaction.set_properties({"write.metadata.previous-versions-max": "1"})

    def check(self) -> Findings:
        """Compare what the tables hold with what was sent."""
        held = Counter(self._held())
        more = held - self.sent
        doubled = sum(count for row, count in more.items() if row in self.sent)
        return Findings((self.sent - held).total(), doubled, more.total() - doubled)

    def _held(self) -> Iterator[tuple[str, int]]:
        if raw := self.table("raw_orders"):
            yield from (("raw", number) for number in raw.scan().to_arrow()["order_id"].to_pylist())
        if quarantine := self.table("quarantine"):
            for row in quarantine.scan().to_arrow()["raw_row"].to_pylist():
                (number,) = set(_NUMBER.findall(row))
                yield "quarantine", int(number)

    def table(self, name: str) -> Table | None:
        """A table of the pipeline, as the checker's own catalog knows it."""
        try:
            return self._catalog.load_table(self.lake.table("shop", name))
        except NoSuchTableError:
            return None

    @cached_property
    def _catalog(self) -> Catalog:
        settings = self.lake.catalog_settings() | {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
        return load_catalog("perennial", **settings)


def settings_of(lake: Lake, pipelines: Path, ray_head: str, s3_endpoint: str | None = None) -> Settings:
    """Settings as a run on this lake reads them; by `s3_endpoint`, with something between it and the S3 server."""
    return Settings(
        environment=lake.environment,
        home=pipelines.parent / "home",
        pipelines_dir=pipelines,
        catalog_uri=lake.catalog_uri,
        catalog_password_secret=lake.catalog_password.name if lake.catalog_password else None,
        s3_endpoint=s3_endpoint or lake.s3_endpoint,
        bucket=lake.bucket,
        secrets_dir=lake.secrets_dir,
        ray_address=ray_head,
        ray_token_secret=None,
    )
