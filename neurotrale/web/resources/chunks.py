"""Resources for chunks: raw voxels under the bare name, the TIFF file under its full name."""

from __future__ import annotations

from dataclasses import dataclass

from falcon import Request, Response

from neurotrale.chunks.store import Chunks, DecodedChunk, TiffChunk
from neurotrale.storage.cache import Stamp
from neurotrale.storage.compression import CODINGS
from neurotrale.storage.files import StoredDirectory, StoredFile
from neurotrale.storage.names import ChunkPath
from neurotrale.web.requests import may_encode, prefers_decoded
from neurotrale.web.resources.files import redirect_to_directory
from neurotrale.web.responses import (
    Compressor,
    ContentKind,
    ContentVersion,
    respond_not_modified,
    send_bytes,
    send_compressed,
    send_stored_file,
)

RAW = "application/octet-stream"
VARY = "Accept, Accept-Encoding"


@dataclass(frozen=True, slots=True)
class ChunkSender:
    """Sends the decoded voxels of chunks.

    Attributes:
        chunks: The chunk store.
        compressor: Compresses decoded chunks.
        cache_control: Cache-Control of decoded chunks.
    """

    chunks: Chunks
    compressor: Compressor
    cache_control: str

    def version(self, stamp: Stamp) -> ContentVersion:
        """Return the headers of a version of a decoded chunk."""
        return ContentVersion(f"{stamp.etag}-raw", stamp.date_s, RAW, VARY, self.cache_control)

    def send(self, req: Request, resp: Response, chunk: ChunkPath, stored: DecodedChunk) -> None:
        """Send the voxels of a chunk, or 304.

        They are sent in the coding that they are stored in, if the client accepts it.
        """
        try:
            if respond_not_modified(req, resp, self.version(stored.stamp)):
                return
            codings = {coding for coding in CODINGS if may_encode(req, coding)}
            voxels = self.chunks.read(chunk, stored, codings)
        finally:
            stored.close()
        version = self.version(voxels.stamp)
        if voxels.coding:
            send_compressed(req, resp, voxels.pieces, version, voxels.coding)
        else:
            kind: ContentKind = "labels" if voxels.labels else "image"
            body, coding = self.compressor.compress(req, voxels.body, kind)
            send_bytes(req, resp, body, version, coding)


class _SenderResource:
    """A resource that sends chunks.

    Args:
        sender: Finds and sends the chunks.
    """

    def __init__(self, sender: ChunkSender) -> None:
        self.sender = sender
        self.chunks = sender.chunks


class ChunkResource(_SenderResource):
    """``/{dataset}/{scale}/{chunk}``."""

    def on_get(self, req: Request, resp: Response, chunk: ChunkPath) -> None:
        """Send a chunk's raw voxels.
        ---
        summary: Raw voxels of a chunk
        description: >-
            The voxels of one box of one scale, little-endian, as Neuroglancer's Precomputed format
            requires: x fastest, then y, z, channel. A file of the exact name is sent as it is;
            else the TIFF of that name is decoded and checked against its name and `info`; else a
            `.gz` or `.br` twin is sent; else the block of a scale in blockfs, the default format
            of precomputed-tif, is decoded. 404 means that the volume has no such chunk; viewers
            draw it as empty space. A damaged chunk is a 500 that says what is wrong.
        tags: [Image chunks]
        parameters: [Dataset, Scale, Chunk, Range, IfNoneMatch]
        responses:
            200:
                description: The voxels.
                content: [application/octet-stream]
            406: NotAcceptable
        """
        found = self.chunks.find(chunk)
        if isinstance(found, StoredFile):
            if found.coding:
                self.chunks.check_twin(chunk, found)
            send_stored_file(req, resp, self.chunks.files, found)
        elif isinstance(found, StoredDirectory):
            redirect_to_directory(req, resp)
        else:
            self.sender.send(req, resp, chunk, found)


class TiffResource(_SenderResource):
    """``/{dataset}/{scale}/{chunk}.tiff``."""

    def on_get(self, req: Request, resp: Response, chunk: ChunkPath, suffix: str) -> None:
        """Send a chunk's TIFF file, or its voxels if the client prefers them.
        ---
        summary: A chunk as a TIFF file
        description: >-
            The TIFF file itself. A client whose Accept names `application/octet-stream` and not
            TIFF gets the decoded voxels, as under the bare name. `.tif` works like `.tiff`.
        tags: [Image chunks]
        parameters: [Dataset, Scale, Chunk, Range, IfNoneMatch]
        responses:
            200:
                description: The file, or the voxels.
                content: [image/tiff, application/octet-stream]
            406: NotAcceptable
        """
        parts = (*chunk.directory, chunk.stem + suffix)
        found = self.chunks.files.find(parts)
        if isinstance(found, StoredDirectory):
            redirect_to_directory(req, resp)
        elif prefers_decoded(req) and not found.coding:
            self.sender.send(req, resp, chunk, TiffChunk(found))
        else:
            resp.append_header("Vary", "Accept")
            send_stored_file(req, resp, self.chunks.files, found)
