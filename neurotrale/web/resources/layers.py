"""Resources for annotations as Neuroglancer Precomputed annotation sources; read-only."""

from __future__ import annotations

from dataclasses import dataclass

import falcon
from falcon import Request, Response

from neurotrale.errors import MissingError
from neurotrale.layers.geometry import GeometryKind
from neurotrale.layers.sources import LayerSources, Overview, Scope, SourceVersion
from neurotrale.web.resources.annotations import resolve_block
from neurotrale.web.responses import Compressor, ContentVersion, respond_not_modified, send_bytes

JSON = "application/json"
BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Layers:
    """The annotation sources, and how they are sent.

    Attributes:
        sources: Builds annotation sources.
        compressor: Compresses response bodies.
    """

    sources: LayerSources
    compressor: Compressor

    def send(self, req: Request, resp: Response, body: bytes, version: ContentVersion) -> None:
        """Send a part of a source, compressed if that is worthwhile."""
        compressed, coding = self.compressor.compress(req, body, "text")
        send_bytes(req, resp, compressed, version, coding)


def _version(of: SourceVersion | Overview, media_type: str) -> ContentVersion:
    return ContentVersion(of.etag, None, media_type, "Accept-Encoding")


class _LayerResource:
    """A resource for annotation sources.

    Args:
        layers: The annotation sources.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.sources = layers.sources
        self.blocks = layers.sources.files.blocks


@falcon.before(resolve_block)
class LayersResource(_LayerResource):
    """``/{dataset}/annotations/layers``, and the same below one file."""

    def on_get(self, req: Request, resp: Response, scope: Scope) -> None:
        """List the kinds of annotations.
        ---
        summary: The available layers
        description: >-
            How many annotations of each kind there are, how many cannot be drawn and why, and which
            files are damaged. Each kind is a source for Neuroglancer, at this URL plus its name.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, IfNoneMatch, Range]
        responses:
            200: {description: The kinds., content: Layers}
        """
        overview = self.sources.overview(scope)
        self.layers.send(req, resp, overview.body, _version(overview, JSON))


@falcon.before(resolve_block)
class InfoResource(_LayerResource):
    """``.../layers/{kind}/info``."""

    def on_get(self, req: Request, resp: Response, scope: Scope, kind: GeometryKind) -> None:
        """Send the `info` of a source.
        ---
        summary: The `info` of a source
        description: >-
            The `info` of a Neuroglancer Precomputed annotation source: coordinates, properties,
            the grids of its spatial index. Open `precomputed://` and this URL without `/info`.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Range, IfNoneMatch]
        responses:
            200:
                description: The `info`.
                content: {application/json: {schema: {type: object}}}
        """
        current = self.sources.get(scope, kind)
        version = _version(current, JSON)
        if not respond_not_modified(req, resp, version):
            self.layers.send(req, resp, current.source.info, version)


@falcon.before(resolve_block)
class CellResource(_LayerResource):
    """``.../layers/{kind}/spatial{level}/{cell}``."""

    def on_get(
        self,
        req: Request,
        resp: Response,
        scope: Scope,
        kind: GeometryKind,
        level: int,
        cell: tuple[int, int, int],
    ) -> None:
        """Send a cell of the spatial index.
        ---
        summary: Annotations of a cell
        description: >-
            The annotations in one cell of one level of the spatial index, in the binary encoding of
            the format. A cell in the grid without annotations has a count of 0.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Level, Cell, Range, IfNoneMatch]
        responses:
            200: {description: The annotations., content: [application/octet-stream]}
        """
        current = self.sources.get(scope, kind)
        version = _version(current, BINARY)
        if respond_not_modified(req, resp, version):
            return
        body = current.source.cell(level, cell)
        if body is None:
            raise MissingError("There is no such cell: it lies outside the grid of its level.")
        self.layers.send(req, resp, body, version)


@falcon.before(resolve_block)
class ByIdResource(_LayerResource):
    """``.../layers/{kind}/by_id/{number}``."""

    def on_get(
        self, req: Request, resp: Response, scope: Scope, kind: GeometryKind, number: int
    ) -> None:
        """Send one annotation by its number.
        ---
        summary: One annotation
        description: >-
            One annotation in the binary encoding of the format. Its number is the hash of its id.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Number, Range, IfNoneMatch]
        responses:
            200: {description: The annotation., content: [application/octet-stream]}
        """
        current = self.sources.get(scope, kind)
        body = current.source.annotation(number)
        if body is None:
            raise _no_annotation(number)
        version = _version(current, BINARY)
        if not respond_not_modified(req, resp, version):
            self.layers.send(req, resp, body, version)


@falcon.before(resolve_block)
class OriginResource(_LayerResource):
    """``.../layers/{kind}/origin/{number}``."""

    def on_get(
        self, req: Request, resp: Response, scope: Scope, kind: GeometryKind, number: int
    ) -> None:
        """Send the file and the id of the annotation with a number.
        ---
        summary: From number to id
        description: >-
            The file and the id of the annotation that a viewer knows by this number.
        tags: [Layers]
        parameters: [Dataset, Block, Leaf, Kind, Number]
        responses:
            200: {description: File and id., content: Origin}
        """
        origin = self.sources.get(scope, kind).source.origin(number)
        if origin is None:
            raise _no_annotation(number)
        resp.media = {"file": origin[0], "id": origin[1]}
        resp.cache_control = ["no-cache"]


def _no_annotation(number: int) -> MissingError:
    return MissingError(f"There is no annotation with the number {number}.")
