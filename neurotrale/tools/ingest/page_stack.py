"""A stack in a single file: multi-page TIFF, BigTIFF, OME-TIFF or ImageJ hyperstack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path

import numpy as np
import tifffile

from neurotrale.chunks.tiff_pages import (
    RowBlock,
    absent_segments,
    is_stored,
    missing_entries,
    own_page,
    page_memory_bytes,
    page_rows,
)
from neurotrale.errors import BadInputError, SourceError
from neurotrale.tools.ingest.hashing import FileRecord, PartHashes, file_name
from neurotrale.tools.ingest.layers import Layer, choose_layers, page_of, side_by_side
from neurotrale.tools.ingest.series import (
    SeriesError,
    check_pages,
    choose_series,
    end_of,
    samples_of,
)
from neurotrale.tools.ingest.slab import (
    absence_notes,
    dtype_problems,
    format_problems,
    unreadable_problem,
)

# Contiguous planes are read in blocks of rows of this size.
STORED_BYTES = 16 * 2**20


class PageStack:
    """The planes of one time point of a file, with one or several channels.

    Args:
        path: The file.
        tiff: The open file; `close` closes it.
        series: The image, or one series for each plane.
        planes: The layers of each plane, in order.
        notes: What the user should know about the choice of planes.
    """

    def __init__(
        self,
        path: Path,
        tiff: tifffile.TiffFile,
        series: Sequence[tifffile.TiffPageSeries],
        planes: Sequence[Sequence[Layer]],
        notes: Sequence[str],
    ) -> None:
        first = series[0]
        self.path = path
        self.order = ""
        self.paths = (path,)
        self.sizes = (tiff.filehandle.size,)
        self.tiff = tiff
        self.shape_zyx = (len(planes), *_sides(first))
        self.dtype = np.dtype(first.dtype).name
        self.channels = len(planes[0])
        tiff.filehandle.set_lock(True)  # threads read through the same file handle
        self._stored_at = _stored_at(tiff, series)
        self.read_memory_bytes = (
            page_memory_bytes(first.keyframe) if self._stored_at is None else 3 * STORED_BYTES
        )
        if self.channels > 1:  # all are read, and joined
            plane_bytes = prod(self.shape_zyx[1:]) * np.dtype(first.dtype).itemsize
            at_once = min(self.read_memory_bytes, 3 * plane_bytes * first.keyframe.shaped[-1])
            self.read_memory_bytes = (self.channels + 1) * at_once
        self._series = series
        self._planes = planes
        self.notes: Sequence[str] = [*notes, *absence_notes(self._absent())]
        self._stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        self._hashes = PartHashes(tiff.filehandle.fileno(), file_name(path))
        facts = f"{path.name} {tiff.filehandle.size} {_layers_text(planes)}"
        self.fingerprint = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read a plane, after hashing the parts of the file that it is in."""
        at = self._stored_at
        voxels = 0
        try:
            layers = [
                self._page_rows(layer) if at is None else self._stored_rows(layer, at)
                for layer in self._planes[z]
            ]
            for y, rows in side_by_side(layers):
                voxels += rows.size
                yield y, rows
        except (BadInputError, GeneratorExit):
            raise
        except Exception as error:
            raise BadInputError(f"{self.path}: plane {z} cannot be read ({error})") from error
        if voxels != prod(self.shape_zyx[1:]) * self.channels:
            raise BadInputError(f"{self.path}: plane {z} and the first plane differ in size")

    def _absent(self) -> Iterator[tuple[int, float]]:
        """Count the segments of each plane that have no data.

        Raises:
            ValueError: A page does not list all its segments.
        """
        layers = [layer for plane in self._planes for layer in plane if not layer[1]]
        for layer in layers if self._stored_at is None else ():
            page = own_page(page_of(self._series, layer)[0])
            if missing_entries(page):
                raise ValueError(f"page {page.index} does not list all its strips or tiles")
            keyframe = page.keyframe
            yield absent_segments(page), keyframe.nodata if keyframe else 0

    def _page_rows(self, layer: Layer) -> Iterator[RowBlock]:
        with self.tiff.filehandle.lock:  # this may read more of the chain of pages
            page, sample = page_of(self._series, layer)
            page = own_page(page)
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            self._hashes.cover(start, start + count)
        yield from page_rows(page, sample)

    def _stored_rows(self, layer: Layer, offset: int) -> Iterator[RowBlock]:
        """Read a layer of a contiguous, uncompressed stack, which may have a single page."""
        number, sample = layer
        _, rows, columns = self.shape_zyx
        samples = self._series[0].keyframe.shaped[-1]
        row_bytes = columns * samples * self._stored.itemsize
        step = max(1, STORED_BYTES // row_bytes)
        first = offset + number * rows * row_bytes
        self._hashes.cover(first, first + rows * row_bytes)
        for y in range(0, rows, step):
            size = min(step, rows - y) * row_bytes
            content = os.pread(self.tiff.filehandle.fileno(), size, first + y * row_bytes)
            if len(content) < size:
                raise ValueError("the file ends before the end of the plane")
            voxels = np.frombuffer(content, self._stored).reshape(-1, columns, samples)[..., sample]
            yield y, voxels.astype(self._stored.newbyteorder("="), copy=False)

    def file_indices(self, z: int) -> Sequence[int]:
        """Return 0, the index of the only file."""
        return (0,)

    def records(self) -> dict[int, FileRecord]:
        """Return a record of the file with the parts that were hashed.

        Raises:
            BadInputError: The file changed after it was opened.
        """
        return {0: self._hashes.record()}

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Hash one shard's share of the bytes between planes."""
        share = self._hashes.share(shard, shards)
        self._hashes.hash_parts(part for part in share if part not in known)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()


def holds_stack(path: Path, series_number: int | None) -> bool:
    """Return whether a file holds several planes along z or time, and not just one."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            images = choose_series(tiff, series_number).images
            return len(choose_layers(images, None, None)) > 1
    # Its problems are reported when it is opened.
    except Exception:  # noqa: BLE001
        return False


def open_stack(
    path: Path, channel: int | None, time: int | None, series_number: int | None = None
) -> PageStack:
    """Open a multi-page file.

    Args:
        path: The file.
        channel: The channel to take, from 0; None for all.
        time: The time point to take, from 0; None if there is only one.
        series_number: The image to take, from 0; None for the first that is not reduced.

    Raises:
        BadInputError: The file cannot be read, or which of its planes to take is ambiguous.
    """
    with ExitStack() as stack:
        try:
            tiff = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
            chosen = choose_series(tiff, series_number)
        except SeriesError as error:
            raise SourceError(format_problems([f"{path}: {error}"])) from error
        except Exception as error:
            raise SourceError(format_problems([unreadable_problem(path, error)])) from error
        try:
            series = chosen.images
            notes = chosen.notes + check_pages(tiff, series)
            planes = choose_layers(series, channel, time)
            if len(series) == 1:
                _check_pages(series[0])
            problems = dtype_problems(np.dtype(series[0].dtype).name)
            source = None if problems else PageStack(path, tiff, series, planes, notes)
        except ValueError as error:
            source, problems = None, [str(error)]
        if source is None:
            raise SourceError(format_problems([f"{path}: {problem}" for problem in problems]))
        stack.pop_all()
        return source


def _check_pages(series: tifffile.TiffPageSeries) -> None:
    planes = series.size // (prod(_sides(series)) * series.keyframe.shaped[-1])
    pages = len(series.pages) * samples_of(series)
    # ImageJ leaves out pages that it does not count, and so do we.
    if series.dataoffset is None and (
        pages < planes or (pages > planes and series.kind != "imagej")
    ):
        raise ValueError(
            f"it has {len(series.pages)} compressed pages for {planes} planes; rewrite it with one"
            " page per plane"
        )
    if series.dataoffset is None and any(page is None for page in series.pages):
        raise ValueError("some of its planes are in other files; use a pattern that matches them")


def _layers_text(planes: Sequence[Sequence[Layer]]) -> str:
    """Identify the planes; those of one channel as versions did that knew no others."""
    if all(len(plane) == 1 and plane[0][1] == 0 for plane in planes):
        return str([number for ((number, _),) in planes])
    return str([list(plane) for plane in planes])


def _sides(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def _stored_at(tiff: tifffile.TiffFile, series: Sequence[tifffile.TiffPageSeries]) -> int | None:
    """Return the offset of the voxels, if those of all planes follow each other uncompressed."""
    offset, end = series[0].dataoffset, end_of(series[0])
    if len(series) > 1 or not offset:
        return None
    # Some writers describe all planes in the header of the first.
    one_header = len(tiff.pages) == 1 or series[0].is_truncated
    if one_header or (series[0].kind == "imagej" and tiff.pages[1].offset >= end):
        return offset
    pages = [page for page in series[0].pages if page is not None]
    return offset if all(is_stored(page) and own_page(page) is page for page in pages) else None
