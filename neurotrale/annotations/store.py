"""Reads and writes annotation files: checked, under a lock, recorded, durable."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from neurotrale.annotations.bodies import checked_annotation, checked_array
from neurotrale.annotations.change import Before, Change, FileChanges
from neurotrale.annotations.content import Content, Contents, etag_of
from neurotrale.annotations.difference import hunks_between
from neurotrale.annotations.document import Document
from neurotrale.annotations.guard import merge
from neurotrale.annotations.places import Place, Places
from neurotrale.annotations.restoring import document_of
from neurotrale.annotations.wishes import Wish
from neurotrale.errors import MissingError, ReadOnlyError
from neurotrale.faults import reading
from neurotrale.names import AnnotationName

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """A file, or one annotation of it, as it was read."""

    body: bytes
    etag: str
    mtime_s: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did.

    Attributes:
        filename: Relative to the data root.
        created: Whether the file (PUT) or the annotation (PATCH) is new.
        etag: Of the file now.
        warnings: What was kept although viewers may not understand it.
        kept: How many removals were held back for the first time.
        changed: Whether anything was written.
    """

    filename: str
    created: bool
    etag: str
    warnings: tuple[str, ...] = ()
    kept: int = 0
    changed: bool = True


class AnnotationStore:
    """The annotation files of all data sets below the root.

    Args:
        places: Where they are.
        contents: Reads them.
        changes: Writes them; None refuses every write.
    """

    def __init__(self, places: Places, contents: Contents, changes: FileChanges | None) -> None:
        self.places = places
        self.contents = contents
        self._changes = changes

    def read(self, name: AnnotationName) -> Read:
        """Read a whole file.

        Raises:
            MissingError: There is no such file.
            DamagedError: It is empty or no JSON array.
        """
        content, _ = self._read(self.places.existing(name))
        return Read(content.body, content.etag, content.stamp.mtime_ns / 1e9)

    def read_one(self, name: AnnotationName, id_: str) -> Read:
        """Read one annotation.

        Raises:
            MissingError: There is no such file, or no annotation of this id in it.
            DamagedError: The file is empty or no JSON array.
        """
        place = self.places.existing(name)
        content, document = self._read(place)
        annotation = document.find(id_)
        if annotation is None:
            raise _no_annotation(place, id_)
        return Read(annotation, etag_of(annotation), content.stamp.mtime_ns / 1e9)

    def put(self, name: AnnotationName, body: bytes, wish: Wish) -> Written:
        """Replace a whole file, or create it (and its block's directory).

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            ChangedError: The file is not what the client takes it for.
            MissingError: There is no such data set, or the block lies outside the volume.
        """
        changes = writable(self._changes)
        warnings = checked_array(body)
        new = Document.parse(body)
        kept = 0

        def decide(before: Before) -> Change:
            nonlocal kept
            wish.condition.check(before)
            content = before.content
            if content is None or content.document is None or not wish.guarded:
                old = b"" if content is None else content.body
                return Change("put", hunks_between(old, body), new.index, ())
            merged = merge(content.document, new, body, set(before.held))
            kept = merged.kept
            hunks = hunks_between(content.body, merged.body)
            index = new.index if merged.body is body else None
            return Change("put", hunks, index, merged.held, merged.kept)

        place = self.places.made(name)
        done = changes.change(place.path, place.what, wish.author, decide)
        _log(place, "put", f"{len(body)} bytes", warnings)
        if kept:
            log.warning("put %s: held back the removal of %d annotations", place.what, kept)
        return Written(place.what, done.created, done.etag, tuple(warnings), kept)

    def patch(self, name: AnnotationName, id_: str, body: bytes, wish: Wish) -> Written:
        """Replace one annotation, or add it.

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            ChangedError: The file, or the annotation, is not what the client takes it for.
            MissingError: There is no such file.
            ConflictError: The id stands in the file more than once.
            DamagedError: The file is empty or no JSON array.
        """
        changes = writable(self._changes)
        annotation, warnings = checked_annotation(body, id_)
        place = self.places.existing(name)
        created = False

        def decide(before: Before) -> Change:
            nonlocal created
            document = document_of(before, place.what)
            old = document.find(id_)
            wish.condition.check(before, old)
            created = old is None
            hunk, index = document.upsert(id_, annotation)
            held = [other for other in before.held if other != id_]
            return Change("patch", [] if old == annotation else [hunk], index, held)

        done = changes.change(place.path, place.what, wish.author, decide)
        _log(place, "patch", repr(id_), warnings)
        return Written(place.what, created, done.etag, tuple(warnings))

    def delete(self, name: AnnotationName, id_: str, wish: Wish) -> Written:
        """Remove one annotation.

        Raises:
            ChangedError: The file, or the annotation, is not what the client takes it for.
            MissingError: There is no such file, or no annotation of this id in it.
            ConflictError: The id stands in the file more than once.
            DamagedError: The file is empty or no JSON array.
        """
        changes = writable(self._changes)
        place = self.places.existing(name)

        def decide(before: Before) -> Change:
            document = document_of(before, place.what)
            old = document.find(id_)
            if old is None:
                raise _no_annotation(place, id_)
            wish.condition.check(before, old)
            hunk, index = document.remove(id_)
            return Change("delete", [hunk], index, [x for x in before.held if x != id_])

        done = changes.change(place.path, place.what, wish.author, decide)
        _log(place, "delete", repr(id_), ())
        return Written(place.what, False, done.etag)

    def _read(self, place: Place) -> tuple[Content, Document]:
        with reading(place.what):
            content = self.contents.read(place.path)
        return content, document_of(Before(content, ()), place.what)


def writable(changes: FileChanges | None) -> FileChanges:
    """Give the writer of a service that may write.

    Raises:
        ReadOnlyError: It may not.
    """
    if changes is None:
        raise ReadOnlyError(
            "This service is read-only: nothing was changed. It was started with --read-only."
        )
    return changes


def _no_annotation(place: Place, id_: str) -> MissingError:
    return MissingError(f"There is no annotation {id_!r} in {place.what}.")


def _log(place: Place, operation: str, detail: str, warnings: Sequence[str]) -> None:
    log.info("%s %s: %s", operation, place.what, detail)
    for warning in warnings:
        log.warning("%s %s: %s", operation, place.what, warning)
