"""The annotation sources of all datasets, cached and always up to date with the files.

What one worker computed, it stores for the others: a large source takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import msgspec

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.errors import DamagedError, MissingError
from neurotrale.layers.geometry import GeometryKind
from neurotrale.layers.source import LayerSource, build_source
from neurotrale.layers.spatial_index import CoordinateSpace, CoordinateSpaces
from neurotrale.layers.stored_sources import SharedCache, decode_source, encode_source
from neurotrale.layers.tables import Identity, Table, Tables
from neurotrale.storage.cache import VersionedCache
from neurotrale.storage.fingerprint import DirectoryFingerprint
from neurotrale.storage.names import AnnotationName, Parts
from neurotrale.storage.shared_files import Piece, SharedFiles

CACHED_BYTES = 256 * 2**20
CACHED_SOURCES = 1024
CACHED_STATES = 256

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


def _encoded(version: SourceVersion) -> list[Piece]:
    return encode_source(version.source, version.etag)


def _decoded(content: Piece) -> SourceVersion:
    return SourceVersion(*decode_source(content))


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
        shared: Where workers share large sources; None for nowhere.
    """

    def __init__(
        self, files: AnnotationFiles, spaces: CoordinateSpaces, shared: SharedFiles | None = None
    ) -> None:
        self.files = files
        self.spaces = spaces
        self.tables = Tables()
        self.shared: SharedCache[SourceVersion] = SharedCache(
            shared or SharedFiles(None), "source 1", _encoded, _decoded
        )
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
        try:
            with self._building:
                version = self._versions.find((scope, kind), etag)
                if version is None:
                    key = repr((scope, kind.value))
                    version = self.shared.get(key, etag, lambda: self._build(scope, kind, state[0]))
                    self._versions.put((scope, kind), etag, version)
                return version
        finally:
            self.tables.forget_content()

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
