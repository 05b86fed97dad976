"""The history of annotation files: listed, looked at, restored; removals held back, confirmed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neurotrale.annotations.change import Before, Change, FileChanges
from neurotrale.annotations.content import Content, Contents
from neurotrale.annotations.difference import hunks_between
from neurotrale.annotations.history import Filter, changes_of, made
from neurotrale.annotations.journal import Entry, Journal
from neurotrale.annotations.places import Place
from neurotrale.annotations.restoring import (
    annotation_in,
    document_of,
    restored_annotation,
    restored_removals,
    restored_revision,
    revision_content,
)
from neurotrale.annotations.store import Written, writable
from neurotrale.annotations.wishes import Wish
from neurotrale.errors import MissingError
from neurotrale.faults import reading

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """Some changes of a file, newest first.

    Attributes:
        changes: Each with whether it took effect.
        next: The ``before`` of the next page; None when there is no more.
    """

    changes: Sequence[tuple[Entry, bool]]
    next: int | None


class Past:
    """What was in annotation files, and the way back to it.

    Args:
        contents: Reads files.
        changes: Writes files; None refuses every write.
    """

    def __init__(self, contents: Contents, changes: FileChanges | None) -> None:
        self.contents = contents
        self._changes = changes

    def page(self, place: Place, wanted: Filter, limit: int) -> Page:
        """List the changes of a file, newest first, a page at a time."""
        with reading(place.what):
            page, following = changes_of(Journal(place.path), self._now(place), wanted, limit)
        return Page(page, following)

    def revision(self, place: Place, revision: int) -> bytes:
        """Give a file as it was after a change; 0 is before the first one.

        Raises:
            MissingError: There is no such revision, or its content is not recorded.
        """
        with reading(place.what):
            return revision_content(Before(self._now(place), ()), Journal(place.path), revision)

    def annotation(self, place: Place, revision: int, id_: str) -> bytes:
        """Give one annotation as it was after a change.

        Raises:
            MissingError: There is no such revision, or the annotation is not in it.
        """
        annotation = annotation_in(self.revision(place, revision), id_)
        if annotation is None:
            raise MissingError(f"Revision {revision} of {place.what} has no annotation {id_!r}.")
        return annotation

    def restore(self, place: Place, revision: int, wish: Wish) -> Written:
        """Restore a whole file to a revision; the restoring is itself recorded.

        Raises:
            MissingError: There is no such revision, or its content is not recorded.
            ChangedError: The file is not what the client takes it for.
        """
        journal = Journal(place.path)
        return self._restore(place, wish, lambda was: restored_revision(was, journal, revision))

    def restore_annotation(
        self, place: Place, id_: str, revision: int | None, wish: Wish
    ) -> Written:
        """Restore one annotation: as it was at a revision, or before its last change.

        Raises:
            MissingError: The history does not have it.
            ChangedError: The file is not what the client takes it for.
        """
        journal = Journal(place.path)
        return self._restore(
            place,
            wish,
            lambda was: restored_annotation(was, journal, place.what, id_, revision),
        )

    def restore_removed(self, place: Place, since: str | None, wish: Wish) -> Written:
        """Bring back every annotation that was removed, together with all that is there now.

        Raises:
            ChangedError: The file is not what the client takes it for.
        """
        journal = Journal(place.path)
        return self._restore(
            place, wish, lambda was: restored_removals(was, journal, place.what, since)
        )

    def held(self, place: Place) -> list[bytes]:
        """List the annotations whose removal is held back."""
        with reading(place.what):
            content = self.contents.read(place.path)
            changes = made(Journal(place.path), content)
            last = next((entry for entry, applied in changes if applied), None)
        document = document_of(Before(content, ()), place.what)
        found = map(document.find, last.held if last is not None else ())
        return [annotation for annotation in found if annotation is not None]

    def confirm(self, place: Place, ids: Sequence[str], wish: Wish) -> Written:
        """Remove annotations whose removal was held back.

        Args:
            place: The file.
            ids: Which ones; empty means all that are held.
            wish: Who wants it.

        Raises:
            MissingError: One of them is not held.
            ChangedError: The file is not what the client takes it for.
        """

        def decide(before: Before) -> Change:
            document = document_of(before, place.what)
            going = list(ids) or list(before.held)
            unknown = [id_ for id_ in going if id_ not in before.held]
            if unknown:
                raise MissingError(f"No removal of {unknown[0]!r} is held back in {place.what}.")
            held = [id_ for id_ in before.held if id_ not in going]
            left = document.without([id_ for id_ in going if id_ in document.index.ids])
            return Change("confirm", hunks_between(document.content, left), held=held)

        return self._restore(place, wish, decide)

    def _restore(self, place: Place, wish: Wish, decide: Callable[[Before], Change]) -> Written:
        def checked(before: Before) -> Change:
            wish.condition.check(before)
            return decide(before)

        done = writable(self._changes).change(place.path, place.what, wish.author, checked)
        log.info("changed %s from its history", place.what)
        return Written(place.what, done.created, done.etag, changed=done.changed)

    def _now(self, place: Place) -> Content | None:
        try:
            return self.contents.read(place.path)
        except FileNotFoundError:
            return None
