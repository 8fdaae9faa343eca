"""CSV on S3, twelve rules, quarantine with reasons, three derived columns, 30 days, one commit: ours beside others.

`make bench-ingest` (ROWS=200000 for a small one, WHO="ours polars" for some). CPU is of a contender's whole process tree
(Ray's daemons and workers, the JVM), less what it takes idle; the S3 server is apart. Every contender is warmed up by a
small job first, and its time counts only where its output equals the others'.
"""

import argparse
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.ingest import outputs
from benchmarks.ingest.job import Job
from benchmarks.ingest.sales import FILES, write_sales
from benchmarks.ingest.tree import Used, idle_share, measured, stop_tree
from benchmarks.place import s3_server
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef

ROOT = Path(__file__).resolve().parents[2]
WARM_ROWS = 20_000
SILENCE_SECONDS = 1800


@dataclass(frozen=True)
class Contender:
    """Who does the job. `peer`: in the environment of the peers; `plain`: makes no rules; `s3`: reads and writes S3."""

    module: str
    name: str
    peer: bool = False
    plain: bool = False
    s3: bool = False


CONTENDERS = {
    "pyarrow": Contender("plain_pyarrow", "pyarrow, parse and write only", plain=True, s3=True),
    "ours": Contender("ours", "Perennial's ingest", s3=True),
    "polars": Contender("polars_streaming", "Polars, streaming"),
    "duckdb": Contender("duckdb_sql", "DuckDB", peer=True),
    "dask": Contender("dask_frame", "Dask", peer=True),
    "spark": Contender("pyspark_local", "PySpark local[2], warm", peer=True),
    "ray": Contender("ray_defaults", "Ray Data, defaults"),
}


class Place:
    """A folder with an S3 server on it: inputs by rows, outputs by contender."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint, self.bucket = folder, endpoint, folder / "data" / "lake"
        self._made = itertools.count()

    def name(self, contender: Contender, what: str) -> str:
        """A name for an output that none had before: the server remembers what lay in folders deleted behind its back."""
        return f"{what}_{contender.module}_{next(self._made)}"

    def job(self, contender: Contender, rows: int, files: int, output: str) -> Job:
        """A job on the files of so many rows, which are made if need be."""
        name = f"sales-{rows}-{files}"
        inputs = write_sales(self.bucket / name, rows, files)
        keys = [f"lake/{name}/{path.name}" for path in inputs]
        if contender.module == "ours":  # where its source looks
            landing = self.bucket / output / "landing" / "sales"
            landing.mkdir(parents=True)
            for path in inputs:
                (landing / path.name).hardlink_to(path)
        target = f"lake/{output}" if contender.s3 else str(self.bucket / output)
        access, secret = ((self.folder / f"s3_{kind}_key").read_text() for kind in ("access", "secret"))
        return Job([str(path) for path in inputs], keys, target, self.endpoint, access, secret)

    def output(self, contender: Contender, job: Job, catalog: Path) -> outputs.Output | int:
        """What was made."""
        if contender.module == "ours":
            lake = Lake(
                environment=job.output.split("/")[1],
                catalog_uri=f"sqlite:///{catalog}",
                s3_endpoint=job.endpoint,
                bucket="lake",
                s3_access_key=SecretRef(name="s3_access_key"),
                s3_secret_key=SecretRef(name="s3_secret_key"),
                secrets_dir=self.folder,
            )
            return outputs.of_tables(lake)
        folder = self.bucket.parent / job.output if contender.s3 else Path(job.output)
        return outputs.plain_rows(folder) if contender.plain else outputs.of_folder(folder)


def run_contender(place: Place, contender: Contender, rows: int, files: int) -> tuple[Used, outputs.Output | int]:
    """Warm a contender up, let it do the job, and say what it used and made."""
    python = str(ROOT / ".venv-peers-data/bin/python") if contender.peer else sys.executable
    home = Path(tempfile.mkdtemp(prefix="pb-"))
    command = [python, "-m", f"benchmarks.ingest.contenders.{contender.module}", str(home)]
    log = (home / "log").open("w+")
    environment = {**os.environ, "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED"}  # rclone answers others with 411
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )
    assert process.stdin is not None
    names = [place.name(contender, what) for what in ("warm", "timed")]
    try:
        warm = place.job(contender, min(WARM_ROWS, rows), FILES, names[0])
        job = place.job(contender, rows, files, names[1])
        _do(process, warm, log.name)
        idle = idle_share(process.pid)
        with measured(process.pid, idle) as used:
            _do(process, job, log.name)
        process.stdin.close()
        made = place.output(contender, job, home / "catalog.db")
        process.wait(120)
    finally:
        stop_tree(process.pid)  # a Prefect server or a Ray that outlives it would take CPU from the next
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
        for name in names:
            shutil.rmtree(place.bucket / name, ignore_errors=True)
    return used, made


def _do(process: "subprocess.Popen[str]", job: Job, log: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    watchdog = threading.Timer(SILENCE_SECONDS, process.kill)
    watchdog.start()
    process.stdin.write(job.line())
    process.stdin.flush()
    answer = process.stdout.readline()
    watchdog.cancel()
    if answer != "done\n":
        raise RuntimeError(f"{process.args!r} did not do its job:\n{Path(log).read_text()[-3000:]}")


def compare(rows: int, who: list[str], rounds: int, files: int = FILES) -> dict[str, list[Used]]:
    """Run the contenders in turn, `rounds` times, and check that what they make is equal."""
    used: dict[str, list[Used]] = {name: [] for name in who}
    standard: outputs.Output | None = None
    with tempfile.TemporaryDirectory(prefix="pb-") as folder, s3_server(Path(folder)) as endpoint:
        place = Place(Path(folder), endpoint)
        for _ in range(rounds):
            for name in who:
                spent, made = run_contender(place, CONTENDERS[name], rows, files)
                if isinstance(made, int):
                    assert made == rows, f"{name}: {made} rows of {rows}"
                elif standard is None:
                    standard = made
                    assert made.rows + made.bad_rows == rows, f"{name}: {made}"
                elif differences := made.differences(standard):
                    raise AssertionError(f"{name} made something else: {differences}")
                used[name].append(spent)
                print(f"  {name}: {spent.cpu:.1f} CPU s, {spent.wall:.1f} s", file=sys.stderr, flush=True)
    if standard:
        print(f"{standard.rows:,} rows published on {len(standard.days)} days, {standard.bad_rows:,} quarantined")
    return used


def report(used: dict[str, list[Used]]) -> str:
    """The table, as docs/benchmarks.md has it."""
    median = {name: statistics.median(spent.cpu for spent in rounds) for name, rounds in used.items()}
    lines = [
        "| | CPU s | wall s | peak memory | CPU: pyarrow = 1 | CPU: ours = 1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rounds in used.items():
        wall, peak = statistics.median(spent.wall for spent in rounds), max(spent.peak for spent in rounds)
        ratios = (f"{median[name] / median[base]:.2f}" if base in median else "" for base in ("pyarrow", "ours"))
        cells = [CONTENDERS[name].name, f"{median[name]:.1f}", f"{wall:.1f}", f"{peak / 1e9:.2f} GB", *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--who", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    asked = parser.parse_args()
    used = compare(asked.rows, asked.who, asked.rounds, asked.files)
    print(f"{asked.rows:,} rows in {asked.files} files; {asked.rounds} rounds; equal outputs")
    print(
        f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"{datetime.now(UTC).date()}"
    )
    print(report(used))


if __name__ == "__main__":
    main()
