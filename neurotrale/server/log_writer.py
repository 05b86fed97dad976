"""Writes the log of a service, and never waits for whoever reads it.

A pipe that nobody reads is full after 64 kB. A thread that then writes its line waits for ever, and
with it every other thread that has something to log.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from collections import deque
from contextlib import suppress
from threading import Thread

from neurotrale.server.threads import signals_blocked

# Lines that wait to be written, in bytes; further ones are dropped, and counted.
MOST_WAITING_BYTES = 2**20
FLUSH_S = 1.0


class LogWriter(logging.Handler):
    """Writes lines to a descriptor at once if it takes them, otherwise in a thread of its own.

    The descriptor itself, which other programs may share, is left as it is.

    Args:
        descriptor: An open file, pipe or terminal.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._shared = descriptor
        self._own = _opened_again(descriptor)
        # A file takes what it is given, as far as anything can be known about it.
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._begin()

    def _begin(self) -> None:
        """Forget what waits: after a fork, the parent writes it."""
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._size = self._dropped = 0
        self._is_writing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or have it written later."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - a message that does not fit its arguments
            self.handleError(record)
            return
        if self._pid != os.getpid():
            self._begin()
        if not self._is_writing:
            line = line[self._write(line) :]
        if not line:
            return
        if self._size + len(line) > MOST_WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if not self._is_writing:
            self._is_writing = True
            with signals_blocked():
                Thread(target=self._write_waiting, name="log", daemon=True).start()

    def flush(self) -> None:
        """Wait a moment for lines to be written that are not yet."""
        until = time.monotonic() + FLUSH_S
        while self._is_writing and self._pid == os.getpid() and time.monotonic() < until:
            time.sleep(0.01)

    def _write(self, line: bytes) -> int:
        """Write as much as is taken at once; return the number of bytes."""
        with suppress(OSError):
            if self._is_file:
                return os.write(self._shared, line)
            if self._own is not None:
                return os.write(self._own, line)
        return 0

    def _write_waiting(self) -> None:
        while True:
            assert self.lock is not None
            with self.lock:
                if not self._waiting:
                    self._is_writing = False
                    return
                line = self._waiting.popleft()
                self._size -= len(line)
                if self._dropped:
                    line += b"%d lines of the log were dropped: nobody read them\n" % self._dropped
                    self._dropped = 0
            with suppress(OSError):  # nobody will read it
                self._write_all(line)

    def _write_all(self, line: bytes) -> None:
        """Write a line, however long that takes."""
        descriptor = self._shared if self._own is None else self._own
        ready = select.poll()
        ready.register(descriptor, select.POLLOUT)
        while line:
            ready.poll()
            with suppress(BlockingIOError):
                line = line[os.write(descriptor, line) :]


def _opened_again(descriptor: int) -> int | None:
    """Open a pipe or terminal once more, so that writing to it never waits; None for others."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return None
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # of another user
        return None
