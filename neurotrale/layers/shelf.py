"""Sources that one worker made, for the others: a big one takes seconds to make."""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import xxhash

log = logging.getLogger(__name__)

KEPT_BYTES = 512 * 2**20


class Versioned(Protocol):
    """What can be kept: it knows its version."""

    @property
    def etag(self) -> str:
        """What tells the version from others."""


T = TypeVar("T", bound=Versioned)


class Shelf(Generic[T]):
    """Keeps what was made in a directory that belongs to this service alone.

    Whatever goes wrong there costs time only: then it is made again.

    Args:
        directory: Where; None keeps nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def get(self, key: str, etag: str, make: Callable[[], T]) -> T:
        """Take something from the shelf, or make it and put it there.

        While one process makes it, the others wait, as all of them would only take longer.

        Args:
            key: What it is.
            etag: Its version.
            make: Makes it; what has another version in the end is given, but not kept.
        """
        if self.directory is None:
            return make()
        name = xxhash.xxh3_128_hexdigest(f"{key}\n{etag}".encode(errors="surrogatepass"))
        path = self.directory / name
        found = _load(path)
        if found is not None:
            return cast(T, found)
        try:
            lock = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            log.warning("sources are not shared between workers: %s", error)
            return make()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _load(path)
            if found is not None:
                return cast(T, found)
            made = make()
            if made.etag == etag:
                self._put(path, made)
            return made
        finally:
            os.close(lock)

    def _put(self, path: Path, made: T) -> None:
        assert self.directory is not None
        temporary = path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                pickle.dump(made, file, protocol=5)
            temporary.rename(path)
            self._make_room(self.directory)
        except OSError as error:
            log.warning("a source is not shared between workers: %s", error)
            temporary.unlink(missing_ok=True)

    def _make_room(self, directory: Path) -> None:
        kept = [(path.stat(), path) for path in directory.iterdir() if not path.suffix]
        kept.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
        size_bytes = 0
        for status, path in kept:
            size_bytes += status.st_size
            if size_bytes > KEPT_BYTES:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)


def _load(path: Path) -> object | None:
    try:
        with path.open("rb") as file:
            found: object = pickle.load(file)
            return found
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None
