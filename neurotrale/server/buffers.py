"""Bodies on their way out, in the form that waitress sends them from.

Its own buffers copy every body, through a temporary file when it is large, and read files in the
one thread that serves all connections. Both of these follow their interface.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

FILE_BLOCK_BYTES = 2**20


class BytesBuffer:
    """Bytes, sent from where they are.

    Args:
        body: What to send.
        sent: How much of it was sent already.
    """

    waiting = False

    def __init__(self, body: bytes | bytearray | memoryview, sent: int = 0) -> None:
        self._left = memoryview(body)[sent:]

    def __len__(self) -> int:
        return len(self._left)

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Give the next bytes."""
        return self._left if size < 0 else self._left[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Let go of bytes that were sent."""
        self._left = self._left[size:]

    def close(self) -> None:
        """Let go of all."""
        self._left = memoryview(b"")


class FileBuffer:
    """A part of a file, read ahead by other threads than the one that sends.

    A disk that takes its time makes this body wait, and no other.

    Args:
        file: Open at the first byte to send; closed at the end.
        size: How many bytes to send.
        readers: Threads that read.
        on_read: Called, in such a thread, when there is something to send again.
    """

    def __init__(
        self,
        file: BinaryIO,
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
        """Whether there is nothing to send until a read has ended."""
        return not self._block and self._next is not None and not self._next.done()

    def get(self, size: int = -1, skip: bool = False) -> memoryview:
        """Give bytes that have been read.

        Raises:
            OSError: The file could not be read, or has become shorter; waitress closes the
                connection, so that the client does not take a part for the whole.
        """
        if not self._block and self._next is not None and self._next.done():
            block = self._next.result()
            if not block:
                raise OSError("the file became shorter while it was sent")
            self._unread -= len(block)
            self._block, self._next = memoryview(block), None
            self._read_ahead()
        return self._block if size < 0 else self._block[:size]

    def skip(self, size: int, allow_prune: bool = False) -> None:
        """Let go of bytes that were sent."""
        self._block = self._block[size:]
        self._left -= size

    def close(self) -> None:
        """Close the file, after the read that is under way."""
        self._left = self._unread = 0
        if self._next is None:
            self._file.close()
        else:
            self._next.add_done_callback(lambda _: self._file.close())

    def _read_ahead(self) -> None:
        if self._unread:
            size = min(FILE_BLOCK_BYTES, self._unread)
            self._next = self._readers.submit(self._file.read, size)
            self._next.add_done_callback(lambda _: self._on_read())
