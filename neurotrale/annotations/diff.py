"""Differences between two contents of an annotation file, as hunks of whole annotations."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from neurotrale.annotations.document import Document, Hunk, NotAnArrayError


def hunks_between(old: bytes, new: bytes) -> list[Hunk]:
    """Return the hunks between any two contents, even if one is not a JSON array."""
    if old == new:
        return []
    try:
        return diff_documents(Document.parse(old), Document.parse(new))
    except NotAnArrayError:
        return replace_whole(old, new)


def diff_documents(old: Document, new: Document) -> list[Hunk]:
    """Return the hunks between two documents.

    Annotations that both contain with the same bytes, in the same order, are left out. The cost is
    linear in the sizes, except for finding that common order.
    """
    before, after = _segments(old), _segments(new)
    common = _common(before, after)
    hunks = []
    a = b = 0  # first segments that are not handled yet
    at = 0
    for i, j in [*common, (len(before), len(after))]:
        if a < i or b < j:
            hunks.append(Hunk(at, b"".join(before[a:i]), b"".join(after[b:j])))
        at += sum(map(len, before[a : i + 1]))
        a, b = i + 1, j + 1
    return hunks


def replace_whole(old: bytes, new: bytes) -> list[Hunk]:
    """Return a single hunk that replaces the whole content; none if nothing changes."""
    return [Hunk(0, old, new)] if old != new else []


def _segments(document: Document) -> list[bytes]:
    """Split a content into one segment per annotation, with the bytes before it, and the end."""
    cuts = [0, *document.index.stops.tolist(), len(document.content)]
    return [document.content[a:b] for a, b in pairwise(cuts)]


def _common(before: list[bytes], after: list[bytes]) -> list[tuple[int, int]]:
    """Match segments that both have in the same order: a longest increasing subsequence."""
    positions = {segment: i for i, segment in enumerate(before)}
    pairs = [(positions[segment], j) for j, segment in enumerate(after) if segment in positions]
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
