"""How thorough a run is, and the real service in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from tests.datasets import write_dataset
from tests.examples import USUAL, representatives
from tests.processes import PATIENCE_S, wait_for_workers

START_TIMEOUT_S = 60.0

T = TypeVar("T")

# --- how thorough ---

# `make test` is for every change: it takes minutes, and grows with the code. So each of its tests
# is done within a few seconds and is the only one of its kind, or costs next to nothing.
#
# - A test of a table whose cases each cost a process, a service or a page is marked `quick(n)`:
#   n cases, chosen by `representatives`, are in `make test`, the others in `make test-long`.
# - Marked `long`, and only in `make test-long`: what is killed again and again, waits until
#   something is stale, makes thousands of files or requests, slows the processor down or measures
#   memory; and, of each file that drives Chromium, all but one or two tests.
# - Marked `thorough`: in both, with more steps in `make test-long`. So are Hypothesis tests.
#
# Every test and case is in one of the two runs at least; see `belongs`.

# What a run does unless its options say otherwise: a quick one, and one with `--long`.
QUICK = {"hypothesis_profile": "quick", "crash_every": 12, "histories": 3}
LONG = {"hypothesis_profile": "full", "crash_every": 1, "histories": 100}

# On CI too the examples follow the seed; and no time is a reason to fail.
hypothesis.settings.register_profile(
    "full",
    deadline=None,
    derandomize=False,
    max_examples=USUAL,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("full"), max_examples=15
)


def a_seed(text: str) -> int:
    """Read the option ``--seed``."""
    return random.SystemRandom().randrange(2**31) if text == "random" else int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("how thorough")
    group.addoption(
        "--long",
        action="store_true",
        help="run the tests marked long or thorough and those of Hypothesis, with all their steps",
    )
    group.addoption(
        "--seed",
        type=a_seed,
        default=0,
        metavar="N",
        help="draw what is random from this seed, or from another one each time: random (0)",
    )
    group.addoption(
        "--crash-every",
        type=int,
        metavar="N",
        help="kill writers at every Nth step (12; with --long at each)",
    )
    group.addoption(
        "--histories",
        type=int,
        metavar="N",
        help="record and check so many histories for each kind of lock (3; with --long 100)",
    )
    group.addoption(
        "--stress-seconds", type=float, default=60, metavar="S", help="stress for so long (60)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, value in (LONG if config.option.long else QUICK).items():
        if getattr(config.option, name) is None:
            setattr(config.option, name, value)
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)
    config.pluginmanager.register(FailureTeller(config))
    hypothesis.settings.load_profile(config.option.hypothesis_profile)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(name: str) -> Generator[None, T, T]:
    """Mark as long what the marker `quick` of a test leaves to the long run."""
    made = yield
    if isinstance(made, list):
        leave_to_the_long_run(made)
    return made


def leave_to_the_long_run(cases: list[pytest.Item | pytest.Collector]) -> None:
    """Mark all cases of a test as long but for as many as its marker `quick` names."""
    short = [
        case
        for case in cases
        if isinstance(case, pytest.Function) and case.get_closest_marker("long") is None
    ]
    marker = short[0].get_closest_marker("quick") if short else None
    if marker is None:
        return
    chosen = representatives([case.callspec.params for case in short], *marker.args)
    for index, case in enumerate(short):
        if index not in chosen:
            case.add_marker("long")


def belongs(item: pytest.Item, long: bool) -> bool:
    """Tell whether a test is part of a run; each is part of the quick one, the long one or both."""
    if not long:
        return item.get_closest_marker("long") is None
    drawn = hypothesis.is_hypothesis_test(getattr(item, "obj", None))
    return drawn or any(item.get_closest_marker(name) for name in ("long", "thorough"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if belongs(item, config.option.long)]
    others = [item for item in items if not belongs(item, config.option.long)]
    if others:
        config.hook.pytest_deselected(items=others)
    for item in kept:
        if item.get_closest_marker("proof") is not None:
            item.add_marker(pytest.mark.flaky(reruns=0))
    # Their few tests take longest: begun last, they would leave the other processes idle.
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("browser") is None)


def options_to_repeat(config: pytest.Config) -> str:
    option = config.option
    long = "--long " if option.long else ""
    return (
        f"{long}--seed {option.seed} --crash-every {option.crash_every}"
        f" --histories {option.histories} --stress-seconds {option.stress_seconds:g}"
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"how thorough: {options_to_repeat(config)}"


class FailureTeller:
    """Names each failed test at once: a run that is cut short still tells."""

    def __init__(self, config: pytest.Config) -> None:
        self.plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.plugins.get_plugin("terminalreporter")
        if terminal is None:  # in the processes of xdist
            return
        if report.failed:
            terminal.write_line(f"\n{report.nodeid} failed in {report.when}")
        elif str(report.outcome) == "rerun":  # as pytest-rerunfailures says it
            terminal.write_line(f"\n{report.nodeid} failed in {report.when}, and is run once more:")
            terminal.write_line(report.longreprtext)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"the same again: {options_to_repeat(config)}")


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """What random numbers begin with."""
    number: int = pytestconfig.option.seed
    return number


@pytest.fixture(scope="session")
def histories(pytestconfig: pytest.Config) -> int:
    """How many histories to record."""
    number: int = pytestconfig.option.histories
    return number


# --- services ---


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


def connect(service: Service, receive_bytes: int | None = None) -> socket.socket:
    """Open a connection that gives up when nothing comes for a long time."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    connection.connect(("127.0.0.1", service.port))
    return connection


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    """Read the head of an answer; its body can be read from it."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def started(
    place: Path,
    root: Path,
    *options: str,
    env: dict[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "neurotrale"),
) -> Service:
    """Start a service on a free port, with its log in a directory of its own.

    Args:
        program: What Python runs.
    """
    ready, log = place / "ready.json", place / "log.txt"
    command = [sys.executable, *program, "serve", str(root), "--port", "0"]
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
    if "--workers" in options:
        wait_for_workers(process.pid, int(options[options.index("--workers") + 1]))
    return Service(facts["url"].rstrip("/"), facts["port"], root, process, log)


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Start services on free ports; those that run at the end of the module are stopped."""
    running: list[Service] = []

    def start(root: Path, *options: str, **more: Any) -> Service:
        running.append(started(tmp_path_factory.mktemp("service"), root, *options, **more))
        return running[-1]

    yield start
    for service in running:  # all at once, then wait
        if service.process.poll() is None:
            service.process.terminate()
    for service in running:
        service.stop()


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """The directory that `dataset` is in."""
    return tmp_path / "data"


@pytest.fixture
def dataset(data_root: Path) -> Path:
    """A small dataset ``brain`` below a data root (its parent)."""
    return write_dataset(data_root / "brain")


@pytest.fixture
def service(dataset: Path, start_service: StartService) -> Iterator[Service]:
    """A service of its own for one test, with the small dataset."""
    running = start_service(dataset.parent)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for tests that change nothing but files; see `emptied`."""
    running = started(tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("shared"))
    yield running
    running.stop()


def emptied(service: Service) -> Path:
    """Give the data root of a service, with nothing in it."""
    for path in service.root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return service.root


# --- the demo ---

CopyDemo = Callable[[Path], Path]
"""Makes the demo dataset in a directory, and gives its path, as `write_demo` does."""


@pytest.fixture(scope="session")
def copy_demo(tmp_path_factory: pytest.TempPathFactory) -> CopyDemo:
    """The demo dataset, made once: making it takes seconds, copying it next to nothing."""
    from neurotrale.tools.demo import write_demo  # brings numpy, which most tests do without

    made = write_demo(tmp_path_factory.mktemp("demo"))
    return lambda directory: Path(shutil.copytree(made, directory / made.name))
