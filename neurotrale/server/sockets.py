"""Sockets: to listen for clients, and in pairs for messages between the service's processes.

Messages are of any size, and travel over a Unix socket of the type SOCK_SEQPACKET: each arrives
whole or not at all, so that a process that dies meanwhile leaves no half of one behind. Small ones
are in the packet itself; larger ones are in memory that the receiver maps, whose descriptor is in
the packet.
"""

from __future__ import annotations

import errno
import ipaddress
import mmap
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from threading import Lock, Thread

from neurotrale.errors import StartError

INLINE_BYTES = 2**15
_INLINE, _MAPPED = b"i", b"m"
_MOST_DESCRIPTORS = 4
# The receiver has not read enough yet, or too many descriptors are on their way.
_FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS}
_FULL_S = 0.05

Piece = bytes | memoryview | mmap.mmap


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Open two connected sockets for messages; both are kept by processes that are forked."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(
    connection: socket.socket, pieces: Sequence[Piece], descriptors: Sequence[int] = ()
) -> None:
    """Send one message; wait while the receiver has too many that it has not read.

    Args:
        connection: One end of a `socket_pair`.
        pieces: The message, in as many pieces as it happens to have.
        descriptors: Open files that the receiver gets its own descriptors of.

    Raises:
        OSError: The other end is closed, or there is no memory for a large message.
    """
    with closing(_Packet(pieces, descriptors)) as packet:
        packet.send(connection)


class _Packet:
    """A message as it travels; a large one in memory, which is given back by `close`."""

    def __init__(self, pieces: Sequence[Piece], descriptors: Sequence[int] = ()) -> None:
        self._memory: int | None = None
        self._descriptors = descriptors
        if sum(len(piece) for piece in pieces) <= INLINE_BYTES:
            self._bytes = b"".join((_INLINE, *pieces))
            return
        self._bytes = _MAPPED
        self._memory = os.memfd_create("message", os.MFD_CLOEXEC)
        self._descriptors = [self._memory, *descriptors]
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._memory, view) :]
        except BaseException:
            self.close()
            raise

    def send(self, connection: socket.socket, flags: int = 0) -> None:
        # Without the flag, a closed other end would end this process by SIGPIPE.
        flags |= socket.MSG_NOSIGNAL
        if self._descriptors:
            socket.send_fds(connection, [self._bytes], self._descriptors, flags)
        else:
            connection.send(self._bytes, flags)

    def close(self) -> None:
        if self._memory is not None:
            os.close(self._memory)


class Outgoing:
    """Sends messages in their order, and keeps those that the receiver does not take yet.

    So a receiver that is stopped, or busy for long, holds up nobody who sends.

    Args:
        connection: One end of a `socket_pair`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: deque[_Packet] = deque()
        self._is_closed = False
        self._lock = Lock()

    def close(self) -> None:
        """Close the connection; what still waits is not sent."""
        with self._lock, suppress(OSError):
            self._is_closed = True
            self._connection.shutdown(socket.SHUT_RDWR)
        if not self._waiting:
            self._connection.close()

    def send(self, pieces: Sequence[Piece], most_waiting: float = inf) -> None:
        """Send one message, now or later.

        Args:
            pieces: The message.
            most_waiting: If more messages wait than that, this one is dropped.

        Raises:
            OSError: The other end is closed, or there is no memory for a large message.
        """
        packet = _Packet(pieces)
        with self._lock:
            if self._waiting or not self._is_sent(packet):
                if len(self._waiting) > most_waiting:
                    packet.close()
                    return
                self._waiting.append(packet)
                if len(self._waiting) == 1:
                    Thread(target=self._send_waiting, name="send-messages", daemon=True).start()

    def _is_sent(self, packet: _Packet) -> bool:
        try:
            packet.send(self._connection, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno in _FULL:
                return False
            packet.close()
            raise
        packet.close()
        return True

    def _send_waiting(self) -> None:
        while self._waiting:
            is_broken = False
            try:
                self._waiting[0].send(self._connection)
            except OSError as error:
                if error.errno in _FULL:
                    time.sleep(_FULL_S)
                    continue
                is_broken = True
            with self._lock:
                for _ in range(len(self._waiting) if is_broken else 1):
                    self._waiting.popleft().close()
                if not self._waiting:
                    break
        if self._is_closed:
            self._connection.close()


def receive(connection: socket.socket) -> tuple[memoryview, list[int]] | None:
    """Wait for one message.

    Returns:
        The message and the descriptors that came with it, which the caller closes; None when the
        other end is closed.
    """
    try:
        packet, descriptors, _, _ = socket.recv_fds(
            connection, INLINE_BYTES + 1, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    if not packet:
        return None
    if packet[:1] == _INLINE:
        return memoryview(packet)[1:], descriptors
    memory = descriptors.pop(0)
    try:
        return memoryview(mmap.mmap(memory, 0, prot=mmap.PROT_READ)), descriptors
    finally:
        os.close(memory)


# --- clients ---

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
