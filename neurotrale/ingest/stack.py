"""A stack in a single file: multi-page TIFF, BigTIFF, OME-TIFF or ImageJ hyperstack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile

from neurotrale.errors import BadInputError
from neurotrale.ingest.complaints import bad_dtype, listed, unreadable
from neurotrale.ingest.pieces import Piece, piece_bytes, pieces_of

_CHOICES = {"C": "--channel", "T": "--time"}
# Writers that know of no z call it a channel; so many colours there are not.
_MOST_COLOURS = 4
# Rows of planes that lie in one run are read in pieces of this size.
STORED_BYTES = 16 * 2**20


class PageStack:
    """The planes of one channel and time point of a file.

    Args:
        path: The file.
        tiff: It, open; stays open as long as this does.
        series: The image in it.
        numbers: Of the planes in order, counted through all axes of the series but y and x.
    """

    def __init__(
        self,
        path: Path,
        tiff: tifffile.TiffFile,
        series: Sequence[tifffile.TiffPageSeries],
        numbers: Sequence[int],
    ) -> None:
        first = series[0]
        self.path = path
        self.tiff = tiff
        self.shape_zyx = (len(numbers), *_sides(first))
        self.dtype = np.dtype(first.dtype).name
        stored = len(series) == 1 and first.dataoffset is not None
        self.piece_bytes = 3 * STORED_BYTES if stored else piece_bytes(first.keyframe)
        self._series = series
        self._numbers = numbers
        self._lock = Lock()
        self._stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        tiff.filehandle.set_lock(True)  # threads read through the same file handle
        facts = f"{path.name} {tiff.filehandle.size} {list(numbers)}"
        self.fingerprint = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()

    def pieces(self, z: int) -> Iterator[Piece]:
        """Read a plane."""
        number = self._numbers[z]
        stored = len(self._series) == 1 and self._series[0].dataoffset is not None
        voxels = 0
        try:
            for y, rows in self._stored_pieces(number) if stored else self._page_pieces(number):
                voxels += rows.size
                yield y, rows
        except (BadInputError, GeneratorExit):
            raise
        except Exception as error:
            raise BadInputError(f"{self.path}: plane {z} cannot be read ({error})") from error
        if voxels != prod(self.shape_zyx[1:]):
            raise BadInputError(f"{self.path}: plane {z} has another size than the first")

    def _page_pieces(self, number: int) -> Iterator[Piece]:
        with self._lock:  # the chain of pages is read as far as needed
            page = _page(self._series, number)
        yield from pieces_of(page)

    def _stored_pieces(self, number: int) -> Iterator[Piece]:
        """Read a plane of one uncompressed run, of which there may be only one page."""
        offset = self._series[0].dataoffset
        assert offset is not None
        _, rows, columns = self.shape_zyx
        row_bytes = columns * self._stored.itemsize
        step = max(1, STORED_BYTES // row_bytes)
        first = offset + number * rows * row_bytes
        for y in range(0, rows, step):
            size = min(step, rows - y) * row_bytes
            content = os.pread(self.tiff.filehandle.fileno(), size, first + y * row_bytes)
            if len(content) < size:
                raise ValueError("the file ends before it")
            voxels = np.frombuffer(content, self._stored).reshape(-1, columns)
            yield y, voxels.astype(self._stored.newbyteorder("="), copy=False)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()


def open_stack(path: Path, channel: int | None, time: int | None) -> PageStack:
    """Open a file of many pages.

    Args:
        path: The file.
        channel: Which channel to take, from 0; None where there is but one.
        time: Which time point to take, from 0; None where there is but one.

    Raises:
        BadInputError: It cannot be read, or what to take of it is not clear.
    """
    with ExitStack() as stack:
        try:
            tiff = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
            series = list(tiff.series)
        except Exception as error:
            raise BadInputError(listed([unreadable(path, error)])) from error
        try:
            _check_end(tiff, series)
            numbers = _numbers(series, {"C": channel, "T": time})
            problems = bad_dtype(np.dtype(series[0].dtype).name)
        except ValueError as error:
            problems = [str(error)]
        if problems:
            raise BadInputError(listed([f"{path}: {problem}" for problem in problems]))
        stack.pop_all()
        return PageStack(path, tiff, series, numbers)


def _check_end(tiff: tifffile.TiffFile, series: Sequence[tifffile.TiffPageSeries]) -> None:
    """Refuse files that were cut off: what is lost, tifffile leaves out silently."""
    handle = tiff.filehandle
    len(tiff.pages)  # follows the chain of pages to its end
    handle.seek(tiff.pages.next_page_offset or 0)
    link = handle.read(tiff.tiff.offsetsize)
    whole = len(link) == tiff.tiff.offsetsize and not any(link)
    if not whole or any(_end(one) > handle.size for one in series):
        raise ValueError("it was not written to its end")


def _end(series: tifffile.TiffPageSeries) -> int:
    """Give where the file must end at least for all voxels to be in it."""
    if series.dataoffset is not None:
        return series.dataoffset + series.nbytes
    return max(
        (
            offset + count
            for page in series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ),
        default=0,
    )


def _numbers(series: Sequence[tifffile.TiffPageSeries], chosen: dict[str, int | None]) -> list[int]:
    first = series[0]
    if first.dtype is None or not {"Y", "X"} <= set(first.axes):
        raise ValueError("no image of rows and columns is in it")
    if len(series) > 1:
        return _alike(series)
    shape = [n for n, axis in zip(first.shape, first.axes, strict=True) if axis not in "YX"]
    axes = first.axes.replace("Y", "").replace("X", "")
    if not first.axes.endswith("YX"):
        raise ValueError(
            f"its axes are {first.axes}; expected planes of grey values, each of one page. Split"
            " colours into channels first"
        )
    _check_pages(first, prod(shape))
    depth, picked = _depth_axis(shape, axes, chosen)
    grid = np.arange(prod(shape)).reshape(shape)
    index = tuple(slice(None) if i == depth else picked.get(i, 0) for i in range(len(shape)))
    return [int(number) for number in np.atleast_1d(grid[index])]


def _alike(series: Sequence[tifffile.TiffPageSeries]) -> list[int]:
    """Take pages that do not say that they belong together for planes, if they are alike."""
    kinds = {(one.shape, one.dtype) for one in series}
    if len(kinds) > 1 or len(series[0].shape) != 2:
        found = ", ".join(sorted({f"{one.shape} {one.dtype}" for one in series}))
        raise ValueError(f"it holds {len(series)} images ({found}); expected one stack of planes")
    return list(range(len(series)))


def _check_pages(series: tifffile.TiffPageSeries, planes: int) -> None:
    if series.dataoffset is None and len(series.pages) != planes:
        raise ValueError(
            f"it has {len(series.pages)} compressed pages for {planes} planes; write it again with"
            " one page a plane"
        )
    if series.dataoffset is None and any(page is None for page in series.pages):
        raise ValueError("some of its planes are in other files; give those with a pattern")


def _depth_axis(
    shape: Sequence[int], axes: str, chosen: dict[str, int | None]
) -> tuple[int | None, dict[int, int]]:
    """Tell which axis is z, and the index along each of the others."""
    picked = {}
    for letter, option in _CHOICES.items():
        wanted, n = chosen[letter], 1
        if letter in axes:
            n = shape[axes.index(letter)]
        if wanted is not None:
            if wanted >= n:
                raise ValueError(f"{option} {wanted} is not there; it has 0 to {n - 1}")
            if letter in axes:
                picked[axes.index(letter)] = wanted
    open_ = [i for i, n in enumerate(shape) if n > 1 and i not in picked]
    if len(open_) > 1:
        others = [i for i in open_ if axes[i] in _CHOICES]
        text = ", ".join(f"{shape[i]} along {axes[i]}" for i in open_)
        advice = " and ".join(_CHOICES[axes[i]] for i in others) or "a file with one stack"
        raise ValueError(f"it has planes along several axes ({text}): choose with {advice}")
    if open_ and axes[open_[0]] == "C" and shape[open_[0]] <= _MOST_COLOURS:
        raise ValueError(f"it has {shape[open_[0]]} channels: choose one with --channel")
    return (open_[0] if open_ else None), picked


def _sides(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def _page(series: Sequence[tifffile.TiffPageSeries], number: int) -> Any:
    return series[number].pages[0] if len(series) > 1 else series[0].pages[number]
