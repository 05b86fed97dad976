"""Resources for the history of annotation files: changes, revisions, restores, held removals."""

from __future__ import annotations

from itertools import islice

import falcon
from falcon import Request, Response

from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.history import AnnotationHistory
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.errors import BadInputError
from neurotrale.storage.names import AnnotationName
from neurotrale.web.requests import (
    MAX_NUMBER,
    flag_parameter,
    number_parameter,
    optional_id,
    time_parameter,
)
from neurotrale.web.resources.annotations import JSON, resolve_block
from neurotrale.web.responses import send_written
from neurotrale.web.viewers import write_context

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 10_000
DEFAULT_IDS = 20
"""Ids of each kind listed per change by default: one save may touch millions."""


class _FileResource:
    """A resource for the history of an annotation file.

    Args:
        files: Finds annotation files.
        history: Their history.
    """

    def __init__(self, files: AnnotationFiles, history: AnnotationHistory) -> None:
        self.files = files
        self.blocks = files.blocks
        self.history = history


@falcon.before(resolve_block)
class HistoryResource(_FileResource):
    """``/{dataset}/annotations/{block}/{leaf}.json/history``."""

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """List the changes of a file.
        ---
        summary: Changes, newest first
        description: >-
            Each change with its number, time, author and operation, and the ids that it added,
            changed and removed: the count of each, and the first few (`ids` sets how many).
            `applied` is false for a change that was recorded but, because of a crash, never made.
            Every page but the last has `next`: pass it as `before` to get the next page. The last
            one has `discarded` if older records were discarded: a sentence that says which.
        tags: [History]
        parameters:
            [Dataset, Block, Leaf, Position, OptionalId, Since, Until, By, Session, Left, Before,
             Limit, Ids]
        responses:
            200: {description: A page of changes., content: History}
        """
        changes = ChangeFilter(
            id_=optional_id(req),
            since=time_parameter(req, "since"),
            until=time_parameter(req, "until"),
            before=number_parameter(req, "before"),
            by=req.get_param("by") or None,
            session=req.get_param("session") or None,
            navigation=flag_parameter(req, "navigation"),
        )
        limit = number_parameter(req, "limit", minimum=1, maximum=MAX_PAGE_SIZE)
        max_ids = _max_ids(req)
        file = self.files.recorded(name)
        page = self.history.page(file, changes, limit or DEFAULT_PAGE_SIZE)
        media: dict[str, object] = {
            "filename": file.display_path,
            "changes": [_change(entry, applied, max_ids) for entry, applied in page.changes],
        }
        if page.next_before is not None:
            media["next"] = page.next_before
        elif (discarded := self.history.discarded(file)) is not None:
            media["discarded"] = discarded
        resp.media = media
        resp.cache_control = ["no-cache"]


@falcon.before(resolve_block)
class RevisionResource(_FileResource):
    """``/{dataset}/annotations/{block}/{leaf}.json/history/{revision}``."""

    def on_get(self, req: Request, resp: Response, name: AnnotationName, revision: int) -> None:
        """Send a file as it was after a change.
        ---
        summary: The file at a revision
        description: >-
            The file, or with `id` one annotation, byte for byte as it was after the change with
            this number; 0 is the file before the first recorded change.
        tags: [History]
        parameters: [Dataset, Block, Leaf, Position, Revision, OptionalId]
        responses:
            200:
                description: The content at that revision.
                content: {application/json: {schema: {}}}
        """
        file = self.files.recorded(name)
        id_ = optional_id(req)
        if id_ is not None:
            resp.data = self.history.annotation(file, revision, id_)
        else:
            resp.data = self.history.revision(file, revision)
        resp.content_type = JSON
        resp.cache_control = ["no-cache"]


