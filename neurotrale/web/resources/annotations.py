"""The resource for annotation files, and the hook that resolves the block in a URL."""

from __future__ import annotations

from typing import Any, Protocol, cast
from urllib.parse import quote, unquote_plus

import falcon
from falcon import Request, Response

from neurotrale.annotations.files.blocks import Blocks
from neurotrale.annotations.store import AnnotationStore
from neurotrale.errors import BadInputError, TooLargeError
from neurotrale.layers.spatial_index import CoordinateSpaces
from neurotrale.queries.query import search_file
from neurotrale.settings.service import GuardMode
from neurotrale.storage.names import AnnotationName, AnnotationUrl, parse_position
from neurotrale.web.requests import (
    VIEWER_HEADERS,
    is_viewer,
    optional_id,
    required_ids,
    single_param,
)
from neurotrale.web.resources.search import SearchParameters, parse_search
from neurotrale.web.responses import (
    Compressor,
    ContentVersion,
    respond_not_modified,
    sandbox,
    send_bytes,
    send_written,
)
from neurotrale.web.viewers import read_whole, write_context

JSON = "application/json"

POSITION = "position"
"""Query parameter that names a block by a voxel in it."""

_IN_QUERY = "%&=+,;:@/?!$'()*"


class HasBlocks(Protocol):
    """A resource for annotation files.

    Attributes:
        blocks: The block finder of all datasets.
    """

    @property
    def blocks(self) -> Blocks:
        """The block finder of all datasets."""


