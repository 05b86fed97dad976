"""One process that answers requests until it is told to stop, and then finishes what it has."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from neurotrale.server.channel import Channel

log = logging.getLogger(__name__)

LOOP_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    Args:
        threads: Requests answered at once; a few, as chunks are work for the processor.
        connections: Open connections; a browser keeps six.
        body_bytes: The largest body; beyond it the answer is 413 before the body is read.
        idle_s: Connections without any traffic for so long are closed.
        drain_s: How long requests in flight may take after the signal to stop.
    """

    threads: int = 4
    connections: int = 500
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
    # One line for each queued request is noise; the access log has the times.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    sockets: dict[int, Any] = {}
    server: Any = create_server(
        app,
        map=sockets,
        sockets=[listening],
        threads=limits.threads,
        connection_limit=limits.connections,
        max_request_body_size=limits.body_bytes,
        channel_timeout=limits.idle_s,
        ident=None,
        log_socket_errors=False,
        clear_untrusted_proxy_headers=True,
    )
    server.channel_class = Channel
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        server.pull_trigger()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    on_ready()
    while not stopping:
        wasyncore.loop(timeout=LOOP_TIMEOUT_S, map=sockets, count=1)
    _drain(server, sockets, limits.drain_s)
    server.task_dispatcher.shutdown(timeout=1)
    wasyncore.close_all(sockets)


def _drain(server: Any, sockets: dict[int, Any], drain_s: float) -> None:
    server.accepting = False
    until = time.monotonic() + drain_s
    while any(map(_in_flight, list(server.active_channels.values()))):
        if time.monotonic() > until:
            log.warning("process %d stops with requests unfinished", os.getpid())
            return
        wasyncore.loop(timeout=0.05, map=sockets, count=1)


def _in_flight(channel: Any) -> bool:
    return bool(channel.requests or channel.request or channel.total_outbufs_len)
