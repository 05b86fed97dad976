"""Three-way merge of a whole-file save: what its client changed, applied to the file as it is.

A save says what its client changed in what it last saw. Additions are added, removals removed,
changed fields set; everything else in the file keeps its bytes and its order. Everything here is a
pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock

import xxhash
from cachetools import LRUCache, cached

from neurotrale.annotations.document import Document
from neurotrale.annotations.fields import merge_annotation
from neurotrale.annotations.spelling import Parsed, is_edited, is_touched

COMPARISONS = 50_000  # remembered
PARSED_BYTES = 4 * 2**20  # kept of each content; parsed, they are several times as large

NOTHING_SEEN = Parsed.of(b"{}")


class Texts(Mapping[str, bytes]):
    """The bytes of the annotations of a content, by id; each is a copy that is made when needed.

    Args:
        document: The content; None for one without annotations.
        load: Returns the content again after `release`; None if that keeps it.
    """

    def __init__(self, document: Document | None, load: Callable[[], bytes] | None = None) -> None:
        self._content = None if document is None else document.content
        self._load = load
        self._positions: Mapping[str, int] = {}
        self._others: Mapping[str, bytes] = {}
        self._starts: list[int] = []
        self._stops: list[int] = []
        if document is not None:
            index = document.index
            self._positions = document.ids
            self._starts, self._stops = index.starts.tolist(), index.stops.tolist()

    def __getitem__(self, id_: str) -> bytes:
        if id_ in self._others:
            return self._others[id_]
        position = self._positions[id_]
        if self._content is None and self._load is not None:
            self._content = self._load()
        assert self._content is not None
        return self._content[self._starts[position] : self._stops[position]]

    def __contains__(self, id_: object) -> bool:
        return id_ in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def blended(self, others: Mapping[str, bytes]) -> Texts:
        """Return a copy with other bytes under some ids."""
        copy = Texts(None, self._load)
        copy._content, copy._starts, copy._stops = self._content, self._starts, self._stops
        copy._positions = {**self._positions, **dict.fromkeys(others, -1)}
        copy._others = {**self._others, **others}
        return copy

    def release(self) -> bool:
        """Free the content until it is needed again; return whether it can be loaded again."""
        if self._load is not None:
            self._content = None
        return self._load is not None


class Seen(dict[str, Parsed]):
    """What a client saw or sent: annotations by id, parsed when they are needed.

    Args:
        document: What it is; None for nothing.
        load: See `Texts`.
    """

    def __init__(self, document: Document | None, load: Callable[[], bytes] | None = None) -> None:
        super().__init__()
        self.texts = Texts(document, load)
        self._kept_bytes = 0

    def __missing__(self, id_: str) -> Parsed:
        text = self.texts[id_]
        parsed = Parsed.of(text)
        self._kept_bytes += len(text)
        if self._kept_bytes < PARSED_BYTES:
            self[id_] = parsed
        return parsed

    @property
    def ids(self) -> Collection[str]:
        """The ids, in the order of the file."""
        return self.texts.keys()

    def blended(self, others: Mapping[str, bytes]) -> Seen:
        """Return a copy with other annotations under some ids."""
        copy = Seen(None)
        copy.texts = self.texts.blended(others)
        return copy

    def release(self) -> None:
        """Free what can be loaded again, until it is needed again."""
        if self.texts.release():
            self.clear()
            self._kept_bytes = 0


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
    edit = Edit(
        tuple(id_ for id_ in body.ids if id_ not in base.texts),
        tuple(
            id_
            for id_, text in body.texts.items()
            if id_ in base.texts and base.texts[id_] != text and _is_edited(base, body, id_, own)
        ),
        tuple(id_ for id_ in base.ids if id_ not in body.texts),
    )
    base.release()
    return edit


_edited: LRUCache[tuple[int, int, bool], bool] = LRUCache(COMPARISONS)


def _hashes(base: Seen, body: Seen, id_: str, own: bool) -> tuple[int, int, bool]:
    hash_ = xxhash.xxh3_64_intdigest
    return hash_(base.texts[id_]), hash_(body.texts[id_]), own


# A client sends the whole file with each of its saves, and spells all of it differently from the
# file that it has loaded: each pair is compared once.
@cached(_edited, _hashes, Lock())
def _is_edited(base: Seen, body: Seen, id_: str, own: bool) -> bool:
    return is_edited(base[id_], body[id_], own=own)


@dataclass(frozen=True, slots=True)
class MergedFile:
    """A file after a save was merged into it.

    Attributes:
        content: The new content.
        removed: Ids that the save removed.
        held: Ids whose removal is held back because somebody else has changed the annotation, or
            which somebody else had removed and the save brought back with its change.
        conflicts: Fields that both had changed, by id; the later ones are in the content.
        replaced: Ids of annotations that were replaced whole, because a key is twice in them.
    """

    content: bytes
    removed: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    conflicts: Mapping[str, list[str]] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()


def merge_edit(
    file: Document,
    base: Seen,
    body: Seen,
    edit: Edit,
    *,
    own: bool,
    only_additions: bool = False,
    yields: bool = False,
) -> MergedFile:
    """Apply to a file what a client changed in what it saw.

    Args:
        file: The file as it is.
        base: What the client last saw.
        body: What it saves.
        edit: What of that to apply.
        own: Whether the base is what the client itself saved.
        only_additions: Leave annotations alone that are in the file but not in the base.
        yields: Whether the file keeps what both have changed: somebody's save is the later one.
    """
    present = Seen(file)
    new: dict[str, bytes] = {}
    appended: list[bytes] = []
    held: list[str] = []
    conflicts: dict[str, list[str]] = {}
    replaced: list[str] = []
    for id_ in (*edit.changed, *edit.added):
        seen = base[id_] if id_ in base.texts else NOTHING_SEEN
        if id_ in present.texts:
            if seen is NOTHING_SEEN and only_additions:
                continue
            merged = merge_annotation(seen, body[id_], present[id_], own=own, yields=yields)
            new[id_] = merged.text
            if merged.conflicts:
                conflicts[id_] = list(merged.conflicts)
            replaced += [id_] if merged.is_replaced else []
        elif seen is NOTHING_SEEN:
            appended.append(body.texts[id_])
        else:  # the change of one wins over the removal of the other
            appended.append(merge_annotation(seen, body[id_], seen, own=own).text)
            held.append(id_)
    removed: list[str] = []
    for id_ in edit.removed:
        if id_ not in present.texts:
            continue
        untouched = id_ in base.texts and not is_touched(base[id_], present[id_], own=own)
        is_single = not file.is_repeated(id_)
        (removed if untouched and is_single else held).append(id_)
    base.release()
    content = rewritten(file, new, set(removed), appended)
    return MergedFile(content, tuple(removed), tuple(held), conflicts, tuple(replaced))


def rewritten(
    file: Document, new: Mapping[str, bytes], removed: set[str], appended: list[bytes]
) -> bytes:
    """Return the content of a file with other annotations; the others keep their bytes.

    Args:
        file: The file.
        new: The new bytes of annotations that are in it, by id.
        removed: Ids of annotations to remove.
        appended: Annotations to append.
    """
    positions = {file.ids[id_]: text for id_, text in new.items()}
    pieces, at = [], 0
    for position in sorted(positions):
        start, stop = file.index.span(position)
        if positions[position] != file.content[start:stop]:
            pieces += [file.content[at:start], positions[position]]
            at = stop
    content = b"".join([*pieces, file.content[at:]]) if pieces else file.content
    if removed:
        document = Document.parse(content) if pieces else file
        content = document.without(removed)
    if appended:
        hunk = Document.parse(content).append(appended)
        content = content[: hunk.at] + hunk.new + content[hunk.at :]
    return content
