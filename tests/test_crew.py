"""The threads of a worker: who looks at the connections, and who answers."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from neurotrale.server.crew import Crew
from tests.processes import eventually


class Request:
    """A request that does what it is told, and notes the thread that answered it."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        self.work = work
        self.thread = 0

    def service(self) -> None:
        self.work()
        self.thread = threading.get_ident()


class Door:
    """Where requests come in: a connection that wakes whoever looks."""

    def __init__(self, size: int) -> None:
        self.inside, self.outside = socket.socketpair()
        self.inside.setblocking(False)
        self.coming: deque[tuple[Request, bool]] = deque()
        self.lookers: set[int] = set()
        self.crew = Crew(size, self.look, self.wake)
        self.stopping = False
        self.overseer = threading.Thread(
            target=lambda: self.crew.oversee(until=lambda: self.stopping)
        )

    def look(self, timeout_s: float) -> None:
        self.lookers.add(threading.get_ident())
        if select.select([self.inside], [], [], timeout_s)[0]:
            self.inside.recv(4096)
        while self.coming:
            request, at_once = self.coming.popleft()
            self.crew.add(request, at_once=at_once)

    def wake(self) -> None:
        self.outside.send(b"x")

    def enter(self, request: Request, *, at_once: bool = False) -> Request:
        self.coming.append((request, at_once))
        self.wake()
        return request

    def close(self) -> None:
        self.stopping = True
        self.crew.call()
        self.overseer.join()
        self.crew.end()
        self.inside.close()
        self.outside.close()


@pytest.fixture(name="door")
def opened_door() -> Iterator[Door]:
    door = Door(2)
    door.crew.start()
    door.overseer.start()
    yield door
    door.close()


def answered(request: Request) -> int:
    return eventually(lambda: request.thread, "the request is answered")


def test_quick_requests_are_answered_by_the_thread_that_looks(door: Door) -> None:
    threads = {answered(door.enter(Request())) for _ in range(50)}
    assert threads == door.lookers
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
    go_on = threading.Event()
    slow = [door.enter(Request(go_on.wait)) for _ in range(2)]
    third = door.enter(Request())
    refused = door.enter(Request(), at_once=True)
    answered(refused)  # it needs no place
    assert third.thread == 0
    assert door.crew.waiting == 1
    go_on.set()
    for request in (*slow, third):
        answered(request)
    assert door.crew.waiting == 0


def test_request_that_fails_ends_no_thread(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    for _ in range(5):
        door.enter(Request(fail))
    answered(door.enter(Request()))
    assert "on purpose" in caplog.text


def test_end_waits_for_the_request_that_is_being_answered(door: Door) -> None:
    go_on = threading.Event()
    slow = door.enter(Request(go_on.wait))
    eventually(lambda: len(door.lookers) > 1, "another thread has the watch")
    threading.Timer(0.2, go_on.set).start()
    door.crew.end()
    assert slow.thread
