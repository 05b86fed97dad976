"""The threads of a worker: one watches the connections and answers what it finds itself.

To hand every request to another thread costs more than to answer most of them: each hand-over
wakes a thread, and the two then wait for each other's interpreter lock at every system call. So
the thread that reads a request answers it, too. Only when that takes longer, because a disk is
slow or another writer holds a lock, a spare thread takes over the watch in the meantime.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread, get_ident
from typing import Protocol

log = logging.getLogger(__name__)

# A request may hold up the others of its worker for so long.
PATIENCE_S = 0.01
# After so many of these times without any request, the overseer sleeps until there is one.
CALM_TICKS = 100
# While requests wait for their turn, the connections are looked at so often.
LOOK_S = 0.02
IDLE_LOOK_S = 1.0
END_S = 1.0


class Task(Protocol):
    """A request that is complete."""

    def service(self) -> None:
        """Answer it."""


class Crew:
    """Answers the requests of one worker.

    Args:
        size: How many requests may be answered at once.
        look: Looks at the connections, for so many seconds at most, and calls `add`.
        wake: Makes `look` return at once, from any thread.
    """

    def __init__(self, size: int, look: Callable[[float], None], wake: Callable[[], None]) -> None:
        self.looks = 0
        """How often the connections were looked at."""
        self._size = size
        self._look = look
        self._wake = wake
        self._waiting: deque[Task] = deque()
        self._at_once: deque[Task] = deque()
        self._turn = Condition()
        self._on_watch: int | None = None  # the thread that has the watch
        self._answering = 0
        self._begun = 0  # requests so far; tells one from the next
        self._busy = False  # whether the thread on watch is answering a request
        self._calm = True  # whether the overseer sleeps
        self._call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._call, select.POLLIN)
        self._ended = False
        self._threads = [
            Thread(target=self._serve, name=f"crew-{number}", daemon=True)
            for number in range(size + 1)  # one more, to watch while all others answer
        ]

    def start(self) -> None:
        """Begin to watch."""
        # Of two signals at once the kernel gives one to any thread that takes it, and may so give
        # both to the thread on watch: then nothing would wake the overseer, which handles them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        for thread in self._threads:
            thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    def add(self, task: Task, *, at_once: bool = False) -> None:
        """Have a request answered.

        Args:
            task: The request.
            at_once: It takes no time and need not wait for a place.
        """
        (self._at_once if at_once else self._waiting).append(task)
        self.wake()

    def wake(self) -> None:
        """Have the connections looked at, whoever does it."""
        if self._on_watch != get_ident():  # it looks next, in any case
            self._wake()

    def call(self) -> None:
        """Wake the overseer; allowed in a signal handler."""
        os.eventfd_write(self._call, 1)

    def oversee(self, until: Callable[[], bool]) -> None:
        """Look after the thread on watch.

        Args:
            until: Asked again after each `call`; true ends it.
        """
        quiet = CALM_TICKS
        while not until():
            if quiet >= CALM_TICKS:
                self._sleep()
                quiet = 0
            quiet = 0 if self.tick() else quiet + 1

    def tick(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait; if one request took all the time, give the watch to a spare thread.

        Returns:
            Whether there was any request.
        """
        begun, busy = self._begun, self._busy
        time.sleep(patience_s)
        with self._turn:
            if busy and self._busy and self._begun == begun:
                self._busy = False
                self._on_watch = None
                self._turn.notify()
        return busy or self._begun != begun

    def end(self) -> None:
        """Stop to watch; requests that are being answered have a moment left."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
        self._wake()
        until = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _sleep(self) -> None:
        self._calm = True
        if not self._busy:  # asked after the line above: a request that begins later calls
            self._poll.poll()
        with suppress(BlockingIOError):
            os.eventfd_read(self._call)
        self._calm = False

    def _serve(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._on_watch is None or self._ended)
                if self._ended:
                    return
                self._on_watch = get_ident()
            self._watch()

    def _watch(self) -> None:
        """Look and answer, until another thread has the watch."""
        looked_at = 0.0
        while not self._ended:
            ready = self._at_once or (self._waiting and self._answering < self._size)
            if not ready or time.monotonic() > looked_at + LOOK_S:
                self._look(0 if ready else IDLE_LOOK_S)
                self.looks += 1
                looked_at = time.monotonic()
            elif self._at_once:
                self._service(self._at_once.popleft())
            elif not self._answer(self._waiting.popleft()):
                return

    def _answer(self, task: Task) -> bool:
        """Answer a request; tell whether the watch is still this thread's."""
        with self._turn:
            self._answering += 1
        self._begun += 1
        self._busy = True
        if self._calm:
            self.call()
        self._service(task)
        with self._turn:
            self._answering -= 1
            if self._on_watch == get_ident():
                self._busy = False
                return True
        self._wake()  # who is on watch may be waiting for a free place
        return False

    def _service(self, task: Task) -> None:
        try:
            task.service()
        except Exception:
            log.exception("a request could not be answered")
