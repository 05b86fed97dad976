"""One process that answers requests until it is told to stop, and then finishes what it has."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from neurotrale.server.channel import Channel, Dispatcher
from neurotrale.server.crew import Crew

log = logging.getLogger(__name__)

MOST_FILES = 65_536
# The listening socket and the trigger count as connections in waitress.
OWN_SOCKETS = 2
# Looks at the sockets after the signal to stop; each accepts, or reads, one thing of each socket.
LAST_LOOKS = 32
LOOK_S = 0.001


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    Args:
        threads: Requests answered at once; a few, as chunks are work for the processor.
        connections: Open connections; a browser keeps six.
        queue: Requests that may wait for a thread; further ones are answered with 503 at once.
        body_bytes: The largest body; beyond it the answer is 413 before the body is read.
        idle_s: Connections without any traffic for so long are closed.
        drain_s: How long requests in flight may take after the signal to stop.
    """

    threads: int = 4
    connections: int = 500
    queue: int = 64
    body_bytes: int = 2**30
    idle_s: int = 120
    drain_s: float = 30.0


def run_worker(
    app: Callable[..., Any],
    listening: socket.socket,
    limits: Limits,
    on_ready: Callable[[], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those in flight.

    Args:
        app: The WSGI application.
        listening: A listening socket, perhaps shared with other workers.
        limits: What this worker takes on.
        on_ready: Called once, when requests are answered from now on.
    """
    _raise_file_limit()
    sockets: dict[int, Any] = {}
    crew = Crew(
        limits.threads,
        look=lambda timeout_s: wasyncore.loop(timeout_s, use_poll=True, map=sockets, count=1),
        wake=lambda: server.trigger.pull_trigger(),
    )
    server: Any = create_server(
        app,
        map=sockets,
        _dispatcher=Dispatcher(crew, limits.queue),
        sockets=[listening],
        connection_limit=limits.connections + OWN_SOCKETS,
        max_request_body_size=limits.body_bytes + 1,  # waitress refuses what reaches it
        channel_timeout=limits.idle_s,
        ident=None,
        log_socket_errors=False,
        clear_untrusted_proxy_headers=True,
    )
    server.channel_class = Channel
    server.pull_trigger = crew.wake
    server.stopping = False
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        crew.call()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    crew.start()
    on_ready()
    crew.oversee(until=lambda: stopping)
    _drain(server, crew, limits.drain_s)
    crew.end()
    wasyncore.close_all(sockets)


def _raise_file_limit() -> None:
    """Take as many file descriptors as the system grants: at the limit, accepting would spin."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _drain(server: Any, crew: Crew, drain_s: float) -> None:
    server.stopping = True
    until = time.monotonic() + drain_s
    looks = crew.looks + LAST_LOOKS
    while crew.looks < looks:  # what was sent before the signal may not be read yet
        crew.wake()
        crew.tick(LOOK_S)
    server.accepting = False
    while any(map(_in_flight, list(server.active_channels.values()))):
        if time.monotonic() > until:
            log.warning("process %d stops with requests unfinished", os.getpid())
            return
        crew.tick()


def _in_flight(channel: Any) -> bool:
    return bool(channel.requests or channel.request or channel.total_outbufs_len)
