"""Real stores on real directories, and the real service in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.datasets import write_dataset

START_TIMEOUT_S = 60.0


@dataclass
class Service:
    """A running service.

    Attributes:
        url: Without a final slash.
        port: Where it listens on 127.0.0.1.
        root: Its data root.
        process: The supervisor.
        log: Its standard error, and output, so far.
    """

    url: str
    port: int
    root: Path
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Start services on free ports; all are stopped at the end of the session."""
    running: list[Service] = []

    def start(root: Path, *options: str, env: dict[str, str] | None = None) -> Service:
        place = tmp_path_factory.mktemp("service")
        ready, log = place / "ready.json", place / "log.txt"
        command = [sys.executable, "-m", "neurotrale", "serve", str(root), "--port", "0"]
        command += ["--ready-file", str(ready), *options]
        if "--workers" not in options:
            command += ["--workers", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **(env or {})}
            )
        until = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                pytest.fail(f"the service did not start:\n{log.read_text()}")
            time.sleep(0.02)
        facts = json.loads(ready.read_text())
        service = Service(facts["url"].rstrip("/"), facts["port"], root, process, log)
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set ``brain`` below a data root (its parent)."""
    return write_dataset(tmp_path / "data" / "brain")


@pytest.fixture
def service(dataset: Path, start_service: StartService) -> Iterator[Service]:
    """A service of its own for one test, with the small data set."""
    running = start_service(dataset.parent)
    yield running
    running.stop()
