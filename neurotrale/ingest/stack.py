"""A stack in a single file: multi-page TIFF, BigTIFF, OME-TIFF or ImageJ hyperstack."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from neurotrale.errors import BadInputError
from neurotrale.ingest.complaints import bad_dtype, listed, unreadable

Plane = NDArray[Any]

_CHOICES = {"C": "--channel", "T": "--time"}


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
        self._series = series
        self._numbers = numbers
        self._lock = Lock()
        self._stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        tiff.filehandle.set_lock(True)  # threads read through the same file handle
        facts = f"{path.name} {tiff.filehandle.size} {list(numbers)}"
        self.fingerprint = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()

    def plane(self, z: int) -> Plane:
        """Read a plane."""
        number, sides = self._numbers[z], self.shape_zyx[1:]
        try:
            if len(self._series) == 1 and self._series[0].dataoffset is not None:
                return self._stored_plane(number)
            with self._lock:  # the chain of pages is read as far as needed
                page = _page(self._series, number)
            plane: Plane = page.asarray(maxworkers=1)
        except Exception as error:
            raise BadInputError(f"{self.path}: plane {z} cannot be read ({error})") from error
        if plane.size != prod(sides):
            raise BadInputError(f"{self.path}: plane {z} has another size than the first")
        return plane.reshape(sides)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()

    def _stored_plane(self, number: int) -> Plane:
        """Read a plane of one uncompressed run, of which there may be only one page."""
        offset = self._series[0].dataoffset
        assert offset is not None
        voxels = prod(self.shape_zyx[1:])
        size = voxels * self._stored.itemsize
        handle = self.tiff.filehandle
        content = os.pread(handle.fileno(), size, offset + number * size)
        while len(content) < size:  # a single read gives two gigabytes at most
            at = offset + number * size + len(content)
            more = os.pread(handle.fileno(), size - len(content), at)
            if not more:
                raise ValueError("the file ends before it")
            content += more
        plane = np.frombuffer(content, self._stored).reshape(self.shape_zyx[1:])
        return plane.astype(self._stored.newbyteorder("="), copy=False)


def open_stack(path: Path, channel: int | None, time: int | None) -> PageStack:
    """Open a file of many pages.

    Args:
        path: The file.
        channel: Which channel to take, from 0; None where there is but one.
        time: Which time point to take, from 0; None where there is but one.

    Raises:
        BadInputError: It cannot be read, or what to take of it is not clear.
    """
    try:
        tiff = tifffile.TiffFile(path, _multifile=False)
        series = list(tiff.series)
    except Exception as error:
        raise BadInputError(listed([unreadable(path, error)])) from error
    try:
        numbers = _numbers(series, {"C": channel, "T": time})
        problems = bad_dtype(np.dtype(series[0].dtype).name)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        tiff.close()
        raise BadInputError(listed([f"{path}: {problem}" for problem in problems]))
    return PageStack(path, tiff, series, numbers)


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
    if open_ and axes[open_[0]] == "C":
        raise ValueError(f"it has {shape[open_[0]]} channels: choose one with --channel")
    return (open_[0] if open_ else None), picked


def _sides(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def _page(series: Sequence[tifffile.TiffPageSeries], number: int) -> Any:
    return series[number].pages[0] if len(series) > 1 else series[0].pages[number]
