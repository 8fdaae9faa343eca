"""What a pipeline declares of its joins, and when rows are known, tried before anything runs: `perennial.spec.load` adds the line."""

from collections.abc import Iterator
from datetime import timedelta

from perennial.rules.declared import Mistake
from perennial.spec.load import source_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import AsOf, At, Before, Join, Source


def find_known_mistakes(source: Source) -> Iterator[Mistake]:
    """A delay that goes backwards, which would make a measurement known before it was made."""
    here, known = f"{type(source).__name__}({source.name})", source.known
    if isinstance(known, At) and known.delay < timedelta(0):
        yield (
            f"known of source {source.name!r} looks into the future: its delay of {known.delay} is before {known.column!r}. "
            "What is measured is known when it is, or later; what is planned ahead is known Before(column, hours).",
            [here, "known"],
        )
    if isinstance(known, Before) and not known.hours >= 0:
        yield (
            f"known of source {source.name!r}: hours={known.hours} must be 0 or more before {known.column!r}; what is known "
            "after it is At(column, delay).",
            [here, "known"],
        )


def find_join_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Mistakes of the pipeline's joins, in their order; their sources are there."""
    seen: set[str] = set()
    for join in pipeline.joins:
        here = f"{type(join).__name__}({join.source})"
        if join.source in seen:
            yield (
                f"two joins bring the source {join.source!r}, and the columns of both would be called {join.source}_...: which "
                "one is meant? Declare it as two sources, each with a name of its own, and join each once.",
                ["joins", here],
            )
        seen.add(join.source)
        source = pipeline.source(join.source)
        ours, theirs = source_columns(pipeline.entity_source), source_columns(source)
        for left, right in join.columns.items():
            if ours[left] != theirs[right]:
                message = f"{left!r} is {ours[left]} and {right!r} of {join.source!r} is {theirs[right]}"
                yield f"join with {join.source!r}: {message}: they would never be equal.", ["joins", here, left]
        yield from ((message, ["joins", here, *words]) for message, words in _future_mistakes(pipeline, source, join))


def _future_mistakes(pipeline: Pipeline, source: Source, join: Join) -> Iterator[Mistake]:
    """A join that would bring the label, or goes by it, before anybody could know it."""
    entity, label = pipeline.entity_source, pipeline.label
    if label.source == source.name and isinstance(source.known, Before) and known_ahead(source):
        yield (
            f"join with {source.name!r} looks into the future: labels of {source.name!r} are declared known before "
            f"{source.known.column!r}, when what they tell of happens. Say when each was known: known=At(...).",
            [],
        )
    if label.source:
        return
    for column in sorted(label.columns & set(join.columns)):
        yield label_as_key(f"join with {source.name!r}", column), [column]
    time = source.event_time if isinstance(join, AsOf) else None
    if source is entity and (brought := label.columns - set(join.columns.values()) - {time}):
        yield (
            f"join with {source.name!r} looks into the future: it brings {sorted(brought)}, of which the label is made, and "
            "finds the very row that is predicted for. Bring labels in as a source of their own that says when each was "
            "known, and join that.",
            [],
        )


def known_ahead(source: Source) -> bool:
    """Whether its rows are declared known before what they tell of happens."""
    return isinstance(source.known, Before) and source.known.hours > 0


def label_as_key(what: str, column: str) -> str:
    """That `what` looks rows up by the label, which nobody has at the moment of a prediction."""
    return (
        f"{what} looks into the future: it goes by {column!r}, of which the label is made, and no prediction knows it."
    )
