"""What two contents of an annotation file have in common at both ends.

A viewer writes the whole file again after each step of a change. Between two of its saves, nearly
all bytes are alike; comparing them is much quicker than parsing them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.index import MAX_INT32, Index, id_of
from neurotrale.annotations.documents.pieces import SPACE, NotAnArrayError
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

_BLOCK_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class CommonEnds:
    """How many whole annotations two documents have in common, with the bytes around them.

    Attributes:
        head: At the beginning; up to there, all bytes are alike.
        tail: At the end; from there on, all bytes are alike. None of them is in the head.
    """

    head: int
    tail: int


def common_ends(old: Document, new: Document) -> CommonEnds:
    """Return what two documents have in common at both ends."""
    first, last = alike_bytes(old.content, new.content)
    head = min(_stops_until(old, first), _stops_until(new, first))
    tail = min(_starts_from(old, last), _starts_from(new, last))
    # To be sure: an end in the middle of something else would tear it apart.
    if not np.array_equal(old.index.stops[:head], new.index.stops[:head]):
        head = 0
    shift = len(new.content) - len(old.content)
    ends = (document.index.starts[len(document.index) - tail :] for document in (old, new))
    if not np.array_equal(next(ends) + shift, next(ends)):
        tail = 0
    return CommonEnds(head, tail)


def alike_bytes(old: bytes, new: bytes) -> tuple[int, int]:
    """Return how many bytes are alike at the beginning, and how many others at the end."""
    first = _common_start(old, new)
    return first, _common_end(old, new, first)


def document_like(old: Document, content: bytes) -> tuple[Document, list[str]] | None:
    """Index a content, of which only what differs from another one is parsed.

    Args:
        old: The other content.
        content: The content.

    Returns:
        The same as `Document.parse`, and the ids of the annotations that may differ; None if the
        two are not so much alike that this helps, if they do not have the same ids in the same
        order, or if the content is not a JSON array.
    """
    if old.content == content:
        return old, []
    if len(content) > MAX_INT32 >= len(old.content):  # its offsets are larger numbers
        return None
    size = len(old.index)
    first = _common_start(old.content, content)
    head = _stops_until(old, first)
    if size == 0 or (head == 0 and first <= old.content.index(b"[")):
        return None
    last = _common_end(old.content, content, first)
    tail = _starts_from(old, last)
    if tail == 0 and last < len(old.content) - old.content.rindex(b"]"):
        return None
    if 2 * (size - head - tail) > size:
        return None
    growth = len(content) - len(old.content)
    start = int(old.index.stops[head - 1]) if head else old.content.index(b"[") + 1
    stop = int(old.index.starts[size - tail]) if tail else old.content.rindex(b"]")
    items = _between(content[start : stop + growth], follows=head > 0, leads=tail > 0)
    if items is None:
        return None
    shift, text = start + items[0] - 1, b"[" + items[1] + b"]"
    try:
        middle = Index.of(text)
    except NotAnArrayError:
        return None
    between = Document(text, middle)
    if len(middle) != size - head - tail:
        return None
    ids = [id_of(item) for item in between.items()]
    if ids != [id_of(old.at(head + number)) for number in range(len(middle))]:
        return None
    after = size - tail
    index = replace(
        old.index,
        starts=np.concatenate(
            [old.index.starts[:head], middle.starts + shift, old.index.starts[after:] + growth]
        ),
        stops=np.concatenate(
            [old.index.stops[:head], middle.stops + shift, old.index.stops[after:] + growth]
        ),
    )
    return Document(content, index), [id_ for id_ in ids if id_ is not None]


def parse_like(old: Document | None, content: bytes) -> Document:
    """Index a content, which is quick if it is like another one.

    Raises:
        NotAnArrayError: The content is not a JSON array.
    """
    like = None if old is None else document_like(old, content)
    return Document.parse(content) if like is None else like[0]


def _between(text: bytes, *, follows: bool, leads: bool) -> tuple[int, bytes] | None:
    """Return the items between two others, without the commas beside those, and where they begin.

    Args:
        text: All bytes between the two.
        follows: Whether there is an item before the text, so that a comma comes first.
        leads: Whether there is one after it, so that a comma comes last.
    """
    stripped = text.strip(SPACE)
    if stripped in (b"", b","):
        is_joined = (stripped == b",") == (follows and leads)
        return (0, b"") if is_joined else None
    at = 0
    if follows:
        at = text.index(stripped[:1]) + 1
        if stripped[:1] != b",":
            return None
    stop = len(text)
    if leads:
        stop = text.rindex(stripped[-1:])
        if stripped[-1:] != b",":
            return None
    items = text[at:stop]
    return (at, items) if items.strip(SPACE) else None


def _stops_until(document: Document, offset: int) -> int:
    return int(np.searchsorted(document.index.stops, offset, "right"))


def _starts_from(document: Document, size: int) -> int:
    """Return how many annotations begin in the last bytes of a document."""
    offset = len(document.content) - size
    return len(document.index) - int(np.searchsorted(document.index.starts, offset, "left"))


def _common_start(old: bytes, new: bytes) -> int:
    """Return how many bytes are alike at the beginning."""
    most = min(len(old), len(new))
    for at in range(0, most, _BLOCK_BYTES):
        stop = min(at + _BLOCK_BYTES, most)
        one, other = old[at:stop], new[at:stop]
        if one != other:
            return at + _first_unlike(one, other)
    return most


def _common_end(old: bytes, new: bytes, start: int) -> int:
    """Return how many bytes are alike at the end, after those that are at the beginning."""
    most = min(len(old), len(new)) - start
    for done in range(0, most, _BLOCK_BYTES):
        size = min(done + _BLOCK_BYTES, most)
        one = old[len(old) - size : len(old) - done]
        other = new[len(new) - size : len(new) - done]
        if one != other:
            return done + _first_unlike(one, other, -1)
    return most


def _first_unlike(one: bytes, other: bytes, step: int = 1) -> int:
    unlike = np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)
    return int(unlike[::step].argmax())
