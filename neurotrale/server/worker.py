"""A worker process: answers requests until a signal to stop, then finishes those in flight."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Thread
from types import FrameType
from typing import Any

from neurotrale.server.threads import LeaderFollowerPool, signals_blocked
from neurotrale.server.uploads import Uploads
from neurotrale.server.waitress_adapter import HttpServer
from neurotrale.settings.service import (
    CONNECTIONS,
    DRAIN_TIMEOUT,
    QUEUE,
    STALL_TIMEOUT,
    THREADS,
)

log = logging.getLogger(__name__)

MOST_FILES = 65_536
FILES_BESIDES = 256  # directories, files that are read and sent, sockets between processes
# Polls of the sockets after the signal to stop; each accepts or reads once from each socket.
LAST_POLLS = 32
LAST_POLL_INTERVAL_S = 0.001


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one worker.

    Args:
        threads: The most requests answered at once; a few, because chunks are CPU-bound.
        connections: The most open connections; a browser opens six.
        queue: The most requests that may wait for a thread; further ones get 503 at once.
        idle_s: Connections without any traffic for this long are closed.
        stall_s: Connections whose client takes nothing of a response for this long are closed.
        drain_s: How long requests in flight may take after the signal to stop.
    """

    threads: int = THREADS.default
    connections: int = CONNECTIONS.default
    queue: int = QUEUE.default
    idle_s: int = 120
    stall_s: float = STALL_TIMEOUT.default
    drain_s: float = DRAIN_TIMEOUT.default


def run_worker(
    app: Callable[..., Any],
    listening: socket.socket,
    limits: Limits,
    on_ready: Callable[[], None],
    on_response: Callable[[], None],
    load: Callable[[], None],
    uploads: Uploads | None = None,
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those in flight.

    Args:
        app: The WSGI application.
        listening: A listening socket, perhaps shared with other workers.
        limits: The limits of this worker.
        on_ready: Called once, when requests will be answered from now on.
        on_response: Called for each response of the application, before any of it is sent.
        load: Called after `on_ready`, in its own thread, to load what requests will need.
        uploads: What is done with the bodies of requests; by default, all are taken.
    """
    _raise_file_limit()
    pool = LeaderFollowerPool(
        limits.threads,
        poll=lambda timeout_s: http.poll(timeout_s),
        wake=lambda: http.wake(),
    )
    http = HttpServer(
        app,
        listening,
        pool,
        queue=limits.queue,
        connections=limits.connections,
        uploads=uploads or Uploads(),
        idle_s=limits.idle_s,
        stall_s=limits.stall_s,
        on_response=on_response,
    )
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        pool.wake_monitor()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pool.start()
    on_ready()
    _in_background(load)
    pool.monitor(until=lambda: stopping)
    _drain(http, pool, limits.drain_s)
    pool.stop()
    http.close()


def _in_background(work: Callable[[], None]) -> None:
    with signals_blocked():
        Thread(target=work, name="load", daemon=True).start()


def _raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed: at the limit, accepting would spin."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _file_limit()
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _file_limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)


def warn_about_file_limit(limits: Limits) -> None:
    """Say what to set if a worker may open too few files for its connections."""
    needed = min(limits.connections + FILES_BESIDES, MOST_FILES)
    if _file_limit() < needed:
        log.warning(
            "each worker may open %d files, too few for --connections %d: requests will fail with"
            " 'Too many open files'. Raise the hard limit to %d (ulimit -n; LimitNOFILE= of"
            " systemd; --ulimit nofile= of Docker), or lower --connections to %d",
            _file_limit(),
            limits.connections,
            needed,
            max(1, _file_limit() - FILES_BESIDES),
        )


def _drain(http: HttpServer, pool: LeaderFollowerPool, drain_s: float) -> None:
    http.close_after_responses()
    deadline = time.monotonic() + drain_s
    last_poll = pool.polls + LAST_POLLS
    while pool.polls < last_poll:  # requests sent before the signal may not have been read yet
        pool.wake()
        pool.handoff_if_stalled(LAST_POLL_INTERVAL_S)
    http.stop_accepting()
    while http.in_flight:
        if time.monotonic() > deadline:
            log.warning(
                "worker %d stops with requests unfinished: the drain timeout is over", os.getpid()
            )
            return
        pool.handoff_if_stalled()


_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def fork(
    name: str, work: Callable[[], None], pause: Callable[[], AbstractContextManager[None]]
) -> int:
    """Call a function in a new process, which is stopped when this one dies.

    Args:
        name: The name of the process, as ``top`` and ``ps -o comm`` show it.
        work: The function. The exit code of the process is 0 when it returns, and 1 when it
            raises; the error is logged.
        pause: Returns a context manager that pauses other threads of this process during the
            fork; the new process leaves it before it calls `work`.

    Returns:
        The id of the new process.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with pause():
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _die_with_parent(parent)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
        work()
        code = 0
    except BaseException:
        log.exception("a %s failed", name)
    finally:
        logging.shutdown()
        os._exit(code)


def describe_exit(status: int) -> str:
    """Return the signal or the exit code in a status of `os.waitpid`, as text."""
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def _die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies, even by SIGKILL."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
