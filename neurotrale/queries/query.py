"""Searches for annotations by bounding box, kind of object, geometry and review state."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.files.block_listing import ReadableFile
from neurotrale.errors import BadInputError, MissingError
from neurotrale.late import LazyModule
from neurotrale.layers.annotation_reader import Annotation, read_batches
from neurotrale.layers.geometry import GeometryKind, geometry_of, vertices_of
from neurotrale.layers.spatial_index import Boxes

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

log = logging.getLogger(__name__)

Triple = tuple[float, float, float]
Box = tuple[Triple, Triple]
"""Lower and upper corner (x, y, z) in voxels, both inclusive."""

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class AnnotationQuery:
    """Conditions on annotations, all of which must hold.

    Attributes:
        box: A box that the annotation touches; None for any position.
        anntypes: Accepted values of `anntype`; empty for any. "" stands for a missing one.
        types: Accepted geometry types in lower case; empty for any.
        reviewed: Whether a person reviewed the annotation; None for either.
    """

    box: Box | None = None
    anntypes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    reviewed: bool | None = None

    @classmethod
    def parse(
        cls,
        bbox: str | None = None,
        anntype: Sequence[str] = (),
        type_: Sequence[str] = (),
        reviewed: str | None = None,
    ) -> AnnotationQuery:
        """Parse the spelling of URLs and of the command line.

        Raises:
            BadInputError: A condition is malformed; the message says what was expected.
        """
        if any(not name for name in type_):
            raise BadInputError("type is empty; name one, as in type=linestring.")
        return cls(
            None if bbox is None else _box(bbox),
            frozenset(anntype),
            frozenset(name.lower() for name in type_),
            None if reviewed is None else _truth(reviewed),
        )

    @property
    def key(self) -> str:
        """A text that differs from that of every other query."""
        return repr((self.box, sorted(self.anntypes), sorted(self.types), self.reviewed))

    def matches(self, annotation: Annotation) -> bool:
        """Return whether an annotation meets all conditions."""
        return (
            (self.reviewed is None or annotation.reviewed == self.reviewed)
            and (not self.anntypes or annotation.anntype in self.anntypes)
            and (not self.types or annotation.type.lower() in self.types)
            and (self.box is None or _touches(annotation, self.box))
        )


EVERYTHING = AnnotationQuery()


def _box(text: str) -> Box:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise BadInputError(
            f"bbox={text[:100]!r} is not a box; expected x0,y0,z0,x1,y1,z1 in voxels, as in"
            " bbox=0,0,0,250,420,150."
        )
    x0, y0, z0, x1, y1, z1 = numbers
    if x1 < x0 or y1 < y0 or z1 < z0:
        raise BadInputError(
            f"bbox={text[:100]!r} ends before it begins; expected the lower corner x0,y0,z0 first,"
            " then the upper one."
        )
    return (x0, y0, z0), (x1, y1, z1)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise BadInputError(f"reviewed={text[:100]!r} is neither true nor false.")
    return _TRUTH[text.lower()]


def _touches(annotation: Annotation, box: Box) -> bool:
    """Return whether an annotation touches a box; False unless all coordinates are numbers."""
    kind, vertices = vertices_of(annotation)
    points = [
        (x, y, z) for x, y, z in vertices if x is not None and y is not None and z is not None
    ]
    if not points or len(points) < len(vertices):
        return False
    if kind is GeometryKind.POINTS:
        return _crosses(points[0], points[0], box)
    first, second = points[0], points[1]
    if kind is GeometryKind.BOXES:
        return _overlap(first, second, box)
    if kind is GeometryKind.ELLIPSOIDS:
        return _reaches(first, second, box)
    return any(_crosses(start, stop, box) for start, stop in pairwise(points))


def _overlap(corner: Triple, other: Triple, box: Box) -> bool:
    return all(
        min(a, b) <= high and max(a, b) >= low
        for a, b, low, high in zip(corner, other, *box, strict=True)
    )


def _reaches(centre: Triple, radii: Triple, box: Box) -> bool:
    """Return whether an ellipsoid contains the point of a box that is nearest to its centre."""
    distance = 0.0
    for at, radius, low, high in zip(centre, radii, *box, strict=True):
        away = max(low - at, 0.0, at - high)
        if away > 0:
            distance += (away / radius) ** 2 if radius else math.inf
    return distance <= 1


def _crosses(start: Triple, stop: Triple, box: Box) -> bool:
    """Return whether a segment touches a box, by clipping it at each pair of planes."""
    first, last = 0.0, 1.0
    for a, b, low, high in zip(start, stop, *box, strict=True):
        if a == b:
            if not low <= a <= high:
                return False
            continue
        enters, leaves = sorted(((low - a) / (b - a), (high - a) / (b - a)))
        first, last = max(first, enters), min(last, leaves)
    return first <= last


# --- search ---


def bbox_candidates(annotations: Sequence[Annotation], box: Box) -> list[int]:
    """Return the indices of the annotations whose bounding boxes touch a box, ascending.

    They include all annotations that touch the box themselves.
    """
    low, high = np.array(box[0]), np.array(box[1])
    candidates = np.zeros(len(annotations), bool)
    for kind, shapes in geometry_of(annotations).shapes.items():
        around = Boxes.around(kind, shapes)
        # Some slack: rounding to float32 may have moved a coordinate out of the box.
        slack = np.maximum(np.abs(around.lower), np.abs(around.upper)) * 2.0**-20
        touched = ((around.lower - slack <= high) & (around.upper + slack >= low)).all(axis=1)
        candidates[shapes.indices[around.owners[touched]]] = True
    indices: list[int] = np.flatnonzero(candidates).tolist()
    return indices


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An annotation that matches a query, or a damaged file.

    Attributes:
        block: Name of the block directory.
        file: Name of the file.
        content: Bytes of the annotation in the file.
        annotation: The parsed annotation.
        error: Why the file is not a JSON array; "" for an annotation.
    """

    block: str
    file: str
    content: bytes
    annotation: Annotation
    error: str = ""


PAUSE_S = 0.1


def search_files(
    files: Iterable[ReadableFile], query: AnnotationQuery
) -> Iterator[SearchHit | None]:
    """Yield the matches in several files, one file in memory at a time, and the damaged files.

    None is yielded after the first file, and from time to time: what was found can be sent.
    """
    told = -math.inf
    for file in files:
        try:
            content, _, _ = file.read()
        except MissingError:  # deleted since it was listed
            continue
        try:
            yield from search_file(file.display_path, content, query)
        except NotAnArrayError as error:
            log.warning("skipped %s: %s", file.display_path, error)
            yield SearchHit(*_block_and_name(file.display_path), b"", Annotation(), str(error))
        if time.monotonic() - told > PAUSE_S:
            told = time.monotonic()
            yield None


def search_file(path: str, content: bytes, query: AnnotationQuery) -> Iterator[SearchHit]:
    """Yield the matches in one file, in its order.

    Args:
        path: Path of the file, which ends in its block and name.
        content: Content of the file.
        query: The query.

    Raises:
        NotAnArrayError: The content is not a JSON array.
    """
    block, name = _block_and_name(path)
    for batch in read_batches(content):
        annotations = batch.annotations
        indices: Iterable[int] = range(len(annotations))
        if query.box is not None:
            indices = bbox_candidates(annotations, query.box)
        for index in indices:
            if query.matches(annotations[index]):
                yield SearchHit(block, name, bytes(batch.items[index]), annotations[index])


def _block_and_name(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory.rpartition("/")[2], name
