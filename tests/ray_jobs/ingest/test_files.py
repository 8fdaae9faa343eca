"""Files on real S3, and on a disk, as blocks of rows: every format, packed or not, whole, torn, rewritten or gone."""

import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pandera.polars as pa
import polars as pl
import pyarrow
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.files import FilePart, changed_parts, list_files, place_of
from perennial.spec import Files, UtcMicroseconds
from perennial.spec.sources import FileFormat
from ray_jobs.ingest.chunks import PartsUnreadable
from ray_jobs.ingest.files import read_files
from ray_jobs.ingest.raw_files import FileRange, open_part
from ray_jobs.ingest.split import cut_ranges, even_ranges
from tests.shop import put

BLOCK_BYTES = 1024 * 1024
AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
ROWS = [{"number": n, "word": f"w{n}", "seen_at": AT} for n in range(1, 4)]


class Seen(pa.DataFrameModel):
    """Grain: one number."""

    number: int
    word: str
    seen_at: UtcMicroseconds


def files(pattern: str, file_format: FileFormat | None = None) -> Files:
    """A source of numbers."""
    return Files("seen", pattern, format=file_format, contract=Seen, key=["number"])


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{','.join(map(str, row))}\n" for row in [rows[0], *(row.values() for row in rows)]).encode()


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer, row_group_size=2)
    return buffer.getvalue()


def as_avro(rows: list[dict[str, Any]]) -> bytes:
    instant = {"type": "long", "logicalType": "timestamp-micros"}
    types = {"number": "int", "word": ["null", "string"], "seen_at": instant}
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    buffer = io.BytesIO()
    fastavro.writer(
        buffer, fastavro.parse_schema({"type": "record", "name": "Seen", "fields": fields}), rows, "deflate"
    )
    return buffer.getvalue()


def as_zstd(content: bytes) -> bytes:
    return bytes(pyarrow.Codec("zstd").compress(content, asbytes=True))


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "parquet": as_parquet,
    "avro": as_avro,
    "csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "jsonl.zst": lambda rows: as_zstd(as_json_lines(rows)),
}


def land(lake: Lake, path: str, content: bytes) -> None:
    lake.files().pipe_file(lake.uri(f"landing/{path}"), content)


