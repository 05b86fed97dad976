"""Annotations as Neuroglancer Precomputed annotation sources, by URL; read-only."""

from __future__ import annotations

from dataclasses import dataclass

from falcon import Request, Response

from neurotrale.errors import MissingError
from neurotrale.layers.kinds import Kind
from neurotrale.layers.sources import Scope, Sources
from neurotrale.resources.coding import Coder
from neurotrale.resources.sending import Version, answered_from_copy, send_bytes

JSON = "application/json"
BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Layers:
    """What the resources for layers share.

    Attributes:
        sources: Where annotation sources are made.
        coder: Compresses what is sent.
    """

    sources: Sources
    coder: Coder

    def send(self, req: Request, resp: Response, body: bytes, version: Version) -> None:
        """Send a piece of a source, compressed where that pays."""
        coded, coding = self.coder.code(req, body, "text")
        send_bytes(req, resp, coded, version, coding)


def _version(etag: str, mtime_s: float, media_type: str) -> Version:
    return Version(etag, mtime_s, media_type, "Accept-Encoding")


class LayersResource:
    """``/{dataset}/annotations/layers``, and the same of one file.

    Args:
        layers: Where annotation sources are made.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def on_get(self, req: Request, resp: Response, scope: Scope) -> None:
        """List the kinds of annotations that there are.
        ---
        summary: What can be drawn
        description: >-
            How many annotations of each kind there are, how many cannot be drawn and why, and which
            files are damaged. Each kind is a source for Neuroglancer, at this URL and its name.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, IfNoneMatch, Range]
        responses:
            200:
                description: The kinds.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {application/json: {schema: {$ref: '#/components/schemas/Layers'}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.layers.sources.overview(scope)
        version = _version(found.etag, found.mtime_s, JSON)
        self.layers.send(req, resp, found.body, version)


class InfoResource:
    """``.../layers/{kind}/info``.

    Args:
        layers: Where annotation sources are made.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def on_get(self, req: Request, resp: Response, scope: Scope, kind: Kind) -> None:
        """Send the description of a source.
        ---
        summary: What a source holds
        description: >-
            The `info` of a Neuroglancer Precomputed annotation source: coordinates, properties,
            the grids of its spatial index. Open `precomputed://` and this URL without `/info`.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Range, IfNoneMatch]
        responses:
            200:
                description: The `info`.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {application/json: {schema: {type: object}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.layers.sources.get(scope, kind)
        version = _version(found.etag, found.mtime_s, JSON)
        if not answered_from_copy(req, resp, version):
            self.layers.send(req, resp, found.source.info, version)


class CellResource:
    """``.../layers/{kind}/spatial{level}/{cell}``.

    Args:
        layers: Where annotation sources are made.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def on_get(
        self,
        req: Request,
        resp: Response,
        scope: Scope,
        kind: Kind,
        level: int,
        cell: tuple[int, int, int],
    ) -> None:
        """Send a cell of the spatial index.
        ---
        summary: Annotations of a cell
        description: >-
            The annotations that one cell of one level of the spatial index holds, in the binary
            encoding of the format. A cell in the grid without annotations has a count of 0.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Level, Cell, Range, IfNoneMatch]
        responses:
            200:
                description: The annotations.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {application/octet-stream: {schema: {type: string, format: binary}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.layers.sources.get(scope, kind)
        version = _version(found.etag, found.mtime_s, BINARY)
        if answered_from_copy(req, resp, version):
            return
        body = found.source.cell(level, cell)
        if body is None:
            raise MissingError("There is no such cell: its level or place lies outside the grid.")
        self.layers.send(req, resp, body, version)


class ByIdResource:
    """``.../layers/{kind}/by_id/{number}``.

    Args:
        layers: Where annotation sources are made.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def on_get(self, req: Request, resp: Response, scope: Scope, kind: Kind, number: int) -> None:
        """Send one annotation by its number.
        ---
        summary: One annotation
        description: >-
            One annotation in the binary encoding of the format. Its number is the hash of its id.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Number, Range, IfNoneMatch]
        responses:
            200:
                description: The annotation.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {application/octet-stream: {schema: {type: string, format: binary}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.layers.sources.get(scope, kind)
        body = found.source.annotation(number)
        if body is None:
            raise MissingError(f"There is no annotation of the number {number}.")
        version = _version(found.etag, found.mtime_s, BINARY)
        if not answered_from_copy(req, resp, version):
            self.layers.send(req, resp, body, version)


class OriginResource:
    """``.../layers/{kind}/origin/{number}``.

    Args:
        layers: Where annotation sources are made.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def on_get(self, req: Request, resp: Response, scope: Scope, kind: Kind, number: int) -> None:
        """Tell which annotation a number stands for.
        ---
        summary: From number to id
        description: >-
            The file and the id of the annotation that a viewer knows by this number.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Number]
        responses:
            200:
                description: File and id.
                content: {application/json: {schema: {$ref: '#/components/schemas/Origin'}}}
            403: Forbidden
            404: NotFound
            414: NameTooLong
            500: Damaged
            503: Busy
        """
        found = self.layers.sources.get(scope, kind)
        origin = found.source.origin(number)
        if origin is None:
            raise MissingError(f"There is no annotation of the number {number}.")
        resp.media = {"file": origin[0], "id": origin[1]}
        resp.cache_control = ["no-cache"]
