"""From the bytes of an annotation file to values: the fields that sources, queries and exports use.

Many annotations are decoded in one go, by types. Only where that fails, because of one that another
program wrote in a way of its own, is each of them looked at by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from neurotrale.annotations.document import MALFORMED, split_items

BATCH = 4096

Number = float | None
"""null is how the viewer writes what is not a number."""
Vertex = tuple[Number, Number, Number]


class Annotation(msgspec.Struct, frozen=True, gc=False):
    """What is read of an annotation; coordinates are (x, y, z) in voxels of the full scale."""

    id: str = ""
    type: str = ""
    anntype: str = ""
    description: str = ""
    reviewed: bool = False
    visited: bool = False
    length: Number = None
    point: Vertex | None = None
    pointA: Vertex | None = None  # noqa: N815  the file's own spelling
    pointB: Vertex | None = None  # noqa: N815
    center: Vertex | None = None
    radii: Vertex | None = None
    points: tuple[Vertex, ...] | None = None


_all = msgspec.json.Decoder(list[Annotation])
_one = msgspec.json.Decoder(Annotation)
_any = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Batch:
    """Some annotations of a file that follow each other.

    Attributes:
        start: Place of the first one in the file.
        items: Their bytes.
        annotations: What is read of them.
    """

    start: int
    items: Sequence[msgspec.Raw]
    annotations: Sequence[Annotation]


def read_batches(content: bytes) -> Iterator[Batch]:
    """Read all annotations of a file, in order, some at a time.

    As Python objects they take several times what they take in the file. What has not the form
    that is expected (a number as id, two coordinates) is left out of the annotation, as if it were
    absent.

    Raises:
        NotAnArrayError: The content is no JSON array.
    """
    items = split_items(content)
    for start in range(0, len(items), BATCH):
        some = items[start : start + BATCH]
        yield Batch(start, some, _read(some))


def _read(items: Sequence[msgspec.Raw]) -> Sequence[Annotation]:
    try:
        return _all.decode(b"[" + b",".join(items) + b"]")
    except MALFORMED:
        return [read_annotation(item) for item in items]


def read_annotation(content: bytes | msgspec.Raw) -> Annotation:
    """Read one annotation; what has not the form that is expected counts as absent."""
    try:
        return _one.decode(content)
    except MALFORMED:
        pass
    try:
        found = _any.decode(content)
    except MALFORMED:
        return Annotation()
    return _lenient(found) if isinstance(found, dict) else Annotation()


def _lenient(found: dict[str, Any]) -> Annotation:
    values: dict[str, Any] = {}
    for key in Annotation.__struct_fields__:
        if key not in found:
            continue
        value = found[key]
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
    """Give a vertex that older viewers wrote as an object as a list."""
    if isinstance(value, dict) and value.keys() == {"0", "1", "2"}:
        return [value["0"], value["1"], value["2"]]
    return value