def read(lake: Lake, source: Files, parts: list[FilePart] | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All rows, and all that is none."""
    blocks = list(read_files(lake, source, list_files(lake, source) if parts is None else parts, BLOCK_BYTES))
    rows, broken = [rows for rows, _ in blocks], [broken for _, broken in blocks]
    return pl.concat(rows, how="diagonal"), pl.concat(broken, how="diagonal")


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows_with_their_places(lake: Lake, suffix: str) -> None:
    land(lake, f"seen/1.{suffix}", WRITERS[suffix](ROWS))
    rows, broken = read(lake, files(f"seen/*.{suffix}"))
    assert rows.select(pl.col("number").cast(pl.Int64))["number"].to_list() == [1, 2, 3]
    assert rows["word"].to_list() == ["w1", "w2", "w3"]
    assert [str(value)[:19] for value in rows["seen_at"]] == ["2024-05-01 12:00:00"] * 3
    assert rows["_position"].to_list() == [f"seen/1.{suffix}#{n}" for n in (1, 2, 3)]
    assert broken.is_empty()


@pytest.mark.parametrize("suffix", WRITERS)
def test_nothing_is_null_in_every_format(lake: Lake, suffix: str) -> None:
    rows = [{**ROWS[0], "word": None if suffix.partition(".")[0] != "csv" else ""}]
    land(lake, f"seen/1.{suffix}", WRITERS[suffix](rows))
    assert read(lake, files(f"seen/*.{suffix}"))[0]["word"].to_list() == [None]


@pytest.mark.parametrize(
    ("suffix", "tear"),
    [
        ("csv.gz", lambda content: content[:-9]),
        ("csv.gz", lambda content: b"no gzip"),
        ("jsonl.zst", lambda content: content[:-4]),
        ("parquet", lambda content: content[:-9]),
        ("parquet", lambda content: content[:40] + b"\0" * 30 + content[70:]),
        ("avro", lambda content: content[:-4]),
        ("avro", lambda content: b"no avro"),
        ("csv", lambda content: b""),
        ("csv", lambda content: content + b'7,w,"2024\n8,w,2024\n'),
    ],
)
def test_a_broken_file_is_named_and_the_others_are_read(
    lake: Lake, suffix: str, tear: Callable[[bytes], bytes]
) -> None:
    land(lake, f"seen/1.{suffix}", tear(WRITERS[suffix](ROWS)))
    land(lake, f"seen/2.{suffix}", WRITERS[suffix](ROWS))
    source = files(f"seen/*.{suffix}")
    blocks = read_files(lake, source, list_files(lake, source), BLOCK_BYTES)
    seen: list[str] = []

    def drain() -> None:
        for rows, _ in blocks:
            seen.extend(rows["_position"])

    with pytest.raises(PartsUnreadable) as raised:
        drain()
    assert [part.partition("@")[0] for part in raised.value.reasons] == [f"seen/1.{suffix}"]
    assert f"seen/2.{suffix}#3" in seen


def test_a_server_that_refuses_is_no_broken_file(lake: Lake, tmp_path: Path) -> None:
    land(lake, "seen/1.csv.gz", WRITERS["csv.gz"](ROWS))
    source = files("seen/*.csv.gz")
    parts = list_files(lake, source)
    for name in ("s3_access_key", "s3_secret_key"):
        (tmp_path / name).write_text("x" * 20)
    stranger = lake.model_copy(update={"secrets_dir": tmp_path})
    with pytest.raises(OSError, match=r"(?i)access|forbidden|invalid"):
        list(read_files(stranger, source, parts, BLOCK_BYTES))


def test_a_file_rewritten_or_gone_since_it_was_listed_is_found_out(lake: Lake) -> None:
    for name in ("kept", "rewritten", "gone"):
        land(lake, f"seen/{name}.csv", as_csv(ROWS))
    source = files("seen/*.csv")
    parts = list_files(lake, source)
    land(lake, "seen/rewritten.csv", as_csv(ROWS[:1]))
    lake.files().rm_file(lake.uri("landing/seen/gone.csv"))
    changed = changed_parts(lake, source, parts)
    assert {identity.partition("@")[0] for identity in changed} == {"seen/gone.csv", "seen/rewritten.csv"}
    with pytest.raises(PartsUnreadable, match=r"seen/gone.csv.*changed since it was listed"):
        list(read_files(lake, source, parts, BLOCK_BYTES))


def test_many_changes_are_found_with_one_listing(lake: Lake) -> None:
    for number in range(25):
        land(lake, f"seen/{number:02}.csv", as_csv(ROWS))
    source = files("seen/*.csv")
    parts = list_files(lake, source)
    land(lake, "seen/07.csv", as_csv(ROWS[:1]))
    assert {identity.partition("@")[0] for identity in changed_parts(lake, source, parts)} == {"seen/07.csv"}


def test_small_files_whose_texts_hold_commas_make_one_block(lake: Lake) -> None:
    for number in range(10):
        land(lake, f"seen/{number}.csv", f'number,word,seen_at\n{number},"a, b",2024-05-01\n'.encode())
    source = files("seen/*.csv")
    [(rows, _)] = read_files(lake, source, list_files(lake, source), BLOCK_BYTES)
    assert rows["word"].to_list() == ["a, b"] * 10
    assert rows["_position"].to_list() == [f"seen/{number}.csv#1" for number in range(10)]


def test_an_object_is_read_with_its_version_whatever_its_name(lake: Lake) -> None:
    name = "seen/å b+c=d&e~(1).csv"
    land(lake, name, b"first")
    content, version = lake.objects().read(lake.uri(f"landing/{name}").removeprefix("s3://"))
    [part] = list_files(lake, files("seen/*.csv"))
    assert (content, version) == (b"first", part.etag)
    land(lake, name, b"second")
    content, later = lake.objects().read(lake.uri(f"landing/{name}").removeprefix("s3://"))
    assert (content, later != version) == (b"second", True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        lake.objects().read("lake/nowhere.csv")


def test_small_files_with_columns_in_any_order_make_one_block(lake: Lake) -> None:
    for number in range(40):
        row = {"number": number, "word": "x", "seen_at": AT}
        land(lake, f"seen/{number:02}.csv", as_csv([row if number % 2 else dict(reversed(row.items()))]))
    source = files("seen/*.csv")
    blocks = list(read_files(lake, source, list_files(lake, source), BLOCK_BYTES))
    assert len(blocks) == 1
    assert blocks[0][0]["number"].to_list() == [str(number) for number in range(40)]


def test_a_large_file_is_read_in_ranges_without_losing_or_doubling_a_row(lake: Lake) -> None:
    for suffix in ("parquet", "csv"):
        land(lake, f"seen/1.{suffix}", WRITERS[suffix]([{**ROWS[0], "number": n} for n in range(100)]))
    source = files("seen/1.parquet")
    [part] = list_files(lake, source)
    pieces: list[FilePart] = [*cut_ranges(part, even_ranges(part.bytes, part.bytes // 5))]
    rows, _ = read(lake, source, pieces)
    assert sorted(map(int, rows["number"])) == list(range(100))
    assert rows["_position"].n_unique() == 100
    source = files("seen/1.csv")
    [part] = list_files(lake, source)
    content = open_part(place_of(lake, source.pattern), part).read()
    middle = content.index(b"\n", len(content) // 2) + 1
    rows, _ = read(lake, source, [FileRange(**part.model_dump(), start=middle, end=part.bytes)])
    assert rows["_position"][0] == f"seen/1.csv@{middle}#1"
    assert rows.columns[:3] == ["number", "word", "seen_at"]


def test_files_may_lie_on_a_disk_and_in_another_bucket(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.csv").write_bytes(as_csv(ROWS))
    source = files(f"file://{tmp_path}/in/*.csv")
    rows, _ = read(lake, source)
    assert rows["_position"][0] == f"file://{tmp_path}/in/1.csv#1"
    [part] = list_files(lake, source)
    (tmp_path / "in" / "1.csv").write_bytes(as_csv(ROWS) + b"4,w,2024\n")
    assert changed_parts(lake, source, [part]) == {part.identity}
    lake.files().mkdirs("other", exist_ok=True)
    lake.files().pipe_file(f"s3://other/{lake.environment}/1.csv", as_csv(ROWS))
    rows, _ = read(lake, files(f"s3://other/{lake.environment}/*.csv"))
    assert rows["_position"][0] == f"s3://other/{lake.environment}/1.csv#1"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("seen/*.csv", ["seen/a.csv", "seen/b.csv"]),
        ("seen/a.csv", ["seen/a.csv"]),
        ("seen/none.csv", []),
        ("none/*.csv", []),
        ("*/a.csv", ["seen/a.csv"]),
        ("seen/**/*.csv", ["seen/a.csv", "seen/b.csv", "seen/day=1/c.csv"]),
        ("seen/day=*/*.csv", ["seen/day=1/c.csv"]),
        ("seen/[b-z].csv", ["seen/b.csv"]),
    ],
)
def test_a_pattern_finds_its_files_and_no_hidden_ones(lake: Lake, pattern: str, found: list[str]) -> None:
    for path in ("seen/b.csv", "seen/a.csv", "seen/day=1/c.csv", "seen/.d.csv", "seen/.tmp/e.csv", "seen/f.csv.tmp"):
        put(lake, path, "a\n1\n")
    assert [part.path for part in list_files(lake, files(pattern))] == found


def test_a_name_that_does_not_say_the_format_is_refused_and_a_declared_one_is_not(lake: Lake) -> None:
    land(lake, "seen/1", as_csv(ROWS))
    with pytest.raises(PartsUnreadable, match="say format="):
        read(lake, files("seen/*"))
    assert len(read(lake, files("seen/*", "csv"))[0]) == 3
