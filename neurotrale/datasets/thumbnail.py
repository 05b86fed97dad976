"""Thumbnails of volumes and their contrast, cached until a chunk changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.chunks.render import Pixels, grey_levels, label_colours
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.sample import Box, Sample, Voxels, find_sample, read_sample
from neurotrale.errors import BusyError
from neurotrale.late import LazyModule
from neurotrale.precomputed.info import Info, Scale
from neurotrale.storage.cache import VersionedCache
from neurotrale.storage.names import Parts

if TYPE_CHECKING:
    import imagecodecs
    import numpy as np
    from numpy.typing import NDArray
else:
    imagecodecs = LazyModule("imagecodecs", "png_encode")
    np = LazyModule("numpy")

Window = tuple[float, float]
"""The value drawn black, and the value drawn white."""

_DARKEST, _BRIGHTEST = 1.0, 99.0
"""Percentiles of the voxels. The upper one ignores zeros: much of the space around a brain is often
empty."""
VALUES_PER_CHUNK = 100_000


def contrast_windows(pieces: Iterable[tuple[Box, Voxels]], channels: int) -> list[Window] | None:
    """Choose the contrast window of each channel.

    Args:
        pieces: Boxes and voxels ``[channel, z, y, x]``.
        channels: Number of channels.

    Returns:
        A window for each channel, its ends distinct; None if there are no voxels.
    """
    samples: list[list[Voxels]] = [[] for _ in range(channels)]
    for _, voxels in pieces:
        step = max(1, voxels[0].size // VALUES_PER_CHUNK)
        for channel in range(channels):
            # An even step could share a factor with the row length, and sample some columns only.
            samples[channel].append(voxels[channel].reshape(-1)[:: step | 1].copy())
    if not samples[0]:
        return None
    return [_window(np.concatenate(values).astype(np.float64)) for values in samples]


def _window(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Window:
    values = values[np.isfinite(values)]
    nonzero = values[values != 0]
    if not nonzero.size:
        return 0.0, 1.0
    low = float(np.percentile(values, _DARKEST))
    high = float(np.percentile(nonzero, _BRIGHTEST))
    if high > low:
        return low, high
    return (0.0, low) if low > 0 else (low, low + 1.0)  # a uniform image: white, not black


LONGEST_PX = 320


def render_png(
    info: Info, sample: Sample, pieces: Sequence[tuple[Box, Voxels]], contrast: Sequence[Window]
) -> bytes:
    """Render a sample as PNG; missing chunks are black.

    Args:
        info: The `info` of the volume.
        sample: The sample.
        pieces: Its boxes and voxels ``[channel, z, y, x]``.
        contrast: The contrast window of each channel.
    """
    planes = _planes(info, sample, pieces)
    pixels = label_colours(planes[0]) if info.type == "segmentation" else _greys(planes, contrast)
    rows, columns = _pixels_of(sample.scale, planes.shape[1:])
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels[np.ix_(rows, columns)])))


def _planes(info: Info, sample: Sample, pieces: Sequence[tuple[Box, Voxels]]) -> Voxels:
    """Assemble the middle plane of each channel, ``[channel, y, x]``."""
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
    """Stretch the contrast; several channels become red, green and blue, the rest is ignored."""
    picture = np.zeros((*planes.shape[1:], 3), np.uint8)
    for channel, (low, high) in enumerate(contrast[:3]):
        grey = grey_levels(planes[channel], low, high)
        if len(contrast) == 1:
            picture[:] = grey[..., None]
        else:
            picture[..., channel] = grey
    return picture


def _pixels_of(scale: Scale, shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Choose the row and the column of each pixel, so that the proportions are right."""
    heights = [count * nm for count, nm in zip(shape, scale.resolution[1::-1], strict=True)]
    longest = max(heights)
    sides = [max(1, round(LONGEST_PX * height / longest)) for height in heights]
    return [np.arange(side) * count // side for side, count in zip(sides, shape, strict=True)]


# A picture takes about 50 kB.
CACHED_RENDERINGS = 512
MAX_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered volume.

    Attributes:
        png: The picture.
        contrast: The contrast window of each channel; None if no chunk is stored.
        etag: Identifies the picture.
    """

    png: bytes
    contrast: list[Window] | None
    etag: str


class Thumbnails:
    """Renders volumes, one at a time, so that chunk requests of viewers come first.

    Args:
        chunks: The chunks of all datasets.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks
        self._cache: VersionedCache[Rendering] = VersionedCache(CACHED_RENDERINGS)
        self._rendering = Lock()

    def of(self, dataset: Parts, info: Info) -> Rendering | None:
        """Render a volume.

        Returns:
            None if its chunks are stored in a way that cannot be read here.

        Raises:
            DamagedError: A chunk in its middle does not match `info`.
            BusyError: Other datasets are being rendered.
        """
        sample = find_sample(self.chunks, dataset, info)
        if sample is None:
            return None
        version = (info.type, info.data_type, info.num_channels, sample.version)
        settled = all(chunk.stamp.is_settled for chunk in sample.chunks)
        return self._cache.get(
            dataset, version, lambda: self._render(info, sample), is_settled=settled
        )

    def _render(self, info: Info, sample: Sample) -> Rendering:
        if not self._rendering.acquire(timeout=MAX_WAIT_S):
            raise BusyError("Other datasets are being rendered.", 1)
        try:
            pieces = list(read_sample(self.chunks, info, sample))
            contrast = contrast_windows(pieces, info.num_channels)
            shown = contrast or [(0.0, 1.0)] * info.num_channels
            png = render_png(info, sample, pieces, shown)
        finally:
            self._rendering.release()
        return Rendering(png, contrast, etag_of(png))
