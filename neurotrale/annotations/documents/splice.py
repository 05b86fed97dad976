"""Edit the text of a JSON object or array so that everything else in it keeps its bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from neurotrale.annotations.documents.pieces import SPACE, split_items

_KEY = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_string = msgspec.json.Decoder(str)

Span = tuple[int, int]


def items_of(array: bytes) -> tuple[list[bytes], list[Span]]:
    """Return the bytes of each item of an array, and where in the array they are."""
    items = [bytes(item) for item in split_items(array)]
    spans: list[Span] = []
    at = array.index(b"[") + 1
    for item in items:
        at = _skip(array, at, SPACE + b",")
        spans.append((at, at + len(item)))
        at += len(item)
    return items, spans


def replace_items(array: bytes, new: Sequence[bytes | None]) -> bytes:
    """Return an array with some items replaced.

    Args:
        array: The array.
        new: For each item, what to write in its place; None keeps it.
    """
    _, spans = items_of(array)
    pieces, at = [], 0
    for (start, stop), item in zip(spans, new, strict=True):
        if item is not None:
            pieces += [array[at:start], item]
            at = stop
    return b"".join([*pieces, array[at:]])


def replace_range(array: bytes, first: int, last: int, new: Sequence[bytes]) -> bytes:
    """Return an array with the items from `first` to before `last` replaced by any number."""
    items, spans = items_of(array)
    separator = b"," + (array[spans[0][1] : spans[1][0]].split(b",", 1)[1] if items[1:] else b"")
    joined = separator.join(new)
    if not items:
        at = array.index(b"[") + 1
        return array[:at] + joined + array[at:]
    if first == last:  # between two items
        if first == len(items):
            at = spans[-1][1]
            return array[:at] + (separator + joined if new else b"") + array[at:]
        at = spans[first][0]
        return array[:at] + (joined + separator if new else b"") + array[at:]
    start, stop = spans[first][0], spans[last - 1][1]
    if not new and first > 0:  # with the comma before
        start = spans[first - 1][1]
    elif not new and last < len(items):  # with the comma after
        stop = spans[last][0]
    return array[:start] + joined + array[stop:]


def set_fields(text: bytes, fields: Mapping[str, bytes], new: Mapping[str, bytes | None]) -> bytes:
    """Return an object with some fields set or removed.

    Args:
        text: The object; no key is in it twice.
        fields: The bytes of the value of each key, in the order of the text.
        new: The bytes to set; None removes a field that is there.
    """
    entries: list[bytes] = []
    at = text.index(b"{") + 1
    start = at
    for key, raw in fields.items():
        match = _KEY.match(text, _skip(text, at, SPACE + b","))
        assert match is not None
        assert _string.decode(match[0]) == key
        value_at = _skip(text, match.end(), SPACE + b":")
        # Each entry begins with the white space before its key.
        before = text[at : match.start()].replace(b",", b"")
        value = new.get(key, raw)
        if value is not None:
            entries.append(before + text[match.start() : value_at] + value)
        at = value_at + len(raw)
    entries += _added(text, start, fields, new)
    return text[:start] + b",".join(entries) + text[at:]


def _added(
    text: bytes, start: int, fields: Mapping[str, bytes], new: Mapping[str, bytes | None]
) -> list[bytes]:
    before, colon = b"", b":"
    if fields:  # spaced like the first field, or the second where there is one
        first = _KEY.search(text, start)
        assert first is not None
        raw = next(iter(fields.values()))
        value_at = _skip(text, first.end(), SPACE + b":")
        colon = text[first.end() : value_at]
        after = text[value_at + len(raw) :]
        before = (
            after[after.index(b",") + 1 : after.index(b'"')]
            if len(fields) > 1
            else text[start : first.start()]
        )
    return [
        before + msgspec.json.encode(key) + colon + value
        for key, value in new.items()
        if key not in fields and value is not None
    ]


def _skip(text: bytes, at: int, what: bytes) -> int:
    while text[at] in what:
        at += 1
    return at
