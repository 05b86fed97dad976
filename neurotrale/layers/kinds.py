"""The kinds of geometry that a source can hold; one source holds one kind."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """A kind of geometry, by its name in URLs."""

    POINTS = "points"
    LINES = "lines"
    BOXES = "boxes"
    ELLIPSOIDS = "ellipsoids"
    POLYLINES = "polylines"

    @property
    def annotation_type(self) -> str:
        """The name of the kind in the `info` of a source."""
        return _ANNOTATION_TYPE[self]

    @property
    def points(self) -> int:
        """How many points an annotation has; 0 where each has a number of its own."""
        return _POINTS[self]


_ANNOTATION_TYPE = {
    Kind.POINTS: "POINT",
    Kind.LINES: "LINE",
    Kind.BOXES: "AXIS_ALIGNED_BOUNDING_BOX",
    Kind.ELLIPSOIDS: "ELLIPSOID",
    Kind.POLYLINES: "POLYLINE",
}
_POINTS = {
    Kind.POINTS: 1,
    Kind.LINES: 2,
    Kind.BOXES: 2,
    Kind.ELLIPSOIDS: 2,
    Kind.POLYLINES: 0,
}

# `type` of an annotation, in lower case -> kind
KIND_OF = {
    "point": Kind.POINTS,
    "line": Kind.LINES,
    "axis_aligned_bounding_box": Kind.BOXES,
    "ellipsoid": Kind.ELLIPSOIDS,
    "linestring": Kind.POLYLINES,
    "polygon": Kind.POLYLINES,
}
