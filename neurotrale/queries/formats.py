"""The export formats of annotations: JSON, JSON Lines, CSV and SWC."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from neurotrale.errors import BadInputError
from neurotrale.layers.annotation_reader import Annotation, Vertex
from neurotrale.layers.geometry import GeometryKind, vertices_of
from neurotrale.layers.spatial_index import CoordinateSpace
from neurotrale.queries.query import SearchHit

COLUMNS = (
    "block", "file", "id", "type", "anntype", "reviewed", "visited", "length", "description",
    "x", "y", "z", "x_um", "y_um", "z_um", "points",
)  # fmt: skip

ROWS_PER_WRITE = 256


Hits = Iterable[SearchHit | None]
"""What a search finds; None after a while, so that what was found before is not held back."""

NOW = b""
"""A piece that says: send what there is."""


def csv_rows(hits: Hits, space: CoordinateSpace) -> Iterator[bytes]:
    """Write a CSV header, and a row for each annotation.

    ``x, y, z`` is the centre in voxels: the mean of all points, the middle of a box, the centre of
    an ellipsoid. It is empty if a point is missing or not a number; in micrometres, also if the
    voxel size is unknown.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    rows = 1
    for hit in hits:
        if hit is None:
            yield _drain(text)
            yield NOW
            rows = 0
            continue
        if hit.error:
            continue
        writer.writerow(_row(hit, space))
        rows += 1
        if rows >= ROWS_PER_WRITE:
            yield _drain(text)
            rows = 0
    yield _drain(text)


def _drain(text: io.StringIO) -> bytes:
    content = text.getvalue()
    text.seek(0)
    text.truncate()
    return content.encode(errors="replace")


def _row(hit: SearchHit, space: CoordinateSpace) -> list[object]:
    annotation = hit.annotation
    centre, points = _centre(annotation)
    um = [round(at * nm / 1000, 4) for at, nm in zip(centre, space.voxel_nm, strict=False)]
    return [
        hit.block,
        hit.file,
        annotation.id,
        annotation.type,
        annotation.anntype,
        "true" if annotation.reviewed else "false",
        "true" if annotation.visited else "false",
        "" if annotation.length is None else annotation.length,
        annotation.description,
        *(centre or ("", "", "")),
        *(um if um and space.known else ("", "", "")),
        points,
    ]


def _centre(annotation: Annotation) -> tuple[list[float], int]:
    kind, vertices = vertices_of(annotation)
    if kind is GeometryKind.ELLIPSOIDS:
        vertices = vertices[:1]
    elif kind is GeometryKind.POLYLINES:
        vertices = annotation.points or ()
    axes = list(zip(*vertices, strict=True))
    numbers = [[number for number in axis if number is not None] for axis in axes]
    if not vertices or any(len(axis) < len(vertices) for axis in numbers):
        return [], len(vertices)
    return [math.fsum(axis) / len(axis) for axis in numbers], len(vertices)


# Annotations have no radius; other tools draw this one well.
RADIUS_UM = 1.0

# `anntype` -> SWC node type; anything else is 0, undefined.
TYPES = {"soma": 1, "axon": 2, "dendrite": 3, "basal dendrite": 3, "apical dendrite": 4}


def swc(hits: Hits, space: CoordinateSpace) -> Iterator[bytes]:
    """Write the line strings among annotations as SWC; a comment at the end counts the others."""
    x_nm, y_nm, z_nm = space.voxel_nm
    yield (
        "# SWC written by neurotrale\n"
        "# index type x y z radius parent\n"
        "# coordinates and radius in micrometres; one tree for each line string\n"
        f"# voxel size {x_nm:g} x {y_nm:g} x {z_nm:g} nm; every radius is {RADIUS_UM:g}\n"
    ).encode()
    index, others = 1, 0
    for hit in hits:
        if hit is None:
            yield NOW
            continue
        file = _one_line(f"{hit.block}/{hit.file}")
        if hit.error:
            yield f"# skipped {file}: {_one_line(hit.error)}\n".encode(errors="replace")
        elif hit.annotation.type.lower() != "linestring":
            others += 1
        else:
            name = _one_line(hit.annotation.id)
            points = hit.annotation.points or ()
            nodes = _nodes(points, space, TYPES.get(hit.annotation.anntype.lower(), 0), index)
            if not nodes:
                yield f"# skipped {name} {file}: no coordinates\n".encode(errors="replace")
                continue
            kind = _one_line(hit.annotation.anntype)
            yield f"# {name} {file} {kind}\n".encode(errors="replace") + nodes
            index += len(points)
    if others:
        yield f"# skipped {others} annotations that are not line strings\n".encode()


