"""Large bodies that wait until clients take them.

Many clients may read the same large file slowly, or not at all: a body that several of them wait
for is in memory once. When those that differ fill their room, further ones wait in files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, BinaryIO, cast

import xxhash

from neurotrale.server.buffers import BytesBuffer, FileBuffer
from neurotrale.storage.descriptors import FilePart

LARGE_BYTES = 2**20
MOST_BYTES = 2**26  # in memory, for each worker

_Key = tuple[int, int]
_SEED = int.from_bytes(os.urandom(8), "little")  # nobody can make bodies with the same digest


class _Held:
    """A body and how many clients wait for it; `file` contains it if `content` does not."""

    def __init__(self, content: bytes | None, file: BinaryIO | None) -> None:
        self.content = content
        self.file = file
        self.users = 0


class _HeldBuffer(BytesBuffer):
    """A body that others may wait for, too."""

    def __init__(self, body: bytes, sent: int, release: Callable[[], None]) -> None:
        super().__init__(body, sent)
        self._release: Callable[[], None] | None = release

    def close(self) -> None:
        """Drop all bytes."""
        super().close()
        if self._release is not None:
            self._release()
            self._release = None


class _OwnPart(FilePart):
    """The bytes of a body in a file that others may wait for, too."""

    def __init__(self, file: BinaryIO, start: int, stop: int, release: Callable[[], None]) -> None:
        super().__init__(file, start, stop)
        self._release: Callable[[], None] | None = release

    def close(self) -> None:
        """Let the file be closed when nobody waits for it."""
        if self._release is not None:
            self._release()
            self._release = None


def _file_of(body: bytes) -> BinaryIO:
    file: Any = TemporaryFile(prefix="neurotrale-body-")  # noqa: SIM115 - closed by the last user
    try:
        file.write(body)
        file.flush()
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


class HeldBodies:
    """The large bodies that clients of this worker have not taken yet.

    Args:
        readers: The threads that read files.
        most_bytes: How many bytes may be in memory.
    """

    def __init__(self, readers: ThreadPoolExecutor, most_bytes: int = MOST_BYTES) -> None:
        self._readers = readers
        self._most_bytes = most_bytes
        self._held: dict[_Key, _Held] = {}
        self._bytes = 0
        self._lock = Lock()

    def buffer(
        self, body: bytes, sent: int, on_read: Callable[[], None]
    ) -> BytesBuffer | FileBuffer:
        """Return a buffer of what is left of a body.

        Args:
            body: The body.
            sent: How many of its bytes were sent already.
            on_read: Called when there is something to send.

        Raises:
            OSError: There is no room in memory, nor in the directory for temporary files.
        """
        if len(body) < LARGE_BYTES:
            return BytesBuffer(body, sent)
        key = (len(body), xxhash.xxh3_128_intdigest(body, _SEED))
        with self._lock:
            held = self._held.get(key) or self._hold(key, body)
            held.users += 1

        def release() -> None:
            self._release(key, held)

        if held.file is None:
            return _HeldBuffer(held.content or b"", sent, release)
        part = _OwnPart(held.file, sent, len(body), release)
        return FileBuffer(part, len(body) - sent, self._readers, on_read)

    def _hold(self, key: _Key, body: bytes) -> _Held:
        if self._bytes + len(body) <= self._most_bytes:
            held = _Held(body, None)
            self._bytes += len(body)
        else:
            held = _Held(None, _file_of(body))
        self._held[key] = held
        return held

    def _release(self, key: _Key, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            if held.users:
                return
            if self._held.get(key) is held:
                del self._held[key]
            if held.file is not None:
                held.file.close()
            else:
                self._bytes -= key[0]
