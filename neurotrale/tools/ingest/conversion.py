"""Conversion of voxels to a data type that datasets can have."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.tiff_pages import RowBlock
from neurotrale.errors import BadInputError, SourceError
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.plane_source import PlaneSource, slab_reads
from neurotrale.tools.ingest.pyramid import SlabBlock
from neurotrale.tools.ingest.slab import DTYPES, format_problems
from neurotrale.tools.parallel import parallel_for_each

Voxels = NDArray[Any]

_UNTOLD = {"float16": "float32", "int64": "uint64", "bool": "uint8"}
# Files of more bytes are not read twice.
MOST_BYTES_IN_ADVANCE = 4 * 2**30


def converted_source(
    source: PlaneSource,
    target: str | None,
    *,
    labels: bool,
    values: tuple[int, int] | None = None,
) -> PlaneSource:
    """Return a source of a data type that datasets can have.

    Args:
        source: The stack, of any type that can be read.
        target: A numpy name of the type to convert to; None for the one of the source, if datasets
            can have it, else for one that holds all its values.
        labels: Whether the voxels are labels, whose values must never change.
        values: The least and the greatest value of an ``int64`` source, if they are known.

    Raises:
        SourceError: No type holds all values, so the user has to choose.
    """
    chosen = target or _UNTOLD.get(source.dtype, source.dtype)
    if target is None and values is not None:
        chosen = _type_of_labels(values)
    if chosen not in DTYPES:
        problem = (
            f"the voxels are {source.dtype}; choose a data type with --to, such as --to float32, or"
            f" convert them to one of {', '.join(DTYPES)}"
        )
        raise SourceError(format_problems([problem]))
    if chosen == source.dtype:
        return source
    return ConvertedSource(
        source, chosen, labels=labels, may_saturate=target is not None, values=values
    )


def _type_of_labels(values: tuple[int, int]) -> str:
    least, greatest = values
    if least < 0:
        problem = (
            f"the voxels are int64, from {least} to {greatest}, and no data type that a dataset can"
            " have holds all of those: choose one with --to, such as --to int32"
        )
        raise SourceError(format_problems([problem]))
    return "uint32" if greatest <= np.iinfo("uint32").max else "uint64"


def range_of_values(source: PlaneSource, threads: int) -> tuple[int, int] | None:
    """Read a whole ``int64`` source for its least and greatest value.

    Args:
        source: The stack; nothing else reads it.
        threads: How many threads read it.

    Returns:
        None for a source of another type, or one that is too large to be read twice.
    """
    if source.dtype != "int64" or sum(source.sizes) > MOST_BYTES_IN_ADVANCE:
        return None
    found = [(int(rows.min()), int(rows.max())) for _, rows in source.read_plane(0)]

    def read(z: int) -> None:
        found.extend((int(rows.min()), int(rows.max())) for _, rows in source.read_plane(z))

    parallel_for_each(range(1, source.shape_zyx[0]), read, threads)
    least, greatest = zip(*found, strict=True)
    return min(least), max(greatest)


class ConvertedSource:
    """A stack whose voxels are converted when they are read.

    Values outside of the new type become its nearest value, and NaN becomes 0; both are counted.
    Fractions are rounded to the nearest integer, halves to the even one.

    Args:
        source: The stack.
        dtype: A numpy name of the new data type.
        labels: Whether the voxels are labels, whose values must never change.
        may_saturate: Whether values may be outside of the new type; otherwise they are an error.
        values: The least and the greatest value, if they are known.
    """

    def __init__(
        self,
        source: PlaneSource,
        dtype: str,
        *,
        labels: bool,
        may_saturate: bool,
        values: tuple[int, int] | None = None,
    ) -> None:
        old, new = np.dtype(source.dtype), np.dtype(dtype)
        self.inner = source
        self.shape_zyx = source.shape_zyx
        self.dtype = dtype
        self.channels = source.channels
        self.fingerprint = source.fingerprint
        self.order = source.order
        # The new voxels, and at most two arrays of 64-bit numbers on the way.
        self.read_memory_bytes = source.read_memory_bytes * (
            1 + (new.itemsize + 16) // old.itemsize
        )
        self._values = values
        self._white = 255 if old.kind == "b" and not labels else 1
        self._may_saturate = may_saturate and not labels
        self._lock = Lock()
        self._saturated = 0
        self._nan = 0

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return self.inner.paths

    @property
    def sizes(self) -> Sequence[int]:
        """Sizes of the files in bytes."""
        return self.inner.sizes

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, with counts of the values that did not fit so far."""
        how = f" (0 and {self._white})" if self.inner.dtype == "bool" else ""
        if self._values is not None:
            how = f" (the values are from {self._values[0]} to {self._values[1]})"
        notes = [*self.inner.notes, f"{self.inner.dtype} becomes {self.dtype}{how}"]
        if self._saturated:
            notes.append(
                f"WARNING: {self._saturated} voxels were outside of {self.dtype}, and became its"
                " nearest value"
            )
        if self._nan:
            notes.append(f"WARNING: {self._nan} voxels were not a number, and became 0")
        return notes

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read a plane as blocks of rows."""
        for y, rows in self.inner.read_plane(z):
            yield y, self._converted(z, rows)

    def slab_reads(self, start: int, stop: int) -> Iterator[Callable[[], Iterator[SlabBlock]]]:
        """Divide the reading of planes into calls, as the stack itself does."""
        for blocks in slab_reads(self.inner, start, stop):
            yield _Converting(self._converted, blocks)

    def file_indices(self, z: int) -> Sequence[int]:
        """Return the indices of the files that hold a plane."""
        return self.inner.file_indices(z)

    def records(self) -> dict[int, FileRecord]:
        """Return a record of each file that was read, by its index."""
        return self.inner.records()

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Hash one shard's share of the bytes that belong to no plane."""
        self.inner.hash_share(shard, shards, known)

    def close(self) -> None:
        """Close any open files."""
        self.inner.close()

    def _converted(self, z: int, voxels: Voxels) -> Voxels:
        if voxels.dtype.kind == "b":
            new = np.dtype(self.dtype)
            white: Voxels = np.where(voxels, new.type(self._white), new.type(0))
            return white
        converted, saturated, nan = convert(voxels, self.dtype)
        if (saturated or nan) and not self._may_saturate:
            raise BadInputError(
                f"plane {z} has values from {voxels.min()} to {voxels.max()}, which {self.dtype}"
                " does not hold: choose another type with --to"
            )
        if saturated or nan:
            with self._lock:
                self._saturated += saturated
                self._nan += nan
        return converted


