"""Voxels to the pixels of a picture: grey levels for images, colours for labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

Pixels: TypeAlias = "NDArray[np.uint8]"

# 2**64 divided by the golden ratio: multiplying by it spreads consecutive labels far apart.
_GOLDEN_RATIO = 0x9E3779B97F4A7C15


def grey_levels(voxels: NDArray[Any], low: float, high: float) -> Pixels:
    """Map voxels linearly to grey levels, 0 to 255.

    Args:
        voxels: Of any shape and numeric type. NaN becomes black.
        low: The value drawn black; smaller values are black, too.
        high: The value drawn white; larger values are white, too.
    """
    levels = (voxels.astype(np.float64) - low) / (float(high - low) or 1.0)
    return (np.clip(np.nan_to_num(levels), 0, 1) * 255).astype(np.uint8)


def label_colours(labels: NDArray[Any]) -> Pixels:
    """Map labels to bright RGB colours that differ strongly between neighbours; 0 is black.

    Returns:
        Pixels of the shape of `labels` and a last axis of 3.
    """
    hashes = labels.astype(np.uint64) * np.uint64(_GOLDEN_RATIO)
    channels = [hashes >> np.uint64(shift) & np.uint64(0xFF) for shift in (56, 48, 40)]
    bright = np.stack(
        [np.uint64(64) + channel * np.uint64(3) // np.uint64(4) for channel in channels], axis=-1
    )
    pixels: Pixels = (bright * (labels != 0)[..., np.newaxis]).astype(np.uint8)
    return pixels
