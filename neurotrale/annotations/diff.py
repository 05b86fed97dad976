"""Differences between two contents of an annotation file, as hunks of whole annotations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import xxhash

from neurotrale.annotations.document import Document, Hunk
from neurotrale.annotations.pieces import NotAnArrayError

_Cuts = Sequence[int]


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
    hunks = []
    a = b = 0  # first segments that are not handled yet
    for i, j in [*_common(old, new), (len(before) - 1, len(after) - 1)]:
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


def _digests(document: Document) -> list[int]:
    view = memoryview(document.content)
    return [xxhash.xxh3_64_intdigest(view[a:b]) for a, b in pairwise(_cuts(document))]


def _common(old: Document, new: Document) -> list[tuple[int, int]]:
    """Match segments that both have in the same order: a longest increasing subsequence."""
    before, after = _cuts(old), _cuts(new)
    positions = {digest: i for i, digest in enumerate(_digests(old))}
    pairs = [
        (i, j)
        for j, digest in enumerate(_digests(new))
        if (i := positions.get(digest)) is not None
        # Digests may be alike by chance, or because somebody wants them to be.
        and old.content[before[i] : before[i + 1]] == new.content[after[j] : after[j + 1]]
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
