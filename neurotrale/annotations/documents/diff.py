"""Differences between two contents of an annotation file, as hunks of whole annotations."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import xxhash

from neurotrale.annotations.documents.alike import alike_bytes
from neurotrale.annotations.documents.document import Document, Hunk
from neurotrale.annotations.documents.pieces import NotAnArrayError

_Cuts = list[int]


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
    linear in the sizes, except for finding that common order; nothing is copied but the hunks.
    """
    if old.content == new.content:
        return []
    before, after = _cuts(old), _cuts(new)
    head, tail = _alike_segments(old, new, before, after)
    hunks = []
    a = b = head  # first segments that are not handled yet
    stops = len(before) - 1 - tail, len(after) - 1 - tail
    middle = range(head, stops[0]), range(head, stops[1])
    for i, j in [*_common((old, before, middle[0]), (new, after, middle[1])), stops]:
        if a < i or b < j:
            hunks.append(
                Hunk(
                    before[a],
                    old.content[before[a] : before[i]],
                    new.content[after[b] : after[j]],
                )
            )
        a, b = i + 1, j + 1
    return hunks


def replace_whole(old: bytes, new: bytes) -> list[Hunk]:
    """Return a single hunk that replaces the whole content; none if nothing changes."""
    return [Hunk(0, old, new)] if old != new else []


def _cuts(document: Document) -> _Cuts:
    """Return where segments begin and end.

    There is one for each annotation, with the bytes before it, and one for the end.
    """
    return [0, *document.index.stops.tolist(), len(document.content)]


def _alike_segments(old: Document, new: Document, before: _Cuts, after: _Cuts) -> tuple[int, int]:
    """Return how many segments are alike at the beginning, and how many others at the end."""
    first, last = alike_bytes(old.content, new.content)
    head = min(bisect_right(before, first), bisect_right(after, first)) - 1
    shift = len(new.content) - len(old.content)
    tail = min(len(cuts) - 1 - bisect_left(cuts, cuts[-1] - last) for cuts in (before, after))
    tail = min(tail, len(before) - 1 - head, len(after) - 1 - head)
    # To be sure: an end in the middle of something else would tear it apart.
    if before[: head + 1] != after[: head + 1]:
        head = 0
    if [cut + shift for cut in before[len(before) - 1 - tail :]] != after[len(after) - 1 - tail :]:
        tail = 0
    return head, tail


_Segments = tuple[Document, _Cuts, range]


def _digests(segments: _Segments) -> list[int]:
    document, cuts, numbers = segments
    view = memoryview(document.content)
    return [xxhash.xxh3_64_intdigest(view[cuts[n] : cuts[n + 1]]) for n in numbers]


def _common(old: _Segments, new: _Segments) -> list[tuple[int, int]]:
    """Match segments that both have in the same order: a longest increasing subsequence."""
    (one, before, numbers), (other, after, others) = old, new
    positions = dict(zip(_digests(old), numbers, strict=True))
    pairs = [
        (i, j)
        for j, digest in zip(others, _digests(new), strict=True)
        if (i := positions.get(digest)) is not None
        # Digests may be alike by chance, or because somebody wants them to be.
        and one.content[before[i] : before[i + 1]] == other.content[after[j] : after[j + 1]]
    ]
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
