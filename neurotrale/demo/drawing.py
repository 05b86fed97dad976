"""Draws neurites and cells into a volume, each in a patch of its own size."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from neurotrale.demo.shapes import Cell, Neurite
from neurotrale.demo.tissue import Floats

Volume = npt.NDArray[np.uint16]


def draw_neurite(labels: Volume, neurite: Neurite) -> None:
    """Draw a tube into `labels`, shape (z, y, x); where things overlap the brighter one wins."""
    vertices = zip(neurite.points_vx, neurite.radii_vx, strict=True)
    for (start, first), (stop, last) in pairwise(vertices):
        reach = max(first, last) + 1
        patch, (x, y, z) = _patch(
            labels, np.minimum(start, stop) - reach, np.maximum(start, stop) + reach
        )
        along = stop - start
        offset = (x - start[0], y - start[1], z - start[2])
        t = offset[0] * along[0] + offset[1] * along[1] + offset[2] * along[2]
        t = np.clip(t / (along @ along), 0, 1)
        distance = np.sqrt(sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True)))
        _brighten(patch, neurite.brightness * _soft_step(first + (last - first) * t - distance))


def draw_cell(labels: Volume, cell: Cell) -> None:
    """Draw a cell body, with a neuron's dimmer nucleus, into `labels`, shape (z, y, x)."""
    reach = 1.1 * cell.semi_axes_vx.max() + 2
    patch, (x, y, z) = _patch(labels, cell.centre_vx - reach, cell.centre_vx + reach)
    depth = cell.depth(x, y, z)
    body = _soft_step((1 - depth) * cell.semi_axes_vx.mean())
    rounding = 1 - 0.25 * np.clip(depth, 0, 1) ** 2
    nucleus = 0.30 * _soft_step((0.48 - depth) * cell.semi_axes_vx.mean())
    _brighten(patch, cell.brightness * body * (rounding - nucleus * (cell.kind == "neuron")))


def _patch(
    labels: Volume, low_vx: Floats, high_vx: Floats
) -> tuple[Volume, tuple[Floats, Floats, Floats]]:
    """Cut a box out of `labels`: a view, and the x, y, z of its voxel centres, to broadcast."""
    size = labels.shape[::-1]
    begin = np.clip(np.floor(low_vx), 0, size).astype(int)
    end = np.clip(np.ceil(high_vx), 0, size).astype(int)
    x, y, z = (np.arange(b, e) + 0.5 for b, e in zip(begin, end, strict=True))
    view = labels[begin[2] : end[2], begin[1] : end[1], begin[0] : end[0]]
    return view, (x, y[:, np.newaxis], z[:, np.newaxis, np.newaxis])


def _soft_step(inside_vx: Floats) -> Floats:
    """Go smoothly from 0 to 1 where the distance inside a surface goes from -1 to 1 voxels."""
    t = np.clip(0.5 + 0.5 * inside_vx, 0, 1)
    return t * t * (3 - 2 * t)


def _brighten(patch: Volume, light: Floats) -> None:
    np.maximum(patch, light.astype(np.uint16), out=patch)
