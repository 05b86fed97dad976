"""Annotation files as tables of numbers, kept while the files stay as they are."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from sys import intern
from threading import Lock

import numpy as np

from neurotrale.annotations.content import etag_of
from neurotrale.annotations.document import NotAnArrayError
from neurotrale.annotations.places import Place
from neurotrale.faults import reading
from neurotrale.files import Stamp, is_settled
from neurotrale.kept import Kept
from neurotrale.layers.geometry import Shapes, geometry_of
from neurotrale.layers.kinds import Kind
from neurotrale.layers.properties import Columns
from neurotrale.layers.reading import Annotation, read_batches

KEPT_BYTES = 256 * 2**20
KEPT_IDENTITIES = 100_000
# What ids and texts take in memory, beside the coordinates.
_ANNOTATION_BYTES = 400


@dataclass(frozen=True, slots=True)
class Part:
    """The annotations of one kind in a file."""

    shapes: Shapes
    columns: Columns


@dataclass(frozen=True, slots=True)
class Table:
    """One version of a file.

    Attributes:
        what: The file, relative to the data root.
        etag: What tells its content from others.
        mtime_s: When it was changed, in seconds since the epoch.
        parts: What can be drawn, by kind.
        skipped: How many annotations cannot, by reason.
        mistake: Why it is no JSON array; "" when it is one.
    """

    what: str
    etag: str
    mtime_s: float
    parts: Mapping[Kind, Part]
    skipped: Mapping[str, int]
    mistake: str = ""

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in memory."""
        return 1000 + sum(
            part.shapes.coordinates.nbytes + _ANNOTATION_BYTES * len(part.shapes)
            for part in self.parts.values()
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """A version of a file, as far as it is told without understanding the file."""

    what: str
    etag: str
    mtime_s: float


class Tables:
    """Reads annotation files; each version is read once, while there is room for its table."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[Stamp, bool, Table]] = OrderedDict()
        self._identities: Kept[Identity] = Kept(KEPT_IDENTITIES)
        self._size_bytes = 0
        self._lock = Lock()
        self._reading = Lock()

    def read(self, place: Place) -> Table:
        """Give the table of a file as it is now.

        Raises:
            MissingError: There is no such file.
            ReadOnlyError, BusyError: It cannot be read.
        """
        with reading(place.what):
            stamp = Stamp.of(place.path.stat())
            table = self._find(place.path, stamp)
            if table is not None:
                return table
            # One at a time: several requests for the same file would only get in each other's way.
            with self._reading:
                return self._find(place.path, stamp) or self._read(place)

    def identify(self, place: Place) -> Identity:
        """Tell which version of a file there is now; cheaper than to read its table.

        Raises:
            MissingError: There is no such file.
            ReadOnlyError, BusyError: It cannot be read.
        """
        with reading(place.what):
            stamp = Stamp.of(place.path.stat())
            table = self._find(place.path, stamp)
            if table is not None:
                return Identity(place.what, table.etag, table.mtime_s)
            known = self._identities.find(place.path, stamp)
            if known is not None:
                return known
            content, status, settled = _content(place.path)
        identity = Identity(place.what, etag_of(content), status.st_mtime)
        if settled:
            self._identities.put(place.path, Stamp.of(status), identity)
        return identity

    def _find(self, path: Path, stamp: Stamp) -> Table | None:
        with self._lock:
            kept = self._kept.get(path)
            if kept is None or kept[0] != stamp or not kept[1]:
                return None
            self._kept.move_to_end(path)
            return kept[2]

    def _read(self, place: Place) -> Table:
        content, status, settled = _content(place.path)
        etag = etag_of(content)
        with self._lock:
            kept = self._kept.get(place.path)
        if kept is not None and kept[2].etag == etag:
            table = kept[2]
        else:
            table = table_of(place.what, content, etag, status.st_mtime)
        self._keep(place.path, Stamp.of(status), settled, table)
        return table

    def _keep(self, path: Path, stamp: Stamp, settled: bool, table: Table) -> None:
        with self._lock:
            old = self._kept.pop(path, None)
            if old is not None:
                self._size_bytes -= old[2].size_bytes
            self._kept[path] = stamp, settled, table
            self._size_bytes += table.size_bytes
            while self._size_bytes > KEPT_BYTES and len(self._kept) > 1:
                _, (_, _, dropped) = self._kept.popitem(last=False)
                self._size_bytes -= dropped.size_bytes


def _content(path: Path) -> tuple[bytes, os.stat_result, bool]:
    """Read a file; tell also whether its time of change tells this version from the next."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        content = file.read()
    return content, status, is_settled(status.st_mtime_ns)


def table_of(what: str, content: bytes, etag: str, mtime_s: float) -> Table:
    """Read the content of a file."""
    parts: dict[Kind, list[Part]] = {}
    skipped: Counter[str] = Counter()
    try:
        for batch in read_batches(content):
            geometry = geometry_of(batch.annotations)
            skipped.update(geometry.skipped)
            for kind, shapes in geometry.shapes.items():
                chosen = [batch.annotations[place] for place in shapes.places.tolist()]
                placed = replace(shapes, places=shapes.places + batch.start)
                parts.setdefault(kind, []).append(Part(placed, _columns(chosen)))
    except NotAnArrayError as error:
        return Table(what, etag, mtime_s, {}, {}, str(error))
    whole = {kind: joined(some) for kind, some in parts.items()}
    return Table(what, etag, mtime_s, whole, dict(skipped))


def _columns(annotations: Sequence[Annotation]) -> Columns:
    lengths = [annotation.length for annotation in annotations]
    with np.errstate(over="ignore"):
        lengths_f32 = np.array(lengths, np.float64).astype(np.float32)
    return Columns(
        [annotation.id for annotation in annotations],
        [intern(annotation.anntype) for annotation in annotations],  # a few texts, many times
        [intern(annotation.description) for annotation in annotations],
        np.array([annotation.reviewed for annotation in annotations], np.uint8),
        np.array([annotation.visited for annotation in annotations], np.uint8),
        lengths_f32,
    )


def joined(parts: Sequence[Part]) -> Part:
    """Put annotations of one kind one behind the other."""
    shapes = [part.shapes for part in parts]
    columns = [part.columns for part in parts]
    lengths = [np.zeros(1, np.int64), *(np.diff(each.offsets) for each in shapes)]
    none = np.zeros(0)
    return Part(
        Shapes(
            np.concatenate([none, *(each.places for each in shapes)]).astype(np.int64),
            np.cumsum(np.concatenate(lengths)),
            np.concatenate([np.zeros((0, 3), "f4"), *(each.coordinates for each in shapes)]),
        ),
        Columns(
            list(chain.from_iterable(each.ids for each in columns)),
            list(chain.from_iterable(each.anntypes for each in columns)),
            list(chain.from_iterable(each.descriptions for each in columns)),
            np.concatenate([none, *(each.reviewed for each in columns)]).astype(np.uint8),
            np.concatenate([none, *(each.visited for each in columns)]).astype(np.uint8),
            np.concatenate([none, *(each.lengths for each in columns)]).astype(np.float32),
        ),
    )
