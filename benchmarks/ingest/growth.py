"""How our ingest grows: `python -m benchmarks.ingest.growth` with more rows (time, peak memory), `--files` with more files.

python -m benchmarks.ingest.growth --rows 7500000 22500000 75000000     # 1, 3 and 10 GB
python -m benchmarks.ingest.growth --rows 1000000 --files 10 10000      # 100 rows a file
"""

import argparse
import platform
from datetime import UTC, datetime

import psutil

from benchmarks.ingest.__main__ import compare
from benchmarks.ingest.sales import FILES


def main() -> None:
    """Print a line for each size, and how it stands to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[7_500_000, 22_500_000])
    parser.add_argument("--files", type=int, nargs="+", default=[FILES])
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    sizes = [(rows, files) for rows in asked.rows for files in asked.files]
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, {datetime.now(UTC).date()}")
    print("| rows | files | CPU s | wall s | peak memory | CPU a million rows | wall: first = 1 | peak: first = 1 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    first = None
    for rows, files in sizes:
        best = min(compare(rows, ["ours"], asked.rounds, files)["ours"], key=lambda used: used.wall)
        first = first or best
        cells = [f"{rows:,}", f"{files:,}", f"{best.cpu:.1f}", f"{best.wall:.1f}", f"{best.peak / 1e9:.2f} GB"]
        ratios = [best.cpu / rows * 1e6, best.wall / first.wall, best.peak / first.peak]
        print(f"| {' | '.join([*cells, *(f'{ratio:.2f}' for ratio in ratios)])} |", flush=True)


if __name__ == "__main__":
    main()
