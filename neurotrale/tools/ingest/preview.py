"""The preview of a dataset: the planes through its middle in three orientations, with a scale bar.

The x-y plane is at the top left, z-y to its right and x-z below it, all at the same scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.render import Pixels, grey_levels, label_colours
from neurotrale.tools.ingest.levels import PyramidLevel
from neurotrale.tools.ingest.output import ChunkFiles

# A bitmap font, five pixels high.
_GLYPHS = {
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "5": "### #.. ### ..# ###",
    "n": "... ##. #.# #.# #.#",
    "m": "..... ##.#. #.#.# #.#.# #.#.#",
    "µ": ".... #..# #..# ###. #...",
    " ": ".. .. .. .. ..",
}


def render_text(text: str, scale: int) -> NDArray[np.bool_]:
    """Render a text made of ``0125``, ``n``, ``m``, ``µ`` and spaces.

    Returns:
        A mask ``[y, x]``, in which each pixel of the font is ``scale`` pixels wide.
    """
    columns: list[NDArray[np.bool_]] = []
    for letter in text:
        rows = [[pixel == "#" for pixel in row] for row in _GLYPHS[letter].split()]
        columns += [np.array(rows), np.zeros((5, 1), bool)]
    mask = np.concatenate(columns[:-1], axis=1)
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


Voxels = NDArray[Any]

NAME = "preview.png"
# The coarsest level with a side of at least the first length is drawn. If it is longer than the
# second, there are too many chunks to read for a picture.
_LEAST_VX, _MOST_VX = 256, 4096
_LONGEST_PX = 512
_GAP_PX = 6
_DARKEST, _BRIGHTEST = 0.5, 99.0  # percentiles of the voxels


def draw_preview(
    levels: Sequence[PyramidLevel], files: ChunkFiles, segmentation: bool
) -> bytes | None:
    """Draw the preview of a dataset whose chunks are complete.

    Returns:
        A PNG file; None if no level is coarse enough.
    """
    detailed = [level for level in levels if max(level.size_vx) >= _LEAST_VX]
    level = detailed[-1] if detailed else levels[0]
    if max(level.size_vx) > _MOST_VX:
        return None
    planes = [_middle_plane(level, files, axis) for axis in range(3)]
    pictures = [label_colours(plane[0]) for plane in planes] if segmentation else _shades(planes)
    nm_per_px = _nm_per_px(level)
    yz, xz, xy = (
        _resize(picture, _sides_px(level, axis, nm_per_px)) for axis, picture in enumerate(pictures)
    )
    picture = _arrange(xy, yz.swapaxes(0, 1), xz)
    _draw_scale_bar(picture, nm_per_px, (xy.shape[0], xy.shape[1]))
    return bytes(imagecodecs.png_encode(picture, level=5))


def _middle_plane(level: PyramidLevel, files: ChunkFiles, axis: int) -> Voxels:
    """Read the middle plane perpendicular to an axis (0 for x).

    Returns:
        The voxels ``[channel, later axis, earlier axis]``.
    """
    middle = level.size_vx[axis] // 2
    shape = [n for i, n in enumerate(level.size_vx) if i != axis][::-1]
    plane = np.zeros((files.channels, *shape), files.dtype)
    for box in level.boxes((0, level.size_vx[1]), (0, level.size_vx[2])):
        start, stop = box[axis]
        if start <= middle < stop:
            chunk = files.read_chunk(level, box).take(middle - start, axis=3 - axis)
            spans = [slice(*span) for i, span in enumerate(box) if i != axis][::-1]
            plane[(slice(None), *spans)] = chunk
    return plane


def _shades(planes: Sequence[Voxels]) -> list[Pixels]:
    """Draw one channel in grey; the first three of several in red, green and blue."""
    channels = [_greys([plane[c] for plane in planes]) for c in range(min(3, len(planes[0])))]
    if len(channels) == 1:
        return channels[0]
    pictures = [np.zeros_like(picture) for picture in channels[0]]
    for colour, greys in enumerate(channels):
        for picture, grey in zip(pictures, greys, strict=True):
            picture[..., colour] = grey[..., 0]
    return pictures


def _greys(planes: Sequence[Voxels]) -> list[Pixels]:
    """Draw planes in grey, with the same contrast for all of them."""
    values = np.concatenate([plane.reshape(-1) for plane in planes]).astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [_DARKEST, _BRIGHTEST]) if values.size else (0.0, 1.0)
    return [np.stack([grey_levels(plane, low, high)] * 3, axis=-1) for plane in planes]


def _nm_per_px(level: PyramidLevel) -> float:
    """Return the scale: one pixel for the shortest side of a voxel, unless that is too large."""
    lengths = [n * nm for n, nm in zip(level.size_vx, level.resolution_nm, strict=True)]
    return max(min(level.resolution_nm), max(lengths) / _LONGEST_PX)


def _sides_px(level: PyramidLevel, axis: int, nm_per_px: float) -> tuple[int, int]:
    sides = [
        max(1, round(n * nm / nm_per_px))
        for n, nm in zip(level.size_vx, level.resolution_nm, strict=True)
    ]
    first, second = [n for i, n in enumerate(sides) if i != axis][::-1]
    return first, second


def _resize(picture: Pixels, sides_px: tuple[int, int]) -> Pixels:
    rows, columns = (
        np.arange(side) * n // side for n, side in zip(picture.shape, sides_px, strict=False)
    )
    return picture[np.ix_(rows, columns)]


def _arrange(xy: Pixels, zy: Pixels, xz: Pixels) -> Pixels:
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


def _draw_scale_bar(picture: Pixels, nm_per_px: float, sides_px: tuple[int, int]) -> None:
    """Draw a scale bar of a round length, outlined in black, at the lower left of the x-y plane."""
    rows, columns = sides_px
    lengths = [digit * 10**power for power in range(10) for digit in (1, 2, 5)]
    suitable = [nm for nm in lengths if nm / nm_per_px <= max(columns / 3, 8)]
    nm = suitable[-1] if suitable else lengths[0]
    bar = np.ones((3, max(1, min(columns, round(nm / nm_per_px)))), bool)
    text = render_text(_length_text(nm), 2)
    bottom = max(rows - 8, 4)
    for mask, y in ((bar, bottom), (text, bottom - 14)):
        if y > 1 and mask.shape[1] + 8 < picture.shape[1]:
            for dy, dx in product((-1, 1, 0), repeat=2):  # the outline
                _fill(picture, mask, y + dy, 8 + dx, 0)
            _fill(picture, mask, y, 8, 255)


def _fill(picture: Pixels, mask: NDArray[np.bool_], y: int, x: int, grey: int) -> None:
    target = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
    target[mask[: target.shape[0], : target.shape[1]]] = grey


def _length_text(nm: int) -> str:
    for unit, size in (("mm", 10**6), ("µm", 10**3)):
        if nm >= size:
            return f"{nm // size} {unit}"
    return f"{nm} nm"
