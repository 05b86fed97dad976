"""Caches, bounded in number and size and keyed by file version, and the versions of files.

A `Stamp` identifies the version of a file.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

from neurotrale.metrics import Lookups

K = TypeVar("K")
V = TypeVar("V")

_SECOND_NS = 1_000_000_000

# The coarsest times are those of FAT: 2 s, and those of a clock that ticks.
COARSE_NS = 2 * _SECOND_NS + _SECOND_NS // 10
# Fine times follow the clock of the kernel, which ticks at least every 10 ms; a virtual machine may
# stand still for longer.
FINE_NS = _SECOND_NS // 4
_TICK_NS = 10_000_000

# File systems that only this machine writes, with times of its own clock. On others, the clock of a
# server or of another node counts, which may be behind.
_OWN_CLOCK = frozenset(
    ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"]
)
_MOUNTINFO = Path("/proc/self/mountinfo")
_LEARNT_S = 10.0  # the number of a device may be given to another one


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
        device: Number of the file system; 0 if unknown.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a stat result."""
        return cls(
            status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev
        )

    @property
    def etag(self) -> str:
        """The stamp as the opaque part of a strong HTTP validator.

        Each call for a file that was just written returns another value: the next version may come
        with the same stamp.
        """
        tag = f"{self.recorded}-{self.ctime_ns:x}"
        return tag if self.is_settled else f"{tag}-{time.time_ns():x}"

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
        changed_ns = max(self.mtime_ns, self.ctime_ns)
        date_s = changed_ns // _SECOND_NS
        # With fine times, another version may follow within the same second.
        next_ns = (date_s + 1) * _SECOND_NS
        is_certain = is_settled(changed_ns) or (
            time.time_ns() - next_ns > FINE_NS and has_fine_times(self.device, self.ctime_ns)
        )
        return date_s if is_certain else None

    @property
    def is_settled(self) -> bool:
        """Whether the next version is certain to have another stamp.

        It is after the granularity of the times of its file system, which is taken for the coarsest
        there is until finer times are seen there.
        """
        changed_ns = max(self.mtime_ns, self.ctime_ns)
        return is_settled(changed_ns) or (
            time.time_ns() - changed_ns > FINE_NS and has_fine_times(self.device, self.ctime_ns)
        )


def is_settled(changed_ns: int) -> bool:
    """Return whether a change is so old that the next one has another time on any file system.

    Args:
        changed_ns: Time of the change in nanoseconds since the epoch. Some file systems only store
            every other second.
    """
    return time.time_ns() - changed_ns > COARSE_NS


def has_fine_times(device: int, ctime_ns: int) -> bool:
    """Return whether changes more than `FINE_NS` apart have different times.

    That is learnt for each device: whether its times are those of this machine's clock, and from
    the ctime of a file whether they are stored in steps of less than the clock's tick.

    Args:
        device: Number of the file system.
        ctime_ns: A ctime on it, which programs cannot set to what it does not store.
    """
    return ctime_ns % _TICK_NS != 0 and _has_own_clock(device, int(time.monotonic() / _LEARNT_S))


@lru_cache(64)
def _has_own_clock(device: int, moment: int) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = set()
    try:
        for line in _MOUNTINFO.read_text(errors="surrogateescape").split("\n"):
            place, _, source = line.partition(" - ")
            if place.split(" ")[2:3] == [number]:
                kinds.add(source.partition(" ")[0])
    except OSError:
        return False
    return bool(kinds) and kinds <= _OWN_CLOCK


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
        counted_as: The name under which look-ups are counted; "" for not at all.
    """

    def __init__(
        self,
        max_values: int,
        max_size: float = math.inf,
        size_of: Callable[[V], float] = lambda value: 0,
        counted_as: str = "",
    ) -> None:
        self._lookups = Lookups(counted_as)
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
        is_hit = entry is not None and entry.version == version and entry.is_settled
        self._lookups.hits += is_hit
        self._lookups.misses += not is_hit
        if entry is not None and is_hit:
            return entry.value  # may be None
        value = compute()
        self.put(file, version, value, is_settled=is_settled)
        return value

    def find(self, file: Hashable, version: object) -> V | None:
        """Return the cached value of a version of a file, settled or not; None if there is none."""
        entry = self._find(file)
        is_hit = entry is not None and entry.version == version
        self._lookups.hits += is_hit
        self._lookups.misses += not is_hit
        return entry.value if entry is not None and is_hit else None

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