class _Converting:
    """A call that reads blocks and converts them."""

    def __init__(
        self,
        convert_block: Callable[[int, Voxels], Voxels],
        blocks: Callable[[], Iterator[SlabBlock]],
    ) -> None:
        self._convert = convert_block
        self._blocks = blocks

    def __call__(self) -> Iterator[SlabBlock]:
        for z, y, block in self._blocks():
            yield z, y, self._convert(z, block)


def convert(voxels: Voxels, dtype: str) -> tuple[Voxels, int, int]:
    """Convert numbers to another data type.

    Args:
        voxels: Numbers of any integer or floating-point type.
        dtype: A numpy name of an integer type or of float32.

    Returns:
        The converted voxels; how many were outside of the type, and became its nearest value; and
        how many were not a number, and became 0.
    """
    new = np.dtype(dtype)
    if new.kind == "f":
        return _to_float(voxels, new)
    limits = np.iinfo(new)
    if voxels.dtype.kind in "iu":
        own = np.iinfo(voxels.dtype)
        low, high = max(limits.min, own.min), min(limits.max, own.max)
        outside = int(np.count_nonzero(voxels < low)) + int(np.count_nonzero(voxels > high))
        inside = np.clip(voxels, low, high) if outside else voxels
        return inside.astype(new, copy=False), outside, 0
    rounded = np.rint(voxels.astype(np.float64, copy=False))
    nan = np.isnan(rounded)
    # The end of the range plus one is a power of two, which floating-point numbers hold exactly.
    under, over = rounded < float(limits.min), rounded >= float(limits.max + 1)
    rounded[nan | under | over] = 0
    converted = rounded.astype(new)
    converted[under], converted[over] = limits.min, limits.max
    return converted, int(np.count_nonzero(under | over)), int(np.count_nonzero(nan))


def _to_float(voxels: Voxels, new: np.dtype[Any]) -> tuple[Voxels, int, int]:
    if voxels.dtype.kind in "iu" or voxels.dtype.itemsize <= new.itemsize:
        return voxels.astype(new, copy=False), 0, 0
    most = float(np.finfo(new).max)
    outside = np.isfinite(voxels) & (np.abs(voxels) > most)
    count = int(np.count_nonzero(outside))
    if count:
        voxels = np.where(outside, np.copysign(most, voxels), voxels)
    return voxels.astype(new), count, 0
