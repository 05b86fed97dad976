"""What changed between two contents of an annotation file, forwards and backwards.

A change is a list of hunks in the order of the old content, each aligned to whole annotations.
From either content and the hunks the other one follows, byte for byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from neurotrale.annotations.document import SPACE, Document, Hunk, NotAnArrayError, id_of

_split = msgspec.json.Decoder(list[msgspec.Raw])
_decode = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Changes:
    """The annotations that a change touches, by id, each with its bytes.

    An annotation that only moved, or is only spelled differently, is not among them.
    """

    added: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """Content before and after."""
    removed: dict[str, bytes] = field(default_factory=dict)


def hunks_between(old: bytes, new: bytes) -> list[Hunk]:
    """Find the hunks between two contents, whatever they are."""
    if old == new:
        return []
    try:
        return difference(Document.parse(old), Document.parse(new))
    except NotAnArrayError:
        return whole(old, new)


def difference(old: Document, new: Document) -> list[Hunk]:
    """Find the hunks that lead from one document to another.

    Annotations that stand in both with the same bytes, in the same order, are left out; the cost
    is linear in the sizes, but for the look-up of that common order.
    """
    before, after = _segments(old), _segments(new)
    kept = _common(before, after)
    hunks = []
    a = b = 0  # segments already dealt with
    at = 0
    for i, j in [*kept, (len(before), len(after))]:
        if a < i or b < j:
            hunks.append(Hunk(at, b"".join(before[a:i]), b"".join(after[b:j])))
        at += sum(map(len, before[a : i + 1]))
        a, b = i + 1, j + 1
    return hunks


def whole(old: bytes, new: bytes) -> list[Hunk]:
    """Give the change between contents of which one is no annotation file."""
    return [Hunk(0, old, new)] if old != new else []


def apply(content: bytes, hunks: Iterable[Hunk]) -> bytes:
    """Give the new content from the old one.

    Raises:
        ValueError: The hunks do not belong to this content.
    """
    return b"".join(applied(content, hunks))


def applied(content: bytes, hunks: Iterable[Hunk]) -> list[bytes | memoryview]:
    """Give the new content from the old one in pieces, without copying it.

    Raises:
        ValueError: The hunks do not belong to this content.
    """
    pieces: list[bytes | memoryview] = []
    view = memoryview(content)
    at = 0
    for hunk in hunks:
        if view[hunk.at : hunk.at + len(hunk.old)] != hunk.old or hunk.at < at:
            raise ValueError("the change does not fit the content")
        pieces += (view[at : hunk.at], hunk.new)
        at = hunk.at + len(hunk.old)
    pieces.append(view[at:])
    return pieces


def reversed_hunks(hunks: Sequence[Hunk]) -> list[Hunk]:
    """Give the change that leads back."""
    shift = 0
    back = []
    for hunk in hunks:
        back.append(Hunk(hunk.at + shift, hunk.new, hunk.old))
        shift += len(hunk.new) - len(hunk.old)
    return back


def changes(hunks: Iterable[Hunk]) -> Changes:
    """Tell which annotations the hunks add, change and remove."""
    before: dict[str, bytes] = {}
    after: dict[str, bytes] = {}
    for hunk in hunks:
        before.update(_annotations(hunk.old))
        after.update(_annotations(hunk.new))
    return Changes(
        added={id_: content for id_, content in after.items() if id_ not in before},
        changed={
            id_: (before[id_], content)
            for id_, content in after.items()
            if id_ in before and not same(before[id_], content)
        },
        removed={id_: content for id_, content in before.items() if id_ not in after},
    )


def same(a: bytes, b: bytes) -> bool:
    """Tell whether two annotations say the same, however they are spelled."""
    if a == b:
        return True
    try:
        return bool(_decode.decode(a) == _decode.decode(b))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # what another program wrote was cut out, and never looked at


def _annotations(text: bytes) -> dict[str, bytes]:
    """Read the annotations of one side of a hunk, which may begin and end with a comma."""
    inner = text.strip(SPACE + b",[]")
    try:
        items = _split.decode(b"[" + inner + b"]")
    except (msgspec.DecodeError, RecursionError):
        return {}
    found = ((id_of(item), bytes(item)) for item in items)
    return {id_: content for id_, content in found if id_ is not None}


def _segments(document: Document) -> list[bytes]:
    """Cut a content into pieces of one annotation each, with what stands before it; and the end."""
    cuts = [0, *document.index.stops.tolist(), len(document.content)]
    return [document.content[a:b] for a, b in pairwise(cuts)]


def _common(before: list[bytes], after: list[bytes]) -> list[tuple[int, int]]:
    """Find segments that both have in the same order: a longest increasing subsequence."""
    places = {segment: i for i, segment in enumerate(before)}
    pairs = [(places[segment], j) for j, segment in enumerate(after) if segment in places]
    tails: list[int] = []
    tail_pairs: list[int] = []
    previous: list[int] = []
    for number, (i, _) in enumerate(pairs):
        k = bisect_left(tails, i)
        previous.append(tail_pairs[k - 1] if k else -1)
        if k == len(tails):
            tails.append(i)
            tail_pairs.append(number)
        else:
            tails[k] = i
            tail_pairs[k] = number
    chain = []
    number = tail_pairs[-1] if tail_pairs else -1
    while number >= 0:
        chain.append(pairs[number])
        number = previous[number]
    return chain[::-1]
