"""The annotation sources of all data sets: always those of the files as they are now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec

from neurotrale.annotations.content import etag_of
from neurotrale.annotations.footprint import Footprint
from neurotrale.annotations.places import Place, Places
from neurotrale.errors import DamagedError, MissingError
from neurotrale.layers.kinds import Kind
from neurotrale.layers.shelf import Shelf
from neurotrale.layers.source import Source, source_of
from neurotrale.layers.space import Space, Spaces
from neurotrale.layers.tables import Identity, Table, Tables
from neurotrale.names import AnnotationName, Parts

KEPT_BYTES = 256 * 2**20
KEPT_STATES = 256

Scope = AnnotationName | Parts
"""What a source covers: one file, or all files of a data set."""


_State = tuple[Space, Footprint | None]


@dataclass(frozen=True, slots=True)
class Version:
    """A source with what names its version.

    Attributes:
        source: The source.
        etag: What tells it from any other version; changes with each of its files.
        mtime_s: When the last of them was changed, in seconds since the epoch.
    """

    source: Source
    etag: str
    mtime_s: float


@dataclass(frozen=True, slots=True)
class Overview:
    """What there is to draw.

    Attributes:
        counts: Annotations of each kind that there is.
        skipped: How many cannot be drawn, by reason.
        damaged: Files that are no JSON array, with the mistake.
        etag: What tells this version from others.
        mtime_s: When the last file was changed.
    """

    counts: dict[Kind, int]
    skipped: dict[str, int]
    damaged: dict[str, str]
    etag: str
    mtime_s: float

    @property
    def body(self) -> bytes:
        """The overview as JSON."""
        counts = {kind.value: count for kind, count in self.counts.items()}
        return msgspec.json.encode(
            {"layers": counts, "skipped": self.skipped, "damaged": self.damaged}
        )


class Sources:
    """Makes sources and keeps them.

    Args:
        places: Where annotation files are.
        spaces: What their coordinates are.
        shelf: Directory where workers leave big sources for each other; None for none.
    """

    def __init__(self, places: Places, spaces: Spaces, shelf: Path | None = None) -> None:
        self.places = places
        self.spaces = spaces
        self.tables = Tables()
        self.shelf: Shelf[Version] = Shelf(shelf)
        self._kept: OrderedDict[tuple[Scope, Kind], Version] = OrderedDict()
        self._known: OrderedDict[Scope, tuple[_State, str]] = OrderedDict()
        self._lock = Lock()
        self._making = Lock()

    def get(self, scope: Scope, kind: Kind) -> Version:
        """Give a source as its files are now.

        Raises:
            MissingError: There is no such file or data set.
            DamagedError: The file is no JSON array, or the data set's `info` cannot be understood.
        """
        state = self._space(scope), self._footprint(scope)
        version = self._find(scope, kind, self._etag_in(scope, state))
        if version is not None:
            return version
        etag = _etag(self._identities(scope), state[0])
        self._remember(scope, state, etag)
        with self._making:
            version = self._find(scope, kind, etag)
            if version is None:
                key = repr((scope, kind.value))
                version = self.shelf.get(key, etag, lambda: self._made(scope, kind, state[0]))
                self._keep(scope, kind, version)
            return version

    def _made(self, scope: Scope, kind: Kind, space: Space) -> Version:
        tables = self._tables(scope)
        return Version(source_of(kind, tables, space), _etag(tables, space), _mtime_s(tables))

    def _identities(self, scope: Scope) -> list[Identity]:
        if isinstance(scope, AnnotationName):
            return [self.tables.identify(self.places.existing(scope))]
        found = []
        for place in self.places.every(scope):
            with suppress(MissingError):  # it was there a moment ago
                found.append(self.tables.identify(place))
        return found

    def overview(self, scope: Scope) -> Overview:
        """Count what there is to draw.

        Raises:
            MissingError: There is no such file or data set.
            DamagedError: The file is no JSON array, or the data set's `info` cannot be understood.
        """
        tables = self._tables(scope)
        counts: dict[Kind, int] = {}
        skipped: dict[str, int] = {}
        for table in tables:
            for kind, part in table.parts.items():
                counts[kind] = counts.get(kind, 0) + len(part.shapes)
            for reason, count in table.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        damaged = {table.what: table.mistake for table in tables if table.mistake}
        etag = _etag(tables, self._space(scope))
        return Overview(counts, skipped, damaged, etag, _mtime_s(tables))

    def _tables(self, scope: Scope) -> list[Table]:
        if isinstance(scope, AnnotationName):
            table = self.tables.read(self.places.existing(scope))
            if table.mistake:
                raise DamagedError(table.what, table.mistake)
            return [table]
        tables = (self._table(place) for place in self.places.every(scope))
        return [table for table in tables if table is not None]

    def _table(self, place: Place) -> Table | None:
        try:
            return self.tables.read(place)
        except MissingError:  # it was there a moment ago
            return None

    def _space(self, scope: Scope) -> Space:
        return self.spaces.of(scope.dataset if isinstance(scope, AnnotationName) else scope)

    def _footprint(self, scope: Scope) -> Footprint | None:
        """Look at all files of a data set at once: one by one takes ten times as long."""
        if isinstance(scope, AnnotationName):
            return None
        parts = (*scope, "annotations")
        return Footprint.of(self.places.tree.path(parts), "/".join(parts))

    def _etag_in(self, scope: Scope, state: _State) -> str:
        """Give the version of the sources of a data set in a state, "" when it is not known."""
        with self._lock:
            known, etag = self._known.get(scope, (None, ""))
            return etag if known == state else ""

    def _remember(self, scope: Scope, state: _State, etag: str) -> None:
        # The state was taken before the files were read: a change in between makes it out of date.
        if state[1] is not None and state[1].settled:
            with self._lock:
                self._known.pop(scope, None)
                self._known[scope] = state, etag
                while len(self._known) > KEPT_STATES:
                    self._known.popitem(last=False)

    def _find(self, scope: Scope, kind: Kind, etag: str) -> Version | None:
        with self._lock:
            kept = self._kept.get((scope, kind))
            if kept is None or kept.etag != etag:
                return None
            self._kept.move_to_end((scope, kind))
            return kept

    def _keep(self, scope: Scope, kind: Kind, version: Version) -> None:
        with self._lock:
            self._kept.pop((scope, kind), None)
            self._kept[scope, kind] = version
            size_bytes = sum(kept.source.size_bytes for kept in self._kept.values())
            while size_bytes > KEPT_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                size_bytes -= dropped.source.size_bytes


def _etag(tables: Sequence[Table] | Sequence[Identity], space: Space) -> str:
    # Names of files, too: of two annotations with one id, they say which number is whose.
    named = "\n".join(f"{table.etag} {table.what}" for table in tables)
    return etag_of(repr(space).encode(), named.encode(errors="surrogatepass"))


def _mtime_s(tables: Sequence[Table]) -> float:
    return max((table.mtime_s for table in tables), default=0.0)
