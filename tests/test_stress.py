"""The stress program, for as long as ``--stress-seconds`` says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.timeout(0)
def test_stress_with_killed_workers_loses_no_acknowledged_edit(
    pytestconfig: pytest.Config, seed: int
) -> None:
    seconds = pytestconfig.option.stress_seconds
    command = [sys.executable, "-m", "tests.stress", "--seconds", f"{seconds}", "--seed", f"{seed}"]
    run = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=seconds + 240
    )
    assert run.returncode == 0, run.stdout + run.stderr
    counts = {
        name: int(number) for number, name in re.findall(r"^ *(\d+)  (.+)$", run.stdout, re.M)
    }
    print(run.stdout)
    # It was no idle run.
    assert counts["workers killed"] > 3
    assert counts["edits acknowledged"] > 100
    for answer in ("PUT 200", "PUT 412", "PATCH 200", "PATCH 201", "DELETE 200", "GET 200"):
        assert counts[answer] > 0, answer
    for never in ("edits lost", "acknowledged edits not in a journal", "other files left"):
        assert counts[never] == 0, never
