"""Text as it arrives: every row is read once and as it was written, and what is no row is kept with its reason."""

import gzip
import itertools
import json
from decimal import Decimal
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.ingest.chunks import Blocks, Chunk, Span, UnreadableFile
from ray_jobs.ingest.json_lines import read_objects
from ray_jobs.ingest.raw_files import Raw
from ray_jobs.ingest.split import even_ranges, line_ranges, quote_ranges, scan_quotes
from ray_jobs.ingest.text import read_csv, read_header, read_lines, split_marked
from ray_jobs.ingest.together import SmallText, read_together
from ray_jobs.ingest.typed import finish_typed, read_parquet

BLOCK_BYTES = 1024 * 1024
# with what is special in a field of CSV, and characters of one to four bytes
fields = st.text(st.sampled_from('ab",\n\r é€😀'), max_size=6)
tables = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[fields] * width).filter(lambda row: row != ("",)), min_size=1, max_size=12)
)


def written(rows: list[tuple[str, ...]], line_end: str, quote_all: bool) -> bytes:
    """An RFC 4180 file with a header. Python's own writer leaves a carriage return without quotes."""

    def field(text: str) -> str:
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if quote_all or set(text) & set(',"\r\n') else text

    header = [f"c{number}" for number in range(len(rows[0]))]
    return "".join(",".join(map(field, row)) + line_end for row in [header, *rows]).encode()


def opened(content: bytes, start: int = 0, end: int | None = None) -> Raw:
    """Bytes as a file."""
    return Raw(pa.BufferReader(content), start, len(content) if end is None else end)


def rows_of(chunks: list[Chunk]) -> list[tuple[str | None, ...]]:
    """All rows."""
    return [tuple(row.values()) for chunk in chunks for row in chunk.rows.to_pylist()]


@given(tables, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_file_cut_anywhere_has_the_rows_of_the_whole(
    rows: list[tuple[str, ...]], line_end: str, quote_all: bool, data: st.DataObject
) -> None:
    content = written(rows, line_end, quote_all)
    at = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=5)))
    edges = [0, *at, len(content)]
    chunk_bytes = data.draw(st.integers(1, 9))
    scans = [
        scan_quotes(opened(content), start, end, len(content), chunk_bytes) for start, end in itertools.pairwise(edges)
    ]
    ranges = quote_ranges(scans, len(content))
    assert ranges is not None
    assert (ranges[0][0], ranges[-1][1]) == (0, len(content))
    names = [f"c{number}" for number in range(len(rows[0]))]
    pieces = [
        list(read_csv(opened(content, start, end), names if start else None, BLOCK_BYTES)) for start, end in ranges
    ]
    whole = rows_of(list(read_csv(opened(content), None, BLOCK_BYTES)))
    assert rows_of([chunk for piece in pieces for chunk in piece]) == whole
    assert [tuple(field or "" for field in row) for row in whole] == rows
    assert not any(chunk.unreadable for piece in pieces for chunk in piece)


def test_ranges_begin_at_every_record_that_a_cut_falls_into() -> None:
    content = written([(f"a{number}", 'x",\n') for number in range(500)], "\r\n", quote_all=False)
    edges = even_ranges(len(content), 1000)
    scans = [scan_quotes(opened(content), start, end, len(content)) for start, end in edges]
    ranges = quote_ranges(scans, len(content))
    assert ranges
    assert len(ranges) == len(edges) > 5
    assert all(content[start - 1 : start] == b"\n" and content[start : start + 1] == b"a" for start, _ in ranges[1:])


@pytest.mark.parametrize("row", ['5,3" pipe\n', '6," a" b\n', '7,"never closed\n'])
def test_a_file_with_a_quote_where_none_belongs_is_not_cut(row: str) -> None:
    content = ("a,b\n" + '1,"x\ny"\n' * 50 + row + '1,"x\ny"\n' * 50).encode()
    scans = [scan_quotes(opened(content), start, end, len(content)) for start, end in even_ranges(len(content), 100)]
    assert quote_ranges(scans, len(content)) is None


