"""Restore a whole revision, one annotation, or all annotations that were removed.

Each function reads the history and returns the change that restores; the caller applies it.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurotrale.annotations.changes import Before, Change
from neurotrale.annotations.contents import Content, document_of
from neurotrale.annotations.diff import hunks_between
from neurotrale.annotations.document import Document
from neurotrale.annotations.journal import Journal
from neurotrale.annotations.pieces import NotAnArrayError
from neurotrale.annotations.records import JournalRecord
from neurotrale.annotations.revisions import NoHistoryError, applied_changes, content_at, existed_at
from neurotrale.annotations.touched import changes_in
from neurotrale.errors import MissingError


def restored_revision(before: Before, journal: Journal, revision: int) -> Change:
    """Return the change that restores a file to a revision.

    Raises:
        MissingError: There is no such revision, or its content is not recorded.
    """
    body = b"" if before.content is None else before.content.body
    hunks = hunks_between(body, revision_content(before.content, journal, revision))
    return Change("restore", hunks, held_removals=(), target=revision)


def revision_content(content: Content | None, journal: Journal, revision: int) -> bytes:
    """Return the content of a file after a change.

    Raises:
        MissingError: There is no such revision, the file did not exist then, or its content is not
            recorded.
    """
    try:
        body = content_at(journal, revision, content)
    except NoHistoryError as error:
        raise MissingError(f"{journal.file.name}: {error}") from error
    if not body and not existed_at(journal, revision):
        raise MissingError(f"{journal.file.name}: There was no file at revision {revision}.")
    return body


def restored_annotation(
    before: Before, journal: Journal, display_path: str, id_: str, revision: int | None
) -> Change:
    """Return the change that restores one annotation and leaves the others as they are.

    Args:
        before: The current file.
        journal: Its journal.
        display_path: Path of the file for errors.
        id_: Id of the annotation.
        revision: Restore the content after this change; None means before the annotation was last
            changed or removed.

    Raises:
        MissingError: The file or the annotation did not exist then.
    """
    document = document_of(before.content, display_path)
    if revision is None:
        annotation = _before_last_change(before, journal, id_)
    else:
        annotation = annotation_in(revision_content(before.content, journal, revision), id_)
    if annotation is None:
        raise MissingError(f"The history of {display_path} has no annotation {id_!r} to restore.")
    if document.find(id_) == annotation:
        return Change("restore", ())
    hunk, index = document.upsert(id_, annotation)
    held_removals = [other for other in before.held_removals if other != id_]
    return Change("restore", [hunk], index, held_removals, target=revision or 0)


def restored_removals(
    before: Before, journal: Journal, display_path: str, since: str | None
) -> Change:
    """Return the change that restores all annotations that were removed and are still missing.

    Those stay removed that somebody deleted in a viewer that had loaded them.

    Args:
        before: The current file.
        journal: Its journal.
        display_path: Path of the file for errors.
        since: Only those removed at or after this time (ISO 8601, UTC).
    """
    document = document_of(before.content, display_path)
    removed: dict[str, bytes] = {}
    on_purpose: set[str] = set()
    numbers = journal.numbers(since)
    for record in _applied_records(before, journal):
        if record.n not in numbers:
            continue
        for id_, content in changes_in(record.bytes_hunks()).removed.items():
            if record.save.base:  # by somebody who saw it
                on_purpose.add(id_)
            elif id_ not in document.index.ids and id_ not in on_purpose:
                removed.setdefault(id_, content)  # the newest one counts
    if not removed:
        return Change("restore", ())
    return Change("restore", [document.append(list(removed.values()))])


def annotation_in(content: bytes, id_: str) -> bytes | None:
    """Return an annotation of a content; None if the content is not an array or lacks it."""
    try:
        return Document.parse(content).find(id_)
    except NotAnArrayError:
        return None


def _before_last_change(before: Before, journal: Journal, id_: str) -> bytes | None:
    for record in _applied_records(before, journal):
        if id_ in record.removed or id_ in record.changed:
            changes = changes_in(record.bytes_hunks())
            if id_ in changes.removed:
                return changes.removed[id_]
            return changes.changed[id_][0]
    return None


def _applied_records(before: Before, journal: Journal) -> Iterator[JournalRecord]:
    applied = {
        entry.n for entry, took_effect in applied_changes(journal, before.content) if took_effect
    }
    return (record for record in journal.records() if record.n in applied)
