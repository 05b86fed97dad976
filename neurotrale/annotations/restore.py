"""Restore a whole revision, one annotation, what was removed or reverted; undo what one did.

Each function reads the history and returns the change that restores; the caller applies it.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurotrale.annotations.documents.contents import Content, document_of
from neurotrale.annotations.documents.diff import hunks_between
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.fields import merge_annotation
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.documents.spelling import Parsed, same_value
from neurotrale.annotations.documents.splice import set_fields
from neurotrale.annotations.documents.touched import changes_in, same
from neurotrale.annotations.journals.changes import Before, Change
from neurotrale.annotations.journals.earlier_contents import NoHistoryError, content_at, existed_at
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalRecord
from neurotrale.annotations.journals.revisions import ChangeFilter, applied_changes
from neurotrale.annotations.merging.merge import rewritten
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

    Those stay removed that somebody deleted in a viewer that had loaded them. What somebody
    confirmed comes back: who confirms all that is held may not have seen all of it.

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
            elif document.position(id_) is None and id_ not in on_purpose:
                removed.setdefault(id_, content)  # the newest one counts
    if not removed:
        return Change("restore", ())
    return Change("restore", [document.append(list(removed.values()))])


def undone_changes(
    before: Before,
    journal: Journal,
    display_path: str,
    by: str | None,
    session: str | None,
    since: str | None,
) -> Change:
    """Return the change that undoes what one author did, and keeps what others did.

    What others have changed since keeps their changes: an annotation that the author added, and
    somebody else changed, stays.

    Args:
        before: The current file.
        journal: Its journal.
        display_path: Path of the file for errors.
        by: The author's name; None for any.
        session: Label of the author's viewer; None for any.
        since: Only changes at or after this time (ISO 8601, UTC).
    """
    edited = _Edited(document_of(before.content, display_path))
    author = ChangeFilter(since=since, by=by, session=session)
    numbers = journal.numbers(since)
    for record in _applied_records(before, journal):
        if record.n not in numbers or not author.matches(record):
            continue
        changes = changes_in(record.bytes_hunks())
        for id_, (old, new) in changes.changed.items():
            edited.merge(id_, new, old)
        for id_, old in changes.removed.items():
            if edited.get(id_) is None:
                edited.set(id_, old)
        for id_, new in changes.added.items():
            now = edited.get(id_)
            if now is not None and same(now, new):
                edited.set(id_, None)
    return edited.change(before)


def restored_reverts(
    before: Before, journal: Journal, display_path: str, since: str | None
) -> Change:
    """Return the change that brings back changes which saves of old copies have undone.

    A save of a whole file comes from an old copy if it puts a field back to an earlier value that
    somebody else had replaced; or if it does so beside other changes, as whoever undoes a step
    changes nothing else. What was changed since stays.

    Args:
        before: The current file.
        journal: Its journal.
        display_path: Path of the file for errors.
        since: Only what was undone at or after this time (ISO 8601, UTC).
    """
    reverted: list[tuple[str, bytes, bytes]] = []
    states: dict[str, list[tuple[Parsed, tuple[str, ...]]]] = {}
    for record in reversed(list(_applied_records(before, journal))):
        author = (record.by, record.source, record.save.session)
        changes = changes_in(record.bytes_hunks())
        may_be_old = record.op == "put" and (since is None or record.at >= since)
        is_alone = len((*record.added, *record.changed, *record.removed)) == 1
        for id_, (old, new) in changes.changed.items():
            known = states.setdefault(id_, [(Parsed.of(old), ("",))])
            now, last = Parsed.of(new), known[-1]
            if may_be_old and not (is_alone and last[1] in (author, ("",))):
                fields = _reverted_fields([state for state, _ in known[:-1]], last[0], now)
                if fields:
                    reverted.append((id_, new, set_fields(new, now.raws, fields)))
            known.append((now, author))
        for id_, new in changes.added.items():
            states.setdefault(id_, []).append((Parsed.of(new), author))
    edited = _Edited(document_of(before.content, display_path))
    for id_, new, wanted in reversed(reverted):
        edited.merge(id_, new, wanted)
    return edited.change(before)


def _reverted_fields(earlier: list[Parsed], old: Parsed, new: Parsed) -> dict[str, bytes | None]:
    """Return the fields of an annotation that a change put back to an earlier value."""
    if not (old.has_fields and new.has_fields):
        return {}
    before, after = old.fields or {}, new.fields or {}
    known = [one.fields or {} for one in earlier if one.has_fields]
    return {
        key: old.raws[key]
        for key, value in after.items()
        if key in before
        and not same_value(before[key], value, key)
        and any(key in one and same_value(one[key], value, key) for one in known)
    }


def ignored_removals(before: Before, journal: Journal, revision: int) -> list[str]:
    """Return the ids that a save dropped whose viewer seemed to leave the slice, and which stayed.

    Args:
        before: The current file; what is no longer in it, or was changed since, is left out.
        journal: Its journal.
        revision: Number of the change that the save is recorded as.

    Raises:
        MissingError: No such change was ignored.
    """
    touched: set[str] = set()
    for record in _applied_records(before, journal):
        if record.n == revision and record.save.navigated:
            document = before.content.document if before.content is not None else None
            ids = {} if document is None else document.ids
            return [id_ for id_ in record.save.navigated if id_ in ids and id_ not in touched]
        touched.update((*record.added, *record.changed, *record.removed))
    raise MissingError(
        f"{journal.file.name}: change {revision} is not a save that was ignored because its viewer"
        " left the slice; 'neurotrale history FILE --navigation' lists those."
    )


class _Edited:
    """A file with changes of single annotations.

    Args:
        document: The file.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._new: dict[str, bytes | None] = {}

    def get(self, id_: str) -> bytes | None:
        """Return an annotation as it is now; None if it is not there."""
        return self._new[id_] if id_ in self._new else self._document.find(id_)

    def set(self, id_: str, text: bytes | None) -> None:
        """Set an annotation, or remove it; one whose id is there twice stays."""
        if not self._document.is_repeated(id_):
            self._new[id_] = text

    def merge(self, id_: str, old: bytes, new: bytes) -> None:
        """Apply to an annotation what differs between two others; later changes of it stay."""
        now = self.get(id_)
        if now is not None:
            seen, wanted, present = Parsed.of(old), Parsed.of(new), Parsed.of(now)
            self.set(id_, merge_annotation(seen, wanted, present, own=True, yields=True).text)

    def change(self, before: Before) -> Change:
        """Return the change that leads there."""
        ids = self._document.ids
        content = rewritten(
            self._document,
            {id_: text for id_, text in self._new.items() if id_ in ids and text is not None},
            {id_ for id_, text in self._new.items() if id_ in ids and text is None},
            [text for id_, text in self._new.items() if id_ not in ids and text is not None],
        )
        hunks = hunks_between(self._document.content, content)
        if not hunks:
            return Change("restore", ())
        held = [id_ for id_ in before.held_removals if id_ not in self._new]
        return Change("restore", hunks, held_removals=held)


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
            return changes.removed.get(id_) or changes.changed[id_][0]
    return None


def _applied_records(before: Before, journal: Journal) -> Iterator[JournalRecord]:
    applied = {
        entry.n for entry, took_effect in applied_changes(journal, before.content) if took_effect
    }
    return (record for record in journal.records() if record.n in applied)
