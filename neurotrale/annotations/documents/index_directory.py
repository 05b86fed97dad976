"""A directory of stored indices: each has the index of one content.

Its name is one that only the service can tell from the content's ETag. All of them can be lost
without harm.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.stored_index import pack_index, unpack_index
from neurotrale.errors import DamagedError
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.ranges import write_all
from neurotrale.storage.regular import make_own_directory

MOST_BYTES = 256 * 2**20
"""All indices in a directory take less, except a single one that is larger."""

_SECRET = "secret"
_SECRET_BYTES = 32
_NEW = ".new"
_LOCK = ".lock"
_ABANDONED_S = 3600.0
_USED_S = 60.0

log = logging.getLogger(__name__)


class IndexDirectory:
    """A directory of stored indices, which only this user can change; best effort.

    Args:
        path: Its path; created with the directory above it when there is something to store.
        is_mapped: Whether its files are mapped, and not read.
    """

    def __init__(self, path: Path, *, is_mapped: bool) -> None:
        self._path = path
        self._is_mapped = is_mapped
        self._secret: bytes | None = None
        self._is_usable = True

    def find(self, etag: str, size: int) -> Index | None:
        """Return the index of a content of a size in bytes; None if it is not stored here."""
        if not self._is_usable or not self._path.is_dir():
            return None
        with suppress(OSError, DamagedError):
            place = self._opened()
            secret = self._secret_in(place)
            if secret is None:
                return None
            descriptor = place.open(_name(etag, secret))
            try:
                stored = self._read(descriptor)
                if time.time() - os.fstat(descriptor).st_mtime > _USED_S:
                    os.utime(descriptor)  # those that nobody uses are removed first
            finally:
                os.close(descriptor)
            return unpack_index(stored, etag, size, secret)
        return None

    def put(self, etag: str, size: int, index: Index) -> None:
        """Store the index of a content of a size in bytes."""
        if not self._is_usable:
            return
        try:
            place = self._opened()
            secret = self._secret_in(place) or self._new_secret(place)
            content = pack_index(index, etag, size, secret)
            _write(place, _name(etag, secret), content)
            self._remove_old(place)
        except (OSError, DamagedError) as error:
            log.warning("indices of large files are not kept in %s: %s", self._path, error)
            self._is_usable = False

    def remove(self, etag: str) -> None:
        """Remove the index of a content, if it is stored here."""
        if not self._is_usable or not self._path.is_dir():
            return
        with suppress(OSError, DamagedError):
            place = self._opened()
            secret = self._secret_in(place)
            if secret is not None:
                place.unlink(_name(etag, secret), missing_ok=True)

    @contextmanager
    def alone(self, etag: str) -> Iterator[None]:
        """Wait until no other process works on the index of a content."""
        lock = None
        try:
            place = self._opened()
            secret = self._secret_in(place) or self._new_secret(place)
            name = _name(etag, secret) + _LOCK
            lock = place.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except (OSError, DamagedError) as error:
            log.debug("an index may be made more than once: %s", error)
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    place.unlink(name, missing_ok=True)
                os.close(lock)

    def _opened(self) -> Directory:
        return make_own_directory(self._path, make_own_directory(self._path.parent))

    def _read(self, descriptor: int) -> bytes | mmap.mmap:
        size = os.fstat(descriptor).st_size
        if not self._is_mapped:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read()
        return mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b""

    def _secret_in(self, place: Directory) -> bytes | None:
        """Return the key of names and checksums; None if there is none yet."""
        if self._secret is None:
            with suppress(FileNotFoundError):
                with os.fdopen(place.open(_SECRET), "rb") as file:
                    found = file.read(_SECRET_BYTES + 1)
                if len(found) == _SECRET_BYTES:
                    self._secret = found
        return self._secret

    def _new_secret(self, place: Directory) -> bytes:
        """Make a key; processes that do so at the same time agree on one."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        name = f"{secrets.token_hex(8)}{_NEW}"
        with os.fdopen(place.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        try:
            place.link(name, _SECRET)
            self._secret = secret
        except FileExistsError:  # by another process, or a damaged one
            found = self._secret_in(place)
            if found is None:
                place.rename(name, _SECRET)
            self._secret = found or secret
        finally:
            place.unlink(name, missing_ok=True)
        return self._secret

    def _remove_old(self, place: Directory) -> None:
        now_s, left = time.time(), MOST_BYTES
        found = []
        for name in place.names():
            with suppress(FileNotFoundError):
                found.append((place.status(name), name))
        for status, name in sorted(found, key=lambda one: -one[0].st_mtime_ns):
            if name.endswith((_NEW, _LOCK)):
                if now_s - status.st_mtime > _ABANDONED_S:
                    place.unlink(name, missing_ok=True)
            elif name != _SECRET:
                is_last = left == MOST_BYTES
                left -= status.st_size
                if left < 0 and not is_last:
                    place.unlink(name, missing_ok=True)


def _name(etag: str, secret: bytes) -> str:
    return blake2b(etag.encode(), key=secret, digest_size=16).hexdigest()


def _write(place: Directory, name: str, content: list[bytes]) -> None:
    temporary = f"{secrets.token_hex(8)}{_NEW}"
    descriptor = place.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, content)
        place.rename(temporary, name)
    except BaseException:
        place.unlink(temporary, missing_ok=True)
        raise
    finally:
        os.close(descriptor)
