"""Stacks of which every plane is a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from neurotrale.errors import BadInputError
from neurotrale.ingest.complaints import bad_dtype, listed, unreadable
from neurotrale.ingest.numbering import doubled_names, missing_names
from neurotrale.ingest.pieces import Piece, piece_bytes, pieces_of


class PlaneFiles:
    """A stack of which every plane is a file.

    Args:
        paths: In the order of the planes.
        shape_yx: Of every plane.
        dtype: Of every plane.
        sizes: Of the files, in bytes.
        piece_bytes: The memory that reading a plane takes, roughly.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        shape_yx: tuple[int, int],
        dtype: str,
        sizes: Sequence[int],
        piece_bytes: int,
    ) -> None:
        self.piece_bytes = piece_bytes
        self.paths = paths
        self.shape_zyx = (len(paths), *shape_yx)
        self.dtype = dtype
        facts = repr([(path.name, size) for path, size in zip(paths, sizes, strict=True)])
        self.fingerprint = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()

    def pieces(self, z: int) -> Iterator[Piece]:
        """Read the file of a plane."""
        path = self.paths[z]
        voxels = 0
        try:
            with tifffile.TiffFile(path, _multifile=False) as tiff:
                kind = np.dtype(tiff.series[0].dtype)
                for y, rows in pieces_of(tiff.series[0].keyframe):
                    voxels += rows.size
                    yield y, rows
        except (BadInputError, GeneratorExit):
            raise
        except Exception as error:
            raise BadInputError(unreadable(path, error)) from error
        if voxels != self.shape_zyx[1] * self.shape_zyx[2] or kind.name != self.dtype:
            raise BadInputError(f"{path} has changed while it was worked on. Start again.")

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""


@dataclass(frozen=True, slots=True)
class _Facts:
    shape_yx: tuple[int, int]
    dtype: str
    size: int
    piece_bytes: int


def open_planes(paths: Sequence[Path], threads: int) -> PlaneFiles:
    """Look into every file of a stack.

    Args:
        paths: In natural order.
        threads: How many files to look into at once.

    Raises:
        BadInputError: Some are missing, odd-sized, of another type, or no TIFF of one plane; the
            message names all of them.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(_look, paths))
    plain = [facts for facts in found if isinstance(facts, _Facts)]
    problems = [facts for facts in found if isinstance(facts, str)]
    problems += [f"{name}: missing" for name in missing_names(paths)]
    problems += doubled_names(paths)
    if not plain:
        raise BadInputError(listed(problems))
    shape = Counter(facts.shape_yx for facts in plain).most_common(1)[0][0]
    dtype = Counter(facts.dtype for facts in plain).most_common(1)[0][0]
    for path, facts in zip(paths, found, strict=True):
        if isinstance(facts, _Facts):
            problems += _differences(path, facts, shape, dtype)
    problems += bad_dtype(dtype)
    if problems:
        raise BadInputError(listed(problems))
    most = max(facts.piece_bytes for facts in plain)
    return PlaneFiles(paths, shape, dtype, [facts.size for facts in plain], most)


def _look(path: Path) -> _Facts | str:
    """Read the header of a plane; give what is wrong with it as text."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            series = tiff.series[0]
            shape, axes, dtype = series.shape, series.axes, series.dtype
            pages, size = len(tiff.pages), tiff.filehandle.size
            first = series.keyframe
            piece = piece_bytes(first)
            ends = [sum(both) for both in zip(first.dataoffsets, first.databytecounts, strict=True)]
    except Exception as error:  # noqa: BLE001 - see PlaneFiles.plane
        return unreadable(path, error)
    others = [n for n, axis in zip(shape, axes, strict=True) if axis not in "YX" and n != 1]
    if dtype is None or others or not {"Y", "X"} <= set(axes):
        text = "x".join(map(str, shape))
        return f"{path}: expected one plane of grey values, found {text} (axes {axes})"
    if pages > 1:
        return f"{path}: expected one plane, found {pages} pages"
    if max(ends, default=0) > size:
        return f"{path}: {size} bytes long, where its header promises {max(ends)}"
    sides = shape[axes.index("Y")], shape[axes.index("X")]
    return _Facts(sides, np.dtype(dtype).name, size, piece)


def _differences(path: Path, found: _Facts, shape: tuple[int, int], dtype: str) -> list[str]:
    problems = []
    if found.shape_yx != shape:
        size, most = ("{1} x {0}".format(*sides) for sides in (found.shape_yx, shape))
        problems.append(f"{path}: {size} pixels, where most planes have {most}")
    if found.dtype != dtype:
        problems.append(f"{path}: {found.dtype}, where most planes are {dtype}")
    return problems
