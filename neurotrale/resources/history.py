"""The history of annotation files by URL: changes, revisions, restoring, what was held back."""

from __future__ import annotations

import falcon
from falcon import Request, Response

from neurotrale.annotations.history import Filter
from neurotrale.annotations.journal import Entry
from neurotrale.annotations.past import Past
from neurotrale.annotations.places import Places
from neurotrale.errors import BadInputError
from neurotrale.names import AnnotationName
from neurotrale.resources.annotations import JSON, optional_id, report
from neurotrale.resources.times import time_parameter
from neurotrale.resources.wishes import wish_of

PAGE = 100
MOST_PAGE = 10_000


class HistoryResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/history``.

    Args:
        places: Where annotation files are.
        past: Their history.
    """

    def __init__(self, places: Places, past: Past) -> None:
        self.places = places
        self.past = past

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """List the changes of a file.
        ---
        summary: Changes, newest first
        description: >-
            Each change with its number, time, author, operation and the ids that it added, changed
            and removed. `applied` is false for a change that was recorded and, by a crash, never
            made. A page that is not the last one has `next`: ask again with that as `before`.
        tags: [History]
        parameters: [Dataset, Block, Leaf, OptionalId, Since, Until, By, Before, Limit]
        responses:
            200:
                description: A page of changes.
                content: {application/json: {schema: {$ref: '#/components/schemas/History'}}}
            400: BadRequest
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        wanted = Filter(
            id_=optional_id(req),
            since=time_parameter(req, "since"),
            until=time_parameter(req, "until"),
            before=_number(req, "before"),
            by=req.get_param("by") or None,
        )
        limit = _number(req, "limit", least=1, most=MOST_PAGE) or PAGE
        place = self.places.recorded(name)
        page = self.past.page(place, wanted, limit)
        answer: dict[str, object] = {
            "filename": place.what,
            "changes": [_change(*pair) for pair in page.changes],
        }
        if page.next is not None:
            answer["next"] = page.next
        resp.media = answer
        resp.cache_control = ["no-cache"]


class RevisionResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/history/{revision}``.

    Args:
        places: Where annotation files are.
        past: Their history.
    """

    def __init__(self, places: Places, past: Past) -> None:
        self.places = places
        self.past = past

    def on_get(self, req: Request, resp: Response, name: AnnotationName, revision: int) -> None:
        """Send a file as it was after a change.
        ---
        summary: The file at a revision
        description: >-
            The file, or with `id` one annotation, byte for byte as it was after the change of this
            number; 0 is the file before the first recorded change.
        tags: [History]
        parameters: [Dataset, Block, Leaf, Revision, OptionalId]
        responses:
            200:
                description: The content then.
                content: {application/json: {schema: {}}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        place = self.places.recorded(name)
        id_ = optional_id(req)
        if id_ is not None:
            resp.data = self.past.annotation(place, revision, id_)
        else:
            resp.data = self.past.revision(place, revision)
        resp.content_type = JSON
        resp.cache_control = ["no-cache"]


class RestoreResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/restore``.

    Args:
        places: Where annotation files are.
        past: Their history.
    """

    def __init__(self, places: Places, past: Past) -> None:
        self.places = places
        self.past = past

    def on_post(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Bring back what was.
        ---
        summary: Restore a revision, an annotation, or all that was removed
        description: >-
            With `revision` the whole file becomes what it was after that change. With `id` only
            that annotation does (without `revision`, what it was before its last change). With
            `removed` every annotation that was removed (since `since`) comes back, and all that is
            there now stays. The restoring is itself a recorded change.
        tags: [History]
        parameters: [Dataset, Block, Leaf, OptionalRevision, OptionalId, Removed, Since, IfMatch]
        responses:
            200: Stored
            201: Stored
            400: BadRequest
            403: Forbidden
            404: NotFound
            409: Conflict
            412: PreconditionFailed
            414: NameTooLong
            500: Damaged
            503: Busy
            507: DiskFull
        """
        revision, id_ = _number(req, "revision"), optional_id(req)
        removed = req.get_param_as_bool("removed", blank_as_true=True) or False
        if removed and not (id_ is None and revision is None):
            raise BadInputError("'removed' goes with 'since' only, not with 'id' or 'revision'.")
        wish = wish_of(req)
        since = time_parameter(req, "since")
        if since is not None and not removed:
            raise BadInputError("'since' goes with 'removed' only.")
        place = self.places.recorded(name)
        if removed:
            written = self.past.restore_removed(place, since, wish)
        elif id_ is not None:
            written = self.past.restore_annotation(place, id_, revision, wish)
        elif revision is not None:
            written = self.past.restore(place, revision, wish)
        else:
            raise BadInputError("Say what to restore: revision=N, id=..., or removed=true.")
        report(resp, written, {"filename": written.filename})


class HeldResource:
    """``/{dataset}/annotations/{block}/{leaf}.json/held``.

    Args:
        places: Where annotation files are.
        past: Their history.
    """

    def __init__(self, places: Places, past: Past) -> None:
        self.places = places
        self.past = past

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """List the annotations whose removal was held back.
        ---
        summary: Removals that were held back
        description: >-
            A viewer's save that would have removed several annotations at once was merged; these
            are the annotations that it left out. They are still in the file.
        tags: [History]
        parameters: [Dataset, Block, Leaf]
        responses:
            200:
                description: The annotations.
                content:
                    application/json:
                        schema: {type: array, items: {$ref: '#/components/schemas/Annotation'}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        resp.data = b"[" + b",".join(self.past.held(self.places.existing(name))) + b"]"
        resp.content_type = JSON
        resp.cache_control = ["no-cache"]

    def on_delete(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Confirm removals that were held back.
        ---
        summary: Really remove them
        description: Removes the held annotations, or with `id` that one, from the file.
        tags: [History]
        parameters: [Dataset, Block, Leaf, OptionalId, IfMatch]
        responses:
            200: Stored
            400: BadRequest
            403: Forbidden
            404: NotFound
            409: Conflict
            412: PreconditionFailed
            414: NameTooLong
            500: Damaged
            503: Busy
            507: DiskFull
        """
        id_ = optional_id(req)
        place = self.places.existing(name)
        written = self.past.confirm(place, [] if id_ is None else [id_], wish_of(req))
        report(resp, written, {"filename": written.filename})


def _number(req: Request, name: str, least: int = 0, most: int = 2**53) -> int | None:
    try:
        return req.get_param_as_int(name, min_value=least, max_value=most)
    except falcon.HTTPInvalidParam as error:
        raise BadInputError(
            f"{name}={req.get_param(name)!r} is no number from {least} to {most}."
        ) from error


def _change(entry: Entry, applied: bool) -> dict[str, object]:
    return {
        "revision": entry.n,
        "at": entry.at,
        "by": entry.by,
        "from": entry.source,
        "operation": entry.op,
        "applied": applied,
        "added": entry.added,
        "changed": entry.changed,
        "removed": entry.removed,
        "kept": entry.kept,
        "held": entry.held,
        **({"restored": entry.of} if entry.op == "restore" else {}),
    }
