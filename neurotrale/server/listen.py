"""The listening socket, opened once and shared by all workers."""

from __future__ import annotations

import socket

from neurotrale.errors import StartError

BACKLOG = 1024


def open_socket(host: str, port: int) -> socket.socket:
    """Open the socket that the service listens on.

    Args:
        host: Name or address; an IPv6 address without brackets.
        port: 0 lets the system choose a free one.

    Raises:
        StartError: The address is taken, not ours, or unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have
        why = getattr(error, "strerror", None) or error
        raise StartError(
            f"Cannot listen on {host} port {port}: {why}. Choose another with"
            " --host and --port (port 0 takes a free one)."
        ) from error
    listening.setblocking(False)
    return listening


def url_of(listening: socket.socket, host: str) -> str:
    """Give the URL to open; for a socket on all interfaces that is the one of this machine."""
    port = listening.getsockname()[1]
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
