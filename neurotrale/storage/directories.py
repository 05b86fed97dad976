"""Directories below a root, reached by descriptors: no name is checked first and used later.

A path that was checked may lead elsewhere a moment later, if somebody swaps a directory for a link.
So each directory is opened from the one above it, links are resolved here, and files are opened,
created, renamed and listed in the open directory, whatever becomes of its name. A link never leads
out of the root or to a hidden name, unless that is allowed.

An open directory is used again for at most a second, as it may have been moved out of the root, and
is closed then, as it would keep its file system from being unmounted.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from neurotrale.storage.descriptors import PATH_FLAGS, Directory, close_in_time
from neurotrale.storage.links import parts_below, what_is_missing
from neurotrale.storage.names import Parts, is_hidden

log = logging.getLogger(__name__)

LIFETIME_S = 1.0
MOST_DIRECTORIES = 128
MOST_LINKS = 40

OpenEntry = tuple[float, Directory]
"""When a directory is not used any more, by `time.monotonic`, and the directory."""


class OpenDirectories:
    """Directories that are kept open until their second is over; those used last, if many are.

    They are closed then by a thread, whether more are opened or not. Thread-safe.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget all, as in a new process."""
        self._entries: OrderedDict[Parts, OpenEntry] = OrderedDict()  # the last one used is last
        self._guard = threading.Lock()

    def find(self, parts: Parts) -> OpenEntry | None:
        """Return an open directory; None if there is none."""
        with self._guard:
            entry = self._entries.get(parts)
            if entry is None or entry[0] <= time.monotonic():
                return None
            self._entries.move_to_end(parts)
            return entry

    def keep(self, parts: Parts, entry: OpenEntry) -> None:
        """Keep a directory open; close the one that was not used for longest if there are many."""
        with self._guard:
            self._entries.pop(parts, None)
            while len(self._entries) >= MOST_DIRECTORIES:
                self._entries.popitem(last=False)
            self._entries[parts] = entry
        close_in_time(self)

    def forget(self, parts: Parts) -> None:
        """Close a directory, and all above it, once nobody uses them."""
        with self._guard:
            for depth in range(len(parts) + 1):
                self._entries.pop(parts[:depth], None)

    def expire(self) -> float | None:
        """Close what has lapsed; return when the next one lapses, None if no directory is open."""
        now = time.monotonic()
        with self._guard:
            for parts in [parts for parts, entry in self._entries.items() if entry[0] <= now]:
                del self._entries[parts]
            return min((entry[0] for entry in self._entries.values()), default=None)


class Directories:
    """Opens directories below a root, and keeps them open for a moment.

    Args:
        root: The root, without links.
        follow_symlinks: Whether links may lead out of the root and to hidden names.
    """

    def __init__(self, root: str, *, follow_symlinks: bool = False) -> None:
        self.root = root
        self.follow_symlinks = follow_symlinks
        self._open = OpenDirectories()

    def get(self, parts: Parts) -> Directory:
        """Return a directory that was opened within the last second, or open it now.

        Args:
            parts: Names from the root down.

        Raises:
            OSError: It does not exist, is not a directory, or a link on the way leads out of the
                root, to a hidden name, or in circles (ELOOP).
        """
        known = self._open.find(parts)
        return self._entry(parts, 0)[1] if known is None else known[1]

    def renew(self, parts: Parts) -> bool:
        """Open a directory anew; return whether it is another one than before.

        It is for what was not found: the directory may have been replaced within the last second.
        """
        known = self._open.find(parts)
        self.forget(parts)
        try:
            new = self.get(parts)
            return known is None or not os.path.samestat(
                os.fstat(known[1].descriptor), os.fstat(new.descriptor)
            )
        except OSError:
            return False

    def forget(self, parts: Parts) -> None:
        """Let a directory, and all above it, be opened anew when they are needed."""
        self._open.forget(parts)

    def locate(self, parts: Parts) -> tuple[Directory, str]:
        """Return where a file is: its directory, and its name there, which is not a link.

        The file need not exist.

        Raises:
            OSError: See `get`.
        """
        if not parts:
            return self.get(()), "."
        return self.behind(self.get(parts[:-1]), parts[-1])

    def behind(self, directory: Directory, name: str) -> tuple[Directory, str]:
        """Return where an entry is, with links resolved; see `locate`."""
        for hops in range(MOST_LINKS):
            target = directory.target(name)
            if target is None:
                return directory, name
            real, parts = self._resolved(directory, name, target, hops)
            if parts is None:
                above, _, name = real.rpartition("/")
                directory = Directory(os.open(above or "/", PATH_FLAGS), above or "/")
            elif not parts:
                return self.get(()), "."
            else:
                directory, name = self._entry(parts[:-1], hops + 1)[1], parts[-1]
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), f"{directory.path}/{name}")

    def _entry(self, parts: Parts, hops: int) -> OpenEntry:
        """Walk to a directory, from the nearest one above it that is still open."""
        known = None
        for depth in range(len(parts), -1, -1):
            entry = self._open.find(parts[:depth])
            if entry is not None:
                known = depth, entry
                break
        try:
            return self._walk(parts, hops, known)
        except OSError as error:
            # The directory that the walk began at may have been replaced.
            if known is None or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
        self.forget(parts)
        return self._walk(parts, hops, None)

    def _walk(self, parts: Parts, hops: int, known: tuple[int, OpenEntry] | None) -> OpenEntry:
        if known is None:
            until = time.monotonic() + LIFETIME_S
            known = 0, (until, Directory(os.open(self.root, PATH_FLAGS), self.root))
            self._open.keep((), known[1])
        start, entry = known
        for depth in range(start, len(parts)):
            entry = self._child(entry, parts[depth], hops)
            self._open.keep(parts[: depth + 1], entry)
        return entry

    def _child(self, entry: OpenEntry, name: str, hops: int) -> OpenEntry:
        until, above = entry
        try:
            descriptor = os.open(name, PATH_FLAGS | os.O_NOFOLLOW, dir_fd=above.descriptor)
        except OSError as error:
            error.filename = f"{above.path}/{name}"
            is_link = error.errno in (errno.ENOTDIR, errno.ELOOP)
            target = above.target(name) if is_link else None
            if target is None:
                raise
        else:
            return until, Directory(descriptor, f"{above.path.rstrip('/')}/{name}")
        real, parts = self._resolved(above, name, target, hops)
        if parts is None:
            return until, Directory(os.open(real, PATH_FLAGS), real)
        also, directory = self._entry(parts, hops + 1)
        return min(until, also), directory

    def _resolved(
        self, above: Directory, name: str, target: str, hops: int
    ) -> tuple[str, Parts | None]:
        """Return where a link leads to, and the names from the root to there; None outside it.

        The path is not used to open anything below the root: a walk goes there from the root.
        """
        link = f"{above.path.rstrip('/')}/{name}"
        if hops >= MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link)
        real = os.path.realpath(os.path.join(above.path, target))
        parts = parts_below(self.root, real)
        missing = what_is_missing(real) if parts is None else None
        if missing is not None and self.follow_symlinks:
            log.warning("%s is a symbolic link to %s, %s (answered with 404)", link, real, missing)
        if not self.follow_symlinks:
            if parts is None:
                raise _refused(link, real, f"out of the data root {self.root}", missing)
            if is_hidden(parts):
                raise _refused(link, real, "to a hidden file")
        return real, parts


def _refused(link: str, real: str, where: str, missing: str | None = None) -> OSError:
    to = real if missing is None else f"{real}, {missing}"
    advice = "answered with 404, allow that with --follow-symlinks"
    log.warning("refused %s: a symbolic link leads %s, to %s (%s)", link, where, to, advice)
    return OSError(errno.ELOOP, f"a symbolic link leads {where}", link)


# --- paths below a root ---

_roots: dict[str, Directories] = {}


def directories_below(root: str, *, follow_symlinks: bool) -> Directories:
    """Return the directories below a root, which all of this process shares.

    From then on, `directory_of` and its like reach what is below the root through them.
    """
    known = _roots.get(root)
    if known is None or known.follow_symlinks != follow_symlinks:
        known = _roots[root] = Directories(root, follow_symlinks=follow_symlinks)
        _below_root.cache_clear()
    return known


def directory_of(path: Path) -> tuple[Directory, str]:
    """Return the open directory of a file, and the file's name.

    Below a root that this process serves, the directory is reached by `Directories`.

    Raises:
        OSError: The directory cannot be opened.
    """
    return directory_at(path.parent), path.name


def directory_at(path: Path) -> Directory:
    """Return an open directory; see `directory_of`."""
    found = _below_root(os.fspath(path))
    if found is None:
        return Directory(os.open(path, PATH_FLAGS), os.fspath(path))
    return found[0].get(found[1])


def status_of(path: Path) -> os.stat_result:
    """Stat a file; of a link, the link itself. See `directory_of`."""
    directory, name = directory_of(path)
    return directory.status(name)


def forget_directory(path: Path) -> None:
    """Let a directory be opened anew for what is done there next."""
    found = _below_root(os.fspath(path))
    if found is not None:
        found[0].forget(found[1])


@lru_cache(4096)
def _below_root(path: str) -> tuple[Directories, Parts] | None:
    names = path.split("/")
    if path.startswith("/") and ".." not in names:
        for depth in range(len(names), 0, -1):
            directories = _roots.get("/".join(names[:depth]) or "/")
            if directories is not None:
                return directories, tuple(filter(None, names[depth:]))
    return None
