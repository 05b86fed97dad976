"""How bright a volume is: the values between which a viewer should spread its greys."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from neurotrale.datasets.sample import Box, Voxels

Window = tuple[float, float]
"""The value that is drawn black, and the one that is drawn white."""

_DARKEST, _BRIGHTEST = 1.0, 99.0
"""Per cent of the voxels; of the brighter end only those count that are not 0, as around a brain
there is often much nothing."""
VALUES_A_CHUNK = 100_000


def windows(pieces: Iterable[tuple[Box, Voxels]], channels: int) -> list[Window] | None:
    """Find the contrast of each channel.

    Args:
        pieces: Boxes and voxels ``[channel, z, y, x]``.
        channels: How many channels there are.

    Returns:
        A window for each channel, its ends apart; None when there are no voxels.
    """
    samples: list[list[Voxels]] = [[] for _ in range(channels)]
    for _, voxels in pieces:
        step = max(1, voxels[0].size // VALUES_A_CHUNK)
        for channel in range(channels):
            # A step that shares a factor with the rows would see some columns only.
            samples[channel].append(voxels[channel].reshape(-1)[:: step | 1].copy())
    if not samples[0]:
        return None
    return [_window(np.concatenate(values).astype(np.float64)) for values in samples]


def _window(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Window:
    values = values[np.isfinite(values)]
    there = values[values != 0]
    if not there.size:
        return 0.0, 1.0
    low = float(np.percentile(values, _DARKEST))
    high = float(np.percentile(there, _BRIGHTEST))
    if high > low:
        return low, high
    return (0.0, low) if low > 0 else (low, low + 1.0)  # all is alike: white, not black
