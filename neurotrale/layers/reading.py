"""From the bytes of an annotation file to values: the fields that sources, queries and exports use.

A whole file is decoded in one go, by types. Only where that fails, because of one annotation that
another program wrote in a way of its own, is each annotation looked at by itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from neurotrale.annotations.document import NotAnArrayError

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
_split = msgspec.json.Decoder(list[msgspec.Raw])
_one = msgspec.json.Decoder(Annotation)
_any = msgspec.json.Decoder()
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_annotations(content: bytes) -> list[Annotation]:
    """Read all annotations of a file, in order.

    What has not the form that is expected (a number as id, two coordinates) is left out of the
    annotation, as if it were absent.

    Raises:
        NotAnArrayError: The content is no JSON array.
    """
    try:
        return _all.decode(content)
    except _MALFORMED:
        pass
    try:
        items = _split.decode(content)
    except _MALFORMED as error:
        raise NotAnArrayError(
            f"expected a JSON array of annotations, found a mistake: {error}"
        ) from error
    return [read_annotation(item) for item in items]


def read_annotation(content: bytes | msgspec.Raw) -> Annotation:
    """Read one annotation; what has not the form that is expected counts as absent."""
    try:
        return _one.decode(content)
    except _MALFORMED:
        pass
    try:
        found = _any.decode(content)
    except _MALFORMED:
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
