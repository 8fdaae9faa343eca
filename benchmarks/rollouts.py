"""How often an equal version is rolled back, and how soon a worse one: `python -m benchmarks.rollouts` (`make bench-rollouts`).

Simulated roll-outs as in tests/perennial/rules/test_rollout.py: shadow, then canaries of 5, 25 and 50%, 500 requests of the
challenger each, looked at every 100; heavy-tailed latencies under a swinging load. Seeds are fixed; no clock is read.
"""

import argparse

import numpy as np

from tests.perennial.rules.test_rollout import rolled_back


def main() -> None:
    """Print the two tables of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200)
    rollouts = parser.parse_args().rollouts
    print("| an equal version; both fail on | rolled back |\n| --- | --- |")
    for errors in (0.0, 0.005, 0.02):
        found = sum(rolled_back(seed, errors) is not None for seed in range(rollouts))
        print(f"| {errors:.1%} | {found} of {rollouts} |")
    print("\n| champion fails on | its requests before | 2% more: caught by 500 requests | in all | at, median |")
    print("| --- | --- | --- | --- | --- |")
    for errors, before in ((0, 0), (0, 500), (0, 2_000), (0, 20_000), (0.001, 20_000), (0.005, 20_000), (0.01, 20_000)):
        caught = [f for seed in range(rollouts) if (f := rolled_back(seed, errors, before=before, added=0.02))]
        soon = sum(number <= 500 for number, _ in caught)
        at = np.median([number for number, _ in caught])
        print(f"| {errors:.1%} | {before:,} | {soon / rollouts:.0%} | {len(caught) / rollouts:.0%} | {at:.0f} |")
    print("\n| worse by | caught | at, median | by |\n| --- | --- | --- | --- |")
    for name, worse in (("1.1 times as slow", {"slower": 1.1}), ("twice as slow", {"slower": 2.0}), ("2.5 times", {"slower": 2.5}),
                        ("scores + 0.1", {"shift": 0.1}), ("scores + 0.6", {"shift": 0.6})):  # fmt: skip
        caught = [f for seed in range(rollouts // 4) if (f := rolled_back(seed, 0.0, **worse))]
        at = f"{np.median([number for number, _ in caught]):.0f}" if caught else "-"
        by = ", ".join(sorted({alarm for _, alarm in caught})) or "-"
        print(f"| {name} | {len(caught)} of {rollouts // 4} | {at} | {by} |")


if __name__ == "__main__":
    main()
