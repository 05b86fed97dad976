"""The annotation sources of all datasets, cached and always up to date with the files.

What one worker computed, it stores for the others: a large source takes seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar, cast

import msgspec
import xxhash

from neurotrale.annotations.blocks import ANNOTATIONS
from neurotrale.annotations.contents import etag_of
from neurotrale.annotations.paths import AnnotationFiles
from neurotrale.errors import DamagedError, MissingError
from neurotrale.layers.geometry import GeometryKind
from neurotrale.layers.source import LayerSource, build_source
from neurotrale.layers.spatial_index import CoordinateSpace, CoordinateSpaces
from neurotrale.layers.tables import Identity, Table, Tables
from neurotrale.storage.cache import VersionedCache
from neurotrale.storage.fingerprint import DirectoryFingerprint
from neurotrale.storage.names import AnnotationName, Parts

CACHED_BYTES = 256 * 2**20
CACHED_SOURCES = 1024
CACHED_STATES = 256
MAX_SHARED_BYTES = 512 * 2**20

log = logging.getLogger(__name__)

Scope = AnnotationName | Parts
"""The annotations of a source: those of one file, or of all files of a dataset."""


_State = tuple[CoordinateSpace, DirectoryFingerprint | None]


@dataclass(frozen=True, slots=True)
class SourceVersion:
    """A version of a source.

    Attributes:
        source: The source.
        etag: Identifies the version; changes with each of the files.
    """

    source: LayerSource
    etag: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The annotations that can be drawn.

    Attributes:
        counts: How many annotations of each kind there are.
        skipped: How many annotations cannot be drawn, by reason.
        damaged: Files that are not a JSON array, and what is wrong with each.
        etag: Identifies this version.
    """

    counts: dict[GeometryKind, int]
    skipped: dict[str, int]
    damaged: dict[str, str]
    etag: str

    @property
    def body(self) -> bytes:
        """The overview as JSON."""
        counts = {kind.value: count for kind, count in self.counts.items()}
        return msgspec.json.encode(
            {"layers": counts, "skipped": self.skipped, "damaged": self.damaged}
        )


class LayerSources:
    """Builds sources and caches them.

    Args:
        files: Finds annotation files.
        spaces: The coordinate spaces of datasets.
        shelf: Directory in which workers share large sources; None for none.
    """

    def __init__(
        self, files: AnnotationFiles, spaces: CoordinateSpaces, shelf: Path | None = None
    ) -> None:
        self.files = files
        self.spaces = spaces
        self.tables = Tables()
        self.shelf: SharedCache[SourceVersion] = SharedCache(shelf)
        self._versions: VersionedCache[SourceVersion] = VersionedCache(
            CACHED_SOURCES, CACHED_BYTES, lambda version: version.source.size_bytes
        )
        self._etags: VersionedCache[str] = VersionedCache(CACHED_STATES)
        self._building = Lock()

    def get(self, scope: Scope, kind: GeometryKind) -> SourceVersion:
        """Return the current version of a source.

        Raises:
            MissingError: The file or the dataset does not exist.
            DamagedError: The file is not a JSON array, or the `info` of the dataset is malformed.
        """
        state = self._space(scope), self._fingerprint(scope)
        version = self._versions.find((scope, kind), self._etags.find(scope, state))
        if version is not None:
            return version
        etag = _etag(self._identities(scope), state[0])
        self._remember(scope, state, etag)
        with self._building:
            version = self._versions.find((scope, kind), etag)
            if version is None:
                key = repr((scope, kind.value))
                version = self.shelf.get(key, etag, lambda: self._build(scope, kind, state[0]))
                self._versions.put((scope, kind), etag, version)
            return version

    def _build(self, scope: Scope, kind: GeometryKind, space: CoordinateSpace) -> SourceVersion:
        tables = self._tables(scope)
        return SourceVersion(build_source(kind, tables, space), _etag(tables, space))

    def _identities(self, scope: Scope) -> list[Identity]:
        if isinstance(scope, AnnotationName):
            return [self.tables.identify(self.files.existing(scope))]
        identities = []
        for file in self.files.in_dataset(scope):
            with suppress(MissingError):  # deleted since it was listed
                identities.append(self.tables.identify(file))
        return identities

    def overview(self, scope: Scope) -> Overview:
        """Count the annotations that can be drawn.

        Raises:
            MissingError: The file or the dataset does not exist.
            DamagedError: The file is not a JSON array, or the `info` of the dataset is malformed.
        """
        tables = self._tables(scope)
        counts: dict[GeometryKind, int] = {}
        skipped: dict[str, int] = {}
        for table in tables:
            for kind, part in table.parts.items():
                counts[kind] = counts.get(kind, 0) + len(part.shapes)
            for reason, count in table.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        damaged = {table.display_path: table.error for table in tables if table.error}
        etag = _etag(tables, self._space(scope))
        return Overview(counts, skipped, damaged, etag)

    def _tables(self, scope: Scope) -> list[Table]:
        if isinstance(scope, AnnotationName):
            table = self.tables.read(self.files.existing(scope))
            if table.error:
                raise DamagedError(table.display_path, table.error)
            return [table]
        tables = []
        for file in self.files.in_dataset(scope):
            with suppress(MissingError):  # deleted since it was listed
                tables.append(self.tables.read(file))
        return tables

    def _space(self, scope: Scope) -> CoordinateSpace:
        return self.spaces.of(scope.dataset if isinstance(scope, AnnotationName) else scope)

    def _fingerprint(self, scope: Scope) -> DirectoryFingerprint | None:
        """Fingerprint all files of a dataset at once: one by one takes ten times as long."""
        if isinstance(scope, AnnotationName):
            return None
        parts = (*scope, ANNOTATIONS)
        return DirectoryFingerprint.of(self.files.data_root.path(parts), "/".join(parts))

    def _remember(self, scope: Scope, state: _State, etag: str) -> None:
        # The state was taken before the files were read: a change in between invalidates it.
        if state[1] is not None and state[1].is_settled:
            self._etags.put(scope, state, etag)


def _etag(tables: Sequence[Table] | Sequence[Identity], space: CoordinateSpace) -> str:
    # File names, too: they decide which of two annotations with the same id gets which number.
    versions = "\n".join(f"{table.etag} {table.display_path}" for table in tables)
    return etag_of(repr(space).encode(), versions.encode(errors="surrogatepass"))


# --- shared between workers ---


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
