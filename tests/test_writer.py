"""The process that all workers hand their changes to: messages, queues, and its death."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from falcon.testing import create_environ

from neurotrale.annotations.handover import PARKING, Parking, RemoteWriter
from neurotrale.server.messages import INLINE_BYTES, receive, send, socket_pair
from neurotrale.server.threads import FileQueues, Job
from neurotrale.server.writer import Writer, WriterLink
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from tests.datasets import write_dataset
from tests.processes import eventually

PATIENCE_S = 30


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket_pair()
    with one, other:
        yield one, other


# --- messages ---


@pytest.mark.parametrize(
    "size", [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000]
)
def test_message_arrives_whole_whatever_its_size(
    size: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    content = os.urandom(size)
    send(one, [content[: size // 3], memoryview(content)[size // 3 :]])
    message = receive(other)
    assert message is not None
    assert bytes(message[0]) == content
    assert message[1] == []


def test_message_brings_descriptors_along(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    for content in (b"small", b"large" * INLINE_BYTES):
        read, write = os.pipe()
        send(one, [content], [write])
        os.close(write)
        message = receive(other)
        assert message is not None
        assert bytes(message[0]) == content
        os.write(message[1][0], b"through")
        assert os.read(read, 10) == b"through"
        os.close(message[1][0])
        os.close(read)


def test_end_of_the_other_process_is_the_end_of_messages(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    send(one, [b"last"])
    one.close()
    message = receive(other)
    assert message is not None
    assert bytes(message[0]) == b"last"
    assert receive(other) is None
    with pytest.raises(BrokenPipeError):
        send(other, [b"into nothing"])


# --- queues ---


def job(body: bytes, answered: Callable[[bytes], None] = lambda _: None) -> Job:
    return Job(memoryview(body), False, lambda pieces: answered(b"".join(pieces)))


def test_jobs_of_a_file_that_come_during_the_work_are_worked_on_together() -> None:
    begun, go_on, done = Event(), Event(), Event()
    worked: list[list[bytes]] = []

    def work(key: Hashable, jobs: list[Job]) -> None:
        worked.append([bytes(one.body) for one in jobs])
        begun.set()
        assert go_on.wait(PATIENCE_S)
        if len(worked) == 2:
            done.set()

    queues = FileQueues(work)
    queues.add("file", job(b"0"))
    assert begun.wait(PATIENCE_S)
    for number in range(1, 30):
        queues.add("file", job(b"%d" % number))
    assert queues.waiting("file") == 29
    go_on.set()
    assert done.wait(PATIENCE_S)
    assert worked == [[b"0"], [b"%d" % number for number in range(1, 30)]]


def test_file_that_takes_long_holds_up_no_other_and_none_is_worked_on_twice_at_once() -> None:
    go_on, finished = Event(), Event()
    at_work: set[Hashable] = set()
    counted = count(1)

    def work(key: Hashable, jobs: list[Job]) -> None:
        assert key not in at_work
        at_work.add(key)
        if key == "slow":
            assert go_on.wait(PATIENCE_S)
        at_work.discard(key)
        for _ in jobs:
            if next(counted) == 300:
                finished.set()

    queues = FileQueues(work, most_threads=3)
    queues.add("slow", job(b""))
    for number in range(300):
        queues.add(number % 7, job(b""))
    assert finished.wait(PATIENCE_S)
    assert not queues.is_empty
    go_on.set()
    until = time.monotonic() + PATIENCE_S
    while not queues.is_empty:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_work_that_fails_does_not_stop_the_next() -> None:
    done = Event()

    def work(key: Hashable, jobs: list[Job]) -> None:
        if key == "bad":
            raise ValueError
        done.set()

    queues = FileQueues(work, most_threads=1)
    queues.add("bad", job(b""))
    queues.add("good", job(b""))
    assert done.wait(PATIENCE_S)


# --- the process ---


UNTIL = b"s until there is "


def echo(key: Hashable, jobs: list[Job]) -> None:
    """Answer with what was sent; some messages ask for something else."""
    for one in jobs:
        body = bytes(one.body)
        if body == b"die" and not one.is_repeated:
            os.kill(os.getpid(), signal.SIGKILL)
        if body == b"slowly":
            time.sleep(0.5)
        if body.startswith(UNTIL):
            eventually(Path(os.fsdecode(body.removeprefix(UNTIL))).exists, "it may go on")
        one.answer([b"again " if one.is_repeated else b"", body])


def keep_a_writer(door: socket.socket) -> None:
    """Fork writers, one after the other; as in the service, this process has no link to them."""
    while True:
        pid = os.fork()
        if not pid:
            queues = FileQueues(echo)
            Writer(door, address, queues, most_waiting=2).run()
            os._exit(0)
        os.waitpid(pid, 0)


def address(body: memoryview) -> tuple[Hashable, bool]:
    return bytes(body[:1]), not bytes(body).startswith(b"script")


@contextmanager
def running() -> Iterator[tuple[WriterLink, socket.socket]]:
    """A link to a writer that is started anew when it dies."""
    inside, outside = socket_pair()
    keeper = os.fork()
    if not keeper:
        os.setsid()
        try:
            keep_a_writer(inside)
        finally:
            os._exit(0)
    link = WriterLink(outside)
    try:
        yield link, outside
    finally:
        link.close()
        os.killpg(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        inside.close()
        outside.close()


def result(answer: Future[memoryview | None]) -> bytes | None:
    got = answer.result(PATIENCE_S)
    return None if got is None else bytes(got)


def test_requests_are_answered_each_by_its_own_answer() -> None:
    with running() as (link, _):
        bodies = [os.urandom(size) for size in (0, 1, 100, INLINE_BYTES, 10 * INLINE_BYTES) * 5]
        answers = [link.submit([body]) for body in bodies]
        assert list(map(result, answers)) == bodies
        assert link.waiting_bytes == 0


def test_requests_that_a_dead_writer_left_unanswered_go_to_the_next() -> None:
    with running() as (link, _):
        assert result(link.submit([b"before"])) == b"before"
        for _ in range(5):
            unanswered = [link.submit([b"slowly"]), link.submit([b"die"])]
            later = [link.submit([body]) for body in (b"a", b"b" * 100_000)]
            assert result(unanswered[0]) in (b"slowly", b"again slowly")
            assert result(unanswered[1]) == b"again die"
            # Whether the others were answered before the writer died is chance.
            assert result(later[0]) in (b"a", b"again a")
            assert result(later[1]) in (b"b" * 100_000, b"again " + b"b" * 100_000)
        assert result(link.submit([b"after"])) == b"after"


def test_workers_have_connections_of_their_own() -> None:
    with running() as (link, outside):
        assert result(link.submit([b"first"])) == b"first"
        others = [WriterLink(outside) for _ in range(3)]
        answers = [other.submit([b"%d" % number]) for number, other in enumerate(others)]
        assert list(map(result, answers)) == [b"0", b"1", b"2"]
        for other in others:
            other.close()


def test_script_is_refused_where_too_many_wait_and_a_person_is_not(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with running() as (link, _):
        assert result(link.submit([b"sure, it runs"])) == b"sure, it runs"
        first = link.submit([UNTIL, os.fsencode(go_on)])
        waiting = [link.submit([b"s %d" % number]) for number in range(10)]
        refused = link.submit([b"script"])
        assert result(refused) is None
        assert not first.done()
        go_on.touch()
        assert result(first) == UNTIL + os.fsencode(go_on)
        assert list(map(result, waiting)) == [b"s %d" % number for number in range(10)]
        assert result(link.submit([b"script"])) == b"script"


def test_browser_is_refused_only_when_what_waits_does_not_fit_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path / "brain")
    inside, outside = socket_pair()
    link = WriterLink(outside)
    app = create_app(AppSettings(tmp_path), writer=RemoteWriter(link, 5000))

    def save(size: int) -> tuple[bool, str]:
        body = json.dumps([{"id": "a", "anntype": "neuron", "text": "x" * size}])
        path = "/brain/annotations/x0y0z0/fibers.json"
        headers = {"User-Agent": "Mozilla/5.0"}
        environ = create_environ(path=path, method="PUT", body=body, headers=headers)
        environ[PARKING] = Parking()
        statuses: list[str] = []

        def start_response(status: str, *_: object) -> Any:
            statuses.append(status)

        app(environ, start_response)
        return environ[PARKING].is_parked, statuses[0]

    with inside, outside:  # nobody takes any of them
        assert [save(size)[0] for size in (3000, 1000)] == [True, True]
        assert "edit refused" not in caplog.text
        parked, status = save(3000)
        link.close()
    assert (parked, status[:3]) == (False, "503")
    assert "edit refused: brain/annotations/x0y0z0/fibers.json" in caplog.text
