"""Which values a viewer only spells differently, and so has not changed.

A viewer writes every annotation of a file again from what it has loaded, and loses some of it:
coordinates pass through 32-bit floats, ``length`` is cut to an integer, NaN becomes null, keys
that it does not know are dropped, ``visited`` is added. Everything here is a pure function.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import msgspec

from neurotrale.annotations.documents.pieces import MALFORMED
from neurotrale.annotations.documents.validation import GEOMETRY, KNOWN_KEYS

COORDINATES = frozenset(key for keys in GEOMETRY.values() for part in keys for key in part)
"""The fields that hold points."""

_EXACT_INT = 2**53  # above it, not every integer is a double
_VERTEX = {"0", "1", "2"}
_raws = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value = msgspec.json.Decoder()
_point = msgspec.json.Decoder(list[float])
_points = msgspec.json.Decoder(list[tuple[float, float, float]])
_COLON = re.compile(rb'"[ \t\r\n]*:')  # after each key; there may be more of them in texts


@dataclass(frozen=True)
class Parsed:
    """An annotation with its value.

    Attributes:
        text: Its bytes.
        fields: Its fields; None if the bytes are no object that can be decoded.
        is_repeated: Whether an object in it has a key twice, so that its fields are ambiguous.
    """

    text: bytes
    fields: dict[str, Any] | None
    is_repeated: bool = False

    @classmethod
    def of(cls, text: bytes) -> Parsed:
        """Parse the bytes of an annotation."""
        repeated = []

        def fields_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            fields = dict(pairs)
            repeated.extend([True] if len(fields) < len(pairs) else [])
            return fields

        try:
            value = json.loads(text, object_pairs_hook=fields_of)
        except (ValueError, RecursionError):
            return cls(text, None)
        return cls(text, value if isinstance(value, dict) else None, bool(repeated))

    @property
    def has_fields(self) -> bool:
        """Whether its fields can be told apart."""
        return self.fields is not None and not self.is_repeated

    @cached_property
    def raws(self) -> dict[str, bytes]:
        """The bytes of each field, in the order of the text."""
        return {key: bytes(raw) for key, raw in _raws.decode(self.text).items()}


def respells(old: Any, new: Any, key: str = "") -> bool:
    """Return whether a viewer that has loaded a value writes the new one without any change.

    Args:
        old: The value that the viewer had loaded.
        new: The value that it wrote.
        key: The field.
    """
    if key == "points" and isinstance(old, dict | list) and isinstance(new, dict | list):
        old, new = _vertex(old), _vertex(new)
    if isinstance(old, list):
        return (
            isinstance(new, list)
            and len(old) == len(new)
            and all(respells(a, b, key) for a, b in zip(old, new, strict=True))
        )
    if isinstance(old, dict):
        return (
            isinstance(new, dict)
            and old.keys() == new.keys()
            and all(respells(value, new[name], key) for name, value in old.items())
        )
    if not _is_number(old):
        return type(old) is type(new) and bool(old == new)
    if new is None:
        return key in COORDINATES
    if not _is_number(new):
        return False
    return _respells_number(old, new) or (key == "length" and _is_cut(old, new))


def same_value(one: Any, other: Any, key: str = "") -> bool:
    """Return whether one of two values may be the other one in another spelling."""
    return respells(one, other, key) or respells(other, one, key)


def is_edited(base: Parsed, body: Parsed, *, own: bool) -> bool:
    """Return whether a viewer changed an annotation.

    Args:
        base: The annotation as the viewer last saw it.
        body: The annotation as it writes it.
        own: Whether the base is what the viewer itself wrote; only then is a missing key a change.
    """
    if base.text == body.text:
        return False
    if not (base.has_fields and body.has_fields):
        return base.fields is None or body.fields is None or base.fields != body.fields
    return bool(edited_keys(base, body, own=own))


def is_only_respelled(base: bytes, body: bytes, *, own: bool) -> bool:
    """Return whether a viewer surely did not change an annotation; else `is_edited` decides.

    It is several times as quick, as no more is parsed than what is spelled differently.

    Args:
        base: The bytes of the annotation as the viewer last saw it.
        body: Its bytes as it writes it.
        own: See `is_edited`.
    """
    try:
        old, new = _raws.decode(base), _raws.decode(body)
        if own and not old.keys() <= new.keys():
            return False
        if any(len(_COLON.findall(text)) > len(raws) for text, raws in ((base, old), (body, new))):
            return False  # there may be a key twice
        return all(
            _respells_raw(bytes(old[key]), bytes(raw), key)
            if key in old
            else _is_default(key, _value.decode(raw))
            for key, raw in new.items()
        )
    except MALFORMED:
        return False


def _respells_raw(old: bytes, new: bytes, key: str) -> bool:
    if old == new:
        return True
    if b"{" in old or b"{" in new:
        return False
    if key not in COORDINATES:
        return respells(_value.decode(old), _value.decode(new), key)
    if key != "points":
        return _respells_floats(tuple(_point.decode(old)), tuple(_point.decode(new)))
    flat, written = (tuple(chain(*_points.decode(raw))) for raw in (old, new))
    return _respells_floats(flat, written)


def _respells_floats(old: tuple[float, ...], new: tuple[float, ...]) -> bool:
    if len(old) != len(new) or not old or max(max(old), -min(old)) >= _EXACT_INT:
        return False
    if old == new:
        return True
    packed = struct.Struct(f"<{len(old)}f")
    return packed.unpack(packed.pack(*old)) == new


def edited_keys(base: Parsed, body: Parsed, *, own: bool) -> list[str]:
    """Return the fields that a viewer set, changed or removed; see `is_edited`."""
    old, new = base.fields or {}, body.fields or {}
    keys = [
        key
        for key, value in new.items()
        if (not respells(old[key], value, key) if key in old else not _is_default(key, value))
    ]
    return keys + [key for key in old if own and key not in new]


def is_touched(base: Parsed, now: Parsed, *, own: bool) -> bool:
    """Return whether an annotation was changed since a viewer saw it, by somebody else.

    Args:
        base: The annotation as the viewer last saw it.
        now: The annotation as it is in the file.
        own: Whether the base is what the viewer itself wrote, without keys that it does not know.
    """
    if not (base.has_fields and now.has_fields):
        return base.text != now.text
    old, new = base.fields or {}, now.fields or {}
    return any(
        not same_value(value, new[key], key) if key in new else not _is_default(key, value)
        for key, value in old.items()
    ) or any(
        key not in old and not _is_default(key, value) and not (own and key not in KNOWN_KEYS)
        for key, value in new.items()
    )


def _is_default(key: str, value: Any) -> bool:
    return key == "visited" and value is False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _respells_number(old: float, new: float) -> bool:
    if old == new or float32(old) == new:
        return True
    if isinstance(old, int) and isinstance(new, int) and min(abs(old), abs(new)) > _EXACT_INT:
        return _float(old) == _float(new)
    return False


def _is_cut(old: float, new: float) -> bool:
    return new in (_cut(old), _cut(float32(old)))


def _cut(value: float) -> float:
    try:
        return int(value)
    except (OverflowError, ValueError):
        return value


def float32(value: float) -> float:
    """Return a number after its way through a 32-bit float."""
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", _float(value)))
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return float(rounded)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _vertex(value: dict[str, Any] | list[Any]) -> Any:
    """Return the coordinates of a vertex that is spelled as an object."""
    if isinstance(value, dict) and value.keys() == _VERTEX:
        return [value["0"], value["1"], value["2"]]
    return value
