"""Files renamed after their rows came, on S3 and on a disk: the same bytes elsewhere bring no row twice, and are told of."""

import os
from pathlib import Path
from random import Random

import polars as pl
import pytest

from flows.ingest import ingest
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import plan_batch
from perennial.lakehouse.tables import read_snapshot
from tests.shop import FILE, NOON, orders, put, shop, write_shop


def run(settings: Settings) -> int:
    return ingest("shop", "orders", NOON, settings=settings)["orders"]


def ids(lake: Lake) -> list[int]:
    rows = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("shop", "raw_orders"))))
    return sorted(rows["order_id"])


def rename(lake: Lake, old: str, new: str) -> None:
    """As S3 does it: copy, then delete."""
    files = lake.files()
    files.cp_file(lake.uri(f"landing/orders/{old}"), lake.uri(f"landing/orders/{new}"))
    files.rm_file(lake.uri(f"landing/orders/{old}"))


def test_a_renamed_file_brings_no_row_again_however_often_and_is_told_of(
    settings: Settings, lake: Lake, pipelines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(lake, "orders/1.csv", orders(1, 5))
    assert run(settings) == 5
    rename(lake, "1.csv", "2.csv")
    assert run(settings) == 0
    assert (
        "1 file: renamed since their rows came, which are not read again: orders/2.csv (was orders/1.csv)"
        in caplog.text
    )
    caplog.clear()
    assert run(settings) == 0
    assert "renamed" not in caplog.text
    rename(lake, "2.csv", "3.csv")
    put(lake, "orders/9.csv", orders(20, 2))
    assert run(settings) == 2  # recorded in one commit with rows of others
    rename(lake, "3.csv", "1.csv")  # and back to its first name
    assert run(settings) == 0
    assert ids(lake) == [1, 2, 3, 4, 5, 20, 21]


def test_a_copy_beside_its_original_is_a_file_of_its_own(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 3))
    run(settings)
    put(lake, "orders/2.csv", orders(1, 3))
    assert run(settings) == 3
    lake.files().rm_file(lake.uri("landing/orders/1.csv"))
    put(lake, "orders/3.csv", orders(1, 3))
    put(lake, "orders/4.csv", orders(1, 3))
    assert run(settings) == 3  # one that is gone accounts for one
    assert len(ids(lake)) == 9


def test_a_rotated_log_is_known_under_its_new_name(settings: Settings, lake: Lake, pipelines: Path) -> None:
    write_shop(pipelines, FILE.replace('"orders/*.csv"', '"orders/*", format="csv"'))
    put(lake, "orders/log", orders(1, 3))
    run(settings)
    for round_ in range(1, 3):
        if round_ > 1:
            rename(lake, "log.1", "log.2")
        rename(lake, "log", "log.1")
        put(lake, "orders/log", orders(1 + round_ * 10, 3))
        assert run(settings) == 3
    assert ids(lake) == [1, 2, 3, 11, 12, 13, 21, 22, 23]


def test_a_file_that_goes_back_to_an_older_content_is_a_correction(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 3))
    run(settings)
    put(lake, "orders/1.csv", orders(1, 2))
    assert run(settings) == 2
    put(lake, "orders/1.csv", orders(1, 3))
    assert run(settings) == 3


def test_files_on_a_disk_are_known_by_their_bytes(
    settings: Settings, lake: Lake, pipelines: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_shop(pipelines, FILE.replace('"orders/*.csv"', f'"file://{folder}/*.csv"'))
    for name, first in (("1", 1), ("2", 11), ("3", 21)):
        (folder / f"{name}.csv").write_text(orders(first, 5))
    assert run(settings) == 15
    (folder / "1.csv").rename(folder / "a.csv")
    (folder / "b.csv").write_bytes((folder / "2.csv").read_bytes())  # another time of change
    (folder / "2.csv").unlink()
    os.utime(folder / "3.csv", (1, 1))  # touched
    assert run(settings) == 0
    (folder / "a.csv").rename(folder / "c.csv")
    other = orders(1, 5).replace("pen", "ink")  # as long, as old, and something else
    (folder / "d.csv").write_text(other)
    os.utime(folder / "d.csv", ns=((folder / "b.csv").stat().st_atime_ns, (folder / "b.csv").stat().st_mtime_ns))
    (folder / "b.csv").unlink()
    assert run(settings) == 5
    assert run(settings) == 0
    assert ids(lake) == sorted([*range(1, 6), *range(1, 6), *range(11, 16), *range(21, 26)])


def test_an_upload_in_parts_is_known_after_a_copy_in_one_piece(settings: Settings, lake: Lake, pipelines: Path) -> None:
    draw = Random(1)
    rows = [f"{n},{'x' * draw.randrange(20)}pen,2024-05-01T12:00:00Z,1,false" for n in range(1, 150_001)]
    text = ("order_id,product,ordered_at,pieces,returned\n" + "\n".join(rows) + "\n").encode()
    first = lake.uri("landing/orders/1.csv")
    with lake.files().open(first, "wb", block_size=5 * 1024 * 1024) as file:
        file.write(text)
    assert run(settings) == 150_000
    lake.files().rm_file(first)
    lake.files().pipe_file(lake.uri("landing/orders/2.csv"), text)
    assert plan_batch(lake, shop(pipelines), shop(pipelines).source("orders"), NOON).renamed
    assert run(settings) == 0
    assert len(ids(lake)) == 150_000
