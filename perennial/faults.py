"""Places in the code where a test may end a run, or stop it: inert unless `PERENNIAL_FAULT` names one.

A process that reaches the place kills itself, as `kill -9` would: nothing is closed, no `finally` runs. It is the one
thing below `flows/` that reads the environment, because it must reach every process without a way of its own.
"""

import os
import signal
from collections import Counter

POINTS = {
    "read": "rows of a block were read and not judged yet",
    "transform": "a block was judged and nothing of it written",
    "files-half-written": "the data files of the good rows were written, those of the broken rows were not",
    "files-written": "all data files were written and no table refers to them",
    "verdict": "the batch was judged and nothing of it published",
    "metadata-written": "a table's next metadata.json was written and the catalog does not point to it",
    "swapped": "the catalog points to the new metadata and the committer has not heard of it",
    "committed": "raw was committed and the outbox not finished, the source not acknowledged",
    "clean-up": "an object that nothing needs any more is about to be deleted",
}

_passed: Counter[str] = Counter()


def fault_point(point: str) -> None:
    """Kill this process where `PERENNIAL_FAULT` says so, as `<point>` or, at the nth time it is reached, `<point>@<n>`.

    `PERENNIAL_FAULT_SIGNAL` is another signal to send: SIGSTOP makes a zombie. `PERENNIAL_FAULT_DRIVER` is the process
    to end first where the point lies in a Ray worker: a worker alone would be replaced and the run go on.

    Raises:
        ValueError: there is no such point; a fault that never comes would look like a test that passes.
    """
    asked = os.environ.get("PERENNIAL_FAULT")
    if not asked:
        return
    name, _, nth = asked.partition("@")
    if name not in POINTS:
        raise ValueError(f"PERENNIAL_FAULT={asked}: there is no fault point {name!r}; there are {', '.join(POINTS)}.")
    if name != point:
        return
    _passed[point] += 1
    if _passed[point] == int(nth or 1):
        sent = signal.Signals[os.environ.get("PERENNIAL_FAULT_SIGNAL", "SIGKILL")]
        driver = int(os.environ.get("PERENNIAL_FAULT_DRIVER", os.getpid()))
        if driver != os.getpid():
            os.kill(driver, sent)
        os.kill(os.getpid(), sent)
