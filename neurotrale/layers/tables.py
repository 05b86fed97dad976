"""Annotation files as tables of arrays, cached per version of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from sys import intern
from threading import Lock
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.files.block_listing import ReadableFile
from neurotrale.late import LazyModule
from neurotrale.layers.annotation_reader import Annotation, read_annotations
from neurotrale.layers.geometry import GeometryKind, Shapes, geometry_of
from neurotrale.layers.properties import Columns
from neurotrale.storage.cache import Stamp, VersionedCache

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

CACHED_BYTES = 256 * 2**20
CACHED_IDENTITIES = 100_000
# Memory for ids and texts, besides the coordinates.
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
        display_path: Path of the file, relative to the data root.
        etag: Identifies the content.
        parts: The annotations that can be drawn, by kind.
        skipped: How many annotations cannot be drawn, by reason.
        error: Why the file is not a JSON array; "" if it is one.
    """

    display_path: str
    etag: str
    parts: Mapping[GeometryKind, Part]
    skipped: Mapping[str, int]
    error: str = ""

    @property
    def size_bytes(self) -> int:
        """Approximate size in memory."""
        return 1000 + sum(
            part.shapes.coordinates.nbytes + _ANNOTATION_BYTES * len(part.shapes)
            for part in self.parts.values()
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """A version of a file, identified without parsing it."""

    display_path: str
    etag: str


class Tables:
    """Reads annotation files, and caches the table of each version."""

    def __init__(self) -> None:
        self._tables: VersionedCache[Table] = VersionedCache(
            CACHED_IDENTITIES, CACHED_BYTES, attrgetter("size_bytes")
        )
        self._identities: VersionedCache[Identity] = VersionedCache(CACHED_IDENTITIES)
        self._reading = Lock()
        self._read_last: tuple[Path, tuple[bytes, Stamp, bool]] | None = None

    def read(self, file: ReadableFile) -> Table:
        """Return the table of the current version of a file.

        Raises:
            MissingError: The file does not exist.
            ReadOnlyError, BusyError: It cannot be read.
        """
        stamp = file.current_stamp()
        table = self._tables.find_settled(file.path, stamp)
        if table is not None:
            return table
        # One at a time: parallel requests for the same file would only slow each other down.
        with self._reading:
            return self._tables.find_settled(file.path, stamp) or self._read(file)

    def identify(self, file: ReadableFile) -> Identity:
        """Return the identity of the current version of a file; cheaper than its table.

        Raises:
            MissingError: The file does not exist.
            ReadOnlyError, BusyError: It cannot be read.
        """
        stamp = file.current_stamp()
        table = self._tables.find_settled(file.path, stamp)
        if table is not None:
            return Identity(file.display_path, table.etag)
        known = self._identities.find_settled(file.path, stamp)
        if known is not None:
            return known
        read = content, stamp, settled = file.read()
        self._read_last = file.path, read
        identity = Identity(file.display_path, etag_of(content))
        if settled:
            self._identities.put(file.path, stamp, identity)
        return identity

    def forget_content(self) -> None:
        """Let go of the content that `identify` read, which `read` would have needed next."""
        self._read_last = None

    def _read(self, file: ReadableFile) -> Table:
        content, stamp, settled = self._content(file)
        etag = etag_of(content)
        table = self._tables.find_latest(file.path)
        if table is None or table.etag != etag:
            table = build_table(file.display_path, content, etag)
        self._tables.put(file.path, stamp, table, is_settled=settled)
        return table

    def _content(self, file: ReadableFile) -> tuple[bytes, Stamp, bool]:
        last, self._read_last = self._read_last, None
        if last is not None and last[0] == file.path:
            _, stamp, is_settled = last[1]
            if is_settled and stamp == file.current_stamp():
                return last[1]
        return file.read()


def build_table(display_path: str, content: bytes, etag: str) -> Table:
    """Build the table of a file from its content."""
    parts: dict[GeometryKind, list[Part]] = {}
    skipped: Counter[str] = Counter()
    start = 0
    try:
        for annotations in read_annotations(content):
            geometry = geometry_of(annotations)
            skipped.update(geometry.skipped)
            for kind, shapes in geometry.shapes.items():
                drawn = annotations
                if len(shapes) < len(annotations):
                    drawn = [annotations[index] for index in shapes.indices.tolist()]
                shifted = replace(shapes, indices=shapes.indices + start)
                parts.setdefault(kind, []).append(Part(shifted, _columns(drawn)))
            start += len(annotations)
    except NotAnArrayError as error:
        return Table(display_path, etag, {}, {}, str(error))
    whole = {kind: concatenate(same_kind) for kind, same_kind in parts.items()}
    return Table(display_path, etag, whole, dict(skipped))


def _columns(annotations: Sequence[Annotation]) -> Columns:
    lengths = [annotation.length for annotation in annotations]
    with np.errstate(over="ignore"):
        lengths_f32 = np.array(lengths, np.float64).astype(np.float32)
    return Columns(
        [annotation.id for annotation in annotations],
        [intern(annotation.anntype) for annotation in annotations],  # few distinct texts
        [intern(annotation.description) for annotation in annotations],
        np.array([annotation.reviewed for annotation in annotations], np.uint8),
        np.array([annotation.visited for annotation in annotations], np.uint8),
        lengths_f32,
    )


def concatenate(parts: Sequence[Part]) -> Part:
    """Concatenate parts with annotations of one kind."""
    shapes = [part.shapes for part in parts]
    columns = [part.columns for part in parts]
    lengths = [np.zeros(1, np.int64), *(np.diff(each.offsets) for each in shapes)]
    none = np.zeros(0)
    return Part(
        Shapes(
            np.concatenate([none, *(each.indices for each in shapes)]).astype(np.int64),
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
