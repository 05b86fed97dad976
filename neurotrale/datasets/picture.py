"""A small picture of a volume: the plane through its middle."""

from __future__ import annotations

from collections.abc import Sequence

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.info import Info, Scale
from neurotrale.datasets.contrast import Window
from neurotrale.datasets.sample import Box, Sample, Voxels

Pixels = NDArray[np.uint8]

LONGEST_PX = 320
_HASH = np.uint64(0x9E3779B97F4A7C15)


def draw(
    info: Info, sample: Sample, pieces: Sequence[tuple[Box, Voxels]], contrast: Sequence[Window]
) -> bytes:
    """Draw the picture as PNG; where chunks are missing it is black.

    Args:
        info: The volume's.
        sample: What was looked at.
        pieces: Its boxes and voxels ``[channel, z, y, x]``.
        contrast: A window for each channel.
    """
    planes = _planes(info, sample, pieces)
    pixels = _colours(planes[0]) if info.type == "segmentation" else _greys(planes, contrast)
    rows, columns = _pixels_of(sample.scale, planes.shape[1:])
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels[np.ix_(rows, columns)])))


def _planes(info: Info, sample: Sample, pieces: Sequence[tuple[Box, Voxels]]) -> Voxels:
    """Put the middle planes together, ``[channel, y, x]``."""
    _, height, width = sample.box.shape_zyx
    planes = np.zeros((info.num_channels, height, width), np.dtype(info.data_type))
    left, top, _ = sample.box.start_vx
    for box, voxels in pieces:
        plane = min(max(sample.scale.size[2] // 2 - box.start_vx[2], 0), voxels.shape[1] - 1)
        x, y = box.start_vx[0] - left, box.start_vx[1] - top
        _, rows, columns = box.shape_zyx
        planes[:, y : y + rows, x : x + columns] = voxels[:, plane]
    return planes


def _greys(planes: Voxels, contrast: Sequence[Window]) -> Pixels:
    """Stretch the contrast; the first three channels of several are red, green and blue."""
    picture = np.zeros((*planes.shape[1:], 3), np.uint8)
    for channel, (low, high) in enumerate(contrast[:3]):
        level = (planes[channel].astype(np.float64) - low) / (high - low)
        grey = (np.clip(np.nan_to_num(level), 0, 1) * 255).astype(np.uint8)
        if len(contrast) == 1:
            picture[:] = grey[..., None]
        else:
            picture[..., channel] = grey
    return picture


def _colours(labels: Voxels) -> Pixels:
    """Give each label a colour of its own; 0 is black."""
    mixed = labels.astype(np.uint64) * _HASH
    channels = [mixed >> np.uint64(shift) & np.uint64(0xFF) for shift in (56, 48, 40)]
    bright = np.stack(
        [np.uint64(64) + channel * np.uint64(3) // np.uint64(4) for channel in channels], axis=-1
    )
    picture: Pixels = (bright * (labels != 0)[..., None]).astype(np.uint8)
    return picture


def _pixels_of(scale: Scale, shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Choose the row and the column of each pixel, so that the picture is true to scale."""
    heights = [count * nm for count, nm in zip(shape, scale.resolution[1::-1], strict=True)]
    longest = max(heights)
    sides = [max(1, round(LONGEST_PX * height / longest)) for height in heights]
    return [np.arange(side) * count // side for side, count in zip(sides, shape, strict=True)]