def resolve_block(req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
    """Replace the `AnnotationUrl` among the arguments with the `AnnotationName` that it means.

    A Falcon hook that runs before every responder of the resources it decorates. For a viewer, and
    for a position in the query, Content-Location names the block that was found.

    Args:
        req: The request.
        resp: Its response.
        resource: A resource that satisfies `HasBlocks`.
        params: The responder's arguments.

    Raises:
        BadInputError: The position in the query is malformed, or the path names a block, too.
        MissingError: No block contains the position.
        DamagedError: The block size of the dataset cannot be read.
    """
    for key, value in params.items():
        if isinstance(value, AnnotationUrl):
            params[key] = _resolved(req, resp, cast(HasBlocks, resource).blocks, value)


def _resolved(req: Request, resp: Response, blocks: Blocks, url: AnnotationUrl) -> AnnotationName:
    named, position = url.block, single_param(req, POSITION)
    if named is None:
        block = blocks.at(url.dataset, parse_position(position or ""))
    elif position is not None:
        raise BadInputError(
            f"The path names the block {named.text!r} and the query a position. Leave one out:"
            f" .../annotations/{url.leaf}?position=x,y,z is the file of the block at a position."
        )
    elif is_viewer(req):
        block = blocks.for_viewer(url.dataset, named)
    else:
        return AnnotationName(url.dataset, named, url.leaf)
    name = AnnotationName(url.dataset, block, url.leaf)
    resp.set_header("Content-Location", _location(req, url, block.text))
    if named is not None and block != named:  # to a script, this URL is another file, or none
        resp.append_header("Vary", ", ".join(VIEWER_HEADERS))
    return name


def _location(req: Request, url: AnnotationUrl, block: str) -> str:
    """Return the URL of the response with its block; relative, so that it works below prefixes.

    Doubled slashes count as segments of their own: that is how a client resolves the URL.
    """
    segments = req.path.split("/")
    last = len(segments) - 1
    leaf = last - segments[::-1].index(url.leaf)
    start = leaf if url.block is None else max(at for at in range(leaf) if segments[at])
    below = [segment for segment in segments[leaf:last] if segment] + segments[last:]
    items = [item for item in req.query_string.split("&") if item and not _is_dropped(item)]
    query = f"?{quote('&'.join(items), safe=_IN_QUERY)}" if items else ""
    return f"{'../' * (last - start)}{quote('/'.join((block, *below)))}{query}"


def _is_dropped(item: str) -> bool:
    # The block replaces the position; a token is a secret and identifies nothing.
    return unquote_plus(item.partition("=")[0]) in (POSITION, "token")


@falcon.before(resolve_block)
class AnnotationResource:
    """``/{dataset}/annotations/{block}/{leaf}.json``; without the block if a position names it.

    Args:
        store: The annotation store.
        max_body_bytes: The largest accepted body.
        guard: Whose PUTs are merged, and whether removals are held back.
        compressor: Compresses response bodies.
        spaces: The coordinate spaces of datasets, for exports.
    """

    def __init__(
        self,
        store: AnnotationStore,
        max_body_bytes: int,
        guard: GuardMode,
        compressor: Compressor,
        spaces: CoordinateSpaces,
    ) -> None:
        self.store = store
        self.spaces = spaces
        self.compressor = compressor
        self.max_body_bytes = max_body_bytes
        self.guard: GuardMode = guard

    @property
    def blocks(self) -> Blocks:
        """The block finder of all datasets."""
        return self.store.files.blocks

    def on_get(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Send an annotation file, or one annotation of it.
        ---
        summary: Read annotations
        description: >-
            The whole file as it is on disk, or with `id` one annotation of it. `bbox`, `anntype`,
            `type` and `reviewed` select the annotations that match all of them, byte for byte as
            in the file; `format` selects JSON Lines, CSV or SWC.
        tags: [Annotations]
        parameters:
            [Dataset, Block, Leaf, Position, OptionalId, Bbox, Anntype, Type, Reviewed, Format,
             Range, IfNoneMatch]
        responses:
            200:
                description: The file, or the annotation.
                headers: {Content-Location: ContentLocation}
                content:
                    application/json:
                        schema:
                            oneOf:
                                - {type: array, items: {$ref: '#/components/schemas/Annotation'}}
                                - {$ref: '#/components/schemas/Annotation'}
                    application/x-ndjson: {schema: {type: string}}
                    text/csv: {schema: {type: string}}
                    text/plain: {schema: {type: string}}
        """
        sandbox(resp)
        id_, search = optional_id(req), parse_search(req)
        if search is not None:
            if id_ is not None:
                raise BadInputError(
                    "'id' names one annotation; leave out bbox, anntype, type, reviewed and format."
                )
            self._send_matches(req, resp, name, search)
            return
        if id_ is not None:
            content = self.store.read_one(name, id_)
        else:
            content = read_whole(req, self.store, name, self.guard)
        version = ContentVersion(content.etag, content.date_s, JSON, "Accept-Encoding")
        if not respond_not_modified(req, resp, version):
            body, coding = self.compressor.compress(req, content.body, "text")
            send_bytes(req, resp, body, version, coding)

    def _send_matches(
        self, req: Request, resp: Response, name: AnnotationName, search: SearchParameters
    ) -> None:
        format_ = search.format_or("json")
        space = self.spaces.of(name.dataset)
        format_.check(space)
        content = self.store.read(name)
        path = f"{name.block.text}/{name.leaf}"
        version = ContentVersion(
            f"{content.etag}-{search.etag(space, path)}",
            content.date_s,
            format_.media_type,
            "Accept-Encoding",
        )
        if not respond_not_modified(req, resp, version):
            hits = search_file(path, content.body, search.query)
            exported = b"".join(format_.write(hits, space))
            body, coding = self.compressor.compress(req, exported, "text")
            send_bytes(req, resp, body, version, coding)

    def on_put(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Replace an annotation file, or create it.
        ---
        summary: Replace the whole file
        description: >-
            Writes the file. Creates it, and the directory of its block, if the dataset exists. The
            body is UTF-8 JSON, whatever its Content-Type says. A coordinate may be null, which is
            how the viewer writes NaN; it is kept and reported in `warnings`. A refused body leaves
            the file exactly as it was. A PUT from a viewer (a request with an Origin, a Referer, a
            Sec-Fetch header or the User-Agent of a browser) without If-Match is merged: what it
            changes in what that viewer last saw is applied to the file as it is. `kept` counts
            removals that are held back, `ignored` annotations that it dropped because its user
            left the slice, and `conflicts` names the fields that somebody else had changed, too.
        tags: [Annotations]
        parameters: [Dataset, Block, Leaf, Position, IfMatch, NewIfNoneMatch, IdempotencyKey]
        requestBody:
            required: true
            content:
                application/json:
                    schema: {type: array, items: {$ref: '#/components/schemas/Annotation'}}
        responses: {200: Stored, 201: Stored, 413: TooLarge, 422: RuleBroken}
        """
        written = self.store.put(name, self._body(req), write_context(req, self.guard))
        send_written(resp, written, {"filename": written.filename})

    def on_patch(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Replace one annotation, or add it.
        ---
        summary: Replace or add one annotation
        description: >-
            The body is the annotation; its `id` must equal the one in the query, or be absent. All
            other annotations of the file stay as they are, byte for byte. Without `id` in the
            query, the body is an array of annotations, each with its `id`: all of them are replaced
            or added, or none. With `If-None-Match: *`, annotations are only added: 412 if one is
            there already.
        tags: [Annotations]
        parameters:
            [Dataset, Block, Leaf, Position, OptionalId, IfMatch, NewIfNoneMatch, IdempotencyKey]
        requestBody:
            required: true
            content:
                application/json:
                    schema:
                        oneOf:
                            - {$ref: '#/components/schemas/Annotation'}
                            - {type: array, items: {$ref: '#/components/schemas/Annotation'}}
        responses: {200: Changed, 201: Changed, 409: Conflict, 413: TooLarge, 422: RuleBroken}
        """
        context, id_ = write_context(req), optional_id(req)
        if id_ is None:
            written = self.store.patch_all(name, self._body(req), context)
            send_written(resp, written, {"ids": written.ids, "created": written.added})
        else:
            written = self.store.patch(name, id_, self._body(req), context)
            send_written(resp, written, {"id": id_})

    def on_delete(self, req: Request, resp: Response, name: AnnotationName) -> None:
        """Remove annotations.
        ---
        summary: Remove one annotation, or several
        description: >-
            With several `id`s, all of them are removed, or none. A file is never deleted; PUT an
            empty array to empty it.
        tags: [Annotations]
        parameters: [Dataset, Block, Leaf, Position, OneOrMoreIds, IfMatch, IdempotencyKey]
        responses: {200: Changed, 409: Conflict}
        """
        context, ids = write_context(req), required_ids(req)
        if len(ids) > 1:
            written = self.store.delete_all(name, ids, context)
            send_written(resp, written, {"ids": written.ids})
        else:
            send_written(resp, self.store.delete(name, ids[0], context), {"id": ids[0]})

    def _body(self, req: Request) -> bytes:
        # Not req.media: browsers label the JSON text/plain, which Falcon refuses with 415.
        body: bytes = req.bounded_stream.read(self.max_body_bytes + 1)
        if len(body) > self.max_body_bytes:
            raise TooLargeError(
                f"The body is larger than {self.max_body_bytes} bytes (the option --max-body-mb)."
            )
        return body
