"""Annotations as values, and their geometry as arrays, one for each kind.

`read_batches` decodes the fields that sources, queries and exports use. Many annotations are
decoded in one go, with strict types; only if that fails, because another program wrote one in its
own way, is each decoded by itself, without its malformed fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from neurotrale.annotations.pieces import MALFORMED, split_items
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

# --- reading ---

BATCH = 4096

Number = float | None
"""None stands for null, which is how the viewer writes NaN."""
Vertex = tuple[Number, Number, Number]


class Annotation(msgspec.Struct, frozen=True, gc=False):
    """An annotation; coordinates are (x, y, z) in voxels of the full scale."""

    id: str = ""
    type: str = ""
    anntype: str = ""
    description: str = ""
    reviewed: bool = False
    visited: bool = False
    length: Number = None
    point: Vertex | None = None
    pointA: Vertex | None = None  # noqa: N815  the spelling of the file
    pointB: Vertex | None = None  # noqa: N815
    center: Vertex | None = None
    radii: Vertex | None = None
    points: tuple[Vertex, ...] | None = None


_all = msgspec.json.Decoder(list[Annotation])
_one = msgspec.json.Decoder(Annotation)
_any = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive annotations of a file.

    Attributes:
        start: Index of the first one in the file.
        items: Their bytes.
        annotations: Their parsed fields.
    """

    start: int
    items: Sequence[msgspec.Raw]
    annotations: Sequence[Annotation]


def read_batches(content: bytes) -> Iterator[Batch]:
    """Read the annotations of a file, in order and in batches, as objects take much more memory.

    A malformed field (a number as id, a point with two coordinates) is treated as absent.

    Raises:
        NotAnArrayError: The content is not a JSON array.
    """
    items = split_items(content)
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        yield Batch(start, batch, _read(batch))


def _read(items: Sequence[msgspec.Raw]) -> Sequence[Annotation]:
    try:
        return _all.decode(b"[" + b",".join(items) + b"]")
    except MALFORMED:
        return [read_annotation(item) for item in items]


def read_annotation(content: bytes | msgspec.Raw) -> Annotation:
    """Read one annotation; malformed fields are treated as absent."""
    try:
        return _one.decode(content)
    except MALFORMED:
        pass
    try:
        decoded = _any.decode(content)
    except MALFORMED:
        return Annotation()
    return _lenient(decoded) if isinstance(decoded, dict) else Annotation()


def _lenient(decoded: dict[str, Any]) -> Annotation:
    values: dict[str, Any] = {}
    for key in Annotation.__struct_fields__:
        if key not in decoded:
            continue
        value = decoded[key]
        if key == "points" and isinstance(value, list):
            value = [_vertex(vertex) for vertex in value]
        elif key in _VERTICES:
            value = _vertex(value)
        try:
            values[key] = msgspec.convert(value, _TYPES[key])
        except (msgspec.ValidationError, OverflowError):
            continue
    return Annotation(**values)


_VERTICES = ("point", "pointA", "pointB", "center", "radii")
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Annotation)}


def _vertex(value: Any) -> Any:
    """Convert a vertex that an older viewer wrote as an object to a list."""
    if isinstance(value, dict) and value.keys() == {"0", "1", "2"}:
        return [value["0"], value["1"], value["2"]]
    return value


# --- geometry ---


class GeometryKind(Enum):
    """A kind of geometry; the value is its name in URLs."""

    POINTS = "points"
    LINES = "lines"
    BOXES = "boxes"
    ELLIPSOIDS = "ellipsoids"
    POLYLINES = "polylines"

    @property
    def annotation_type(self) -> str:
        """Name of the kind in the `info` of a source."""
        return _ANNOTATION_TYPE[self]

    @property
    def points(self) -> int:
        """How many points an annotation of this kind has; 0 if their number varies."""
        return _POINTS[self]


_ANNOTATION_TYPE = {
    GeometryKind.POINTS: "POINT",
    GeometryKind.LINES: "LINE",
    GeometryKind.BOXES: "AXIS_ALIGNED_BOUNDING_BOX",
    GeometryKind.ELLIPSOIDS: "ELLIPSOID",
    GeometryKind.POLYLINES: "POLYLINE",
}
_POINTS = {
    GeometryKind.POINTS: 1,
    GeometryKind.LINES: 2,
    GeometryKind.BOXES: 2,
    GeometryKind.ELLIPSOIDS: 2,
    GeometryKind.POLYLINES: 0,
}

