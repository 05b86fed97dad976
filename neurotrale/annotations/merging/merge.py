"""Three-way merge of a whole-file save: what its client changed, applied to the file as it is.

A save says what its client changed in what it last saw. Additions are added, removals removed,
changed fields set; everything else in the file keeps its bytes and its order. Everything here is a
pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.fields import merge_annotation
from neurotrale.annotations.documents.spelling import Parsed, is_touched
from neurotrale.annotations.merging.edits import Edit
from neurotrale.annotations.merging.seen import Seen

NOTHING_SEEN = Parsed.of(b"{}")


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
