"""Annotation files by URL."""

from __future__ import annotations

import falcon
from falcon import Request, Response

from neurotrale.annotations.guard import GuardMode
from neurotrale.annotations.store import AnnotationStore, Written
from neurotrale.errors import BadInputError, TooLargeError
from neurotrale.layers.space import Spaces
from neurotrale.names import AnnotationName
from neurotrale.queries.found import found_in
from neurotrale.resources.coding import Coder
from neurotrale.resources.queries import Query, query_of
from neurotrale.resources.sending import Version, answered_from_copy, send_bytes
from neurotrale.resources.wishes import wish_of

JSON = "application/json"


class AnnotationResource:
    """``/{dataset}/annotations/{block}/{leaf}.json``.

    Args:
        store: Where annotations are kept.
        max_body_bytes: The largest body that is taken.
        guard: Which PUTs that remove several annotations are merged.
        coder: Compresses what is sent.
        spaces: The coordinates of data sets, for exports.
    """

    def __init__(
        self,
        store: AnnotationStore,
        max_body_bytes: int,
        guard: GuardMode,
        coder: Coder,
        spaces: Spaces,
    ) -> None:
        self.store = store
        self.spaces = spaces
        self.coder = coder
        self.max_body_bytes = max_body_bytes
        self.guard: GuardMode = guard

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Send an annotation file, or one annotation of it.
        ---
        summary: Read annotations
        description: >-
            The whole file as it is on disk, or with `id` that one annotation. With `bbox`,
            `anntype`, `type` and `reviewed` those annotations that are all of it, byte for byte as
            in the file; with `format` as JSON Lines, CSV or SWC.
        tags: [Annotations]
        parameters:
            [Dataset, Block, Leaf, OptionalId, Bbox, Anntype, Type, Reviewed, Format, Range,
             IfNoneMatch]
        responses:
            200:
                description: The file, or the annotation.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content:
                    application/json:
                        schema:
                            oneOf:
                                - {type: array, items: {$ref: '#/components/schemas/Annotation'}}
                                - {$ref: '#/components/schemas/Annotation'}
                    application/x-ndjson: {schema: {type: string}}
                    text/csv: {schema: {type: string}}
                    text/plain: {schema: {type: string}}
            206: PartialContent
            304: NotModified
            400: BadRequest
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        id_, query = optional_id(req), query_of(req)
        if query is not None:
            if id_ is not None:
                raise BadInputError(
                    "'id' names one annotation; leave out bbox, anntype, type, reviewed and format."
                )
            self._send_chosen(req, resp, name, query)
            return
        content = self.store.read(name) if id_ is None else self.store.read_one(name, id_)
        version = Version(content.etag, content.mtime_s, JSON, "Accept-Encoding")
        if not answered_from_copy(req, resp, version):
            body, coding = self.coder.code(req, content.body, "text")
            send_bytes(req, resp, body, version, coding)

    def _send_chosen(
        self, req: Request, resp: Response, name: AnnotationName, query: Query
    ) -> None:
        format_ = query.format_or("json")
        space = self.spaces.of(name.dataset)
        format_.check(space)
        content = self.store.read(name)
        version = Version(
            f"{content.etag}-{query.etag(space)}",
            content.mtime_s,
            format_.media_type,
            "Accept-Encoding",
        )
        if not answered_from_copy(req, resp, version):
            found = found_in(f"{name.block.text}/{name.leaf}", content.body, query.wanted)
            body, coding = self.coder.code(req, b"".join(format_.write(found, space)), "text")
            send_bytes(req, resp, body, version, coding)

    def on_put(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Replace an annotation file, or create it.
        ---
        summary: Replace the whole file
        description: >-
            Writes the file, and creates it and its block's directory when the data set exists. The
            body is UTF-8 JSON, whatever its Content-Type says. A coordinate may be null (that is
            how the viewer writes what is not a number); it is kept and named in `warnings`.
            Whatever is refused leaves the file exactly as it was. A viewer's PUT (it has an Origin
            and is text/plain) that would remove several annotations, or empty the file, is merged:
            the removals are held back, and `kept` counts them.
        tags: [Annotations]
        parameters: [Dataset, Block, Leaf, IfMatch, PutIfNoneMatch]
        requestBody:
            required: true
            content:
                application/json:
                    schema: {type: array, items: {$ref: '#/components/schemas/Annotation'}}
        responses:
            200: Stored
            201: Stored
            400: BadRequest
            403: Forbidden
            404: NotFound
            412: PreconditionFailed
            413: TooLarge
            414: NameTooLong
            422: RuleBroken
            500: Damaged
            503: Busy
            507: DiskFull
        """
        written = self.store.put(name, self._body(req), wish_of(req, self.guard))
        report(resp, written, {"filename": written.filename})

    def on_patch(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Replace one annotation, or add it.
        ---
        summary: Replace or add one annotation
        description: >-
            The body is the annotation; its `id` must be the one of the query, or absent. Every
            other annotation of the file stays as it is, byte for byte.
        tags: [Annotations]
        parameters: [Dataset, Block, Leaf, Id, IfMatch]
        requestBody:
            required: true
            content:
                application/json:
                    schema: {$ref: '#/components/schemas/Annotation'}
        responses:
            200: Changed
            201: Changed
            400: BadRequest
            403: Forbidden
            404: NotFound
            409: Conflict
            412: PreconditionFailed
            413: TooLarge
            414: NameTooLong
            422: RuleBroken
            500: Damaged
            503: Busy
            507: DiskFull
        """
        id_ = _required_id(req, "PATCH")
        written = self.store.patch(name, id_, self._body(req), wish_of(req))
        report(resp, written, {"id": id_})

    def on_delete(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Remove one annotation.
        ---
        summary: Remove one annotation
        description: A file is never deleted; PUT an empty array to empty it.
        tags: [Annotations]
        parameters: [Dataset, Block, Leaf, Id, IfMatch]
        responses:
            200: Changed
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
        id_ = _required_id(req, "DELETE")
        report(resp, self.store.delete(name, id_, wish_of(req)), {"id": id_})

    def _body(self, req: Request) -> bytes:
        # Not req.media: browsers send text/plain, and JSON is JSON whatever it is called.
        body: bytes = req.bounded_stream.read(self.max_body_bytes + 1)
        if len(body) > self.max_body_bytes:
            raise TooLargeError(
                f"The body is larger than {self.max_body_bytes} bytes (the option --max-body-mb)."
            )
        return body


def optional_id(req: Request) -> str | None:
    """Read the annotation's id from the query, where it may be absent.

    Raises:
        BadInputError: It is empty, which is no wish for all, or there are several.
    """
    ids = req.get_param_as_list("id") or []
    if len(ids) > 1:
        raise BadInputError("The query names more than one id; one at a time.")
    if ids == [""]:
        raise BadInputError("The query's id is empty; name an annotation, as in ?id=4f2a...")
    return ids[0] if ids else None


def _required_id(req: Request, method: str) -> str:
    id_ = optional_id(req)
    if id_ is None:
        raise BadInputError(
            f"{method} needs the annotation's id in the query, as in ?id=4f2a..."
            + (" (a file is never deleted)." if method == "DELETE" else ".")
        )
    return id_


def report(resp: Response, written: Written, answer: dict[str, object]) -> None:
    """Answer a write: what was written, what to know about it, its new ETag."""
    if written.kept:
        answer["kept"] = written.kept
    if written.warnings:
        answer["warnings"] = list(written.warnings)
    resp.media = answer
    resp.status = falcon.HTTP_201 if written.created else falcon.HTTP_200
    resp.set_header("ETag", f'"{written.etag}"')
    resp.cache_control = ["no-cache"]
