"""Whether a version can be served: what a replica's own code made of it in, every check with its figure out. Pure."""

from pydantic import BaseModel

from perennial.spec.promotion import Promotion


class Probed(BaseModel, frozen=True):
    """What came of a version in a worker process that runs a replica's code.

    Args:
        failure: why it could not be loaded or could not answer; the figures are then missing.
        artifact_bytes: of all its files.
        load_seconds: from the row to a scorer that has reproduced its golden rows.
        latency_ms: the fastest of `answers` one-row requests, from a body's bytes to scores: what the version takes by
            itself, whoever else is on the machine; `latency_ms_median` of the same.
        difference: the largest between a score here and at training on `compared` rows, in the label's standard
            deviations.
    """

    failure: str | None = None
    artifact_bytes: int | None = None
    load_seconds: float | None = None
    latency_ms: float | None = None
    latency_ms_median: float | None = None
    answers: int = 0
    difference: float | None = None
    compared: int = 0


class Check(BaseModel, frozen=True):
    """One thing that was asked of a version. `found`: what was seen, for people."""

    check: str
    passed: bool
    found: str


def judge_probe(probed: Probed, policy: Promotion) -> list[Check]:
    """Every check of the infrastructure gate on a probe; it is passed when all of them are."""
    if probed.failure is not None:
        return [Check(check="loads, reproduces its golden rows and answers", passed=False, found=probed.failure)]
    assert probed.artifact_bytes is not None
    assert probed.latency_ms is not None
    assert probed.difference is not None
    size, latency, off = policy.maximum_artifact_bytes, policy.maximum_latency_ms, policy.score_tolerance
    return [
        Check(
            check="loads, reproduces its golden rows and answers",
            passed=True,
            found=f"{probed.answers} answers, loaded in {probed.load_seconds:.2f} s",
        ),
        Check(
            check=f"files of at most {size:,} bytes",
            passed=probed.artifact_bytes <= size,
            found=f"{probed.artifact_bytes:,} bytes",
        ),
        Check(
            check=f"one row in at most {latency:g} ms",
            passed=probed.latency_ms <= latency,
            found=f"fastest {probed.latency_ms:.1f} ms, median {probed.latency_ms_median:.1f} ms, of {probed.answers} answers",
        ),
        Check(
            check=f"scores as at training, within {off:g}",
            passed=probed.difference <= off,
            found=f"off by {probed.difference:.2g} at most on {probed.compared} rows",
        ),
    ]
