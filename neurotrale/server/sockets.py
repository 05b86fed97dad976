"""Sockets that a service listens on, and when the bytes of its clients arrive."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from neurotrale.errors import StartError

BACKLOG = 1024
# Has the kernel note when bytes arrive, however late they are read. Python has no name for it.
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@qq")  # seconds and nanoseconds since the epoch


def receive_stamped(connection: socket.socket, most_bytes: int) -> tuple[bytes, int]:
    """Receive bytes of a client.

    Returns:
        The bytes, and when they arrived, in nanoseconds since the epoch; where the kernel does not
        tell, when they were read.

    Raises:
        OSError: There is nothing to receive, or the connection is broken.
    """
    data, notes, _, _ = connection.recvmsg(most_bytes, socket.CMSG_SPACE(_STAMP.size))
    for level, kind, stamp in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(stamp) == _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack(stamp)
            return data, int(seconds * 10**9 + nanoseconds)
    return data, time.time_ns()


def open_socket(host: str, port: int) -> socket.socket:
    """Open the socket that the service listens on.

    Args:
        host: Host name or address; an IPv6 address without brackets.
        port: The port; with 0 the system chooses a free one.

    Raises:
        StartError: The address is in use, not one of this machine, or unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # connections have it from here
                listening.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = getattr(error, "strerror", None) or error
        raise StartError(
            f"Cannot listen on {host} port {port}: {reason}. Choose another address with --host"
            " or another port with --port (0 takes a free one)."
        ) from error
    listening.setblocking(False)
    return listening


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Open a Unix socket that only its owner may connect to; the file is removed at the end.

    Raises:
        StartError: Another service listens on the path, or the path cannot be used.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with closing(listening):
        try:
            _remove_stale_socket(path)
            # The mode is set on creation, so that nobody else can ever connect.
            umask = os.umask(0o177)
            try:
                listening.bind(str(path))
            finally:
                os.umask(umask)
            listening.listen(BACKLOG)
        except OSError as error:
            raise StartError(
                f"Cannot listen on the socket {path}: {error.strerror or error}. Choose another"
                " path with --unix-socket: at most 107 bytes, in a directory that you can write"
                " to."
            ) from error
        listening.setblocking(False)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _remove_stale_socket(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # left by a service that died
            return
    raise StartError(
        f"Another service listens on the socket {path}. Choose another path with"
        " --unix-socket, or stop that service."
    )


def names_of(listening: socket.socket, allowed: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names that a service may be called by, besides localhost; None for any.

    Args:
        listening: The socket that it listens on.
        allowed: Names that are allowed besides that of this machine; if there are none, a service
            is asked for by its name on a loopback address only.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])
    if not allowed and not address.is_loopback:
        return None
    own = socket.gethostname()
    return (own, own.partition(".")[0], *allowed)


def url_of(listening: socket.socket, host: str) -> str:
    """Return the URL to open; the loopback address for a socket on all interfaces."""
    port = listening.getsockname()[1]
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def address_facts(
    listening: socket.socket, host: str, unix_path: Path | None
) -> tuple[str, dict[str, object]]:
    """Return the URL to open, and the members of the ready file for the address.

    Args:
        listening: The socket.
        host: The address that the service was told to listen on.
        unix_path: The path of a Unix socket; None for another one.
    """
    if unix_path is not None:
        url = f"http+unix://{quote(str(unix_path.absolute()), safe='')}/"
        return url, {"url": url, "socket": str(unix_path.absolute())}
    url = url_of(listening, host)
    return url, {"url": url, "host": host, "port": listening.getsockname()[1]}
