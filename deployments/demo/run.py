"""The loop as a client of the running stack: deploy, run, and show what came of it."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deployments.demo.client import DemoStopped, month_start
from deployments.demo.loop import BOOTSTRAP_MONTHS, Loop
from deployments.demo.watch import Clock, Step
from flows.settings import ROOT, Settings
from perennial.rules.performance import Month, Performance


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--months", type=int, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.monotonic() of the demo's first line")
    arguments = parser.parse_args()
    settings, console = Settings(), Console(width=max(130, Console().width))
    try:
        steps = _run(settings, console, arguments.months)
    except DemoStopped as error:
        print(f"\nStopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. `make demo` goes on from here; `make down` stops the stack.", file=sys.stderr)
        return 130
    _close(settings, console, steps, time.monotonic() - arguments.started)
    return 0


def _run(settings: Settings, console: Console, last: int) -> list[Step]:
    deploying = Clock()
    command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", "deploy", "--all"]
    deployed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603 - our own command
    if deployed.returncode:
        raise DemoStopped(f"`prefect deploy --all` failed:\n{deployed.stdout[-2000:]}{deployed.stderr[-2000:]}")
    console.print(f"  prefect deploy --all  {deploying.seconds:.1f} s\n", highlight=False)
    console.print(
        f"[bold]The loop[/bold] on flights from New York, January to {month_start(last):%B} 2013: a model learns from the "
        f"first three months, then serves.\n  {'step':<38} {'time':>8}  {'memory':>7}",
        highlight=False,
    )
    loop = Loop(settings, console)
    try:
        loop.bootstrap()
        for month in range(BOOTSTRAP_MONTHS + 1, last + 1):
            loop.month(month)
        loop.finish(last)
    finally:
        loop.memory.stop()
    return loop.steps


def _close(settings: Settings, console: Console, steps: list[Step], seconds: float) -> None:
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


def _cells(month: Month) -> list[str]:
    figures = [f"{value:.4f}" if value is not None else "-" for value in (month.baseline, month.served)]
    versions = ", ".join(f"v{version}" for version in month.versions)
    return [month.month, f"{month.rows:,}", *figures, f"{month.gain:+.4f}" if month.gain is not None else "-", versions]


def _summary(performance: Performance) -> str:
    mean = performance.after_first_promotion
    if mean is None:
        return "No retrained version was promoted in these months."
    return (
        f"Since the first retrained version served ({', '.join(mean.months)}): [bold]{mean.gain:+.4f}[/bold] mean ROC AUC over the "
        f"model that was never retrained (paired 95% interval {mean.low:+.4f} to {mean.high:+.4f}, {mean.rows:,} flights)."
    )


if __name__ == "__main__":
    sys.exit(main())
