"""Stacks with one file per plane."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import tifffile

from neurotrale.chunks.tiff_pages import (
    LocatedPage,
    Page,
    RowBlock,
    absent_segments,
    located_page,
    missing_entries,
    own_page,
    page_memory_bytes,
    page_rows,
)
from neurotrale.errors import BadInputError, SourceError
from neurotrale.storage.cache import is_settled
from neurotrale.tools.ingest.hashing import WHOLE_BYTES, FileRecord, HashedFile
from neurotrale.tools.ingest.layers import LayersError, choose_layers, page_of, side_by_side
from neurotrale.tools.ingest.plane_order import PlaneOrder
from neurotrale.tools.ingest.series import SeriesError, choose_series, is_small_page
from neurotrale.tools.ingest.slab import (
    absence_notes,
    dtype_problems,
    format_problems,
    unreadable_problem,
)


class PlaneFiles:
    """A stack with one file per plane.

    Args:
        paths: The files, in the order of the planes.
        shape_yx: Rows and columns of every plane.
        dtype: The data type of every plane, a numpy name.
        sizes: Sizes of the files in bytes.
        read_memory_bytes: The memory that reading one plane takes, roughly.
        notes: What the user should know about the planes.
        order: The order of the planes, for people.
        series: The image to take of each file, from 0; None for the first that is not reduced.
        channels: Number of channels.
        channel: The channel to take, from 0; None for all.
        located: Where the voxels of each plane are, as far as that is kept.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        shape_yx: tuple[int, int],
        dtype: str,
        sizes: Sequence[int],
        read_memory_bytes: int,
        notes: Sequence[str],
        order: str,
        series: int | None,
        channels: int,
        channel: int | None,
        located: Sequence[_LocatedFile | None],
    ) -> None:
        self._located = located
        self._series = series
        self.notes = notes
        self.order = order
        self.read_memory_bytes = read_memory_bytes
        self.paths = paths
        self.sizes = sizes
        self.shape_zyx = (len(paths), *shape_yx)
        self.dtype = dtype
        self.channels = channels
        self._channel = channel
        facts = repr([(path.name, size) for path, size in zip(paths, sizes, strict=True)])
        self.fingerprint = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()
        self._records: dict[int, FileRecord] = {}

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read the file of a plane, and hash all its bytes on the way."""
        path = self.paths[z]
        voxels = 0
        try:
            with HashedFile(path) as file:
                located = self._located[z]
                is_known = located is not None and located.state == file.state
                blocks = located.page.rows(file.stream) if located and is_known else None
                for y, rows in blocks or self._described_rows(path, file):
                    voxels += rows.size if rows.dtype.name == self.dtype else 0
                    yield y, rows
                record = file.record(z)
        except (BadInputError, GeneratorExit):
            raise
        except Exception as error:
            raise BadInputError(unreadable_problem(path, error)) from error
        if voxels != prod(self.shape_zyx[1:]) * self.channels:
            raise BadInputError(f"{path} changed while it was being ingested. Start again.")
        self._records[z] = record

    def _described_rows(self, path: Path, file: HashedFile) -> Iterator[RowBlock]:
        """Read a plane by the header of its file."""
        with tifffile.TiffFile(file.stream, name=path.name, _multifile=False) as tiff:
            image = choose_series(tiff, self._series).images[0]
            (plane,) = choose_layers([image], self._channel, None)
            pages = [page_of([image], layer) for layer in plane]
            yield from side_by_side([page_rows(page, sample) for page, sample in pages])

    def file_indices(self, z: int) -> Sequence[int]:
        """Return the index of the file that holds a plane."""
        return (z,)

    def records(self) -> dict[int, FileRecord]:
        """Return a record of each file that was read, by its index."""
        return dict(self._records)

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Do nothing: reading a plane hashes all of its file."""

    def close(self) -> None:
        """Do nothing: files are open only while they are being read."""


@dataclass(frozen=True, slots=True)
class _LocatedFile:
    """Where the voxels of a plane are in a file of a size and time."""

    page: LocatedPage
    state: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _PlaneHeader:
    shape_yx: tuple[int, int]
    dtype: str
    size: int
    read_memory_bytes: int
    absent: int
    nodata: float
    channels: int
    notes: list[str]
    located: _LocatedFile | None


