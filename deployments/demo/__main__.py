"""`python -m deployments.demo [--months N]`: start the stack, then run the loop as a client of it."""

import argparse
import os
import sys
import time

from pydantic import ValidationError

from deployments.stack.checks import StackProblem
from deployments.stack.environment import client_environment
from deployments.stack.lifecycle import up
from flows.settings import Settings

FIRST, USUAL, LAST = 5, 7, 12


def main() -> int:
    """Return the exit status; a problem is one message on stderr, and the stack stays as it is."""
    parser = argparse.ArgumentParser(prog="make demo", description="The whole loop on flights of 2013.")
    parser.add_argument("--months", type=int, default=USUAL, choices=range(FIRST, LAST + 1), metavar=f"{FIRST}..{LAST}")
    months = parser.parse_args().months
    started = time.monotonic()
    print("The local stack", flush=True)
    try:
        settings = Settings()
        up(settings, say=lambda line: print(f"  {line.strip()}", flush=True))
    except ValidationError as error:
        print(f"A setting is wrong, nothing was started: {error}", file=sys.stderr)
        return 1
    except StackProblem as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what this call had started is stopped.", file=sys.stderr)
        return 130
    # Prefect and Ray read their environment when they are imported: the loop is a process of its own, which speaks to
    # this stack whatever profile or cluster the shell knows.
    words = [sys.executable, "-m", "deployments.demo.run", "--months", str(months), "--started", str(started)]
    return os.execve(sys.executable, words, client_environment(settings))  # noqa: S606 - our own module


if __name__ == "__main__":
    sys.exit(main())
