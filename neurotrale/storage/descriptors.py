"""Open directories, parts of open files, and what is closed in time.

The entries of an open directory are opened, created, renamed and listed by its descriptor. Names
are single names here, and no call follows a symbolic link. Errors name the path.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

# Descriptors that lapse within the shorter time are closed together.
_SHORTEST_S, _LONGEST_S = 0.05, 1.0

SAFE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags for a file: not through a link, and without waiting for a pipe."""

# O_PATH needs no permission to list the directory, as a path does not either.
PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HAS_PROC = os.path.isdir("/proc/self/fd")


class Directory:
    """An open directory; it is closed when nobody refers to it any more.

    Args:
        descriptor: Its descriptor, which need not be readable.
        path: Its path when it was opened, without links.
    """

    __slots__ = ("descriptor", "notes", "path")

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self.notes: dict[str, object] = {}
        """What a caller found out about it; forgotten when the directory is opened anew."""

    def __del__(self, close: object = os.close) -> None:
        """Close the descriptor."""
        close(self.descriptor)  # type: ignore[operator]

    def path_of(self, name: str) -> Path:
        """Return the path of an entry, for messages and as a key."""
        return Path(self.path, name)

    def through(self, name: str) -> str:
        """Return a path that leads through the descriptor, for functions that only take paths.

        It is good as long as the caller refers to the directory.
        """
        return f"/proc/self/fd/{self.descriptor}/{name}" if _HAS_PROC else f"{self.path}/{name}"

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Open an entry, but not through a link, and return its descriptor."""
        try:
            return os.open(name, flags | SAFE_FLAGS, mode, dir_fd=self.descriptor)
        except OSError as error:
            raise self._named(error, name) from None

    def status(self, name: str) -> os.stat_result:
        """Stat an entry; of a link, the link itself."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            raise self._named(error, name) from None

    def target(self, name: str) -> str | None:
        """Return where a symbolic link points to; None if the entry is not one, or absent."""
        try:
            return os.readlink(name, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise self._named(error, name) from None

    def list_descriptor(self) -> int:
        """Return a descriptor for listing or flushing the directory; the caller closes it."""
        try:
            return os.open(".", _LIST_FLAGS, dir_fd=self.descriptor)
        except OSError as error:
            raise self._named(error, "") from None

    def names(self) -> list[str]:
        """Return the names of all entries."""
        descriptor = self.list_descriptor()
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, name: str, mode: int = 0o777) -> None:
        """Create a directory in this one, with a mode less the umask."""
        try:
            os.mkdir(name, mode, dir_fd=self.descriptor)
        except OSError as error:
            raise self._named(error, name) from None

    def rename(self, old: str, new: str) -> None:
        """Rename an entry, over an existing one if there is one."""
        try:
            os.replace(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except OSError as error:
            raise self._named(error, old) from None

    def link(self, old: str, new: str) -> None:
        """Give a file, or a symbolic link itself, a second name."""
        here = self.descriptor
        try:
            os.link(old, new, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except OSError as error:
            raise self._named(error, new) from None

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except OSError as error:
            if not missing_ok or not isinstance(error, FileNotFoundError):
                raise self._named(error, name) from None

    def _named(self, error: OSError, name: str) -> OSError:
        """Let an error name the path, instead of the name alone."""
        error.filename = f"{self.path}/{name}".rstrip("/")
        return error


class _OpenFile(Protocol):
    def fileno(self) -> int: ...

    def close(self) -> None: ...


class FilePart:
    """Bytes ``start`` to ``stop`` (exclusive) of a file, as a file that a WSGI server can send.

    It ends where the part ends, so that servers that send until the end of the file, such as those
    without a ``wsgi.file_wrapper``, send no more than was announced.

    Args:
        file: An open file; closed with the part.
        start: Offset of the first byte.
        stop: Offset after the last byte.
    """

    def __init__(self, file: _OpenFile, start: int, stop: int) -> None:
        self._file = file
        self._start = start
        self._size = stop - start
        self._at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most ``size`` bytes; all remaining ones if it is negative or None.

        Raises:
            OSError: The file has become shorter, so the part cannot be read to its end.
        """
        remaining = max(0, self._size - self._at)
        count = remaining if size is None or size < 0 else min(size, remaining)
        block = os.pread(self._file.fileno(), count, self._start + self._at)
        if count and not block:
            raise OSError("the file became shorter while it was sent")
        self._at += len(block)
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position within the part, and return the new one."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position within the part."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._file.close()


# --- what is closed in time ---


class Lapsing(Protocol):
    """Keeps descriptors open for a time."""

    def expire(self) -> float | None:
        """Close those that have lapsed; return when the next one lapses, None if none is open."""

    def start(self) -> None:
        """Forget all, as in a new process."""


_kept: WeakSet[Lapsing] = WeakSet()
_closing = threading.Lock()
_is_closing = False


def close_in_time(kept: Lapsing) -> None:
    """Close descriptors when they lapse, by a thread that runs as long as there are any."""
    global _is_closing
    with _closing:
        _kept.add(kept)
        if not _is_closing:
            _is_closing = True
            threading.Thread(target=_close_lapsed, name="close-directories", daemon=True).start()


def _close_lapsed() -> None:
    global _is_closing
    while True:
        with _closing:
            lapses = [lapse for kept in list(_kept) if (lapse := kept.expire()) is not None]
            if not lapses:
                _is_closing = False
                return
        time.sleep(min(_LONGEST_S, max(_SHORTEST_S, min(lapses) - time.monotonic())))


def _after_fork() -> None:
    global _closing, _is_closing
    _closing, _is_closing = threading.Lock(), False
    for kept in list(_kept):
        kept.start()


os.register_at_fork(after_in_child=_after_fork)
