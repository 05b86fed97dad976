"""A TIFF writer that lays segments out in every way that the format allows."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from tests.datasets import Voxels

Segment = tuple[int, int]
"""Index of a page, and of a segment in it."""


Encoder = Callable[[Voxels], bytes | bytearray]


def _of_bytes(encode: Callable[..., bytes | bytearray]) -> Encoder:
    return lambda voxels: encode(voxels.tobytes())


# Value of the tag Compression, and the encoder: of bytes, or of an image in native byte order.
OF_BYTES: dict[str, tuple[int, Encoder]] = {
    "none": (1, lambda voxels: voxels.tobytes()),
    "lzw": (5, _of_bytes(imagecodecs.lzw_encode)),
    "deflate": (8, _of_bytes(imagecodecs.zlib_encode)),
    "old-deflate": (32946, _of_bytes(imagecodecs.zlib_encode)),
    "packbits": (32773, lambda voxels: imagecodecs.packbits_encode(voxels)),
    "lzma": (34925, _of_bytes(imagecodecs.lzma_encode)),
    "zstd": (50000, _of_bytes(imagecodecs.zstd_encode)),
}
OF_IMAGES: dict[str, tuple[int, Encoder]] = {
    "jpeg2000": (34712, lambda voxels: imagecodecs.jpeg2k_encode(voxels, level=0)),
    "png": (34933, lambda voxels: imagecodecs.png_encode(voxels)),
    "jpegxl": (50002, lambda voxels: imagecodecs.jpegxl_encode(voxels, lossless=True)),
}
CODECS = {**OF_BYTES, **OF_IMAGES}


@dataclass(frozen=True)
class Form:
    """How a file is laid out.

    Attributes:
        segment: Rows and columns of a tile; rows and 0 for strips.
        codec: A key of `CODECS`.
        predictor: Whether differences are stored.
        big_endian: The byte order.
        bigtiff: Whether offsets have 64 bits.
        reversed_bits: Whether the bits of each byte are in the other order.
        planar: Whether the samples of a pixel are in planes of their own.
        nodata: Value of GDAL_NODATA, if there is such a tag.
        shuffled: Whether the segments are in any order, else as they are listed.
        gaps: Whether there are bytes between the segments that belong to none.
        shared: Whether segments of equal bytes are stored once.
        headers_last: Whether all headers follow all voxels, else each follows its page's.
    """

    segment: tuple[int, int] = (8, 0)
    codec: str = "none"
    predictor: bool = False
    big_endian: bool = False
    bigtiff: bool = False
    reversed_bits: bool = False
    planar: bool = False
    nodata: int | None = None
    shuffled: bool = False
    gaps: bool = False
    shared: bool = False
    headers_last: bool = True


def segments_of(shape: tuple[int, int, int], form: Form) -> list[tuple[int, slice, slice]]:
    """List the segments of a page of ``[sample, y, x]``: plane, rows and columns of each."""
    samples, rows, columns = shape
    height, width = form.segment[0], form.segment[1] or columns
    return [
        (plane, slice(y, min(y + height, rows)), slice(x, min(x + width, columns)))
        for plane, y, x in product(
            range(samples if form.planar else 1), range(0, rows, height), range(0, columns, width)
        )
    ]


def write_tiff(
    path: Path, pages: Sequence[Voxels], form: Form, absent: set[Segment], seed: int = 0
) -> list[Voxels]:
    """Write pages.

    Args:
        path: The file.
        pages: ``[sample, y, x]`` each, all of one shape and type.
        form: How they are stored.
        absent: The segments that are left out.
        seed: Of what the form leaves to chance.

    Returns:
        The voxels that a reader must find.
    """
    rng = random.Random(seed)
    writer = _Writer(form, rng)
    truth = [page.copy() for page in pages]
    spans: dict[Segment, tuple[int, int]] = dict.fromkeys(absent, (0, 0))
    encoded: dict[Segment, bytes] = {}
    for number, page in enumerate(pages):
        for index, (plane, rows, columns) in enumerate(segments_of(page.shape, form)):
            samples = slice(plane, plane + 1) if form.planar else slice(None)
            if (number, index) in absent:
                truth[number][samples, rows, columns] = form.nodata or 0
            else:
                part = np.moveaxis(page[samples, rows, columns], 0, -1)
                encoded[number, index] = _encode(_padded(part, form), form)
    if form.headers_last:
        spans |= writer.put_all(encoded)
    for number, page in enumerate(pages):
        own = {key: data for key, data in encoded.items() if key[0] == number}
        spans |= {} if form.headers_last else writer.put_all(own)
        listed = [spans[number, index] for index in range(len(segments_of(page.shape, form)))]
        writer.put_header(page, listed)
    path.write_bytes(writer.content)
    return truth


class _Writer:
    def __init__(self, form: Form, rng: random.Random) -> None:
        self._form, self._rng = form, rng
        self._order = ">" if form.big_endian else "<"
        self._word = "Q" if form.bigtiff else "I"
        magic = self._pack("HHHQ", 43, 8, 0, 0) if form.bigtiff else self._pack("HI", 42, 0)
        self.content = bytearray((b"MM" if form.big_endian else b"II") + magic)
        self._link = 8 if form.bigtiff else 4
        self._known: dict[bytes, tuple[int, int]] = {}

    def put_all(self, encoded: dict[Segment, bytes]) -> dict[Segment, tuple[int, int]]:
        keys = list(encoded)
        if self._form.shuffled:
            self._rng.shuffle(keys)
        spans = {}
        for key in keys:
            data = encoded[key]
            if self._form.gaps:
                self.content += self._rng.randbytes(self._rng.choice([0, 1, 7, 5000]))
            if not self._form.shared or data not in self._known:
                self._known[data] = len(self.content), len(data)
                self.content += data
            spans[key] = self._known[data]
        return spans

    def put_header(self, page: Voxels, spans: list[tuple[int, int]]) -> None:
        form = self._form
        samples, rows, columns = page.shape
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        tags: dict[int, tuple[str, list[int] | bytes]] = {
            256: ("I", [columns]),
            257: ("I", [rows]),
            258: ("H", [8 * page.dtype.itemsize] * samples),
            259: ("H", [CODECS[form.codec][0]]),
            262: ("H", [1]),
            266: ("H", [2 if form.reversed_bits else 1]),
            277: ("H", [samples]),
            284: ("H", [2 if form.planar else 1]),
            317: ("H", [2 if form.predictor else 1]),
            339: ("H", [kind] * samples),
        }
        if samples > 1:
            tags[338] = ("H", [0] * (samples - 1))
        if form.segment[1]:
            tags |= {322: ("I", [form.segment[1]]), 323: ("I", [form.segment[0]])}
        else:
            tags[278] = ("I", [form.segment[0]])
        offsets, counts = (324, 325) if form.segment[1] else (273, 279)
        tags[offsets] = (self._word, [offset for offset, _ in spans])
        tags[counts] = (self._word, [count for _, count in spans])
        if form.nodata is not None:
            tags[42113] = ("s", f"{form.nodata}\0".encode())
        entries = [self._entry(tag, *value) for tag, value in sorted(tags.items())]
        self.content += bytes(len(self.content) % 2)
        at = len(self.content)
        struct.pack_into(self._order + self._word, self.content, self._link, at)
        self.content += self._pack("Q" if form.bigtiff else "H", len(entries)) + b"".join(entries)
        self._link = len(self.content)
        self.content += self._pack(self._word, 0)

    def _entry(self, tag: int, kind: str, values: list[int] | bytes) -> bytes:
        packed = values if isinstance(values, bytes) else self._pack(kind * len(values), *values)
        code = {"s": 2, "H": 3, "I": 4, "Q": 16}[kind]
        room = 8 if self._form.bigtiff else 4
        if len(packed) > room:
            at = len(self.content)
            self.content += packed + bytes(len(packed) % 2)
            packed = self._pack(self._word, at)
        return self._pack("HH" + self._word, tag, code, len(values)) + packed.ljust(room, b"\0")

    def _pack(self, kinds: str, *values: Any) -> bytes:
        return struct.pack(self._order + kinds, *values)


def _padded(part: Voxels, form: Form) -> Voxels:
    """Fill a tile at an edge of the page; the last strip is shorter instead."""
    if not form.segment[1]:
        return np.ascontiguousarray(part)
    more = [(0, n - m) for n, m in zip(form.segment, part.shape[:2], strict=True)]
    return np.pad(part, [*more, (0, 0)], constant_values=1)


def _encode(part: Voxels, form: Form) -> bytes:
    if form.codec in OF_IMAGES:
        image = np.ascontiguousarray(part[..., 0] if part.shape[-1] == 1 else part)
        return bytes(OF_IMAGES[form.codec][1](image))
    if form.predictor:
        part = imagecodecs.delta_encode(np.ascontiguousarray(part), axis=-2)
    stored = part.astype(part.dtype.newbyteorder(">" if form.big_endian else "<"))
    data = bytes(OF_BYTES[form.codec][1](stored))
    return bytes(imagecodecs.bitorder_encode(data)) if form.reversed_bits else data
