"""The log of a service whose reader is slow, asleep or gone."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from neurotrale.server.log_writer import MOST_WAITING_BYTES, LogWriter
from tests.datasets import write_dataset
from tests.processes import PATIENCE_S, environment, eventually, neurotrale


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def record(line: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, line, None, None)


def read_lines(reader: int, count: int) -> list[str]:
    """Read from a pipe until there are so many lines."""
    os.set_blocking(reader, False)
    found = b""

    def is_there() -> bool:
        nonlocal found
        with suppress(BlockingIOError):
            found += os.read(reader, 2**16)
        return found.count(b"\n") >= count

    eventually(is_there, f"{count} lines")
    return found.decode().splitlines()


def test_lines_are_written_at_once_while_they_are_taken(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = LogWriter(writer)
    for number in range(3):
        handler.handle(record(f"line {number}"))
        assert os.read(reader, 100) == b"line %d\n" % number


def test_lines_wait_in_order_for_a_reader_and_what_is_dropped_is_counted(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    handler = LogWriter(writer)
    lines = [f"{number} {'x' * 1000}" for number in range(3 * MOST_WAITING_BYTES // 1000)]
    for line in lines:
        handler.handle(record(line))
    assert os.get_blocking(writer)  # others share it
    found = b""
    os.set_blocking(reader, False)

    def all_is_there() -> bool:
        nonlocal found
        try:
            found += os.read(reader, 2**20)
        except BlockingIOError:
            return b"dropped" in found and not handler._is_writing
        return False

    eventually(all_is_there, "the lines")
    kept = [line for line in found.decode().splitlines() if "dropped" not in line]
    notes = [line for line in found.decode().splitlines() if "dropped" in line]
    in_order = iter(lines)
    assert all(line in in_order for line in kept)
    assert len(kept) * 1000 > MOST_WAITING_BYTES
    assert all(" lines" in note for note in notes)
    # On a busy machine, the writer may catch up in between.
    assert sum(int(note.partition(" ")[0]) for note in notes) == len(lines) - len(kept)
    handler.handle(record("after all"))
    assert os.read(reader, 100) == b"after all\n"


def test_reader_that_has_gone_costs_nothing_but_the_lines() -> None:
    reader, writer = os.pipe()
    handler = LogWriter(writer)
    os.close(reader)
    started = time.monotonic()
    for _ in range(1000):
        handler.handle(record("x" * 1000))
    handler.close()
    assert time.monotonic() - started < PATIENCE_S
    os.close(writer)


def test_files_keep_what_others_append(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handler = LogWriter(descriptor)
    handler.handle(record("one"))
    with path.open("a") as other:
        other.write("two\n")
    handler.handle(record("three"))
    os.close(descriptor)
    assert path.read_text() == "one\ntwo\nthree\n"


def test_terminal_takes_lines() -> None:
    ours, theirs = pty.openpty()
    handler = LogWriter(theirs)
    handler.handle(record("hello"))
    assert os.read(ours, 100) == b"hello\r\n"
    for descriptor in (ours, theirs):
        os.close(descriptor)


def test_process_that_is_forked_does_not_write_the_lines_of_its_parent(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    handler = LogWriter(writer)
    for number in range(8):
        handler.handle(record(f"{number} {'x' * 1000}"))
    child = os.fork()
    if child == 0:
        handler.handle(record("child"))
        handler.flush()
        os._exit(0)
    found = read_lines(reader, 9)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(line.split()[0] for line in found) == [*map(str, range(8)), "child"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_service_whose_log_nobody_reads_answers_and_stops(tmp_path: Path, kind: str) -> None:
    write_dataset(tmp_path / "data/brain")
    ready = tmp_path / "ready.json"
    command = neurotrale("serve", tmp_path / "data", "--port", "0", "--ready-file", ready)
    ours, theirs = os.pipe()
    if kind == "socket":
        os.close(ours)
        os.close(theirs)
        ours, theirs = (one.detach() for one in socket.socketpair())
    command += ["--workers", "2", "--log-level", "debug"]
    with (
        subprocess.Popen(
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=theirs
        ) as service,
        ExitStack() as stack,
    ):
        os.close(theirs)
        stack.callback(service.kill)
        eventually(ready.exists, "it has started")
        url = json.loads(ready.read_text())["url"]
        with requests.Session() as session:
            for number in range(1500):  # a line of 250 bytes each
                answer = session.get(f"{url}no/{number}{'x' * 200}", timeout=PATIENCE_S)
                assert answer.status_code == 404
        assert requests.get(f"{url}api/health", timeout=PATIENCE_S).ok
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE_S) == 0
    os.close(ours)
