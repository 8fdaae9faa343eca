"""`python -m deployments.stack up|down|status|run`."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from deployments.stack.checks import StackProblem
from deployments.stack.environment import client_environment, prepare_home
from deployments.stack.lifecycle import down, refuse_while_up, status, up
from deployments.stack.parts import PART_NAMES
from flows.settings import Settings


def main() -> int:
    """Return the exit status; a problem is one message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description="The local stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "start what does not run"), ("down", "stop what up started")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--parts", nargs="+", choices=PART_NAMES, default=PART_NAMES, metavar="PART")
    commands.add_parser("status", help="say how each part is")
    commands.add_parser("idle", help="succeed only while nothing of the stack runs")
    run = commands.add_parser("run", help="run a command that talks to the stack")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        settings = Settings()
        if arguments.command == "up":
            up(settings, arguments.parts)
        elif arguments.command == "down":
            down(settings, arguments.parts)
        elif arguments.command == "status":
            return 0 if status(settings) else 1
        elif arguments.command == "idle":
            refuse_while_up(settings)
        else:
            _run(settings, [word for word in arguments.argv if word != "--"])
    except ValidationError as error:
        print(f"A setting is wrong, nothing was started: {error}", file=sys.stderr)
        return 1
    except StackProblem as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what this call had started is stopped.", file=sys.stderr)
        return 130
    return 0


def _run(settings: Settings, argv: list[str]) -> NoReturn:
    if not argv:
        raise StackProblem("run needs a command, for instance: run prefect deploy --all")
    prepare_home(settings)
    environment = client_environment(settings)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - becomes the user's own command


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
