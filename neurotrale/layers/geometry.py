"""From annotations to arrays of coordinates, a table for each kind of geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from neurotrale.layers.kinds import KIND_OF, Kind
from neurotrale.layers.reading import Annotation, Vertex

Coordinates = NDArray[np.float32]
Offsets = NDArray[np.int64]

NO_TYPE = "no type"
UNKNOWN_TYPE = "unknown type"
NO_GEOMETRY = "no coordinates"
NOT_FINITE = "coordinates that are no numbers"


@dataclass(frozen=True, slots=True)
class Shapes:
    """The geometry of annotations of one kind.

    Attributes:
        places: Where each annotation stands in its file, shape (n,).
        offsets: First point of each annotation, and the end, shape (n + 1,).
        coordinates: Points (x, y, z) in voxels, shape (m, 3). A box has its lower corner first, an
            ellipsoid its centre, then its radii; a polygon ends in its first point.
    """

    places: Offsets
    offsets: Offsets
    coordinates: Coordinates

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of a file.

    Attributes:
        shapes: Of each kind that the file has.
        skipped: How many annotations have none that can be drawn, by reason.
    """

    shapes: Mapping[Kind, Shapes]
    skipped: Mapping[str, int]


@dataclass(slots=True)
class _Gathered:
    places: list[int] = field(default_factory=list)
    vertices: list[tuple[Vertex, ...]] = field(default_factory=list)


def geometry_of(annotations: Sequence[Annotation]) -> Geometry:
    """Gather the coordinates of a file's annotations; what cannot be drawn is counted."""
    skipped: Counter[str] = Counter()
    gathered = {kind: _Gathered() for kind in Kind}
    for place, annotation in enumerate(annotations):
        kind, vertices = vertices_of(annotation)
        if kind is None:
            skipped[UNKNOWN_TYPE if annotation.type else NO_TYPE] += 1
        elif not vertices:
            skipped[NO_GEOMETRY] += 1
        else:
            into = gathered[kind]
            into.places.append(place)
            into.vertices.append(vertices)
    shapes = {}
    for kind, found in gathered.items():
        if found.places:
            made, unfit = _shapes(kind, found)
            skipped[NOT_FINITE] += unfit
            if len(made):
                shapes[kind] = made
    return Geometry(shapes, {reason: count for reason, count in skipped.items() if count})


def vertices_of(annotation: Annotation) -> tuple[Kind | None, tuple[Vertex, ...]]:
    """Give the kind of an annotation, None for an unknown one, and its points as they are drawn.

    There are none when some are missing. A polygon ends in its first point.
    """
    name = annotation.type.lower()
    kind = KIND_OF.get(name)
    if kind is Kind.POINTS:
        return kind, () if annotation.point is None else (annotation.point,)
    if kind is Kind.POLYLINES:
        points = annotation.points or ()
        if len(points) == 1:  # a line needs two ends to be seen
            points *= 2
        elif name == "polygon" and points and points[0] != points[-1]:
            points = (*points, points[0])
        return kind, points
    first, second = annotation.pointA, annotation.pointB
    if kind is Kind.ELLIPSOIDS:
        first, second = annotation.center, annotation.radii
    return kind, () if first is None or second is None else (first, second)


def _shapes(kind: Kind, found: _Gathered) -> tuple[Shapes, int]:
    numbers = chain.from_iterable(chain.from_iterable(found.vertices))
    with np.errstate(over="ignore"):  # what is too large for a float32 cannot be drawn
        coordinates = np.array(list(numbers), np.float64).astype(np.float32).reshape(-1, 3)
    lengths = np.array(list(map(len, found.vertices)), np.int64)
    places = np.array(found.places, np.int64)
    starts = np.cumsum(lengths) - lengths
    fit = np.logical_and.reduceat(np.isfinite(coordinates).all(axis=1), starts)
    if not fit.all():
        coordinates = coordinates[np.repeat(fit, lengths)]
        lengths, places = lengths[fit], places[fit]
    if kind is Kind.BOXES:
        corners = coordinates.reshape(-1, 2, 3)
        coordinates = np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1).reshape(-1, 3)
    elif kind is Kind.ELLIPSOIDS:
        coordinates[1::2] = np.abs(coordinates[1::2])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Shapes(places, offsets, coordinates), int((~fit).sum())
