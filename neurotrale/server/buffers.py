"""Buffers for response bodies: sent without a copy, read or produced ahead of sending.

`BytesBuffer`, `FileBuffer` and `StreamBuffer` take the place of the buffers of waitress. A
`CompoundBody` is a body in several pieces, all in memory, which one system call sends.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

FILE_BLOCK_BYTES = 2**20
# Pieces of a stream are joined up to this size, or for so long.
STREAM_BLOCK_BYTES = 2**17
STREAM_BLOCK_S = 0.05
# The kernel takes so many pieces at once.
MOST_PIECES = 1000


class Readable(Protocol):
    """The source of a body: an open file, or a part of one."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes."""

    def close(self) -> None:
        """Close the file."""


class BytesBuffer:
    """Bytes that are sent without a copy.

    Args:
        body: The bytes to send.
        sent: How many of them were sent already.
    """

    waiting = False

    def __init__(self, body: bytes, sent: int = 0) -> None:
        self._left = memoryview(body)[sent:]

    def __len__(self) -> int:
        return len(self._left)

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Return the next bytes."""
        return self._left if size < 0 else self._left[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Drop bytes that were sent."""
        self._left = self._left[size:]

    def close(self) -> None:
        """Drop all bytes."""
        self._left = memoryview(b"")


class FileBuffer:
    """A part of a file, read ahead by other threads than the one that sends it.

    A slow disk delays this body only.

    Args:
        file: Positioned at the first byte to send; closed at the end.
        size: The number of bytes to send.
        readers: The threads that read.
        on_read: Called in one of these threads when there are new bytes to send.
    """

    def __init__(
        self,
        file: Readable,
        size: int,
        readers: ThreadPoolExecutor,
        on_read: Callable[[], None],
    ) -> None:
        self._file = file
        self._left = size
        self._unread = size
        self._readers = readers
        self._on_read = on_read
        self._block = memoryview(b"")
        self._next: Future[bytes] | None = None
        self._read_ahead()

    def __len__(self) -> int:
        return self._left

    @property
    def waiting(self) -> bool:
        """Whether there is nothing to send until a read finishes."""
        return not self._block and self._next is not None and not self._next.done()

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Return bytes that have been read.

        Raises:
            OSError: The file could not be read, or was truncated; the connection must be closed,
                so that the client does not mistake a part for the whole.
        """
        if not self._block and self._next is not None and self._next.done():
            block = self._next.result()
            if not block:
                raise OSError("the file was truncated while it was being sent")
            self._unread -= len(block)
            self._block, self._next = memoryview(block), None
            self._read_ahead()
        return self._block if size < 0 else self._block[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Drop bytes that were sent."""
        self._block = self._block[size:]
        self._left -= size

    def close(self) -> None:
        """Close the file, once the pending read has finished."""
        self._left = self._unread = 0
        file = self._file
        if self._next is None:
            file.close()
        else:
            self._next.add_done_callback(lambda _: file.close())

    def _read_ahead(self) -> None:
        if self._unread:
            on_read = self._on_read  # a future that leads back here would outlive its connection
            self._next = self._readers.submit(self._file.read, min(FILE_BLOCK_BYTES, self._unread))
            self._next.add_done_callback(lambda _: on_read())


