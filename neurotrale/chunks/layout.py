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
        axes: One letter an axis as tifffile gives it: Y and X; S sample; C channel; Z depth;
            anything else is a stack of pages without a meaning of its own.
        expected: What the array must come out as.

    Returns:
        The axes of the array in the order channel, z, y, x, without axes of length one that
        play no part; None when the array does not fit what is expected.
    """
    channels = 1 if expected.channels is None else expected.channels
    if channels == 1:
        order = [i for i, n in enumerate(shape) if n != 1]
        fits = expected.shape_vx is None or [shape[i] for i in order] == [
            n for n in reversed(expected.shape_vx) if n != 1
        ]
        return order if fits else None
    return _multi_channel(shape, axes, expected)


def _multi_channel(shape: tuple[int, ...], axes: str, expected: Expected) -> list[int] | None:
    role: dict[str, int] = {}
    unnamed = []
    for i, letter in enumerate(axes):
        if letter in "YX":
            role[letter] = i
        elif letter in "SC" and shape[i] != 1:
            if "C" in role:
                return None
            role["C"] = i
        elif letter == "Z" and shape[i] != 1:
            role["Z"] = i
        elif shape[i] != 1:
            unnamed.append(i)
    # Pages without labels follow the Precomputed order: all of z within a channel.
    for name in "CZ":
        if unnamed and name not in role:
            role[name] = unnamed.pop(0)
    if unnamed or not {"C", "Y", "X"} <= role.keys():
        return None
    if expected.shape_vx is not None:
        x, y, z = expected.shape_vx
        wanted = {"C": expected.channels, "Z": z, "Y": y, "X": x}
        if any((shape[role[k]] if k in role else 1) != n for k, n in wanted.items()):
            return None
    elif shape[role["C"]] != expected.channels:
        return None
    return [role[name] for name in "CZYX" if name in role]


def little_endian(array: Array) -> Array:
    """Give the array with the byte order of the Precomputed format, swapped if need be."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
