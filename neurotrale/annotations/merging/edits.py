"""What a save changes in what its client saw: which annotations it adds, changes and removes.

A client sends the whole file with each of its saves. What its last save has shown is remembered, so
that only what is new in the next one has to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import xxhash
from cachetools import LRUCache, cached

from neurotrale.annotations.documents.alike import common_ends
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.index import id_of
from neurotrale.annotations.documents.spelling import is_edited, is_only_respelled
from neurotrale.annotations.merging.seen import Seen

COMPARISONS = 50_000  # remembered
REMEMBERED_IDS = 200_000  # in edits that are remembered
MOST_PINNED = 64  # ids that a save may touch so that what is known of the one before helps


@dataclass(frozen=True, slots=True)
class Edit:
    """What a save changes in what its client saw: ids, in the order of the save."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many annotations it touches."""
        return len(self.added) + len(self.changed) + len(self.removed)


def edit_between(base: Seen, body: Seen, *, own: bool) -> Edit:
    """Return what a client changed.

    Args:
        base: What it last saw; it is in memory only meanwhile.
        body: What it saves.
        own: Whether the base is what the client itself saved; only then is a missing key a change.
    """
    edit = _edit_since(base, body, own) or _edit_by_ends(base, body, own)
    if edit is None:
        edit = _edit_of(base, body, [*base.ids], [*body.ids], own)
    if base.etag and body.etag:
        with _lock:
            _edits[base.etag, body.etag, own] = edit
    base.release()
    return edit


_lock = Lock()
_edits: LRUCache[tuple[str, str, bool], Edit] = LRUCache(REMEMBERED_IDS, lambda one: one.size + 32)


def _edit_of(
    base: Seen, body: Seen, before: Sequence[str], after: Sequence[str], own: bool
) -> Edit:
    """Return what is changed among some ids of both sides."""
    return Edit(
        tuple(id_ for id_ in after if id_ not in base.texts),
        _changed(base, body, after, own),
        tuple(id_ for id_ in before if id_ not in body.texts),
    )


def _changed(base: Seen, body: Seen, ids: Sequence[str], own: bool) -> tuple[str, ...]:
    old, new = base.texts, body.texts
    return tuple(
        id_
        for id_ in ids
        if id_ in old and old[id_] != new[id_] and _is_edited(base, body, id_, own)
    )


def _edit_by_ends(base: Seen, body: Seen, own: bool) -> Edit | None:
    """Return the edit if both are in memory, and alike at their ends; else None."""
    old, new = base.document, body.document
    if old is None or new is None or old.repeated or new.repeated:
        return None
    ends = common_ends(old, new)
    if not (ends.head or ends.tail):
        return None
    before, after = (_ids_between(one, ends.head, ends.tail) for one in (old, new))
    return _edit_of(base, body, before, after, own)


def _ids_between(document: Document, head: int, tail: int) -> list[str]:
    ids = (id_of(document.at(at)) for at in range(head, len(document.index) - tail))
    return [id_ for id_ in ids if id_ is not None]


def _edit_since(base: Seen, body: Seen, own: bool) -> Edit | None:
    """Return the edit from that of an earlier save which has the same ids, if it is known."""
    if not body.parent or len(body.since) > MOST_PINNED:
        return None
    with _lock:
        known = _edits.get((base.etag, body.parent, own))
    if known is None:
        return None
    base.texts.pin(body.since)
    looked_at = set(body.since)
    before = (id_ for id_ in known.changed if id_ not in looked_at)
    changed = (*before, *_changed(base, body, body.since, own))
    return Edit(known.added, tuple(sorted(changed, key=body.texts.position)), known.removed)


_edited: LRUCache[tuple[int, int, bool], bool] = LRUCache(COMPARISONS)


def _hashes(base: Seen, body: Seen, id_: str, own: bool) -> tuple[int, int, bool]:
    hash_ = xxhash.xxh3_64_intdigest
    return hash_(base.texts[id_]), hash_(body.texts[id_]), own


# A client spells all of a file differently from what it has loaded: each pair is compared once.
@cached(_edited, _hashes, Lock())
def _is_edited(base: Seen, body: Seen, id_: str, own: bool) -> bool:
    if is_only_respelled(base.texts[id_], body.texts[id_], own=own):
        return False
    return is_edited(base[id_], body[id_], own=own)