@given(st.lists(st.text(st.sampled_from("a é€😀\r"), max_size=8), min_size=1), st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_lines_cut_anywhere_are_the_lines_of_the_whole(lines: list[str], split_bytes: int) -> None:
    content = "\n".join(orjson.dumps(line).decode() for line in lines).encode()
    ranges = line_ranges(opened(content), even_ranges(len(content), split_bytes))
    pieces = [chunk for start, end in ranges for chunk in read_lines(opened(content, start, end), BLOCK_BYTES)]
    assert [json.loads(row[0] or "") for row in rows_of(pieces)] == lines


@given(tables, st.binary(min_size=1, max_size=3), st.data())
@settings(deadline=None, max_examples=40)
def test_bytes_that_are_no_text_cost_their_rows_and_no_others(
    rows: list[tuple[str, ...]], bad: bytes, data: st.DataObject
) -> None:
    content = written([(*row, str(number)) for number, row in enumerate(rows)], "\n", quote_all=True)
    number = data.draw(st.integers(0, len(rows) - 1))
    field = f',"{number}"'.encode()
    content = content.replace(field, field[:-1] + b"\xff" + bad.replace(b'"', b"").replace(b"\n", b"") + b'"')
    stream = opened(content)
    chunks = list(read_csv(stream, None, BLOCK_BYTES))
    assert all(chunk.marked for chunk in chunks)
    good, broken = split_marked(pl.DataFrame(pl.from_arrow(pa.concat_tables(c.rows for c in chunks))))
    last = good.columns[-1]
    assert good[last].to_list() == [str(n) for n in range(len(rows)) if n != number]
    assert broken["_failed_checks"].to_list() == [["text:not UTF-8"]]
    assert broken[last][0].startswith(f"{number}\\xff")


def test_an_odd_number_of_quotes_is_no_fault_where_the_last_field_is_closed() -> None:
    content = b'a,b\n5" pipe,x\n1,"y\nz"\n'
    assert rows_of(list(read_csv(opened(content), None, BLOCK_BYTES))) == [('5" pipe', "x"), ("1", "y\nz")]


def test_an_empty_field_is_null_and_a_quoted_one_is_empty() -> None:
    assert rows_of(list(read_csv(opened(b'a,b\n1,\n,""\n'), None, BLOCK_BYTES))) == [("1", None), (None, "")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_any_system_ends_them(end: str) -> None:
    content = f"\ufeffa,b{end}1,2{end}{end}3,4".encode()
    assert rows_of(list(read_csv(opened(content), None, BLOCK_BYTES))) == [("1", "2"), ("3", "4")]


def test_a_line_with_too_few_or_too_many_fields_is_kept_beside_the_rows() -> None:
    chunks = list(read_csv(opened(b'a,b\n1,2\n3\n5,6\n7,"\xff",9\n'), None, BLOCK_BYTES))
    assert rows_of(chunks) == [("1", "2"), ("5", "6")]
    found = [(where, reason) for chunk in chunks for _, where, reason in chunk.unreadable]
    assert found == [
        ("unreadable 1", "csv:columns(expected 2, found 1)"),
        ("unreadable 2", "csv:columns(expected 2, found 3)"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must name every column once"),
        (b"\n\n", "must name every column once"),
        (b"a,b,a\n1,2,3\n", "must name every column once"),
        (b'a,b\n1,"x\n2,3\n4,5\n', "never closed"),
        (b'a,b\r1,"x\r2,3\r4,5\r', "never closed"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        list(read_csv(opened(content), None, BLOCK_BYTES))


def test_a_header_alone_has_no_rows() -> None:
    assert rows_of(list(read_csv(opened(b"a,b\n"), None, BLOCK_BYTES))) == []
    assert read_header(b'"a\nx",b') == ["a\nx", "b"]


small_files = st.lists(
    st.lists(
        st.sampled_from(
            ["1,2", "3,4", "5", "6,7,8", "", "x,é", "9,\r", "a,\rb", '"p, q",8', 'x"y,"z', '"', '"n\nm",9', '"",""""']
        ),
        max_size=4,
    ).map("\n".join),
    max_size=6,
)


@given(small_files, st.sampled_from(["\n", ""]))
@settings(deadline=None, max_examples=150)
def test_files_read_together_have_the_rows_and_places_of_each_alone(bodies: list[str], end: str) -> None:
    contents = {f"f{number}": f"a,b\n{body}{end}".encode() for number, body in enumerate(bodies)}
    texts = [text for name, content in contents.items() if (text := SmallText.of(name, content, "csv", None))]
    together: dict[str, list[tuple[str | None, ...]]] = {}
    for read in read_together(texts, "csv", BLOCK_BYTES) if texts else ():
        if isinstance(read, SmallText):
            assert any(mark in b"\n" + read.body for mark in (b"5", b"6", b"\n\n", b'"'))
            continue
        chunk, spans = read
        rows = iter(rows_of([chunk]))
        for span in spans:
            together[span.name] = [next(rows) for _ in range(span.rows)]
        assert next(rows, None) is None
    for name, rows_together in together.items():
        assert rows_together == rows_of(list(read_csv(opened(contents[name]), None, BLOCK_BYTES)))


def test_each_of_several_files_may_begin_with_a_byte_order_mark() -> None:
    texts = [SmallText.of(name, b'\xef\xbb\xbf{"a":1}\n', "jsonl", None) for name in "ab"]
    [read] = read_together([text for text in texts if text], "jsonl", BLOCK_BYTES)
    assert not isinstance(read, SmallText)
    assert rows_of([read[0]]) == [('{"a":1}',)] * 2


def test_decimals_of_any_length_can_be_read() -> None:
    table = pa.table({"a": pa.array([Decimal("1.25"), None], pa.decimal256(50, 2))})
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    [(_, chunk)] = read_parquet(pa.BufferReader(file.getvalue()), BLOCK_BYTES, 0, 1 << 30)
    assert rows_of([chunk]) == [("1.25",), (None,)]


json_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text('ab"\\\n{}[],:é', max_size=5)
broken_lines = st.sampled_from(
    [
        '{"a":1',
        '"b":2}',
        '{"a":1},{"a":2}',
        '{"a":1}{"a":2}',
        "[1]",
        "5",
        "null",
        '"x"',
        "{",
        "}",
        '{"a":NaN}',
        "x",
        '{"a":[{"x":1}',
        '{"b":2}]}',
        '{"a":{"x":1}',
        '{,"a":1}',
        "{}x",
    ]
)


@given(st.lists(st.dictionaries(st.sampled_from("abcz"), json_values | st.lists(json_values)) | broken_lines))
@settings(deadline=None, max_examples=100)
def test_every_json_line_is_read_by_itself(lines: list[dict[str, Any] | str]) -> None:
    texts = [line.encode() if isinstance(line, str) else orjson.dumps(line) for line in lines]
    reasons: dict[int, str] = {}
    rows = read_objects(texts, ["a", "b", "c"], reasons)
    objects = [line for line in lines if isinstance(line, dict)]
    names = {"a", "b", "c", *(name for line in objects for name in line)}
    assert rows.select(sorted(names)).to_dicts() == [
        {name: as_text(line.get(name)) for name in sorted(names)} for line in objects
    ]
    assert sorted(reasons) == [number for number, line in enumerate(lines) if isinstance(line, str)]


def as_text(value: Any) -> str | None:
    """A JSON value as a field of text."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def test_bytes_of_typed_files_are_text_or_hexadecimal_digits() -> None:
    rows, _ = finish_typed(pl.DataFrame({"a": [b"ok", b"\xff", None], "b": [b"x", b"y", b"z"]}), False)
    assert rows.to_dict(as_series=False) == {"a": ["ok", "ff", None], "b": ["x", "y", "z"]}


def test_blocks_keep_where_every_row_stood_and_never_mix_columns() -> None:
    blocks = Blocks(10**9)

    def finish(rows: pl.DataFrame, marked: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
        return rows, rows.head(0).with_columns(_failed_checks=pl.lit([], pl.List(pl.String)))

    found = []
    for name, columns in (("x", "ab"), ("y", "ba"), ("z", "abc")):
        rows = pa.table({column: [f"{name}{column}1", f"{name}{column}2"] for column in columns})
        found += list(blocks.add(Chunk(rows, [("?", "unreadable 1", "why")]), [Span(name, 5, 2)], finish))
    found += list(blocks.flush())
    assert [rows["_position"].to_list() for rows, _ in found] == [["x#5", "x#6", "y#5", "y#6"], ["z#5", "z#6"]]
    assert found[0][0]["a"].to_list() == ["xa1", "xa2", "ya1", "ya2"]
    assert [broken["_position"].to_list() for _, broken in found] == [
        ["x#unreadable 1", "y#unreadable 1"],
        ["z#unreadable 1"],
    ]


def test_a_block_is_handed_on_once_it_is_large_enough() -> None:
    content = gzip.decompress(gzip.compress(b"a,b\n" + b"12345,67890\n" * 2000))
    assert len(list(read_csv(opened(content), None, 4096))) > 4
