"""Messages between the processes of a service, over a pair of connected sockets.

They are of any size, and travel over a Unix socket of the type SOCK_SEQPACKET: each arrives whole
or not at all, so that a process that dies meanwhile leaves no half of one behind. Small ones are in
the packet itself; larger ones are in memory that the receiver maps, whose descriptor is in the
packet.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from math import inf
from threading import Lock, Thread

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
