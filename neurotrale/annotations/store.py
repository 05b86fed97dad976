"""The store of annotation files: read, replace (PUT), change (PATCH) and remove (DELETE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neurotrale.annotations.documents.bodies import begins_array, checked_annotation, checked_array
from neurotrale.annotations.documents.contents import (
    Content,
    Contents,
    FileChangedError,
    document_of,
    etag_of,
)
from neurotrale.annotations.documents.document import Document, StaleIndexError
from neurotrale.annotations.documents.pieces import is_empty_array
from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.annotations.journals.changes import WriteContext
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import AnnotationWriter
from neurotrale.errors import BadInputError, MissingError, ReadOnlyError, reading
from neurotrale.storage.names import AnnotationName


@dataclass(frozen=True, slots=True)
class Read:
    """The content of a file, or of one annotation, with its validators."""

    body: bytes
    etag: str
    date_s: int | None


class AnnotationStore:
    """The annotation files of all datasets below the data root.

    Args:
        files: Finds files.
        contents: Reads files.
        writer: Writes files; None if the service is read-only.
    """

    def __init__(
        self, files: AnnotationFiles, contents: Contents, writer: AnnotationWriter | None
    ) -> None:
        self.files = files
        self.contents = contents
        self._writer = writer

    def read(self, name: AnnotationName) -> Read:
        """Read a whole file.

        Raises:
            MissingError: There is no such file.
            DamagedError: The file is empty or not a JSON array.
        """
        content, _ = self._read(self.files.existing(name))
        return Read(content.body, content.etag, content.stamp.date_s)

    def note_view(self, name: AnnotationName, viewer: Viewer, arrived_ns: int, etag: str) -> None:
        """Record that a viewer asked for a file.

        Args:
            name: The file; it need not exist.
            viewer: The viewer.
            arrived_ns: When its request arrived, in nanoseconds since the epoch.
            etag: ETag of the file that it is sent; empty if it is not, or not in full.
        """
        if self._writer is not None:
            self._writer.saw(viewer, self.files.display_path(name), etag, arrived_ns)

    def read_one(self, name: AnnotationName, id_: str) -> Read:
        """Read one annotation.

        Raises:
            MissingError: There is no such file, or it has no annotation with this id.
            DamagedError: The file is empty or not a JSON array.
        """
        file = self.files.existing(name)
        try:
            content, document = self._read(file, in_parts=True)
            annotation = document.find(id_)
        except (FileChangedError, StaleIndexError):
            self.contents.forget(file.path)
            content, document = self._read(file)
            annotation = document.find(id_)
        if annotation is None:
            raise MissingError(f"There is no annotation {id_!r} in {file.display_path}.")
        return Read(annotation, etag_of(annotation), content.stamp.date_s)

    def put(self, name: AnnotationName, body: bytes, context: WriteContext) -> Written:
        """Replace a whole file, or create it (and its block's directory).

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            ChangedError: A precondition does not hold.
            MissingError: There is no such dataset, or the name is not that of a block.
        """
        writer = writable(self._writer)
        if (resumed := writer.resumed(context)) is not None:
            return resumed
        warnings = tuple(checked_array(body))
        # A viewer that leaves a slice saves it, even if it never had anything.
        is_merged = context.viewer is not None and not context.preconditions.match
        is_needed = not is_merged or bool(context.key) or not is_empty_array(body)
        file = self.files.prepare(name, is_needed=is_needed)
        if file is None:
            return Written(self.files.display_path(name), created=False, etag="", changed=False)
        return writer.write(
            WriteRequest(operation="put", file=file, context=context, body=body, warnings=warnings)
        )

    def patch(self, name: AnnotationName, id_: str, body: bytes, context: WriteContext) -> Written:
        """Replace one annotation, or add it.

        Raises:
            BadInputError, RuleBrokenError: The body is refused; nothing was changed.
            ChangedError: A precondition does not hold.
            MissingError: There is no such file.
            ConflictError: Several annotations of the file have the id.
            DamagedError: The file is empty or not a JSON array.
        """
        writer = writable(self._writer)
        if (resumed := writer.resumed(context)) is not None:
            return resumed
        annotation, warnings = checked_annotation(body, id_)
        return writer.write(
            WriteRequest(
                operation="patch",
                file=self.files.existing(name),
                context=context,
                body=annotation,
                id=id_,
                warnings=tuple(warnings),
            )
        )

    def patch_all(self, name: AnnotationName, body: bytes, context: WriteContext) -> Written:
        """Replace or add all annotations of an array; either all or none.

        Raises:
            BadInputError: The body is not an array, or not UTF-8 JSON; nothing was changed.
            RuleBrokenError, ChangedError, MissingError, ConflictError, DamagedError: See `patch`.
        """
        writer = writable(self._writer)
        if (resumed := writer.resumed(context)) is not None:
            return resumed
        if not begins_array(body):
            raise BadInputError(
                "PATCH needs the annotation's id in the query, as in ?id=4f2a..., or an array of"
                " annotations as its body."
            )
        warnings = tuple(checked_array(body, nulls=False))
        file = self.files.existing(name)
        return writer.write(
            WriteRequest(
                operation="patch", file=file, context=context, body=body, warnings=warnings
            )
        )

    def delete(self, name: AnnotationName, id_: str, context: WriteContext) -> Written:
        """Remove one annotation.

        Raises:
            ChangedError: A precondition does not hold.
            MissingError: There is no such file, or no annotation with this id in it.
            ConflictError: Several annotations of the file have the id.
            DamagedError: The file is empty or not a JSON array.
        """
        writer = writable(self._writer)
        file = self.files.existing(name)
        return writer.write(WriteRequest(operation="delete", file=file, context=context, id=id_))

    def delete_all(
        self, name: AnnotationName, ids: Sequence[str], context: WriteContext
    ) -> Written:
        """Remove several annotations; either all or none.

        Args:
            name: The file.
            ids: Their ids, at least two, each once.
            context: The author and the preconditions.

        Raises:
            ChangedError, MissingError, ConflictError, DamagedError: See `delete`.
        """
        writer = writable(self._writer)
        file = self.files.existing(name)
        return writer.write(
            WriteRequest(operation="delete", file=file, context=context, ids=tuple(ids))
        )

    def _read(self, file: AnnotationFile, *, in_parts: bool = False) -> tuple[Content, Document]:
        with reading(file.display_path):
            content = self.contents.read(file.path, in_parts=in_parts)
        return content, document_of(content, file.display_path)


def writable(writer: AnnotationWriter | None) -> AnnotationWriter:
    """Return the writer of a service that may write.

    Raises:
        ReadOnlyError: The service is read-only.
    """
    if writer is None:
        raise ReadOnlyError(
            "This service is read-only: nothing was changed. It was started with --read-only."
        )
    return writer
