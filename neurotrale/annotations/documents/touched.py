"""Which annotations a difference between two contents adds, changes and removes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from neurotrale.annotations.documents.document import Hunk
from neurotrale.annotations.documents.index import id_of
from neurotrale.annotations.documents.pieces import SPACE, NotAnArrayError, split_range

_decode = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class TouchedAnnotations:
    """The annotations that a difference adds, changes and removes: ids mapped to their bytes.

    An annotation that only moved, or whose JSON is only spelled differently, is not included.
    """

    added: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Bytes before and after."""
    removed: dict[str, bytes] = field(default_factory=dict)


def changes_in(hunks: Iterable[Hunk]) -> TouchedAnnotations:
    """Return the annotations that the hunks add, change and remove."""
    before, after = _both_sides(hunks)
    return TouchedAnnotations(
        added={id_: at.content for id_, at in after.items() if id_ not in before},
        changed={
            id_: (before[id_].content, at.content)
            for id_, at in after.items()
            if id_ in before and not same(before[id_].content, at.content)
        },
        removed={id_: at.content for id_, at in before.items() if id_ not in after},
    )


def ids_in(hunks: Iterable[Hunk]) -> tuple[list[str], list[str], list[str]]:
    """Return the ids of the annotations that the hunks add, change and remove."""
    before, after = _both_sides(hunks)
    return (
        [id_ for id_ in after if id_ not in before],
        [
            id_
            for id_, at in after.items()
            if id_ in before and not same(before[id_].content, at.content)
        ],
        [id_ for id_ in before if id_ not in after],
    )


def same(a: bytes, b: bytes) -> bool:
    """Return whether two annotations have the same value, however their JSON is spelled."""
    if a == b:
        return True
    try:
        return bool(_decode.decode(a) == _decode.decode(b))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # another program wrote JSON that splits but cannot be decoded


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an annotation is in one side of a hunk."""

    text: bytes
    start: int
    stop: int

    @property
    def content(self) -> bytes:
        return self.text[self.start : self.stop]


def _both_sides(hunks: Iterable[Hunk]) -> tuple[dict[str, _Place], dict[str, _Place]]:
    before: dict[str, _Place] = {}
    after: dict[str, _Place] = {}
    for hunk in hunks:
        before.update(_annotations(hunk.old))
        after.update(_annotations(hunk.new))
    return before, after


_AROUND = SPACE + b",[]"  # a side of a hunk may begin and end with a comma


def _annotations(text: bytes) -> dict[str, _Place]:
    at, stop = 0, len(text)
    while at < stop and text[at] in _AROUND:
        at += 1
    while stop > at and text[stop - 1] in _AROUND:
        stop -= 1
    places: dict[str, _Place] = {}
    try:
        for items in split_range(text, at, stop):
            for item in items:
                while text[at] in _AROUND:
                    at += 1
                size, id_ = len(memoryview(item)), id_of(item)
                if id_ is not None:
                    places[id_] = _Place(text, at, at + size)
                at += size
    except NotAnArrayError:
        return {}
    return places