@falcon.before(resolve_block)
class RestoreResource(_FileResource):
    """``/{dataset}/annotations/{block}/{leaf}.json/restore``."""

    def on_post(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Restore an earlier state.
        ---
        summary: Restore a revision, an annotation, or everything that was removed
        description: >-
            `revision` restores the whole file to its state after that change. `id` restores only
            that annotation (without `revision`, to its state before its last change). `removed`
            restores every annotation that was removed (since `since`) and keeps the present ones.
            `reverted` brings back changes that saves of old copies have undone. `by` or `session`
            undoes what one author did since `since`, and keeps what others did. The restore is
            itself recorded as a change. The request has a Content-Type that no form can send; its
            body is ignored.
        tags: [History]
        parameters:
            [Dataset, Block, Leaf, Position, OptionalRevision, OptionalId, Removed, Reverted, By,
             Session, Since, IfMatch, IdempotencyKey]
        requestBody: {required: true, content: {application/json: {schema: {type: object}}}}
        responses: {200: Stored, 201: Stored, 409: Conflict, 415: UnsupportedMediaType}
        """
        context, file = write_context(req), self.files.recorded(name)
        revision, id_ = number_parameter(req, "revision"), optional_id(req)
        removed, reverted = flag_parameter(req, "removed"), flag_parameter(req, "reverted")
        by, session = req.get_param("by") or None, req.get_param("session") or None
        since = time_parameter(req, "since")
        is_one = id_ is not None or revision is not None
        is_author = by is not None or session is not None
        if sum((is_one, removed, reverted, is_author)) > 1:
            raise BadInputError(
                "'id' and 'revision', 'removed', 'reverted', and 'by' and 'session' cannot be"
                " combined; each but the first with 'since' only."
            )
        if is_one and since is not None:
            raise BadInputError("'since' works with 'removed', 'reverted', 'by' or 'session' only.")
        if removed:
            written = self.history.restore_removed(file, since, context)
        elif reverted:
            written = self.history.restore_reverted(file, since, context)
        elif is_author:
            if since is None:
                raise BadInputError(
                    "Say from when on to undo what 'by' or 'session' did: since=..."
                )
            written = self.history.undo(file, by, session, since, context)
        elif id_ is not None:
            written = self.history.restore_annotation(file, id_, revision, context)
        elif revision is not None:
            written = self.history.restore(file, revision, context)
        else:
            raise BadInputError(
                "Say what to restore: revision=N, id=..., removed=true, reverted=true, or by=NAME"
                " with since=TIME."
            )
        send_written(resp, written, {"filename": written.filename})


@falcon.before(resolve_block)
class HeldResource(_FileResource):
    """``/{dataset}/annotations/{block}/{leaf}.json/held``."""

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """List the annotations whose removal was held back.
        ---
        summary: Removals that were held back
        description: >-
            A save from a viewer that would have removed several annotations at once was merged;
            these are the annotations that it left out. They are still in the file. With
            `navigation`, those that one save dropped which was ignored because its viewer left the
            slice, as far as nobody has changed them since.
        tags: [History]
        parameters: [Dataset, Block, Leaf, Position, LeftIn]
        responses:
            200:
                description: The annotations.
                content:
                    application/json:
                        schema: {type: array, items: {$ref: '#/components/schemas/Annotation'}}
        """
        revision = number_parameter(req, "navigation", minimum=1)
        held = self.history.held_removals(self.files.existing(name), revision)
        resp.data = b"[" + b",".join(held) + b"]"
        resp.content_type = JSON
        resp.cache_control = ["no-cache"]

    def on_delete(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Confirm removals that were held back.
        ---
        summary: Confirm held removals
        description: >-
            Removes the held annotations, or with `id` one of them, from the file; with
            `navigation`, what one save dropped that was ignored because its viewer left the slice.
        tags: [History]
        parameters: [Dataset, Block, Leaf, Position, OptionalId, LeftIn, IfMatch, IdempotencyKey]
        responses: {200: Stored, 409: Conflict}
        """
        id_ = optional_id(req)
        file = self.files.existing(name)
        revision = number_parameter(req, "navigation", minimum=1)
        ids = [] if id_ is None else [id_]
        written = self.history.confirm(file, ids, write_context(req), revision)
        send_written(resp, written, {"filename": written.filename})


def _max_ids(req: Request) -> int:
    """Return how many ids of each kind to list per change."""
    if req.get_param("ids") == "all":
        return MAX_NUMBER
    try:
        number = number_parameter(req, "ids")
    except BadInputError as error:
        raise BadInputError(
            f"ids={req.get_param('ids')!r} is neither a number nor 'all'."
        ) from error
    return DEFAULT_IDS if number is None else number


def _change(entry: JournalEntry, applied: bool, max_ids: int) -> dict[str, object]:
    return {
        "revision": entry.n,
        "at": entry.at,
        "by": entry.by,
        "from": entry.source,
        "operation": entry.op,
        "applied": applied,
        "saves": entry.saves,
        "began": entry.began or entry.at,
        "added": entry.added[:max_ids],
        "changed": entry.changed[:max_ids],
        "removed": entry.removed[:max_ids],
        "kept": entry.newly_held,
        "held": entry.held_removals[:max_ids],
        "session": entry.save.session,
        "conflicts": dict(islice(entry.save.conflicts.items(), max_ids)),
        "ignored": entry.save.navigated[:max_ids],
        "stale": entry.save.stale[:max_ids],
        "counts": {
            "added": len(entry.added),
            "changed": len(entry.changed),
            "removed": len(entry.removed),
            "held": len(entry.held_removals),
            "conflicts": len(entry.save.conflicts),
            "ignored": len(entry.save.navigated),
            "stale": len(entry.save.stale),
        },
        **({"restored": entry.target} if entry.op == "restore" else {}),
        **({"operations": [one.key for one in entry.operations]} if entry.operations else {}),
    }
