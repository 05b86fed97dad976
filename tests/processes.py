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


# What a service that writes keeps in a directory while it runs.
CLAIM = re.compile(r"\.neurotrale\.writer-(flock|strict|none)-[0-9a-f]{32}")


def claims_in(directory: Path) -> list[Path]:
    """The claims of services that write in a directory."""
    return sorted(path for path in directory.iterdir() if CLAIM.fullmatch(path.name))


def names_in(directory: Path) -> set[str]:
    """The names in a directory, but for the claims of services that run."""
    return {name for name in os.listdir(directory) if not CLAIM.fullmatch(name)}


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
            if "--workers" in command:
                wait_for_workers(process.pid, int(command[command.index("--workers") + 1]))
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
    """The processes that a process has started, the dead ones that it has not reaped too.

    Not the writer of a service: see `writer_of`.
    """
    return [child for child, name in _children(pid) if name != "writer"]


def writer_of(pid: int) -> int:
    """The process of a service that makes all changes of annotation files; 0 if there is none."""
    return next((child for child, name in _children(pid) if name == "writer"), 0)


def _children(pid: int) -> list[tuple[int, str]]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = status.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after.split()[1]) == pid:
            found.append((int(status.parent.name), before.partition("(")[2]))
    return found


def wait_for_workers(pid: int, count: int) -> None:
    """Wait until a service has started all its workers: it answers with the first."""
    eventually(lambda: len(children(pid)) >= count, f"{count} workers")


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


def unmount(point: Path) -> None:
    """Unmount a file system; whoever used it lets go of its directories within seconds."""
    until = time.monotonic() + 10
    while True:
        done = subprocess.run(["umount", point], capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert time.monotonic() < until, done.stderr
        time.sleep(0.1)
