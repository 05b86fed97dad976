"""Bringing back what was: a whole revision, one annotation, or all that was removed.

Each function reads the history and gives the change that restores; the writer records it.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurotrale.annotations.change import Before, Change, existing
from neurotrale.annotations.difference import changes, hunks_between
from neurotrale.annotations.document import Document, NotAnArrayError
from neurotrale.annotations.history import NoHistoryError, content_at, existed_at, made
from neurotrale.annotations.journal import Journal, Record
from neurotrale.errors import DamagedError, MissingError


def restored_revision(before: Before, journal: Journal, revision: int) -> Change:
    """Restore a file to what it was after a change.

    Raises:
        MissingError: There is no such revision, or its content is not recorded.
    """
    body = b"" if before.content is None else before.content.body
    hunks = hunks_between(body, revision_content(before, journal, revision))
    return Change("restore", hunks, held=(), of=revision)


def revision_content(before: Before, journal: Journal, revision: int) -> bytes:
    """Give the content of a file after a change.

    Raises:
        MissingError: There is no such revision, no file was there, or its content is not recorded.
    """
    try:
        content = content_at(journal, revision, before.content)
    except NoHistoryError as error:
        raise MissingError(f"{journal.file.name}: {error}") from error
    if not content and not existed_at(journal, revision):
        raise MissingError(f"{journal.file.name}: There was no file at revision {revision}.")
    return content


def restored_annotation(
    before: Before, journal: Journal, what: str, id_: str, revision: int | None
) -> Change:
    """Restore one annotation, and leave the others as they are.

    Args:
        before: The file as it is.
        journal: Its journal.
        what: What to call the file in errors.
        id_: The annotation.
        revision: As it was after this change; None means before it was last changed or removed.

    Raises:
        MissingError: It was not there then.
    """
    document = document_of(before, what)
    if revision is None:
        annotation = _before_last_change(before, journal, id_)
    else:
        annotation = annotation_in(revision_content(before, journal, revision), id_)
    if annotation is None:
        raise MissingError(f"The history of {what} has no annotation {id_!r} to bring back.")
    if document.find(id_) == annotation:
        return Change("restore", ())
    hunk, index = document.upsert(id_, annotation)
    held = [other for other in before.held if other != id_]
    return Change("restore", [hunk], index, held, of=revision or 0)


def restored_removals(before: Before, journal: Journal, what: str, since: str | None) -> Change:
    """Bring back every annotation that was removed and is not there now; keep all others.

    Args:
        before: The file as it is.
        journal: Its journal.
        what: What to call the file in errors.
        since: Only what was removed at or after this time (ISO 8601, UTC).
    """
    document = document_of(before, what)
    lost: dict[str, bytes] = {}
    for record in _made_records(before, journal):
        if since is not None and record.at < since:
            continue  # not the end: the clocks of several nodes differ
        for id_, content in changes(record.bytes_hunks()).removed.items():
            if id_ not in document.index.ids:
                lost.setdefault(id_, content)  # the newest one counts
    if not lost:
        return Change("restore", ())
    return Change("restore", [document.appended(list(lost.values()))])


def annotation_in(content: bytes, id_: str) -> bytes | None:
    """Find an annotation in a content; in one that is no JSON array there is none."""
    try:
        return Document.parse(content).find(id_)
    except NotAnArrayError:
        return None


def document_of(before: Before, what: str) -> Document:
    """Give the document of a file that must be there and be whole.

    Raises:
        MissingError: There is no file.
        DamagedError: It is empty or no JSON array.
    """
    content = existing(before, what)
    if content.document is None:
        raise DamagedError(what, f"{content.mistake}. A PUT of the whole file mends it.")
    return content.document


def _before_last_change(before: Before, journal: Journal, id_: str) -> bytes | None:
    for record in _made_records(before, journal):
        if id_ in record.removed or id_ in record.changed:
            found = changes(record.bytes_hunks())
            if id_ in found.removed:
                return found.removed[id_]
            return found.changed[id_][0]
    return None


def _made_records(before: Before, journal: Journal) -> Iterator[Record]:
    applied = {entry.n for entry, took_effect in made(journal, before.content) if took_effect}
    return (record for record in journal.records() if record.n in applied)
