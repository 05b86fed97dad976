"""Caches: bounded in number and size, keyed by file version, or shared between workers.

A `Stamp` identifies the version of a file.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

import xxhash
from cachetools import LRUCache

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)

MAX_SHARED_BYTES = 512 * 2**20

_SECOND_NS = 1_000_000_000
_SETTLED_NS = 2 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies a version of a file without reading it.

    Programs can set the modification time to anything (``cp -p`` does); the change time is set by
    the file system alone.

    Attributes:
        inode: Number of the file in its file system.
        size: Size in bytes.
        mtime_ns: Modification time of the content, in nanoseconds since the epoch.
        ctime_ns: Time of the last change of content, mode, owner, times or number of hard links.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a stat result."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def etag(self) -> str:
        """The stamp as the opaque part of a strong HTTP validator.

        On a file system with whole-second times, each call for a file just written returns another
        value: the next version may come within the same second.
        """
        tag = f"{self.recorded}-{self.ctime_ns:x}"
        if self.ctime_ns % _SECOND_NS == 0 and not self.is_settled:
            return f"{tag}-{time.time_ns():x}"
        return tag

    @property
    def recorded(self) -> str:
        """The stamp as journals record it: without the ctime, which a new hard link changes."""
        return f"{self.mtime_ns:x}-{self.size:x}-{self.inode:x}"

    @property
    def date_s(self) -> int | None:
        """The last change as a whole second since the epoch, if it identifies the version.

        It does once the next version is certain to have a later one. The ctime counts, too: a file
        that is restored with an older time has changed when it was restored.
        """
        if not self.is_settled:
            return None
        return max(self.mtime_ns, self.ctime_ns) // _SECOND_NS

    @property
    def is_settled(self) -> bool:
        """Whether the next version is certain to have another stamp."""
        return is_settled(max(self.mtime_ns, self.ctime_ns))


def is_settled(changed_ns: int) -> bool:
    """Return whether a change is so old that the next one is certain to have another time.

    Args:
        changed_ns: Time of the change in nanoseconds since the epoch. Some file systems only store
            whole seconds.
    """
    return time.time_ns() - changed_ns > _SETTLED_NS


class BoundedCache(LRUCache[K, V]):
    """An LRU cache bounded in the number and the total size of its values.

    A value larger than the bound is kept as the only one: it takes longest to compute again. Not
    thread-safe.

    Args:
        max_values: Largest number of values.
        max_size: Largest total size.
        size_of: Returns the size of a value, in the unit of `max_size`.
    """

    def __init__(
        self,
        max_values: int,
        max_size: float = math.inf,
        size_of: Callable[[V], float] = lambda value: 0,
    ) -> None:
        super().__init__(max_size, lambda value: min(size_of(value), max_size))
        self._max_values = max_values

    def __setitem__(self, key: K, value: V) -> None:
        while key not in self and len(self) >= self._max_values:
            self.popitem()
        super().__setitem__(key, value)


class _CacheEntry(NamedTuple, Generic[V]):
    version: object
    is_settled: bool
    value: V


class VersionedCache(Generic[V]):
    """A thread-safe LRU cache of values derived from files; the latest version of each file only.

    Args:
        max_values: Largest number of values.
        max_size: Largest total size.
        size_of: Returns the size of a value, in the unit of `max_size`.
    """

    def __init__(
        self,
        max_values: int,
        max_size: float = math.inf,
        size_of: Callable[[V], float] = lambda value: 0,
    ) -> None:
        self._values: BoundedCache[Hashable, _CacheEntry[V]] = BoundedCache(
            max_values, max_size, lambda entry: size_of(entry.value)
        )
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(
        self, file: Hashable, version: object, compute: Callable[[], V], *, is_settled: bool = True
    ) -> V:
        """Return the value of a version of a file; compute and cache it if necessary.

        Args:
            file: Key of the file, usually its path.
            version: Version of the file, usually its stamp.
            compute: Computes the value when there is none for this version.
            is_settled: Whether the next version of the file is certain to differ from this one. A
                value cached for an unsettled version is computed again.
        """
        entry = self._find(file)
        if entry is not None and entry.version == version and entry.is_settled:
            return entry.value  # may be None
        value = compute()
        self.put(file, version, value, is_settled=is_settled)
        return value

    def find(self, file: Hashable, version: object) -> V | None:
        """Return the cached value of a version of a file, settled or not; None if there is none."""
        entry = self._find(file)
        return entry.value if entry is not None and entry.version == version else None

    def find_settled(self, file: Hashable, version: object) -> V | None:
        """Return the value cached for a settled version of a file; None if there is none."""
        entry = self._find(file)
        if entry is None or entry.version != version or not entry.is_settled:
            return None
        return entry.value

    def find_latest(self, file: Hashable) -> V | None:
        """Return the value cached last for a file, of any version; None if there is none."""
        entry = self._find(file)
        return None if entry is None else entry.value

    def put(self, file: Hashable, version: object, value: V, *, is_settled: bool = True) -> None:
        """Cache a value in place of the previous one; see `get`."""
        with self._lock:
            self._values[file] = _CacheEntry(version, is_settled, value)

    def _find(self, file: Hashable) -> _CacheEntry[V] | None:
        with self._lock:
            return self._values.get(file)


class Versioned(Protocol):
    """A value that knows its version."""

    @property
    def etag(self) -> str:
        """Identifies the version."""


T = TypeVar("T", bound=Versioned)


class SharedCache(Generic[T]):
    """Values that one worker computed, stored for the others: a large one takes seconds.

    Best effort: every failure falls back to computing the value.

    Args:
        directory: A directory that only this service uses; None stores nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def get(self, key: str, etag: str, compute: Callable[[], T]) -> T:
        """Return a stored value; compute and store it if necessary.

        While one process computes it, the others wait: all of them at once would take longer.

        Args:
            key: Identifies the value.
            etag: Its version.
            compute: Computes the value. A result of another version is returned but not stored.
        """
        if self.directory is None:
            return compute()
        name = xxhash.xxh3_128_hexdigest(f"{key}\n{etag}".encode(errors="surrogatepass"))
        path = self.directory / name
        stored = _load(path)
        if stored is not None:
            return cast(T, stored)
        try:
            lock = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            log.warning("sources are not shared between workers: %s", error)
            return compute()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stored = _load(path)
            if stored is not None:
                return cast(T, stored)
            value = compute()
            if value.etag == etag:
                self._put(path, value)
            return value
        finally:
            os.close(lock)

    def _put(self, path: Path, value: T) -> None:
        assert self.directory is not None
        temporary = path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                pickle.dump(value, file, protocol=5)
            temporary.rename(path)
            self._evict(self.directory)
        except OSError as error:
            log.warning("a source is not shared between workers: %s", error)
            temporary.unlink(missing_ok=True)

    def _evict(self, directory: Path) -> None:
        stored = [(path.stat(), path) for path in directory.iterdir() if not path.suffix]
        stored.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
        size_bytes = 0
        for status, path in stored:
            size_bytes += status.st_size
            if size_bytes > MAX_SHARED_BYTES:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)


def _load(path: Path) -> object | None:
    try:
        with path.open("rb") as file:
            value: object = pickle.load(file)
            return value
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None
