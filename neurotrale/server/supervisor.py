"""The supervisor: starts several workers on one socket, replaces those that die, stops all.

`Deaths` decides when a replacement has to wait and when restarting is pointless.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from pathlib import Path

from neurotrale.metrics import begin_process, count_death
from neurotrale.server.worker import describe_exit, fork

# With more deaths per worker than this within the window, restarting is pointless.
MOST_DEATHS_EACH = 5
WINDOW_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0

CGROUPS = Path("/sys/fs/cgroup")


class Deaths:
    """The recent deaths of workers.

    Args:
        workers: The number of workers.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._times: deque[float] = deque(maxlen=MOST_DEATHS_EACH * workers + 2)

    def add(self) -> None:
        """Record that a worker has just died."""
        self._times.append(time.monotonic())

    @property
    def too_many(self) -> bool:
        """Whether so many workers died within the window that they seem unable to start."""
        return len(self._times) == self._times.maxlen and self._recent() == len(self._times)

    def pause_s(self) -> float:
        """Return how long to wait before the next start.

        The pause is 0 until more workers died within the window than there are, and doubles with
        each further death.
        """
        excess = self._recent() - self._workers
        if excess <= 0:
            return 0.0
        return float(min(FIRST_PAUSE_S * 2 ** min(excess - 1, 10), LONGEST_PAUSE_S))

    def _recent(self) -> int:
        since = time.monotonic() - WINDOW_S
        return sum(death > since for death in self._times)


log = logging.getLogger(__name__)

_TO_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
SIGNALS = {signal.SIGCHLD, *_TO_STOP}


