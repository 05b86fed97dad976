"""How the array of a TIFF becomes a chunk: which of its axes is z, y, x and channel.

A chunk is sent as ``[channel, z, y, x]`` in C order. TIFF writers name axes in many ways, so the
rule is: sizes decide where they can, labels where they must, and what stays unclear is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the chunk's name and the data set's `info` promise; None where nothing does."""

    shape_vx: tuple[int, int, int] | None = None
    """Extent (x, y, z) in voxels."""
    dtype: str | None = None
    """A numpy name of the data type, such as ``uint16``."""
    channels: int | None = None
    labels: bool = False
    """Whether voxels are labels of a segmentation."""

    def __str__(self) -> str:
        what = []
        if self.shape_vx is not None:
            what.append("{}x{}x{} voxels (x, y, z)".format(*self.shape_vx))
        if self.channels is not None:
            what.append(f"{self.channels} channel{'s' if self.channels != 1 else ''}")
        if self.dtype is not None:
            what.append(self.dtype)
        return ", ".join(what) or "any image"


def axis_order(shape: tuple[int, ...], axes: str, expected: Expected) -> list[int] | None:
    """Find the permutation that brings a TIFF's array to ``[channel, z, y, x]``.

    Args:
        shape: Of the TIFF's first series.
        axes: One letter an axis as tifffile gives it: Y and X; C channel; Z depth; S sample of a
            colour image; anything else is a stack of pages without a meaning of its own.
        expected: What the array must come out as.

    Returns:
        The axes of the array in the order channel, z, y, x, without those of length one; None
        when the array does not fit what is expected, or fits in more than one way.
    """
    labels = {letter for letter, n in zip(axes, shape, strict=True) if n != 1}
    labelled, plain = _by_labels(shape, axes, expected), _by_sizes(shape, expected)
    if _channels(expected) == 1:
        return plain if labelled is None else labelled
    if "C" in labels:
        return labelled
    # Colours are often a guess: tifffile takes an axis of 3 or 4 in the right place for them.
    fitting = [order for order in (labelled, plain) if order is not None]
    return fitting[0] if fitting and fitting[0] == fitting[-1] else None


def _by_labels(shape: tuple[int, ...], axes: str, expected: Expected) -> list[int] | None:
    role: dict[str, int] = {}
    unnamed = []
    for i, letter in enumerate(axes):
        if shape[i] == 1:
            continue
        name = "C" if letter == "S" else letter
        if name in role:
            return None
        if name in "CZYX":
            role[name] = i
        else:
            unnamed.append(i)
    # Pages without labels follow the Precomputed order: all of z within a channel.
    for name in "CZ":
        if unnamed and name not in role:
            role[name] = unnamed.pop(0)
    if unnamed:
        return None
    wanted = {"C": _channels(expected), **dict(zip("XYZ", expected.shape_vx or (), strict=False))}
    if any((shape[role[k]] if k in role else 1) != n for k, n in wanted.items()):
        return None
    return [role[name] for name in "CZYX" if name in role]


def _by_sizes(shape: tuple[int, ...], expected: Expected) -> list[int] | None:
    """Take the array as it is, if it has the sizes of the chunk."""
    order = [i for i, n in enumerate(shape) if n != 1]
    channels = _channels(expected)
    if expected.shape_vx is None:
        return order if channels == 1 else None
    x, y, z = expected.shape_vx
    if channels == 1:
        return order if [shape[i] for i in order] == [n for n in (z, y, x) if n != 1] else None
    return order if shape == (channels, z, y, x) else None


def _channels(expected: Expected) -> int:
    return 1 if expected.channels is None else expected.channels


def little_endian(array: Array) -> Array:
    """Give the array with the byte order of the Precomputed format, swapped if need be."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
