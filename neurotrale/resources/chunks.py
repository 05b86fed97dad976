"""Chunks by URL: raw bytes under the bare name, the TIFF itself under its full name."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.chunks.store import Chunks, TiffChunk
from neurotrale.files import FoundDirectory
from neurotrale.names import ChunkPath
from neurotrale.resources.listing import redirect_to_directory
from neurotrale.resources.negotiation import is_current, may_encode, prefers_decoded
from neurotrale.resources.sending import Version, send_bytes, send_found

RAW = "application/octet-stream"
VARY = "Accept, Accept-Encoding"
# Codings that a chunk may be stored in and passed through.
CODINGS = ("zstd", "gzip")


class ChunkResource:
    """``/{dataset}/{scale}/{chunk}``.

    Args:
        chunks: Where chunks are found.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

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
            send_decoded(req, resp, self.chunks, chunk, found)
        elif isinstance(found, FoundDirectory):
            redirect_to_directory(req, resp)
        else:
            send_found(req, resp, self.chunks.files, found)


class TiffResource:
    """``/{dataset}/{scale}/{chunk}.tiff``.

    Args:
        chunks: Where chunks are found.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

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
            send_decoded(req, resp, self.chunks, chunk, TiffChunk(found))
        else:
            resp.append_header("Vary", "Accept")
            send_found(req, resp, self.chunks.files, found)


def send_decoded(
    req: Request, resp: Response, chunks: Chunks, chunk: ChunkPath, tiff: TiffChunk
) -> None:
    """Send a chunk's voxels, unless the client has this version already.

    They go out in the coding that they are stored in, where the client takes it.
    """
    base = f"{tiff.found.stamp.etag}-raw"
    mtime_s = tiff.found.stamp.mtime_ns / 1e9
    copies = [base, *(f"{base}-{coding}" for coding in CODINGS)]
    current = next((etag for etag in copies if is_current(req, etag, mtime_s)), None)
    if current is not None:
        send_bytes(req, resp, b"", Version(current, mtime_s, RAW, VARY))
        return
    codings = frozenset(coding for coding in CODINGS if may_encode(req, coding))
    voxels = chunks.read(chunk, tiff, codings)
    etag = f"{voxels.stamp.etag}-raw"
    if voxels.coding:
        etag += f"-{voxels.coding}"
        resp.set_header("Content-Encoding", voxels.coding)
    send_bytes(req, resp, voxels.body, Version(etag, voxels.stamp.mtime_ns / 1e9, RAW, VARY))
