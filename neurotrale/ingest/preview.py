"""A picture of a data set: the planes through its middle in three orientations.

The x-y plane is at the top left, z-y at its right, x-z below it, all at one scale; a bar shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from neurotrale.ingest.chunks import ChunkFiles
from neurotrale.ingest.glyphs import write_text
from neurotrale.ingest.levels import Level

Voxels = NDArray[Any]
Pixels = NDArray[np.uint8]

NAME = "preview.png"
# The coarsest level that is at least as long shows enough; above the most, there are too many
# chunks to read for a picture.
_LEAST_VX, _MOST_VX = 256, 4096
_LONGEST_PX = 512
_GAP_PX = 6
_DARKEST, _BRIGHTEST = 0.5, 99.0  # per cent of voxels


def draw_preview(levels: Sequence[Level], files: ChunkFiles, segmentation: bool) -> bytes | None:
    """Draw the preview of a data set that is written.

    Returns:
        A PNG file; None when there is no level coarse enough.
    """
    useful = [level for level in levels if max(level.size_vx) >= _LEAST_VX]
    level = useful[-1] if useful else levels[0]
    if max(level.size_vx) > _MOST_VX:
        return None
    planes = [_middle(level, files, axis) for axis in range(3)]
    pixels = _colours(planes) if segmentation else _greys(planes)
    nm_per_px = _nm_per_px(level)
    yz, xz, xy = (
        _scaled(picture, _sides(level, axis, nm_per_px)) for axis, picture in enumerate(pixels)
    )
    picture = _arranged(xy, yz.swapaxes(0, 1), xz)
    _draw_bar(picture, nm_per_px, (xy.shape[0], xy.shape[1]))
    return bytes(imagecodecs.png_encode(picture, level=5))


def _middle(level: Level, files: ChunkFiles, axis: int) -> Voxels:
    """Read the middle plane across an axis (0 for x); ``[later axis, earlier axis]``."""
    middle = level.size_vx[axis] // 2
    shape = [n for i, n in enumerate(level.size_vx) if i != axis][::-1]
    plane = np.zeros(shape, files.dtype)
    for box in level.boxes((0, level.size_vx[1]), (0, level.size_vx[2])):
        start, stop = box[axis]
        if start <= middle < stop:
            chunk = files.read_chunk(level, box).take(middle - start, axis=2 - axis)
            spans = [slice(*span) for i, span in enumerate(box) if i != axis][::-1]
            plane[tuple(spans)] = chunk
    return plane


def _greys(planes: Sequence[Voxels]) -> list[Pixels]:
    """Stretch the contrast over what is there, alike in all planes."""
    every = np.concatenate([plane.reshape(-1) for plane in planes]).astype(np.float64)
    every = every[np.isfinite(every)]
    low, high = np.percentile(every, [_DARKEST, _BRIGHTEST]) if every.size else (0.0, 1.0)
    span = float(high - low) or 1.0
    pixels = []
    for plane in planes:
        level = np.nan_to_num((plane.astype(np.float64) - low) / span, posinf=1.0, neginf=0.0)
        grey = (np.clip(level, 0, 1) * 255).astype(np.uint8)
        pixels.append(np.stack([grey] * 3, axis=-1))
    return pixels


def _colours(planes: Sequence[Voxels]) -> list[Pixels]:
    """Give each label a colour that is far from those of its neighbours; 0 is black."""
    pixels = []
    for plane in planes:
        labels = plane.astype(np.uint64)
        mixed = labels * np.uint64(0x9E3779B97F4A7C15)
        colour = np.stack([mixed >> np.uint64(shift) & np.uint64(0xFF) for shift in (56, 48, 40)])
        bright = (64 + colour * np.uint64(3) // np.uint64(4)) * (labels != 0)
        pixels.append(np.moveaxis(bright, 0, -1).astype(np.uint8))
    return pixels


def _nm_per_px(level: Level) -> float:
    """Choose the scale: a pixel for each of the shortest voxels, unless that is too large."""
    lengths = [n * nm for n, nm in zip(level.size_vx, level.resolution_nm, strict=True)]
    return max(min(level.resolution_nm), max(lengths) / _LONGEST_PX)


def _sides(level: Level, axis: int, nm_per_px: float) -> tuple[int, int]:
    sides = [
        max(1, round(n * nm / nm_per_px))
        for n, nm in zip(level.size_vx, level.resolution_nm, strict=True)
    ]
    first, second = [n for i, n in enumerate(sides) if i != axis][::-1]
    return first, second


def _scaled(picture: Pixels, sides_px: tuple[int, int]) -> Pixels:
    rows, columns = (
        np.arange(wanted) * n // wanted for n, wanted in zip(picture.shape, sides_px, strict=False)
    )
    return picture[np.ix_(rows, columns)]


def _arranged(xy: Pixels, zy: Pixels, xz: Pixels) -> Pixels:
    height = xy.shape[0] + _GAP_PX + max(xz.shape[0], 24)
    width = xy.shape[1] + _GAP_PX + max(zy.shape[1], 24)
    picture = np.full((height, width, 3), 24, np.uint8)
    for part, (y, x) in zip(
        (xy, zy, xz),
        ((0, 0), (0, xy.shape[1] + _GAP_PX), (xy.shape[0] + _GAP_PX, 0)),
        strict=True,
    ):
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
    return picture


def _draw_bar(picture: Pixels, nm_per_px: float, sides_px: tuple[int, int]) -> None:
    """Draw a bar of a round length into the x-y plane, at its lower left, black-rimmed."""
    rows, columns = sides_px
    lengths = [digit * 10**power for power in range(10) for digit in (1, 2, 5)]
    fitting = [nm for nm in lengths if nm / nm_per_px <= max(columns / 3, 8)]
    nm = fitting[-1] if fitting else lengths[0]
    bar = np.ones((3, max(1, min(columns, round(nm / nm_per_px)))), bool)
    text = write_text(_length(nm), 2)
    bottom = max(rows - 8, 4)
    for part, y in ((bar, bottom), (text, bottom - 14)):
        if y > 1 and part.shape[1] + 8 < picture.shape[1]:
            for dy, dx in product((-1, 1, 0), repeat=2):  # the rim first, the middle last
                place = picture[y + dy : y + dy + part.shape[0], 8 + dx : 8 + dx + part.shape[1]]
                place[part[: place.shape[0], : place.shape[1]]] = 0
            place = picture[y : y + part.shape[0], 8 : 8 + part.shape[1]]
            place[part[: place.shape[0], : place.shape[1]]] = 255


def _length(nm: int) -> str:
    for unit, size in (("mm", 10**6), ("µm", 10**3)):
        if nm >= size:
            return f"{nm // size} {unit}"
    return f"{nm} nm"
