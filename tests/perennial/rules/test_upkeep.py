"""Pure judgements: packing files and telling what is left over."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from perennial.rules.upkeep import SMALL_SHARE, SizedFile, is_left_over, pack, safe_age

NOW = datetime(2024, 5, 1, tzinfo=UTC)
SIZES = st.lists(st.tuples(st.integers(1, 150), st.sampled_from("ab")), max_size=60)


@given(SIZES)
def test_groups_hold_small_files_of_one_partition_once_and_no_more_than_the_target(
    sizes: list[tuple[int, str]],
) -> None:
    files = [SizedFile(str(number), size, partition) for number, (size, partition) in enumerate(sizes)]
    by_path = {file.path: file for file in files}
    groups = pack(files, 100)
    packed = [path for group in groups for path in group]
    assert len(packed) == len(set(packed))
    for group in groups:
        members = [by_path[path] for path in group]
        assert len({file.partition for file in members}) == 1
        assert sum(file.bytes for file in members) <= 100
        assert all(file.bytes < SMALL_SHARE * 100 for file in members)


@given(SIZES)
def test_what_packing_leaves_is_not_worth_packing_again(sizes: list[tuple[int, str]]) -> None:
    files = [SizedFile(str(number), size, partition) for number, (size, partition) in enumerate(sizes)]
    for _ in range(10):
        groups = pack(files, 100)
        if not groups:
            break
        by_path = {file.path: file for file in files}
        written = [
            SizedFile("+".join(group), sum(by_path[p].bytes for p in group), by_path[group[0]].partition)
            for group in groups
        ]
        gone = {path for group in groups for path in group}
        files = [file for file in files if file.path not in gone] + written
    assert not pack(files, 100)


def test_two_small_files_wait_for_more_and_two_halves_do_not() -> None:
    assert pack([SizedFile("a", 5), SizedFile("b", 5)], 100) == []
    assert pack([SizedFile("a", 50), SizedFile("b", 50)], 100) == [["a", "b"]]


def test_a_slow_publish_makes_files_live_longer() -> None:
    assert safe_age(timedelta(minutes=5)) == timedelta(hours=24)
    assert safe_age(timedelta(hours=6)) == timedelta(hours=60)
    assert is_left_over(NOW - timedelta(hours=2), NOW, timedelta(minutes=5))
    assert not is_left_over(NOW - timedelta(hours=2), NOW, timedelta(minutes=15))
