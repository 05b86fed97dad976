"""An annotation file as bytes: find, put in, take out, without touching any other annotation.

Everything here is a pure function of bytes. Annotations that are not changed keep every byte:
the order of keys, unknown keys, the spelling of numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from neurotrale.errors import ConflictError

_split = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SPACE = b" \t\r\n"

Offsets = NDArray[np.int64]


class _HasId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw(b"null")


_id_of = msgspec.json.Decoder(_HasId)


class NotAnArrayError(ValueError):
    """The content is not a JSON array; the message says what is wrong."""


def split_items(content: bytes) -> list[msgspec.Raw]:
    """Cut a JSON array into the bytes of its items.

    Raises:
        NotAnArrayError: The content is none.
    """
    try:
        return _split.decode(content)
    except MALFORMED as error:
        raise NotAnArrayError(
            f"expected a JSON array of annotations, found a mistake: {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class Hunk:
    """One place of a change: at byte ``at`` of the old content, ``old`` became ``new``."""

    at: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class Index:
    """Where every annotation of a file stands, without the file's content.

    Attributes:
        starts: First byte of each annotation, in the file's order.
        stops: The byte behind each annotation.
        ids: Annotation id -> its place in the order (the first one, if it stands there twice).
        repeated: Ids that stand in the file more than once, with all their places.
    """

    starts: Offsets
    stops: Offsets
    ids: dict[str, int]
    repeated: dict[str, list[int]]

    @classmethod
    def of(cls, content: bytes) -> Index:
        """Find every annotation in a file.

        Raises:
            NotAnArrayError: The content is no JSON array.
        """
        if not content.strip():
            raise NotAnArrayError("expected a JSON array of annotations, found an empty file")
        items = split_items(content)
        ids: dict[str, int] = {}
        repeated: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            id_ = id_of(item)
            if id_ is not None and ids.setdefault(id_, place) != place:
                repeated.setdefault(id_, [ids[id_]]).append(place)
        starts, stops = _places(content, items)
        return cls(starts, stops, ids, repeated)

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, place: int) -> tuple[int, int]:
        """Give the first byte of an annotation and the byte behind it."""
        return int(self.starts[place]), int(self.stops[place])


@dataclass(frozen=True, slots=True)
class Document:
    """The content of an annotation file with its index."""

    content: bytes
    index: Index

    @classmethod
    def parse(cls, content: bytes) -> Document:
        """Index a file's content.

        Raises:
            NotAnArrayError: The content is no JSON array.
        """
        return cls(content, Index.of(content))

    def find(self, id_: str) -> bytes | None:
        """Give the bytes of an annotation (the first one of this id), or None."""
        place = self.index.ids.get(id_)
        return None if place is None else self.at(place)

    def at(self, place: int) -> bytes:
        """Give the bytes of the annotation at a place in the order."""
        start, stop = self.index.span(place)
        return self.content[start:stop]

    def items(self) -> Iterator[bytes]:
        """Give the bytes of every annotation in order."""
        return map(self.at, range(len(self.index)))

    def upsert(self, id_: str, annotation: bytes) -> tuple[Hunk, Index]:
        """Replace an annotation, or add it at the end.

        Returns:
            The change, and the index of the content after it.

        Raises:
            ConflictError: The id stands in the file more than once.
        """
        self._check_single(id_)
        index = self.index
        place = index.ids.get(id_)
        if place is None:
            return self._append(id_, annotation)
        start, stop = index.span(place)
        grown = len(annotation) - (stop - start)
        after = Index(
            _shifted(index.starts, place + 1, grown),
            _shifted(index.stops, place, grown),
            index.ids,
            index.repeated,
        )
        return Hunk(start, self.content[start:stop], annotation), after

    def remove(self, id_: str) -> tuple[Hunk, Index]:
        """Take out an annotation that is in the file.

        Returns:
            The change, and the index of the content after it.

        Raises:
            ConflictError: The id stands in the file more than once.
        """
        self._check_single(id_)
        index = self.index
        place = index.ids[id_]
        start, stop = index.span(place)
        if place > 0:  # with the comma before it
            start = int(index.stops[place - 1])
        elif len(index) > 1:  # with the comma behind it
            stop = int(index.starts[1])
        starts, stops = np.delete(index.starts, place), np.delete(index.stops, place)
        ids = {key: at - (at > place) for key, at in index.ids.items() if key != id_}
        repeated = {key: [at - (at > place) for at in ats] for key, ats in index.repeated.items()}
        after = Index(
            _shifted(starts, place, start - stop),
            _shifted(stops, place, start - stop),
            ids,
            repeated,
        )
        return Hunk(start, self.content[start:stop], b""), after

    def without(self, ids: Collection[str]) -> bytes:
        """Give the content without some annotations that are in it.

        Raises:
            ConflictError: An id stands in the file more than once.
        """
        if not ids:
            return self.content
        for id_ in ids:
            self._check_single(id_)
        index = self.index
        gone = {index.ids[id_] for id_ in ids}
        staying = [place for place in range(len(index)) if place not in gone]
        pieces = [self.content[: int(index.starts[0])]]
        for number, place in enumerate(staying):
            start, stop = index.span(place)
            if number > 0:  # with the comma before it
                start = int(index.stops[place - 1])
            pieces.append(self.content[start:stop])
        pieces.append(self.content[int(index.stops[-1]) :])
        return b"".join(pieces)

    def nameless(self) -> list[bytes]:
        """Give the annotations that have no string as id; another program wrote them."""
        index = self.index
        if len(index) == len(index.ids):
            return []
        named = {*index.ids.values(), *chain.from_iterable(index.repeated.values())}
        return [self.at(place) for place in range(len(index)) if place not in named]

    def appended(self, annotations: Sequence[bytes]) -> Hunk:
        """Add several annotations at the end, each in the file's own spacing."""
        gap = self._gap()
        if not len(self.index):
            at = self.content.index(b"[") + 1
            return Hunk(at, b"", (b"," + gap).join(annotations))
        at = int(self.index.stops[-1])
        return Hunk(at, b"", b"".join(b"," + gap + annotation for annotation in annotations))

    def _append(self, id_: str, annotation: bytes) -> tuple[Hunk, Index]:
        hunk = self.appended([annotation])
        index = self.index
        start = hunk.at + len(hunk.new) - len(annotation)
        after = Index(
            np.append(index.starts, start),
            np.append(index.stops, start + len(annotation)),
            {**index.ids, id_: len(index)},
            index.repeated,
        )
        return hunk, after

    def _gap(self) -> bytes:
        """The white space that this file has before its last annotation."""
        if not len(self.index):
            return b""
        stop = start = int(self.index.starts[-1])
        while self.content[start - 1] in SPACE:
            start -= 1
        return self.content[start:stop]

    def _check_single(self, id_: str) -> None:
        places = self.index.repeated.get(id_)
        if places is not None:
            where = ", ".join(f"[{place}]" for place in places)
            raise ConflictError(
                f"The id {id_!r} stands in the file {len(places)} times, at {where}: which one is"
                " meant is unclear. Write the whole file with PUT, each id once."
            )


def id_of(annotation: bytes | msgspec.Raw) -> str | None:
    """Read the id of an annotation; None when it has no string as id."""
    try:
        return _string.decode(_id_of.decode(annotation).id)
    except MALFORMED:
        return None


def _places(content: bytes, items: list[msgspec.Raw]) -> tuple[Offsets, Offsets]:
    starts = np.empty(len(items), np.int64)
    stops = np.empty(len(items), np.int64)
    between = SPACE + b","
    at = content.index(b"[") + 1
    for place, item in enumerate(items):
        while content[at] in between:
            at += 1
        starts[place] = at
        at += len(memoryview(item))
        stops[place] = at
    return starts, stops


def _shifted(offsets: Offsets, first: int, by: int) -> Offsets:
    shifted = offsets.copy()
    shifted[first:] += by
    return shifted