# `type` of an annotation, in lower case -> kind
KIND_OF = {
    "point": GeometryKind.POINTS,
    "line": GeometryKind.LINES,
    "axis_aligned_bounding_box": GeometryKind.BOXES,
    "ellipsoid": GeometryKind.ELLIPSOIDS,
    "linestring": GeometryKind.POLYLINES,
    "polygon": GeometryKind.POLYLINES,
}


Coordinates: TypeAlias = "NDArray[np.float32]"
Offsets: TypeAlias = "NDArray[np.int64]"

NO_TYPE = "no type"
UNKNOWN_TYPE = "unknown type"
NO_GEOMETRY = "no coordinates"
NOT_FINITE = "coordinates that are no numbers"  # a JSON key of the overview, like the others


@dataclass(frozen=True, slots=True)
class Shapes:
    """The geometry of annotations of one kind.

    Attributes:
        indices: Index of each annotation in its file, shape (n,).
        offsets: First point of each annotation, and the end, shape (n + 1,).
        coordinates: Points (x, y, z) in voxels, shape (m, 3). A box has its lower corner first; an
            ellipsoid its centre, then its radii; a polygon ends with its first point.
    """

    indices: Offsets
    offsets: Offsets
    coordinates: Coordinates

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of a file.

    Attributes:
        shapes: The shapes of each kind present.
        skipped: How many annotations cannot be drawn, by reason.
    """

    shapes: Mapping[GeometryKind, Shapes]
    skipped: Mapping[str, int]


@dataclass(slots=True)
class _Collected:
    indices: list[int] = field(default_factory=list)
    vertices: list[tuple[Vertex, ...]] = field(default_factory=list)


def geometry_of(annotations: Sequence[Annotation]) -> Geometry:
    """Collect the coordinates of annotations, and count those that cannot be drawn."""
    skipped: Counter[str] = Counter()
    collected = {kind: _Collected() for kind in GeometryKind}
    for index, annotation in enumerate(annotations):
        kind, vertices = vertices_of(annotation)
        if kind is None:
            skipped[UNKNOWN_TYPE if annotation.type else NO_TYPE] += 1
        elif not vertices:
            skipped[NO_GEOMETRY] += 1
        else:
            collected[kind].indices.append(index)
            collected[kind].vertices.append(vertices)
    shapes = {}
    for kind, same_kind in collected.items():
        if same_kind.indices:
            drawable, not_finite = _shapes(kind, same_kind)
            skipped[NOT_FINITE] += not_finite
            if len(drawable):
                shapes[kind] = drawable
    return Geometry(shapes, {reason: count for reason, count in skipped.items() if count})


def vertices_of(annotation: Annotation) -> tuple[GeometryKind | None, tuple[Vertex, ...]]:
    """Return the kind of an annotation, None for an unknown one, and its points as drawn.

    There are no points if any is missing. A polygon ends with its first point.
    """
    name = annotation.type.lower()
    kind = KIND_OF.get(name)
    if kind is GeometryKind.POINTS:
        return kind, () if annotation.point is None else (annotation.point,)
    if kind is GeometryKind.POLYLINES:
        points = annotation.points or ()
        if len(points) == 1:  # a visible line needs two ends
            points *= 2
        elif name == "polygon" and points and points[0] != points[-1]:
            points = (*points, points[0])
        return kind, points
    first, second = annotation.pointA, annotation.pointB
    if kind is GeometryKind.ELLIPSOIDS:
        first, second = annotation.center, annotation.radii
    return kind, () if first is None or second is None else (first, second)


def _shapes(kind: GeometryKind, collected: _Collected) -> tuple[Shapes, int]:
    """Return the annotations whose coordinates are finite, and the number of the others."""
    numbers = chain.from_iterable(chain.from_iterable(collected.vertices))
    with np.errstate(over="ignore"):  # values too large for a float32 cannot be drawn
        coordinates = np.array(list(numbers), np.float64).astype(np.float32).reshape(-1, 3)
    lengths = np.array(list(map(len, collected.vertices)), np.int64)
    indices = np.array(collected.indices, np.int64)
    starts = np.cumsum(lengths) - lengths
    finite = np.logical_and.reduceat(np.isfinite(coordinates).all(axis=1), starts)
    if not finite.all():
        coordinates = coordinates[np.repeat(finite, lengths)]
        lengths, indices = lengths[finite], indices[finite]
    if kind is GeometryKind.BOXES:
        corners = coordinates.reshape(-1, 2, 3)
        coordinates = np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1).reshape(-1, 3)
    elif kind is GeometryKind.ELLIPSOIDS:
        coordinates[1::2] = np.abs(coordinates[1::2])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Shapes(indices, offsets, coordinates), int((~finite).sum())
