"""Files that the processes of one service share in its cache directory, checked on reading.

Each has a header with a format, the size and a checksum of its content. What is damaged, or was
written by something else, is as good as absent.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from threading import Lock

import xxhash

log = logging.getLogger(__name__)

Piece = bytes | memoryview

_MAGIC = b"ntshared"
_HEADER = Struct("<8s16sQ16s")  # magic, format, size of the content, checksum
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_CLAIM_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# Larger contents are mapped: all processes then share the memory.
MAPPED_BYTES = 2**16


class SharedFiles:
    """Files below a directory that only this service uses.

    A file is replaced as a whole and never written into, so a mapped one stays as it is. Writing
    is best effort: what cannot be written is logged, and computed again.

    Args:
        directory: The directory; None keeps the contents in the memory of this process.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._memory: dict[str, bytes] = {}
        self._claims: set[str] = set()
        self._guard = Lock()

    def read(self, name: str, form: str) -> Piece | None:
        """Return the content of a file; None if it is absent or not intact.

        Args:
            name: Name of the file.
            form: Format that the content must have been written in, at most 16 bytes.
        """
        if self.directory is None:
            with self._guard:
                stored = self._memory.get(name)
            return None if stored is None else _content(memoryview(stored), form)
        try:
            descriptor = os.open(self.directory / name, _OPEN_FLAGS)
            try:
                size_bytes = os.fstat(descriptor).st_size
                if size_bytes < MAPPED_BYTES:
                    return _content(memoryview(os.read(descriptor, size_bytes)), form)
                mapped = mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ)
                return _content(memoryview(mapped), form)
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return None

    def write(self, name: str, form: str, pieces: Sequence[Piece]) -> bool:
        """Write a file as a whole; return whether that was possible.

        Args:
            name: Name of the file.
            form: Format of the content, at most 16 bytes.
            pieces: The content.
        """
        hashed, size_bytes = _checksum(form), 0
        for piece in pieces:
            hashed.update(piece)
            size_bytes += memoryview(piece).nbytes
        header = _HEADER.pack(_MAGIC, form.encode(), size_bytes, hashed.digest())
        if self.directory is None:
            with self._guard:
                self._memory[name] = b"".join([header, *pieces])
            return True
        temporary = self.directory / f"{name}.{os.getpid()}.new"
        try:
            with temporary.open("wb") as file:
                file.write(header)
                for piece in pieces:
                    file.write(piece)
            temporary.rename(self.directory / name)
        except OSError as error:
            log.warning("a result is not shared between workers: %s", error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.directory is None:
            with self._guard:
                self._memory.pop(name, None)
            return
        with suppress(OSError):
            (self.directory / name).unlink(missing_ok=True)

    def begin_list(self, name: str) -> int:
        """Begin a list, which is a file without a header, or go on with it; return its size."""
        if self.directory is None:
            with self._guard:
                return len(self._memory.setdefault(name, b""))
        try:
            descriptor = os.open(self.directory / name, _APPEND_FLAGS | os.O_CREAT, 0o600)
            try:
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("changes are not told to other workers: %s", error)
            return 0

    def append(self, name: str, line: bytes) -> None:
        """Append to a list that was begun; without one, nobody wants to know."""
        if self.directory is None:
            with self._guard:
                if name in self._memory:
                    self._memory[name] += line
            return
        try:
            descriptor = os.open(self.directory / name, _APPEND_FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("a change is not told to other workers: %s", error)
            return
        try:
            with suppress(OSError):
                os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def appended(self, name: str, start: int) -> bytes:
        """Return what was appended to a list from an offset on."""
        if self.directory is None:
            with self._guard:
                return self._memory.get(name, b"")[start:]
        with suppress(OSError):
            descriptor = os.open(self.directory / name, _OPEN_FLAGS)
            try:
                size_bytes = os.fstat(descriptor).st_size
                return os.pread(descriptor, max(0, size_bytes - start), start)
            finally:
                os.close(descriptor)
        return b""

    @contextmanager
    def claimed(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a name that only one thread of one process can hold; yield whether it is held.

        Args:
            name: Name of the lock file.
            wait: Whether to wait for the present holder.

        Raises:
            OSError: The lock file cannot be made.
        """
        if self.directory is None:
            yield from self._claimed_here(name)
            return
        descriptor = os.open(self.directory / name, _CLAIM_FLAGS, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                is_held = True
            except BlockingIOError:
                is_held = False
            yield is_held
        finally:
            os.close(descriptor)

    def _claimed_here(self, name: str) -> Iterator[bool]:
        with self._guard:
            is_held = name not in self._claims
            self._claims.add(name)
        try:
            yield is_held
        finally:
            if is_held:
                with self._guard:
                    self._claims.discard(name)


def _checksum(form: str) -> xxhash.xxh3_128:
    return xxhash.xxh3_128(form.encode())


def _content(stored: memoryview, form: str) -> memoryview | None:
    """Return the content behind a header; None if the two do not agree."""
    if len(stored) < _HEADER.size:
        return None
    magic, stored_form, size_bytes, digest = _HEADER.unpack(stored[: _HEADER.size])
    content = stored[_HEADER.size :]
    if magic != _MAGIC or stored_form.rstrip(b"\0") != form.encode() or len(content) != size_bytes:
        return None
    hashed = _checksum(form)
    hashed.update(content)
    return content if hashed.digest() == digest else None
