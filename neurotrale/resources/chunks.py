"""Chunks by URL: raw bytes under the bare name, the TIFF itself under its full name."""

from __future__ import annotations

from dataclasses import dataclass

from falcon import Request, Response

from neurotrale.chunks.store import Chunks, TiffChunk
from neurotrale.codings import CODINGS
from neurotrale.files import FoundDirectory, Stamp
from neurotrale.names import ChunkPath
from neurotrale.resources.coding import Coder
from neurotrale.resources.listing import redirect_to_directory
from neurotrale.resources.negotiation import may_encode, prefers_decoded
from neurotrale.resources.sending import Version, answered_from_copy, send_bytes, send_found

RAW = "application/octet-stream"
VARY = "Accept, Accept-Encoding"


@dataclass(frozen=True, slots=True)
class Sources:
    """What the resources for chunks share.

    Attributes:
        chunks: Where chunks are found.
        coder: Compresses decoded ones.
        cache_control: How long a browser may use its copy of one.
    """

    chunks: Chunks
    coder: Coder
    cache_control: str

    def version(self, stamp: Stamp) -> Version:
        """Name a version of a decoded chunk."""
        mtime_s = stamp.mtime_ns / 1e9
        return Version(f"{stamp.etag}-raw", mtime_s, RAW, VARY, self.cache_control)


class ChunkResource:
    """``/{dataset}/{scale}/{chunk}``.

    Args:
        sources: Where chunks come from.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.chunks = sources.chunks

    def on_get(self, req: Request, resp: Response, chunk: ChunkPath) -> None:
        """Send a chunk's raw voxels.
        ---
        summary: Raw voxels of a chunk
        description: >-
            The voxels of one box of one scale, little-endian, as Neuroglancer's Precomputed format
            wants them: x fastest, then y, z, channel. A file of the exact name is sent as it is;
            else the TIFF of that name is decoded and checked against its name and `info`; else a
            `.gz` or `.br` twin is sent. 404 means that the volume has no such chunk and is drawn
            as empty; a chunk that is there but damaged is a 500 that says what is wrong.
        tags: [Image chunks]
        parameters: [Dataset, Scale, Chunk, Range, IfNoneMatch]
        responses:
            200:
                description: The voxels.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {application/octet-stream: {schema: {type: string, format: binary}}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            406: NotAcceptable
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        found = self.chunks.find(chunk)
        if isinstance(found, TiffChunk):
            send_decoded(req, resp, self.sources, chunk, found)
        elif isinstance(found, FoundDirectory):
            redirect_to_directory(req, resp)
        else:
            send_found(req, resp, self.chunks.files, found)


class TiffResource:
    """``/{dataset}/{scale}/{chunk}.tiff``.

    Args:
        sources: Where chunks come from.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.chunks = sources.chunks

    def on_get(self, req: Request, resp: Response, chunk: ChunkPath, suffix: str) -> None:
        """Send a chunk's TIFF file, or its voxels if only those are wanted.
        ---
        summary: A chunk as TIFF file
        description: >-
            The TIFF file itself. A client whose Accept names `application/octet-stream` and not
            TIFF gets the decoded voxels, as under the bare name. `.tif` works like `.tiff`.
        tags: [Image chunks]
        parameters: [Dataset, Scale, Chunk, Range, IfNoneMatch]
        responses:
            200:
                description: The file, or the voxels.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content:
                    image/tiff: {schema: {type: string, format: binary}}
                    application/octet-stream: {schema: {type: string, format: binary}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            406: NotAcceptable
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        parts = (*chunk.directory, chunk.stem + suffix)
        found = self.chunks.files.find(parts)
        if isinstance(found, FoundDirectory):
            redirect_to_directory(req, resp)
        elif prefers_decoded(req) and not found.coding:
            send_decoded(req, resp, self.sources, chunk, TiffChunk(found))
        else:
            resp.append_header("Vary", "Accept")
            send_found(req, resp, self.chunks.files, found)


def send_decoded(
    req: Request, resp: Response, sources: Sources, chunk: ChunkPath, tiff: TiffChunk
) -> None:
    """Send a chunk's voxels, unless the client has this version already.

    They go out in the coding that they are stored in, where the client takes it.
    """
    if answered_from_copy(req, resp, sources.version(tiff.found.stamp)):
        return
    codings = {coding for coding in CODINGS if may_encode(req, coding)}
    voxels = sources.chunks.read(chunk, tiff, codings)
    body, coding = voxels.body, voxels.coding
    if not coding:
        body, coding = sources.coder.code(req, body, "labels" if voxels.labels else "image")
    send_bytes(req, resp, body, sources.version(voxels.stamp), coding)
