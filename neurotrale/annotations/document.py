"""An annotation file as bytes: find, put in, take out, without touching any other annotation.

Everything here is a pure function of bytes. Annotations that are not changed keep every byte:
the order of keys, unknown keys, the spelling of numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from neurotrale.annotations.check import check_annotation, check_annotations
from neurotrale.errors import BadInputError, ConflictError, RuleBrokenError

_split = msgspec.json.Decoder(list[msgspec.Raw])
_decode = msgspec.json.Decoder()
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SPACE = b" \t\r\n"


class _HasId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw(b"null")


_id_of = msgspec.json.Decoder(_HasId)
_string = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Span:
    """Where an annotation stands in its file: bytes ``start`` to ``stop``."""

    start: int
    stop: int


class NotAnArrayError(ValueError):
    """The content is not a JSON array; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Document:
    """The content of an annotation file with the place of every annotation in it."""

    content: bytes
    spans: tuple[Span, ...]
    ids: dict[str, tuple[int, ...]]
    """Annotation id -> indices of the annotations that bear it; more than one is a mistake."""

    @classmethod
    def parse(cls, content: bytes) -> Document:
        """Find every annotation in a file.

        Raises:
            NotAnArrayError: The content is no JSON array.
        """
        if not content.strip():
            raise NotAnArrayError("expected a JSON array of annotations, found an empty file")
        try:
            items = _split.decode(content)
        except _MALFORMED as error:
            raise NotAnArrayError(
                f"expected a JSON array of annotations, found a mistake: {error}"
            ) from error
        spans = _spans(content, items)
        ids: dict[str, tuple[int, ...]] = {}
        for index, item in enumerate(items):
            id_ = _id(item)
            if id_ is not None:
                ids[id_] = (*ids.get(id_, ()), index)
        return cls(content, spans, ids)

    def find(self, id_: str) -> bytes | None:
        """Give the bytes of an annotation (the first one of this id), or None."""
        if id_ not in self.ids:
            return None
        span = self.spans[self.ids[id_][0]]
        return self.content[span.start : span.stop]

    def with_annotation(self, id_: str, annotation: bytes) -> bytes:
        """Give the content with an annotation replaced, or added at the end.

        Raises:
            ConflictError: The id stands in the file more than once.
        """
        self._check_single(id_)
        if id_ in self.ids:
            span = self.spans[self.ids[id_][0]]
            return b"".join((self.content[: span.start], annotation, self.content[span.stop :]))
        if not self.spans:
            at = self.content.index(b"[") + 1
            return b"".join((self.content[:at], annotation, self.content[at:].lstrip(_SPACE)))
        at = self.spans[-1].stop
        return b"".join((self.content[:at], b",", self._gap(), annotation, self.content[at:]))

    def without_annotation(self, id_: str) -> bytes:
        """Give the content without an annotation that is in it.

        Raises:
            ConflictError: The id stands in the file more than once.
        """
        self._check_single(id_)
        index = self.ids[id_][0]
        span = self.spans[index]
        if index > 0:  # with the comma before it
            start, stop = self.spans[index - 1].stop, span.stop
        elif len(self.spans) > 1:  # with the comma behind it
            start, stop = span.start, self.spans[1].start
        else:
            start, stop = span.start, span.stop
        return self.content[:start] + self.content[stop:]

    def _gap(self) -> bytes:
        """The white space that this file has before an annotation."""
        stop = self.spans[-1].start
        start = stop
        while self.content[start - 1] in _SPACE:
            start -= 1
        return self.content[start:stop]

    def _check_single(self, id_: str) -> None:
        indices = self.ids.get(id_, ())
        if len(indices) > 1:
            places = ", ".join(f"[{index}]" for index in indices)
            raise ConflictError(
                f"The id {id_!r} stands in the file {len(indices)} times, at {places}: which one"
                " is meant is unclear. Write the whole file with PUT, each id once."
            )


def _spans(content: bytes, items: list[msgspec.Raw]) -> tuple[Span, ...]:
    spans = []
    at = content.index(b"[") + 1
    for item in items:
        while content[at] in b" \t\r\n,":
            at += 1
        spans.append(Span(at, at + len(memoryview(item))))
        at = spans[-1].stop
    return tuple(spans)


def _id(item: msgspec.Raw) -> str | None:
    try:
        return _string.decode(_id_of.decode(item).id)
    except _MALFORMED:
        return None


def checked_array(body: bytes) -> list[str]:
    """Check the body of a PUT.

    Returns:
        Warnings: what was kept although viewers may not understand it.

    Raises:
        BadInputError: It is not UTF-8 JSON.
        RuleBrokenError: It breaks a rule of `neurotrale.annotations.check`.
    """
    report = check_annotations(_json(body))
    if report.problems:
        raise RuleBrokenError(report.problems)
    return report.warnings


def checked_annotation(body: bytes, id_: str) -> tuple[bytes, list[str]]:
    """Check the body of a PATCH and fill in its id when it has none.

    Returns:
        The annotation's bytes, as sent but for the id; and warnings.

    Raises:
        BadInputError: It is not UTF-8 JSON, or has another id than the one asked for.
        RuleBrokenError: It breaks a rule of `neurotrale.annotations.check`.
    """
    annotation = _json(body)
    content = body.strip(_SPACE)
    if isinstance(annotation, dict):
        if "id" not in annotation:
            comma = b"," if annotation else b""
            content = b'{"id":' + json.dumps(id_).encode() + comma + content[1:]
            annotation["id"] = id_
        elif isinstance(annotation["id"], str) and annotation["id"] not in ("", id_):
            raise BadInputError(
                f"The annotation's id {annotation['id']!r} is not the id in the URL, {id_!r}."
                " Send the same one, or leave it out of the body."
            )
    report = check_annotation(annotation)
    if report.problems:
        raise RuleBrokenError(report.problems)
    return content, report.warnings


def _json(body: bytes) -> object:
    if not body.strip():
        raise BadInputError("The body is empty; expected JSON.")
    try:
        body.decode()  # keys and strings that are skipped while splitting are not checked there
        return _decode.decode(body)
    except msgspec.ValidationError as error:
        raise RuleBrokenError([str(error)]) from error
    except _MALFORMED as error:
        raise BadInputError(f"The body is not valid JSON in UTF-8: {error}") from error