def open_planes(
    order: PlaneOrder, threads: int, series: int | None = None, channel: int | None = None
) -> PlaneFiles:
    """Check the header of every file of a stack.

    Args:
        order: The files in the order of the planes.
        threads: Number of files to examine at once.
        series: The image to take of each file, from 0; None for the first that is not reduced.
        channel: The channel to take, from 0; None for all.

    Raises:
        BadInputError: Planes are missing, differ in size or type, or are not a TIFF of one plane;
            the message names all of them.
    """
    paths = order.paths
    with ThreadPoolExecutor(threads) as pool:
        read = partial(_read_header, series=series, channel=channel, keyframes={})
        results = list(pool.map(read, paths))
    headers = [result for result in results if isinstance(result, _PlaneHeader)]
    problems = [result for result in results if isinstance(result, str)]
    problems += order.problems
    if not headers:
        raise SourceError(format_problems(problems))
    shape = Counter(header.shape_yx for header in headers).most_common(1)[0][0]
    dtype = Counter(header.dtype for header in headers).most_common(1)[0][0]
    channels = Counter(header.channels for header in headers).most_common(1)[0][0]
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, _PlaneHeader):
            problems += _differences(path, result, shape, dtype, channels)
    problems += dtype_problems(dtype)
    if problems:
        raise SourceError(format_problems(problems))
    memory_bytes = max(header.read_memory_bytes for header in headers)
    sizes = [header.size for header in headers]
    notes = absence_notes((header.absent, header.nodata) for header in headers)
    for note, count in Counter(note for header in headers for note in header.notes).items():
        notes.append(f"{note} (in {count} file{'' if count == 1 else 's'})")
    located = [header.located for header in headers]
    return PlaneFiles(
        paths, shape, dtype, sizes, memory_bytes, notes, order.text, series, channels, channel,
        located,
    )  # fmt: skip


def _read_header(
    path: Path,
    series: int | None,
    channel: int | None,
    keyframes: dict[object, tifffile.TiffPage],
) -> _PlaneHeader | str:
    """Read the header of a plane, or return the problem with it.

    Args:
        path: The file.
        series: The image to take of the file, from 0; None for the first that is not reduced.
        channel: The channel to take, from 0; None for all.
        keyframes: One page of each form that was found, for all files.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            chosen = choose_series(tiff, series)
            image = chosen.images[0]
            shape, axes, dtype = image.shape, image.axes, image.dtype
            pages, size = _count_planes(tiff, image), tiff.filehandle.size
            first = image.keyframe
            memory_bytes = page_memory_bytes(first) + (size if size <= WHOLE_BYTES else 0)
            planes = choose_layers([image], channel, None)
            pages_by_id = {id(page): page for page, _ in (page_of([image], at) for at in planes[0])}
            own = [own_page(page) for page in pages_by_id.values()]
            missing, absent = sum(map(missing_entries, own)), sum(map(absent_segments, own))
            located = (
                _located(tiff, own[0], keyframes)
                if first.shaped[0] == first.shaped[-1] == len(planes[0]) == 1
                else None
            )
            ends = [
                offset + count
                for page in own
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    except (SeriesError, LayersError) as error:
        return f"{path}: {error}"
    except Exception as error:  # noqa: BLE001 - see PlaneFiles.read_plane
        return unreadable_problem(path, error)
    channels = len(planes[0])
    if dtype is None or len(planes) > 1:
        text = "x".join(map(str, shape))
        return f"{path}: expected one plane, found {text} (axes {axes})"
    if pages > max(1, len({id(page) for page in own})) and channel is None:
        return f"{path}: expected one plane, found {pages} pages"
    if missing:
        return f"{path}: {missing} of its strips or tiles are not listed: it is damaged"
    if max(ends, default=0) > size:
        return f"{path}: {size} bytes long, but its header promises {max(ends)}"
    sides = shape[axes.index("Y")], shape[axes.index("X")]
    return _PlaneHeader(
        sides,
        np.dtype(dtype).name,
        size,
        memory_bytes * (1 if channels == 1 else channels + 1),
        absent,
        first.nodata,
        channels,
        chosen.notes,
        located,
    )


def _located(
    tiff: tifffile.TiffFile, page: Page, keyframes: dict[object, tifffile.TiffPage]
) -> _LocatedFile | None:
    """Keep where the voxels of a plane are, unless its file may change without a trace."""
    status = os.fstat(tiff.filehandle.fileno())
    if not isinstance(page, tifffile.TiffPage) or page.samplesperpixel > 1:
        return None
    if not is_settled(status.st_mtime_ns):
        return None
    form = page.hash, repr(page.nodata), page.is_contiguous
    located = located_page(page, keyframes.setdefault(form, page))
    if located is None:
        return None
    return _LocatedFile(located, (status.st_size, status.st_mtime_ns))


def _count_planes(tiff: tifffile.TiffFile, image: tifffile.TiffPageSeries) -> int:
    """Count the pages of a file that are planes like the one that is read, described or not."""
    if len(tiff.pages) == 1:
        return 1
    pages = [page.keyframe for page in tiff.pages if page.keyframe is not None]
    alike = [page for page in pages if page.shape == image.keyframe.shape]
    return sum(not is_small_page(page) for page in alike)


def _differences(
    path: Path, header: _PlaneHeader, shape: tuple[int, int], dtype: str, channels: int
) -> list[str]:
    problems = []
    if header.shape_yx != shape:
        size, most = ("{1} x {0}".format(*sides) for sides in (header.shape_yx, shape))
        problems.append(f"{path}: {size} pixels, but most planes have {most}")
    if header.dtype != dtype:
        problems.append(f"{path}: {header.dtype}, but most planes are {dtype}")
    if header.channels != channels:
        problems.append(f"{path}: {header.channels} channels, but most planes have {channels}")
    return problems
