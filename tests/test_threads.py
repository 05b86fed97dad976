"""The threads of a worker: who polls the connections, and who answers."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from neurotrale.server.threads import LeaderFollowerPool
from tests.processes import PATIENCE_S, eventually


class Request:
    """A request that does what it is told, and notes the thread that answered it."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        self.work = work
        self.thread = 0

    def service(self) -> None:
        self.work()
        self.thread = threading.get_ident()


class Door:
    """Where requests come in: a connection that wakes whoever polls."""

    def __init__(self, size: int) -> None:
        self.inside, self.outside = socket.socketpair()
        self.inside.setblocking(False)
        self.coming: deque[tuple[Request, bool]] = deque()
        self.pollers: set[int] = set()
        self.pool = LeaderFollowerPool(size, self.poll, self.wake)
        self.stopping = False
        self.monitor = threading.Thread(
            target=lambda: self.pool.monitor(until=lambda: self.stopping)
        )

    def poll(self, timeout_s: float) -> None:
        self.pollers.add(threading.get_ident())
        if select.select([self.inside], [], [], timeout_s)[0]:
            self.inside.recv(4096)
        while self.coming:
            request, immediate = self.coming.popleft()
            self.pool.add(request, immediate=immediate)

    def wake(self) -> None:
        self.outside.send(b"x")

    def enter(self, request: Request, *, immediate: bool = False) -> Request:
        self.coming.append((request, immediate))
        self.wake()
        return request

    def close(self) -> None:
        self.stopping = True
        self.pool.wake_monitor()
        self.monitor.join()
        self.pool.stop()
        self.inside.close()
        self.outside.close()


@pytest.fixture(name="door")
def opened_door() -> Iterator[Door]:
    door = Door(2)
    door.pool.start()
    door.monitor.start()
    yield door
    door.close()


def answered(request: Request) -> int:
    return eventually(lambda: request.thread, "the request is answered")


def test_quick_requests_are_answered_by_the_thread_that_polls(door: Door) -> None:
    threads = {answered(door.enter(Request())) for _ in range(50)}
    assert threads == door.pollers
    assert len(threads) == 1


def test_request_that_takes_long_holds_up_no_other(door: Door) -> None:
    go_on = threading.Event()
    slow = door.enter(Request(go_on.wait))
    quick = [door.enter(Request()) for _ in range(10)]
    threads = {answered(request) for request in quick}
    assert slow.thread == 0
    go_on.set()
    assert answered(slow) not in threads


def test_no_more_requests_are_answered_at_once_than_allowed(door: Door) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        go_on.wait()

    slow = [door.enter(Request(work)) for _ in range(2)]
    for _ in slow:  # only then are all places taken
        assert begun.acquire(timeout=PATIENCE_S)
    third = door.enter(Request())
    refused = door.enter(Request(), immediate=True)
    answered(refused)  # it needs no place
    assert third.thread == 0
    assert door.pool.queued == 1
    go_on.set()
    for request in (*slow, third):
        answered(request)
    assert door.pool.queued == 0


def test_request_that_fails_ends_no_thread(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    for _ in range(5):
        door.enter(Request(fail))
    answered(door.enter(Request()))
    assert "on purpose" in caplog.text


def test_stop_waits_for_the_request_that_is_being_answered(door: Door) -> None:
    go_on = threading.Event()
    slow = door.enter(Request(go_on.wait))
    eventually(lambda: len(door.pollers) > 1, "another thread is the leader")
    threading.Timer(0.2, go_on.set).start()
    door.pool.stop()
    assert slow.thread
