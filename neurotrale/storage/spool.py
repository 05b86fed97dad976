"""Bodies of requests while they arrive: in memory, and larger ones in files without a name.

A file without a name is gone with the process that has it open, however that ends. Some file
systems cannot make one: there the name of an empty file is removed before anything is written.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from neurotrale.errors import DiskFullError, StartError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.descriptors import PATH_FLAGS, Directory
from neurotrale.storage.names import Parts

log = logging.getLogger(__name__)

# A larger body leaves memory; and when those of all requests take more than the second number
# together, one above the third does.
MEMORY_BYTES = 16 * 2**20
ALL_MEMORY_BYTES = 128 * 2**20
SMALL_BYTES = 2**19

COPY_BYTES = 2**20
_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
_NAME = re.compile(r"\.neurotrale-upload-[0-9a-f]{16}")
# Between making a name and removing it passes a moment; an older one was left by a process that
# was killed just then.
STALE_S = 3600.0


class Spool:
    """Where the bodies of requests wait until they are complete.

    Args:
        directory: The first choice for large bodies; None for none.
        data_root: The data root, for bodies that find no room there; None for none.
    """

    def __init__(self, directory: Path | None = None, data_root: DataRoot | None = None) -> None:
        self.directory = directory
        self._data_root = data_root
        self._in_memory = 0
        self._lock = Lock()

    def check(self) -> None:
        """Check at start-up that files can be made in the directory.

        Raises:
            StartError: They cannot.
        """
        if self.directory is not None:
            try:
                os.close(_make_file(_opened(self.directory)))
            except OSError as error:
                raise StartError(
                    f"Uploads cannot wait in {self.directory}: {error.strerror}. Name a directory"
                    " that this user can write to with --spool."
                ) from error

    def body(self, size: int, beside: Callable[[], Parts]) -> Body:
        """Return the empty body of a request.

        Args:
            size: Its size in bytes; 0 if that is not known.
            beside: Returns the names, from the data root down, of the directory of the file that
                it replaces. What does not exist yet is left out.
        """
        return Body(self, size, beside)

    def take_memory(self, has: int, more: int) -> bool:
        """Let a body in memory grow; return false if it is to leave memory instead."""
        with self._lock:
            size, all_sizes = has + more, self._in_memory + more
            if size > MEMORY_BYTES or (size > SMALL_BYTES and all_sizes > ALL_MEMORY_BYTES):
                return False
            self._in_memory += more
            return True

    def return_memory(self, size: int) -> None:
        """Note that a body no longer takes memory."""
        with self._lock:
            self._in_memory -= size

    def places(self, beside: Callable[[], Parts]) -> Iterator[Directory]:
        """Iterate over the directories that a body may be in, best first."""
        if self.directory is not None:
            with suppress(OSError):
                yield _opened(self.directory)
        if self._data_root is not None:
            parts = beside()
            for depth in range(len(parts), 0, -1):
                with suppress(OSError):
                    yield self._data_root.directories.get(parts[:depth])
                    return


class Body:
    """The body of a request; has the interface of a buffer of a WSGI server.

    Args:
        spool: Where it may wait.
        size: Its size in bytes, if it is known; else 0.
        beside: See `Spool.body`.
    """

    def __init__(self, spool: Spool, size: int, beside: Callable[[], Parts]) -> None:
        self._spool = spool
        self._expected = size
        self._size = 0
        self._is_closed = False
        self._memory: io.BytesIO | None = io.BytesIO()
        self._descriptor: int | None = None
        self._file: BinaryIO | None = None
        self._places = spool.places(beside)
        self._obstacles: list[str] = []

    def __len__(self) -> int:
        return self._size

    def __del__(self) -> None:
        """Free the memory, or the file, of a body whose client has gone."""
        self.close()

    def append(self, data: bytes) -> None:
        """Append bytes; after `close`, drop them.

        Raises:
            DiskFullError: There is no room for them anywhere.
        """
        if self._is_closed:
            return
        if self._memory is not None:
            if self._spool.take_memory(self._size, len(data)):
                self._memory.write(data)
                self._size += len(data)
                return
            self._move()
        while True:
            assert self._descriptor is not None
            try:
                _write_at(self._descriptor, data, self._size)
            except OSError as error:
                self._obstacles.append(str(error.strerror))
                self._move()
            else:
                self._size += len(data)
                return

    def getfile(self) -> BinaryIO:
        """Return the body as a file, which is read once and stays open until `close`."""
        if self._file is None:
            if self._memory is not None:
                self._memory.seek(0)
                self._file = self._memory
            else:
                assert self._descriptor is not None
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                self._file, self._descriptor = os.fdopen(self._descriptor, "rb"), None
        return self._file

    def close(self) -> None:
        """Free the memory, or the file."""
        self._is_closed = True
        if self._file is not None:
            self._file.close()
        self._free()

    def _free(self) -> None:
        if self._memory is not None:
            self._memory = None
            self._spool.return_memory(self._size)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _move(self) -> None:
        """Go on in the next directory that has room for all there is, and all that is to come."""
        for place in self._places:
            descriptor = -1
            try:
                descriptor = _make_file(place)
                _check_room(descriptor, max(self._expected, self._size + 1))
                for piece, at in self._pieces():
                    _write_at(descriptor, piece, at)
            except OSError as error:
                self._obstacles.append(str(error.strerror))
                if descriptor >= 0:
                    os.close(descriptor)
                continue
            if self._obstacles:
                log.info("an upload waits in %s, as there was no room for it before", place.path)
            self._free()
            self._descriptor = descriptor
            return
        reasons = ", then ".join(self._obstacles) or "no directory can be used"
        raise DiskFullError(
            f"There is no room for this body, neither in the directory for uploads (the option"
            f" --spool) nor beside the file that it would replace ({reasons}). Nothing was changed."
            " Free some space, then save again."
        )

    def _pieces(self) -> Iterator[tuple[bytes | memoryview, int]]:
        if self._memory is not None:
            yield self._memory.getbuffer(), 0
        else:
            assert self._descriptor is not None
            for at in range(0, self._size, COPY_BYTES):
                yield os.pread(self._descriptor, min(COPY_BYTES, self._size - at), at), at


def _opened(directory: Path) -> Directory:
    return Directory(os.open(directory, PATH_FLAGS), os.fspath(directory))


def _make_file(place: Directory) -> int:
    """Make a file without a name."""
    try:
        return place.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    except OSError as error:
        if error.errno not in _NAMELESS:
            raise
    _remove_stale(place)
    name = f".neurotrale-upload-{secrets.token_hex(8)}"
    descriptor = place.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        place.unlink(name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_stale(place: Directory) -> None:
    """Remove names of killed processes: such a file is this user's, and always empty."""
    with suppress(OSError):
        for name in filter(_NAME.fullmatch, place.names()):
            status = place.status(name)
            is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if is_ours and not status.st_size and status.st_mtime < time.time() - STALE_S:
                place.unlink(name, missing_ok=True)


def _check_room(descriptor: int, size: int) -> None:
    """Raise an error if a file system tells that it has no room for so many bytes."""
    status = os.fstatvfs(descriptor)
    if status.f_blocks and status.f_bavail * status.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_at(descriptor: int, piece: bytes | memoryview, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
