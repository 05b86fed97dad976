"""The listening socket, opened once and shared by all workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

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


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Open a Unix socket that only its owner may connect to; it is removed at the end.

    Raises:
        StartError: Another service answers there, or the path cannot be used.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with closing(listening):
        try:
            _remove_dead(path)
            # Nobody may connect in the moment before the mode is set.
            umask = os.umask(0o177)
            try:
                listening.bind(str(path))
            finally:
                os.umask(umask)
            listening.listen(BACKLOG)
        except OSError as error:
            raise StartError(
                f"Cannot listen on the socket {path}: {error.strerror or error}. Name another path"
                " with --unix-socket, of at most 107 bytes, in a directory that you may write to."
            ) from error
        listening.setblocking(False)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # of a service that died
            return
    raise StartError(f"Another service answers on the socket {path}. Name another path.")


def url_of(listening: socket.socket, host: str) -> str:
    """Give the URL to open; for a socket on all interfaces that is the one of this machine."""
    port = listening.getsockname()[1]
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