class Supervisor:
    """Keeps a number of worker processes alive.

    Args:
        work: Run in each worker process, with two callbacks: one to call when it is ready, one
            to call when it answers a request. It returns after SIGTERM.
        workers: The number of workers.
        stop_s: How long workers may take to finish before they are killed.
        prepare: Called once the first worker is ready, before the others start, which share the
            memory of everything that it loads.
        pause: Returns a context manager that pauses other threads of this process during a fork:
            a lock that one of them held then would be held in the worker forever.
        writer: Run in one more process, which the workers need: it starts before them, is replaced
            when it dies, and is stopped after them. It returns after SIGTERM.
    """

    def __init__(
        self,
        work: Callable[[Callable[[], None], Callable[[], None]], None],
        workers: int,
        stop_s: float,
        *,
        prepare: Callable[[], None],
        pause: Callable[[], AbstractContextManager[None]] = nullcontext,
        writer: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._writer = writer
        self._writer_pid = 0
        self._writer_deaths = Deaths(1)
        self._workers = workers
        self._stop_s = stop_s
        self._prepare = prepare
        self._pause = pause
        self._pids: dict[int, str] = {}  # with names, no two of which are alike
        self._deaths = Deaths(workers)
        self._replace_at: float | None = None  # when workers that died are replaced
        self._answered = mmap.mmap(-1, 1)  # shared with the workers; 1 after the first response

    def run(self, on_ready: Callable[[], None]) -> int:
        """Start the workers and monitor them until a signal to stop.

        Args:
            on_ready: Called once, when the first worker answers requests; the others follow.

        Returns:
            The exit code: 0 after a signal, 1 when workers died repeatedly and none ever answered
            a request. The signals stay blocked: a second one must not interrupt the clean-up of
            the caller.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._start_writer()
            code = self._start_first()
            if code is not None:
                return code
            on_ready()
            if self._workers > 1:
                self._prepare()
            self._fill_up()
            return self._monitor()
        finally:
            self._stop()

    def _start_first(self) -> int | None:
        """Start one worker, again if it dies; return the exit code if none becomes ready."""
        deaths = Deaths(1)
        for _ in range(MOST_DEATHS_EACH + 2):
            received = signal.sigtimedwait(_TO_STOP, deaths.pause_s())
            if received is not None:
                return _stopped_by(received.si_signo)
            if self._start_until_ready():
                return None
            deaths.add()
        log.error("no worker could start; stopping")
        return 1

    def _start_until_ready(self) -> bool:
        """Start a worker; return whether it becomes ready before it dies."""
        reader, ready = os.pipe()
        try:
            pid = self._start(lambda: _signal_ready(ready))
            os.close(ready)
            if os.read(reader, 1):  # empty if the worker died
                return True
        finally:
            os.close(reader)
        _, status = os.waitpid(pid, 0)
        _log_death(self._pids.pop(pid), pid, status)
        return False

    def _monitor(self) -> int:
        while True:
            number = self._wait()
            if number in _TO_STOP:
                return _stopped_by(number)
            for pid, name, status in self._reap():
                _log_death(name, pid, status)
                if pid == self._writer_pid:
                    self._writer_pid = 0
                    self._writer_deaths.add()
                    self._replace_in(self._writer_deaths.pause_s())
                    continue
                self._deaths.add()
                if self._deaths.too_many and not self._answered[0]:
                    log.error("workers die repeatedly, and none has answered a request; stopping")
                    return 1
                self._replace_in(self._pause_s())
            if self._replace_at is not None and self._replace_at <= time.monotonic():
                self._replace_at = None
                self._fill_up()

    def _replace_in(self, pause_s: float) -> None:
        if self._replace_at is None:
            self._replace_at = time.monotonic() + pause_s

    def _wait(self) -> int | None:
        """Wait for a signal, or until workers must be replaced; return the signal."""
        if self._replace_at is None:
            return signal.sigwaitinfo(SIGNALS).si_signo
        received = signal.sigtimedwait(SIGNALS, max(0.0, self._replace_at - time.monotonic()))
        return None if received is None else received.si_signo

    def _pause_s(self) -> float:
        pause_s = self._deaths.pause_s() if self._answered[0] else 0.0
        if pause_s:
            log.warning("workers die repeatedly; the next one starts in %.1f s", pause_s)
        return pause_s

    def _record_response(self) -> None:
        self._answered[0] = 1

    def _fill_up(self) -> None:
        self._start_writer()
        while len(self._pids) < self._workers:
            self._start(lambda: None)

    def _start(self, on_ready: Callable[[], None]) -> int:
        taken = set(self._pids.values())
        name = next(name for n in count(1) if (name := f"worker-{n}") not in taken)
        pid = self._fork(name, lambda: self._work(on_ready, self._record_response))
        self._pids[pid] = name
        return pid

    def _start_writer(self) -> None:
        if self._writer is not None and not self._writer_pid:
            self._writer_pid = self._fork("writer", self._writer)

    def _fork(self, name: str, run: Callable[[], None]) -> int:
        def work() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are requests to finish
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            begin_process(name)
            run()

        return fork(name.partition("-")[0], work, self._pause)

    def _reap(self) -> list[tuple[int, str, int]]:
        dead = []
        for pid in (*self._pids, self._writer_pid):
            reaped, status = os.waitpid(pid, os.WNOHANG) if pid else (0, 0)
            if reaped:
                dead.append((pid, self._pids.pop(pid, "writer"), status))
        return dead

    def _stop(self) -> None:
        deadline = time.monotonic() + self._stop_s
        self._signal_all(signal.SIGTERM)
        while self._pids or self._writer_pid:
            if any(pid == self._writer_pid for pid, *_ in self._reap()):
                self._writer_pid = 0
                if self._pids:  # their last requests need it
                    self._start_writer()
            elif self._writer_pid and not self._pids:
                os.kill(self._writer_pid, signal.SIGTERM)
            left_s = deadline - time.monotonic()
            running = {*self._pids, self._writer_pid} - {0}
            if running and left_s < 0:
                log.error("killing processes that do not stop: %s", sorted(running))
                self._signal_all(signal.SIGKILL)
                left_s = self._stop_s
            if running:
                signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 0.5))

    def _signal_all(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)
        if self._writer_pid and number == signal.SIGKILL:
            os.kill(self._writer_pid, number)


def _signal_ready(pipe: int) -> None:
    os.write(pipe, b"1")
    os.close(pipe)


def _stopped_by(number: int) -> int:
    """Log the signal; return the exit code."""
    log.info("%s: finishing the requests in flight", signal.Signals(number).name)
    return 0


def _log_death(name: str, pid: int, status: int) -> None:
    count_death(kind := name.partition("-")[0], name)
    how = describe_exit(status)
    if how == signal.SIGKILL.name and (killed := out_of_memory_kills()):
        how += f"; out of memory? The kernel has killed {killed} processes here for that"
    log.error("%s %d died (%s)", kind, pid, how)


def out_of_memory_kills(own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many processes of this control group were killed for lack of memory.

    Args:
        own: The control groups of this process; see cgroups(7).
    """
    killed = 0
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                place = CGROUPS / controllers / group.lstrip("/")
                name = "memory.oom_control" if controllers else "memory.events"
                for counted in (place / name).read_text().splitlines():
                    key, _, count = counted.partition(" ")
                    killed += int(count) if key == "oom_kill" else 0
    return killed
