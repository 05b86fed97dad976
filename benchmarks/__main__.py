"""Run the benchmarks, print the table, draw the plot: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import large_datasets, measures
from benchmarks.measures import Result, Setting
from benchmarks.plot import draw
from benchmarks.polling import polling

MEASURES = (*measures.ALL, polling, *large_datasets.ALL)


def main() -> int:
    """Run the named benchmarks, or all; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", choices=[measure.__name__ for measure in MEASURES], action="append"
    )
    parser.add_argument("--seconds", type=int, default=3, help="duration of each load test")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs for each side")
    parser.add_argument("--plot", type=Path, help="write the plot to this PNG")
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        print(f"needs {' and '.join(missing)}: apt-get install wrk nginx-light", file=sys.stderr)
        return 2
    results = []
    with tempfile.TemporaryDirectory(prefix="neurotrale-bench-") as directory:
        setting = Setting(Path(directory), arguments.seconds, arguments.rounds)
        for measure in MEASURES:
            if arguments.only is None or measure.__name__ in arguments.only:
                for result in measure(setting):
                    print(line(result), flush=True)
                    results.append(result)
    heading = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}"
    print(f"\n{heading}")
    if arguments.plot is not None:
        draw(results, heading, arguments.plot)
        print(f"wrote {arguments.plot}")
    return 0 if all(result.met for result in results) else 1


def line(result: Result) -> str:
    """Return a line of the table, in the form of docs/performance.md."""
    sign = ">=" if result.at_least else "<="
    value = f"{result.value:.3g} {result.unit}"
    mark = "yes" if result.met else "NO"
    return (
        f"| {result.name:42} | {result.ours:>16} | {result.theirs:>9} |"
        f" {value:>9} | {sign} {result.target:g} {result.unit} | {mark} |"
    )


def _machine() -> str:
    model = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if text.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
