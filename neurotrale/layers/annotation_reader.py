"""Annotations as values: the fields that sources, queries and exports use.

Many annotations are decoded in one go, with strict types; only if that fails, because another
program wrote one in its own way, is each decoded by itself, without its malformed fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from neurotrale.annotations.documents.pieces import MALFORMED, decode_in_pieces, split_items

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
_split = msgspec.json.Decoder(list[msgspec.Raw])


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


PIECE_BYTES = 2**20


def read_annotations(content: bytes) -> Iterator[Sequence[Annotation]]:
    """Read the annotations of a file, as `read_batches` does, without their bytes.

    Raises:
        NotAnArrayError: The content is not a JSON array; the first ones may have been yielded.
    """
    return decode_in_pieces(content, _decode, PIECE_BYTES)


def _decode(content: bytes) -> list[Annotation]:
    try:
        return _all.decode(content)
    except MALFORMED:
        return [read_annotation(item) for item in _split.decode(content)]


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
