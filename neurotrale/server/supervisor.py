"""Several workers on one socket: started, watched, replaced, stopped together."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

# More deaths than this within the window: something is wrong that starting again will not mend.
MOST_DEATHS_EACH = 5
DEATHS_WINDOW_S = 30.0

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Keeps a number of worker processes alive.

    Args:
        work: What a worker does; called in the worker's process with a function to call when it
            is ready. It returns when the worker got SIGTERM.
        workers: How many.
        stop_s: How long workers may take to finish before they are killed.
    """

    def __init__(
        self, work: Callable[[Callable[[], None]], None], workers: int, stop_s: float
    ) -> None:
        self._work = work
        self._workers = workers
        self._stop_s = stop_s
        self._pids: set[int] = set()
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS_EACH * workers + 2)

    def run(self, on_ready: Callable[[], None]) -> int:
        """Start the workers and watch them until a signal to stop.

        Args:
            on_ready: Called once, when the first worker answers requests.

        Returns:
            The exit code: 0 after a signal, 1 when workers died again and again. The signals stay
            blocked: a second one must not break off what the caller does before it exits.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            ready, tell = os.pipe()
            try:
                for _ in range(self._workers):
                    self._pids.add(self._start(tell))
            finally:
                os.close(tell)
            answers = os.read(ready, 1)  # empty when every worker died before it was ready
            os.close(ready)
            if not answers:
                log.error("no worker could start")
                return 1
            on_ready()
            return self._watch()
        finally:
            self._stop()

    def _watch(self) -> int:
        while True:
            got = signal.sigwaitinfo(_SIGNALS).si_signo
            if got != signal.SIGCHLD:
                log.info("%s: finishing what is in flight", signal.Signals(got).name)
                return 0
            for pid, status in self._reap():
                log.error("worker %d died (%s)", pid, _how(status))
                self._deaths.append(time.monotonic())
                if self._too_many_deaths():
                    log.error("workers die again and again; stopping")
                    return 1
                self._pids.add(self._start(None))

    def _too_many_deaths(self) -> bool:
        return (
            len(self._deaths) == self._deaths.maxlen
            and self._deaths[-1] - self._deaths[0] < DEATHS_WINDOW_S
        )

    def _start(self, tell: int | None) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            _die_with(parent)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to finish
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._work(lambda: _write(tell))
            code = 0
        except BaseException:
            log.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> list[tuple[int, int]]:
        dead = []
        for pid in list(self._pids):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                self._pids.discard(pid)
                dead.append((pid, status))
        return dead

    def _stop(self) -> None:
        until = time.monotonic() + self._stop_s
        self._signal_all(signal.SIGTERM)
        while self._pids:
            self._reap()
            left = until - time.monotonic()
            if self._pids and left < 0:
                log.error("killing workers that do not stop: %s", sorted(self._pids))
                self._signal_all(signal.SIGKILL)
                left = self._stop_s
            if self._pids:
                signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.5))

    def _signal_all(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def _write(tell: int | None) -> None:
    if tell is not None:
        os.write(tell, b"1")
        os.close(tell)


def _die_with(parent: int) -> None:
    """Have the kernel stop this worker when the supervisor dies, even by SIGKILL."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.waitstatus_to_exitcode(status)}"
