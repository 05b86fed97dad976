"""Three-way merge of one annotation: what a client changed in it, applied to it as it is now.

Field by field, and coordinates one by one. Whatever the client left alone keeps its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neurotrale.annotations.documents.spelling import (
    COORDINATES,
    Parsed,
    edited_keys,
    is_edited,
    is_touched,
    respells,
    same_value,
)
from neurotrale.annotations.documents.splice import (
    items_of,
    replace_items,
    replace_range,
    set_fields,
)


@dataclass(frozen=True, slots=True)
class MergedAnnotation:
    """The result for one annotation.

    Attributes:
        text: Its new bytes.
        conflicts: Fields that somebody else had changed, too; the later value is in `text`.
        is_replaced: Whether it was replaced whole, because an object in it has a key twice.
    """

    text: bytes
    conflicts: tuple[str, ...] = ()
    is_replaced: bool = False


def merge_annotation(
    base: Parsed, body: Parsed, now: Parsed, *, own: bool, yields: bool = False
) -> MergedAnnotation:
    """Apply to an annotation what a client changed in it.

    Args:
        base: The annotation as the client last saw it; ``{}`` if it had not seen it.
        body: The annotation as the client writes it.
        now: The annotation as it is in the file.
        own: Whether the base is what the client itself wrote; only then is a missing key a removal.
        yields: Whether the file keeps what both have changed: somebody's save is the later one.
    """
    if not (base.has_fields and body.has_fields and now.has_fields):
        edited = is_edited(base, body, own=own)
        edited = edited and not (yields and is_touched(base, now, own=own))
        return MergedAnnotation(body.text if edited else now.text, (), edited)
    old, new, present = base.fields or {}, body.fields or {}, now.fields or {}
    fields: dict[str, bytes | None] = {}
    conflicts = []
    for key in edited_keys(base, body, own=own):
        if key in new and key in present:
            if respells(present[key], new[key], key):
                continue
            value = _Value(old.get(key, _NOTHING), new[key], present[key], key, yields)
            fields[key], is_conflict = value.merge(body.raws[key], now.raws[key])
        elif key in new or key in present:
            is_conflict = key in old and not (
                key in present and same_value(old[key], present[key], key)
            )
            if not (is_conflict and yields):
                fields[key] = body.raws.get(key)
        else:
            continue
        conflicts += [key] if is_conflict else []
    if not fields:
        return MergedAnnotation(now.text, tuple(conflicts))
    return MergedAnnotation(set_fields(now.text, now.raws, fields), tuple(conflicts))


_NOTHING = object()


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as the client last saw it, as it writes it, and as it is."""

    base: Any
    body: Any
    now: Any
    key: str
    yields: bool

    def merge(self, body: bytes, now: bytes) -> tuple[bytes, bool]:
        """Return the merged bytes, and whether both had changed the same.

        Args:
            body: The bytes of the value that the client writes.
            now: The bytes of the value as it is.
        """
        unchanged = self.base is not _NOTHING and respells(self.base, self.body, self.key)
        if unchanged or respells(self.now, self.body, self.key):
            return now, False
        both = (self.base, self.body, self.now)
        if self.key in COORDINATES and all(isinstance(value, list) for value in both):
            if len(self.base) == len(self.body) == len(self.now):
                return self._merge_items(body, now)
            if self.key == "points":
                return self._merge_lists(body, now)
        is_conflict = self.base is _NOTHING or not same_value(self.base, self.now, self.key)
        return now if is_conflict and self.yields else body, is_conflict

    def _merge_items(self, body: bytes, now: bytes) -> tuple[bytes, bool]:
        new, present = items_of(body)[0], items_of(now)[0]
        merged = [
            _Value(base, item, old, self.key, self.yields).merge(text, old_text)
            for base, item, old, text, old_text in zip(
                self.base, self.body, self.now, new, present, strict=True
            )
        ]
        texts = [
            None if text == old else text for (text, _), old in zip(merged, present, strict=True)
        ]
        return replace_items(now, texts), any(conflict for _, conflict in merged)

    def _merge_lists(self, body: bytes, now: bytes) -> tuple[bytes, bool]:
        """Merge lists of points of different lengths, by what they have in common at both ends."""
        size, shift = len(self.base), len(self.now) - len(self.base)
        head, tail = _common_ends(self.base, self.body, self.key, respells)
        their_head, their_tail = _common_ends(self.base, self.now, self.key, same_value)
        first, last = head, size - tail  # what the client replaced in the base
        their_first, their_last = their_head, size - their_tail
        if (their_first, their_last) == (first, last) and (shift or first < last):
            return now if self.yields else body, True
        if last <= their_first:
            shift = 0
        elif first < their_last:
            return now if self.yields else body, True
        new = items_of(body)[0][head : len(self.body) - tail]
        return replace_range(now, first + shift, last + shift, new), False


def _common_ends(
    old: list[Any], new: list[Any], key: str, same: Callable[[Any, Any, str], bool]
) -> tuple[int, int]:
    """Return how many items two lists have in common at their beginning, and then at their end."""
    most = min(len(old), len(new))
    head = 0
    while head < most and same(old[head], new[head], key):
        head += 1
    tail = 0
    while tail < most - head and same(old[-1 - tail], new[-1 - tail], key):
        tail += 1
    return head, tail


def common_base(seen: Sequence[tuple[Parsed, bool]], body: Parsed) -> Parsed:
    """Return what a client has seen of an annotation, if it may be one of several.

    Where one of them agrees with what the client writes, the client counts as not having changed
    it: a field, or a coordinate.

    Args:
        seen: What it may have seen, each with whether it had written that itself.
        body: The annotation as the client writes it.
    """
    first = seen[0][0]
    if not all(one.has_fields for one in (body, *(one for one, _ in seen))):
        return first
    known = [one.fields or {} for one, _ in seen]
    new = body.fields or {}
    fields: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in known for key in one):
        values = [one[key] for one in known if key in one]
        if key in new:
            if key in known[0] or any(respells(value, new[key], key) for value in values):
                fields[key] = _nearest_value(values, new[key], key)
        elif all(own and key in (one.fields or {}) for one, own in seen):
            fields[key] = values[0]
    return Parsed(json.dumps(fields).encode(), fields)


def _nearest_value(values: Sequence[Any], new: Any, key: str) -> Any:
    for value in values:
        if respells(value, new, key):
            return value
    lists = [one for one in values if isinstance(one, list) and isinstance(new, list)]
    if len(lists) == len(values) and all(len(one) == len(new) for one in lists):
        items = zip(*lists, new, strict=True)
        return [_nearest_value(item[:-1], item[-1], key) for item in items]
    return values[0]
