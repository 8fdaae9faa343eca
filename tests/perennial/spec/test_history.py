"""Mistakes of history features: each is refused when the file is loaded, by name and line."""

import re
from pathlib import Path

import pytest

from perennial.spec import PipelineError, load_pipeline
from tests.ray_jobs.features.parcels import FILE, write_parcels

DAYS = 'History("depot_days", "deliveries", "mean", "days", by="depot", window=timedelta(hours=12)'
MISTAKES = {
    # what is wrong: text of the right line, text of the wrong one, what the message says
    "a source that is not there": (
        '"deliveries", "mean"',
        '"delivery", "mean"',
        "'delivery'.*did you mean 'deliveries'",
    ),
    "an aggregate": ('"mean", "days"', '"maen", "days"', "no aggregate 'maen'; did you mean 'mean'"),
    "a column": ('"mean", "days"', '"mean", "day"', "no column 'day'; did you mean 'days'"),
    "a key of ours": ('by="depot"', 'by={"depo": "depot"}', "side of 'parcels': there is no column 'depo'"),
    "a key of theirs": ('by="depot"', 'by={"depot": "grams"}', "side of 'deliveries': there is no column 'grams'"),
    "keys that never agree": (
        'by="depot"',
        'by={"depot": "days"}',
        "String and 'days'.*Float64: they would never be equal",
    ),
    "itself": ('"mean", "days"', '"mean", "depot_days"', "'depot_days' is itself, which would be circular"),
    "another history": ('"mean", "days"', '"mean", "heaviest"', "'heaviest' is another history feature.*circular"),
    "no time": (
        '"deliveries", "mean", "days"',
        '"depots", "mean", "vans"',
        "ambiguous in time: source 'depots' has no",
    ),
    "a window ahead": ("timedelta(hours=12)", "timedelta(hours=-12)", "looks into the future"),
    "a window of no time": ("timedelta(hours=12)", "12", "window 12 must be a timedelta, a Calendar"),
    "a zone": ("timedelta(hours=12)", 'Calendar("day", "Berlin")', "no time zone 'Berlin'"),
    "a period": ("timedelta(hours=12)", 'Calendar("dya", "UTC")', "no calendar period 'dya'; did you mean 'day'"),
    "no value": ('"mean", "days"', '"mean"', "say what mean is taken of"),
    "a text": ('"mean", "days"', '"mean", "depot"', "mean is of numbers, and its value is String"),
    "other rows": ('"mean", "days"', '"mean", pl.col("days").shift(-1)', "looks at other rows"),
    "an aggregate as a value": ('"mean", "days"', '"mean", pl.col("days").mean()', "looks at other rows"),
    "a Python function": (
        '"mean", "days"',
        '"mean", pl.col("days").map_batches(lambda days: 2.5 * days)',
        "'depot_days' calls a Python function.*Polars's own",
    ),
    "a where": ('"mean", "days"', '"mean", "days", where=pl.col("days") + 1', "where must be true or false"),
    "a half-life": ('"mean", "days"', '"mean", "days", half_life=timedelta(hours=1)', "half_life goes with"),
    "a name": ('"depot_days"', '"grams"', "'grams' is called like another column"),
    "a name twice": ('"depot_days"', '"depots_vans"', "'depots_vans' is called like another column"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_refused_by_name_and_line(tmp_path: Path, what: str) -> None:
    right, wrong, says = MISTAKES[what]
    text = FILE.replace(DAYS, DAYS.replace(right, wrong))
    line = text[: text.index("History(", text.index("history=["))].count("\n") + 1
    with pytest.raises(PipelineError, match=says) as refused:
        load_pipeline("parcels", write_parcels(tmp_path / "p", text))
    assert re.search(rf"parcels\.py:{line}: ", str(refused.value)), str(refused.value)


def test_labels_that_are_known_with_the_row_itself_have_no_history(tmp_path: Path) -> None:
    own = FILE.replace('pl.col("days") > 2, source="deliveries"', 'pl.col("grams") > 500')
    own = own.replace('event_time="sent_at"', 'event_time="sent_at", known=At("sent_at")').replace(
        '        "grams", ', "        "
    )
    with pytest.raises(PipelineError, match=r"looks into the future: it reads 'grams', of which the label is made"):
        load_pipeline("parcels", write_parcels(tmp_path / "p", own))


@pytest.mark.parametrize(
    ("known", "refused"), [('Before("delivered_at", hours=1)', True), ('At("delivered_at")', False)]
)
def test_a_join_of_labels_counts_from_when_they_were_known(tmp_path: Path, known: str, refused: bool) -> None:
    text = FILE.replace('event_time="delivered_at"', f'event_time="delivered_at", known={known}')
    text = text.replace("At, Calendar", "At, Before, Calendar")
    start, end = text.index("    history=["), text.index("    features=")
    text = text[:start] + text[end:]
    text = text.replace('"depot_days", "late_share", "sent_today", "heaviest", "all_sent", ', "")
    text = text.replace(
        'Lookup("depots"', 'AsOf("deliveries", by="depot", tolerance=timedelta(hours=9)), Lookup("depots"'
    )
    if refused:
        with pytest.raises(PipelineError, match="join with 'deliveries' looks into the future: labels"):
            load_pipeline("parcels", write_parcels(tmp_path / "p", text))
    else:
        load_pipeline("parcels", write_parcels(tmp_path / "p", text))


def test_a_history_by_the_label_is_refused(tmp_path: Path) -> None:
    text = FILE.replace('pl.col("days") > 2, source="deliveries"', 'pl.col("depot") == "north"')
    with pytest.raises(PipelineError, match="'depot_days' looks into the future: it goes by 'depot'"):
        load_pipeline(
            "parcels",
            write_parcels(
                tmp_path / "p",
                text.replace(', Lookup("depots", on="depot")', "")
                .replace('AsOf("storms", by="depot", tolerance=timedelta(hours=9))', "")
                .replace(', force="storms_force", vans="depots_vans"', ""),
            ),
        )


def test_features_that_look_at_other_rows_are_refused(tmp_path: Path) -> None:
    text = FILE.replace('force="storms_force"', 'force=pl.col("storms_force").shift(-1)')
    with pytest.raises(PipelineError, match=r"gives a row another 'force' beside other rows than alone"):
        load_pipeline("parcels", write_parcels(tmp_path / "p", text))
