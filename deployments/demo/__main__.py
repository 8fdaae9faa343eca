"""`python -m deployments.demo [--months N]`: start the stack, deploy, run the loop, show what came of it."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from deployments.stack.checks import StackProblem
from deployments.stack.environment import client_environment
from deployments.stack.lifecycle import up
from flows.settings import ROOT, Settings

if TYPE_CHECKING:
    from deployments.demo.watch import Step
    from perennial.rules.performance import Month, Performance

FIRST, LAST = 5, 12
USUAL = 9


def main() -> int:
    """Return the exit status; a problem is one message on stderr, and the stack stays as it is."""
    parser = argparse.ArgumentParser(prog="make demo", description="The whole loop on flights of 2013.")
    parser.add_argument("--months", type=int, default=USUAL, choices=range(FIRST, LAST + 1), metavar=f"{FIRST}..{LAST}")
    last = parser.parse_args().months
    console = Console(width=max(110, Console().width))
    try:
        settings = Settings()
        return _run(settings, console, last)
    except ValidationError as error:
        print(f"A setting is wrong, nothing was started: {error}", file=sys.stderr)
    except StackProblem as error:
        print(f"Stopped: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted. `make demo` goes on from here; `make down` stops the stack.", file=sys.stderr)
        return 130
    return 1


def _run(settings: Settings, console: Console, last: int) -> int:
    from deployments.demo.watch import Clock

    clock = Clock()
    console.print(f"[bold]Perennial[/bold] keeps a model of New York's flights true, January to {_month(last)} 2013.\n")
    console.print("[bold]The local stack[/bold]")
    up(settings, say=lambda line: console.print(f"  {line}", highlight=False))
    # what follows talks to this stack, whatever profile or cluster the shell knows
    os.environ.update(client_environment(settings))
    deploying = Clock()
    deployed = subprocess.run(
        [Path(sys.executable).parent / "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if deployed.returncode:
        raise StackProblem(f"`prefect deploy --all` failed:\n{deployed.stdout[-2000:]}{deployed.stderr[-2000:]}")
    console.print(f"  {'prefect deploy --all':<34} {deploying.seconds:6.1f} s\n", highlight=False)

    from deployments.demo.client import DemoStopped
    from deployments.demo.loop import BOOTSTRAP_MONTHS, Loop

    loop = Loop(settings, console)
    try:
        console.print(f"[bold]The loop[/bold]   step {' ' * 24} time   memory", highlight=False)
        loop.bootstrap()
        for month in range(BOOTSTRAP_MONTHS + 1, last + 1):
            loop.month(month)
        loop.finish(last)
    except DemoStopped as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1
    finally:
        loop.memory.stop()
    _close(settings, console, loop.steps, clock.seconds)
    return 0


def _close(settings: Settings, console: Console, steps: "list[Step]", seconds: float) -> None:
    from perennial.rules.performance import Performance

    folder = settings.home / "demo"
    folder.mkdir(exist_ok=True)
    files = settings.lake.files()
    files.get(settings.lake.uri("reports/flights/performance.png"), str(folder / "performance.png"))
    performance = Performance.model_validate_json(files.cat_file(settings.lake.uri("reports/flights/performance.json")))
    (folder / "steps.json").write_text(json.dumps([vars(step) for step in steps], indent=1))
    table = Table(title="ROC AUC by month", title_justify="left")
    for column in ("month", "flights", "never retrained", "Perennial", "gain", "served by"):
        table.add_column(column, justify="left" if column == "month" else "right")
    for month in performance.months:
        table.add_row(*_cells(month))
    console.print()
    console.print(table)
    console.print(_summary(performance))
    peak = max(step.peak_bytes for step in steps) / 1e9
    console.print(
        f"{seconds:.0f} s in all, {peak:.1f} GB at the most; every step in {folder / 'steps.json'}\n", highlight=False
    )
    links = {
        "the picture": f"{folder / 'performance.png'}  and  {settings.reports_base}/flights/performance.png",
        "Prefect": settings.prefect_url,
        "Ray dashboard": f"{settings.dashboard_url}  (token in {settings.secrets / 'ray_token'})",
        "endpoint": f"http://{settings.serve_host}:{settings.serve_port}/v2/models/flights  (token in {settings.secrets / 'serve_token'})",
        "API docs": f"http://{settings.serve_host}:{settings.serve_port}/v2/models/flights/docs",
        "reports": f"{settings.reports_base}/",
    }
    for name, where in links.items():
        console.print(f"  {name:<14} {where}", highlight=False, soft_wrap=True)
    console.print("\nThe stack stays up; `make down` stops it, `make up` starts it again on the same data.")


def _month(number: int) -> str:
    from deployments.demo.client import month_start

    return f"{month_start(number):%B}"


def _cells(month: "Month") -> list[str]:
    figures = [f"{value:.4f}" if value is not None else "-" for value in (month.baseline, month.served)]
    versions = ", ".join(f"v{version}" for version in month.versions)
    return [month.month, f"{month.rows:,}", *figures, f"{month.gain:+.4f}" if month.gain is not None else "-", versions]


def _summary(performance: "Performance") -> str:
    mean = performance.after_first_promotion
    if mean is None:
        return "No retrained version was promoted in these months."
    return (
        f"Mean of the {len(mean.months)} months since the first retrained version served: [bold]{mean.gain:+.4f}[/bold] over the "
        f"model that was never retrained (paired 95% interval {mean.low:+.4f} to {mean.high:+.4f}, {mean.rows:,} flights)."
    )


if __name__ == "__main__":
    sys.exit(main())
