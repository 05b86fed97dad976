"""One writer at a time for each annotation file, among threads and processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from neurotrale.errors import BusyError
from neurotrale.faults import writing

POLL_S = 0.01


class Locks:
    """Gives out locks, each named after the file that it guards.

    Args:
        timeout_s: How long a writer waits for its turn.
    """

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self._queues: dict[Path, threading.Lock] = {}
        self._users: dict[Path, int] = {}
        self._guard = threading.Lock()

    @contextmanager
    def hold(self, path: Path, what: str) -> Iterator[None]:
        """Hold the lock of a file.

        Threads of this process queue up first, so that the file lock is polled by one only.

        Args:
            path: The file to be written; its lock is the hidden file ``.{name}.lock`` beside it.
            what: What to call it in errors.

        Raises:
            BusyError: Another writer kept it for longer than the time-out.
        """
        until = time.monotonic() + self.timeout_s
        with self._queue(path) as queue:
            if not queue.acquire(timeout=self.timeout_s):
                raise _busy(what)
            try:
                yield from self._hold_file(path, what, until)
            finally:
                queue.release()

    def _hold_file(self, path: Path, what: str, until: float) -> Iterator[None]:
        # A soft lock in place of a real one, on a file system without them, would not be noticed.
        lock = filelock.FileLock(
            path.with_name(f".{path.name}.lock"), poll_interval=POLL_S, fallback_to_soft=False
        )
        try:
            with writing(what):
                lock.acquire(timeout=max(0.0, until - time.monotonic()))
        except filelock.Timeout as error:
            raise _busy(what) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _queue(self, path: Path) -> Iterator[threading.Lock]:
        with self._guard:
            queue = self._queues.setdefault(path, threading.Lock())
            self._users[path] = self._users.get(path, 0) + 1
        try:
            yield queue
        finally:
            with self._guard:
                self._users[path] -= 1
                if not self._users[path]:
                    del self._users[path], self._queues[path]


def _busy(what: str) -> BusyError:
    return BusyError(f"{what} is being written by others right now. Save again in a moment.", 2)
