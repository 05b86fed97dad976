"""Annotations as CSV: one row each, for spreadsheets and statistics."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator

from neurotrale.layers.geometry import vertices_of
from neurotrale.layers.kinds import Kind
from neurotrale.layers.reading import Annotation
from neurotrale.layers.space import Space
from neurotrale.queries.found import Found

COLUMNS = (
    "block", "file", "id", "type", "anntype", "reviewed", "visited", "length", "description",
    "x", "y", "z", "x_um", "y_um", "z_um", "points",
)  # fmt: skip

ROWS_PER_WRITE = 256


def csv_rows(found: Iterable[Found], space: Space) -> Iterator[bytes]:
    """Write a header and a row for each annotation.

    ``x, y, z`` is the centre in voxels: the mean of all points, the middle of a box, the centre of
    an ellipsoid. It is empty where a point is missing or no number; that in micrometres also where
    the size of a voxel is not known.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    rows = 1
    for one in found:
        if one.mistake:
            continue
        writer.writerow(_row(one, space))
        rows += 1
        if rows >= ROWS_PER_WRITE:
            yield _taken(text)
            rows = 0
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    taken = text.getvalue()
    text.seek(0)
    text.truncate()
    return taken.encode(errors="replace")


def _row(found: Found, space: Space) -> list[object]:
    one = found.annotation
    centre, points = _centre(one)
    um = [round(at * nm / 1000, 4) for at, nm in zip(centre, space.voxel_nm, strict=False)]
    return [
        found.block,
        found.file,
        one.id,
        one.type,
        one.anntype,
        "true" if one.reviewed else "false",
        "true" if one.visited else "false",
        "" if one.length is None else one.length,
        one.description,
        *(centre or ("", "", "")),
        *(um if um and space.known else ("", "", "")),
        points,
    ]


def _centre(annotation: Annotation) -> tuple[list[float], int]:
    kind, vertices = vertices_of(annotation)
    if kind is Kind.ELLIPSOIDS:
        vertices = vertices[:1]
    elif kind is Kind.POLYLINES:
        vertices = annotation.points or ()
    axes = list(zip(*vertices, strict=True))
    numbers = [[number for number in axis if number is not None] for axis in axes]
    if not vertices or any(len(axis) < len(vertices) for axis in numbers):
        return [], len(vertices)
    return [math.fsum(axis) / len(axis) for axis in numbers], len(vertices)
