"""The thread pool of a worker: the leader polls the connections and answers requests itself.

Handing every request to another thread costs more than answering most of them: each hand-over
wakes a thread, and the two then contend for the interpreter lock at every system call. So the
thread that reads a request also answers it. Only when that takes longer, because a disk is slow or
another writer holds a lock, does a spare thread become the leader in the meantime.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread, get_ident
from typing import Protocol

from neurotrale.server.messages import Piece

log = logging.getLogger(__name__)

# How long one request may block the other requests of its worker.
STALL_S = 0.01
# After this many intervals without a request, the monitor sleeps until the next one.
IDLE_INTERVALS = 100
# How often the connections are polled while requests are queued.
BUSY_POLL_S = 0.02
IDLE_POLL_S = 1.0
STOP_S = 1.0


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals, also in the threads that are started meanwhile.

    One thread of a process handles them. When two arrive at once, the kernel may deliver both to
    any other one that accepts them, and nothing would wake the one that handles them.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Task(Protocol):
    """A complete request."""

    def service(self) -> None:
        """Answer the request."""


class LeaderFollowerPool:
    """The threads that answer the requests of one worker.

    Args:
        size: The most requests that are answered at once.
        poll: Polls the connections, for at most the given number of seconds, and calls `add`.
        wake: Makes `poll` return at once; called from any thread.
    """

    def __init__(self, size: int, poll: Callable[[float], None], wake: Callable[[], None]) -> None:
        self.polls = 0
        """How often the connections have been polled."""
        self._size = size
        self._poll = poll
        self._wake = wake
        self._queued: deque[Task] = deque()
        self._immediate: deque[Task] = deque()
        self._condition = Condition()
        self._leader: int | None = None  # the thread that polls
        self._answering = 0
        self._begun = 0  # requests so far; tells one from the next
        self._busy = False  # whether the leader is answering a request
        self._monitor_asleep = True
        self._monitor_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._monitor_poll = select.poll()
        self._monitor_poll.register(self._monitor_event, select.POLLIN)
        self._stopped = False
        self._threads = [
            Thread(target=self._run, name=f"request-{number}", daemon=True)
            for number in range(size + 1)  # one more, to poll while all others answer
        ]

    def start(self) -> None:
        """Start the threads."""
        with signals_blocked():
            for thread in self._threads:
                thread.start()

    @property
    def queued(self) -> int:
        """The number of requests that wait for a thread."""
        return len(self._queued)

    def add(self, task: Task, *, immediate: bool = False) -> None:
        """Queue a request.

        Args:
            task: The request.
            immediate: Answer it before all others and beyond `size`: it takes no time.
        """
        (self._immediate if immediate else self._queued).append(task)
        self.wake()

    def wake(self) -> None:
        """Have the leader poll the connections now."""
        if self._leader != get_ident():  # the leader itself polls next, in any case
            self._wake()

    def wake_monitor(self) -> None:
        """Wake the thread in `monitor`; safe in a signal handler."""
        os.eventfd_write(self._monitor_event, 1)

    def monitor(self, until: Callable[[], bool]) -> None:
        """Replace the leader whenever a request blocks it.

        Args:
            until: Checked again after each `wake_monitor`; returns true to end the monitoring.
        """
        idle = IDLE_INTERVALS
        while not until():
            if idle >= IDLE_INTERVALS:
                self._sleep_until_request()
                idle = 0
            idle = 0 if self.handoff_if_stalled() else idle + 1

    def handoff_if_stalled(self, interval_s: float = STALL_S) -> bool:
        """Sleep; if one request took all that time, let a spare thread become the leader.

        Returns:
            Whether there was any request.
        """
        begun, busy = self._begun, self._busy
        time.sleep(interval_s)
        with self._condition:
            if busy and self._busy and self._begun == begun:
                self._busy = False
                self._leader = None
                self._condition.notify()
        return busy or self._begun != begun

    def stop(self) -> None:
        """Stop the threads; requests that are being answered have `STOP_S` seconds left."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._wake()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _sleep_until_request(self) -> None:
        self._monitor_asleep = True
        # Checked after the line above: a request that begins later wakes the monitor.
        if not self._busy:
            self._monitor_poll.poll()
        with suppress(BlockingIOError):
            os.eventfd_read(self._monitor_event)
        self._monitor_asleep = False

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._leader is None or self._stopped)
                if self._stopped:
                    return
                self._leader = get_ident()
            self._lead()

    def _lead(self) -> None:
        """Poll and answer until another thread is the leader."""
        polled_at = 0.0
        while not self._stopped:
            ready = self._immediate or (self._queued and self._answering < self._size)
            if not ready or time.monotonic() > polled_at + BUSY_POLL_S:
                self._poll(0 if ready else IDLE_POLL_S)
                self.polls += 1
                polled_at = time.monotonic()
            elif self._immediate:
                self._service(self._immediate.popleft())
            elif not self._answer(self._queued.popleft()):
                return

    def _answer(self, task: Task) -> bool:
        """Answer a request; return whether this thread is still the leader."""
        with self._condition:
            self._answering += 1
        self._begun += 1
        self._busy = True
        if self._monitor_asleep:
            self.wake_monitor()
        self._service(task)
        with self._condition:
            self._answering -= 1
            if self._leader == get_ident():
                self._busy = False
                return True
        self._wake()  # the leader may be waiting until fewer requests are being answered
        return False

    def _service(self, task: Task) -> None:
        try:
            task.service()
        except Exception:
            log.exception("a request could not be answered")


