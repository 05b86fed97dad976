"""A short run of the stress program; `make stress` is a long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.timeout(180)
def test_stress_with_killed_workers_loses_no_acknowledged_edit() -> None:
    command = [sys.executable, "-m", "tests.stress", "--seconds", "8", "--seed", "1"]
    run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=170)
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
