"""Real processes of the command line, and what the kernel tells about them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0

# A line of the access log.
ACCESS_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) INFO neurotrale\.access: "
    r"(?P<client>\S+) (?P<method>\S+) (?P<path>\S+) (?P<status>\d{3}) (?P<bytes>\d+)"
    r" (?P<ms>\d+\.\d) ms"
)

T = TypeVar("T")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the tests without any setting of the service, and with `more`."""
    ours = ("NEUROTRALE_", "SLURM_", "PRECOMPUTED_PATH")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **(more or {})}


def neurotrale(*arguments: str | Path) -> list[str]:
    """The command line that runs neurotrale with these arguments."""
    return [sys.executable, "-m", "neurotrale", *map(str, arguments)]


def run(
    command: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        env=environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@dataclass
class Running:
    """A service that answers.

    Attributes:
        process: The supervisor.
        said: The lines that it printed at its start.
        url: The one it printed, without a final slash.
    """

    process: subprocess.Popen[str]
    said: list[str]
    url: str
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(
    command: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Running]:
    """Start a service by a command, wait until it says that it answers, stop it at the end."""
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(
            command, env=environment(env), cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line.rstrip("\n"))
                if line.startswith("stop"):
                    break
            else:
                raise AssertionError(f"it did not start: {Path(log.name).read_text()}")
            (url,) = (line.split()[1] for line in said if line.startswith("open"))
            yield Running(process, said, url.rstrip("/"), Path(log.name))
        finally:
            process.terminate()


def eventually(condition: Callable[[], T], why: str) -> T:
    """Wait until a condition holds that no event tells about; give its value."""
    until = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < until, f"in vain: {why}"
        time.sleep(0.02)
    return value


def children(pid: int) -> list[int]:
    """The processes that a process has started, the dead ones that it has not reaped too."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def state(pid: int) -> str:
    """The state of a process as the kernel abbreviates it: R, S, T, Z, ..., or "" when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> list[str]:
    """What the file descriptors of a process lead to."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return sorted(found)