# --- the writer's threads ---

MOST_THREADS = 16

_ALWAYS: Callable[[], bool] = partial(bool, True)


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the writer works on it.

    Attributes:
        body: The message.
        is_repeated: Whether a writer that died may have worked on it before.
        answer: Sends the answer.
        is_wanted: Returns whether the worker that sent it is still there.
    """

    body: memoryview
    is_repeated: bool
    answer: Callable[[Sequence[Piece]], None]
    is_wanted: Callable[[], bool] = _ALWAYS


class FileQueues:
    """Jobs for files, worked on in the order in which they came, those of one file together.

    Args:
        work: Works on all jobs of one file; called by one thread at a time for each file.
        most_threads: How many files are worked on at once.
    """

    def __init__(
        self,
        work: Callable[[Hashable, list[Job]], None],
        most_threads: int = MOST_THREADS,
    ) -> None:
        self._work = work
        self._most_threads = most_threads
        self._jobs: dict[Hashable, list[Job]] = {}  # in the order in which files had their first
        self._in_work: set[Hashable] = set()
        self._turn = Condition()
        self._threads = 0
        self._idle = 0

    def add(self, key: Hashable, job: Job) -> None:
        """Queue a job for a file."""
        with self._turn:
            self._jobs.setdefault(key, []).append(job)
            if self._idle:
                self._turn.notify()
            elif self._threads < self._most_threads:
                self._threads += 1
                Thread(target=self._run, name=f"writer-{self._threads}", daemon=True).start()

    def waiting(self, key: Hashable) -> int:
        """Return how many jobs wait for a file, without those in work."""
        with self._turn:
            return len(self._jobs.get(key, ()))

    @property
    def is_empty(self) -> bool:
        """Whether no job waits or is in work."""
        with self._turn:
            return not self._jobs and not self._in_work

    def _run(self) -> None:
        while True:
            with self._turn:
                self._idle += 1
                self._turn.wait_for(lambda: self._next() is not None)
                self._idle -= 1
                key = self._next()
                jobs = self._jobs.pop(key)
                self._in_work.add(key)
            try:
                self._work(key, jobs)
            except Exception:
                log.exception("changes of a file could not be worked on")
            with self._turn:
                self._in_work.discard(key)
                if self._next() is not None:
                    self._turn.notify()

    def _next(self) -> Hashable | None:
        return next((key for key in self._jobs if key not in self._in_work), None)
