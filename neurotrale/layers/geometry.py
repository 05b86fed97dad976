"""The geometry of annotations as arrays, one for each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeAlias

from neurotrale.late import LazyModule
from neurotrale.layers.annotation_reader import Annotation, Vertex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")


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

    def take(self, rows: Offsets) -> Shapes:
        """Return the shapes of some annotations, in the order of their rows."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        points = np.arange(offsets[-1]) + shift
        return Shapes(self.indices[rows], offsets, self.coordinates.take(points, axis=0))


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

    def sort(self) -> None:
        """Sort by index: annotations whose types are spelt differently may be of one kind."""
        if any(later < earlier for earlier, later in pairwise(self.indices)):
            order = sorted(range(len(self.indices)), key=self.indices.__getitem__)
            self.indices = [self.indices[number] for number in order]
            self.vertices = [self.vertices[number] for number in order]


def geometry_of(annotations: Sequence[Annotation]) -> Geometry:
    """Collect the coordinates of annotations, and count those that cannot be drawn."""
    skipped: Counter[str] = Counter()
    collected: dict[GeometryKind, _Collected] = {}
    types = [annotation.type for annotation in annotations]
    for name in dict.fromkeys(types):
        indices = [index for index, type_ in enumerate(types) if type_ == name]
        kind = KIND_OF.get(name.lower())
        if kind is None:
            skipped[UNKNOWN_TYPE if name else NO_TYPE] += len(indices)
            continue
        same = annotations
        if len(indices) < len(annotations):
            same = [annotations[index] for index in indices]
        vertices = _vertices_of_type(name.lower(), same)
        if not all(vertices):
            drawn = [number for number, points in enumerate(vertices) if points]
            skipped[NO_GEOMETRY] += len(vertices) - len(drawn)
            indices = [indices[number] for number in drawn]
            vertices = [vertices[number] for number in drawn]
        same_kind = collected.setdefault(kind, _Collected())
        same_kind.indices += indices
        same_kind.vertices += vertices
    shapes = {}
    for kind in GeometryKind:
        if kind in collected and collected[kind].indices:
            drawable, not_finite = _shapes(kind, collected[kind])
            skipped[NOT_FINITE] += not_finite
            if len(drawable):
                shapes[kind] = drawable
    return Geometry(shapes, {reason: count for reason, count in skipped.items() if count})


def _vertices_of_type(name: str, annotations: Sequence[Annotation]) -> list[tuple[Vertex, ...]]:
    """Return what `vertices_of` does, for many annotations of one type in lower case."""
    if name != "linestring":
        return [vertices_of(annotation)[1] for annotation in annotations]
    lines = [annotation.points or () for annotation in annotations]
    return [points * 2 if len(points) == 1 else points for points in lines]


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
    collected.sort()
    lengths = np.array(list(map(len, collected.vertices)), np.int64)
    with np.errstate(over="ignore"):  # values too large for a float32 cannot be drawn
        coordinates = _numbers(collected, 3 * int(lengths.sum())).astype(np.float32).reshape(-1, 3)
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


def _numbers(collected: _Collected, count: int) -> NDArray[np.float64]:
    """Return all coordinates; null, which stands for NaN, as that."""
    try:
        numbers = chain.from_iterable(chain.from_iterable(collected.vertices))
        return np.fromiter(numbers, np.float64, count)
    except TypeError:  # a null is among them
        numbers = chain.from_iterable(chain.from_iterable(collected.vertices))
        return np.array(list(numbers), np.float64)