def _nodes(points: tuple[Vertex, ...], space: CoordinateSpace, type_: int, first: int) -> bytes:
    """Write the nodes of one tree; nothing if a coordinate is not a number."""
    lines = []
    for number, point in enumerate(points):
        um = [
            at * nm / 1000 for at, nm in zip(point, space.voxel_nm, strict=True) if at is not None
        ]
        if len(um) < 3:
            return b""
        parent = first + number - 1 if number else -1
        x, y, z = um
        lines.append(f"{first + number} {type_} {x:.4f} {y:.4f} {z:.4f} {RADIUS_UM:g} {parent}\n")
    return "".join(lines).encode()


def _one_line(text: str) -> str:
    return " ".join(text.split())


WRITE_BYTES = 64 * 2**10

Writer = Callable[[Hits, CoordinateSpace], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Format:
    """An export format.

    Attributes:
        name: The name, as in ``format=``.
        media_type: The Content-Type.
        write: Writes annotations piece by piece.
        needs_voxel_size: Whether coordinates are in micrometres.
    """

    name: str
    media_type: str
    write: Writer
    needs_voxel_size: bool = False

    def check(self, space: CoordinateSpace) -> None:
        """Check that annotations in a coordinate space can be written in this format.

        Raises:
            BadInputError: The voxel size is needed but unknown.
        """
        if self.needs_voxel_size and not space.known:
            raise BadInputError(
                f"The format {self.name!r} has coordinates in micrometres, but the dataset has no"
                " 'info' that states the voxel size. Use 'csv' or 'jsonl', or add the 'info'."
            )


def json_array(hits: Hits, space: CoordinateSpace) -> Iterator[bytes]:
    """Write a JSON array of the annotations, byte for byte as in their files."""
    start = b"["
    for hit in hits:
        if hit is None:
            yield NOW
            continue
        if hit.error:
            continue
        yield start + hit.content
        start = b",\n"
    yield b"[]" if start == b"[" else b"]"


def json_lines(hits: Hits, space: CoordinateSpace) -> Iterator[bytes]:
    """Write a line of JSON for each annotation; numbers keep their spelling."""
    for hit in hits:
        if hit is None:
            yield NOW
            continue
        names = {"block": hit.block, "file": hit.file}
        if hit.error:
            line: dict[str, object] = {**names, "error": hit.error}
        else:
            text = hit.content.decode(errors="replace")
            raw = msgspec.Raw(msgspec.json.format(text, indent=-1).encode())
            line = {**names, "annotation": raw}
        yield msgspec.json.encode(line) + b"\n"


FORMATS = {
    format_.name: format_
    for format_ in (
        Format("json", "application/json", json_array),
        Format("jsonl", "application/x-ndjson", json_lines),
        Format("csv", "text/csv; charset=utf-8", csv_rows),
        Format("swc", "text/plain; charset=utf-8", swc, needs_voxel_size=True),
    )
}


def buffered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces until `NOW`: a write for each line would cost more than producing it."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        if piece:
            pending.append(piece)
            size += len(piece)
        if size >= WRITE_BYTES or (size and not piece):
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


def find_format(name: str) -> Format:
    """Return the format with a name.

    Raises:
        BadInputError: There is no such format.
    """
    if name not in FORMATS:
        raise BadInputError(f"format={name[:100]!r} is not one of {', '.join(FORMATS)}.")
    return FORMATS[name]