class Stream:
    """A body that is produced in pieces, joined to blocks.

    Args:
        body: The pieces; its ``close``, if it has one, is called at the end.
        size: The size of the body; None if it is not known.

    Attributes:
        is_framed: Whether blocks are framed as HTTP chunks (RFC 9112, 7.1).
        written: The bytes of the body that were produced, without frames.
        is_done: Whether it is known that nothing is left.
    """

    def __init__(self, body: Iterable[bytes], size: int | None) -> None:
        self.is_framed = False
        self.written = 0
        self.is_done = False
        self._body = body
        self._pieces = iter(body)
        self._size = size

    def read(self) -> bytes:
        """Produce the next block; empty at the end.

        Raises:
            OSError: The body is shorter or longer than its stated size.
        """
        pieces, length = [], 0
        until = time.monotonic() + STREAM_BLOCK_S
        for piece in self._pieces:
            pieces.append(piece)
            length += len(piece)
            if length >= STREAM_BLOCK_BYTES or (length and time.monotonic() > until):
                break
        else:
            self.is_done = True
        self.written += length
        left = 0 if self._size is None else self._size - self.written
        if left < 0 or (left and not length):
            raise OSError(f"{self.written} of {self._size} bytes were produced")
        return framed(pieces) if self.is_framed and length else b"".join(pieces)

    def close(self) -> None:
        """Close the body."""
        getattr(self._body, "close", bool)()


def framed(pieces: Sequence[bytes]) -> bytes:
    """Join the pieces of a block, and frame it as a chunk of HTTP."""
    return b"".join([b"%X\r\n" % sum(map(len, pieces)), *pieces, b"\r\n"])


class StreamBuffer:
    """A body that is produced block by block, each when the connection takes the one before.

    Until it has ended, its length is one more than the bytes at hand. A new block is taken up only
    when waitress asks for the length: it sends no more than that.

    Args:
        stream: Produces the body; closed at the end.
        first: The block that was produced already.
        producers: The threads that produce blocks.
        on_ready: Called in one of these threads when there is something to send.
        on_growth: Called with the number of bytes by which the length changes.
        on_end: Called once: whether the whole body was sent.
    """

    def __init__(
        self,
        stream: Stream,
        first: bytes,
        producers: ThreadPoolExecutor,
        *,
        on_ready: Callable[[], None],
        on_growth: Callable[[int], None],
        on_end: Callable[[bool], None],
    ) -> None:
        self._stream = stream
        self._block, self._producers = memoryview(first), producers
        self._on_ready, self._on_growth, self._on_end = on_ready, on_growth, on_end
        self._ended = self._closed = False
        self._next = self._produce()

    @property
    def waiting(self) -> bool:
        """Whether there is nothing to send until the next block is produced."""
        return not self._block and not self._ended and not self._next.done()

    def __len__(self) -> int:
        if not self._block and not self._ended and self._next.done():
            block = self._next.result()
            self._ended = not block
            self._block = memoryview(block)
            self._on_growth(len(block) or -1)
            if block:
                self._next = self._produce()
        return len(self._block) + (not self._ended)

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Return bytes of the block at hand."""
        return self._block if size < 0 else self._block[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Drop bytes that were sent."""
        self._block = self._block[size:]

    def close(self) -> None:
        """Close the stream, once the block in production is done."""
        if not self._closed:
            self._closed, self._block = True, memoryview(b"")
            stream = self._stream
            self._next.add_done_callback(lambda _: stream.close())
            self._on_end(self._ended)
            self._ended = True

    def _produce(self) -> Future[bytes]:
        on_ready = self._on_ready
        produced = self._producers.submit(self._stream.read)
        produced.add_done_callback(lambda _: on_ready())
        return produced


class CompoundBody:
    """A whole body in several pieces, all of them in memory.

    Args:
        pieces: The pieces in order.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self._size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._size


def send_now(connection: socket.socket, pieces: Sequence[bytes]) -> int:
    """Send as much of the pieces as possible without blocking; return the number of bytes.

    Raises:
        OSError: The client has disconnected.
    """
    try:
        return connection.sendmsg(pieces[:MOST_PIECES])
    except BlockingIOError:
        return 0


def unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the other side has not taken of those that were sent; see tcp(7)."""
    try:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:  # disconnected
        return 0


def unsent(pieces: Iterable[bytes], sent: int) -> Iterator[tuple[bytes, int]]:
    """Yield the pieces that are not sent yet, and how much of each is sent."""
    for piece in pieces:
        if sent < len(piece):
            yield piece, sent
        sent = max(0, sent - len(piece))
