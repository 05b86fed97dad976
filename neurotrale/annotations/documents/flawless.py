"""Annotations that break no rule and need no warning, found without a look at each of their values.

They are most of what viewers send, and viewers send the same ones again and again. So there are two
short ways past `neurotrale.annotations.documents.validation`: a decoder that takes nothing else,
and the digests of those that it took before. Whatever they do not know goes the long way.
"""

from __future__ import annotations

import hashlib
from functools import reduce
from operator import or_
from typing import Any

import msgspec

from neurotrale.annotations.documents.pieces import MALFORMED
from neurotrale.annotations.documents.validation import GEOMETRY

REMEMBERED = 10_000  # annotations; up to twice as many
_MOST_ID_CHARACTERS = 100  # of one that is remembered

_Point = tuple[float, float, float]
_Text = str | int | float
_FIELDS: list[tuple[str, Any, Any]] = [
    ("description", str, ""),
    ("anntype", str, ""),
    ("reviewed", bool, False),
    ("visited", bool, False),
    ("length", float, 0.0),
    ("segments", list[_Text | list[_Text]], msgspec.field(default_factory=list)),
]


def _struct(kind: str) -> Any:
    single, several = GEOMETRY[kind]
    points: list[tuple[str, Any]] = [(key, _Point) for key in single]
    points += [(key, list[_Point]) for key in several]
    return msgspec.defstruct(
        kind,
        [("id", str), *points, *_FIELDS],
        tag_field="type",
        tag=kind,
        forbid_unknown_fields=True,
        gc=False,
    )


_decoder = msgspec.json.Decoder(reduce(or_, map(_struct, GEOMETRY)))


class FlawlessAnnotations:
    """Tells flawless annotations by their bytes, and remembers those that it saw last."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}  # by the digest of the annotation
        self._older: dict[bytes, str] = {}

    def id_of(self, annotation: bytes | msgspec.Raw) -> str | None:
        """Return the id of an annotation; None if it may not be flawless."""
        # Nobody can make another annotation with the same digest.
        digest = hashlib.sha256(annotation).digest()
        id_ = self._ids.get(digest)
        if id_ is not None:
            return id_
        id_ = self._older.get(digest)
        if id_ is None:
            try:
                id_ = _decoder.decode(annotation).id
            except MALFORMED:  # also if it is only spelled in another way
                return None
        if not id_:
            return None
        if len(id_) <= _MOST_ID_CHARACTERS:
            if len(self._ids) >= REMEMBERED:
                self._ids, self._older = {}, self._ids
            self._ids[digest] = id_
        return id_
