"""Renders a scene as a light-sheet microscope would image it."""

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from neurotrale.tools.demo.shapes import (
    SIZE_VX,
    Cell,
    Floats,
    Neurite,
    Scene,
    section_radius,
    section_scale,
    tissue_level,
)

Plane = npt.NDArray[np.float32]

_REACH: Final = np.arange(-1, 3)


class SmoothField:
    """A coarse grid of values interpolated over a volume with cubic B-splines.

    Args:
        grid: values, shape (gz, gy, gx); its corners are the corners of the volume.
        shape_zyx: shape of the volume in voxels.
    """

    def __init__(self, grid: Floats, shape_zyx: tuple[int, int, int]) -> None:
        self._grid = grid.astype(np.float32)
        self._along_z, self._along_y, self._along_x = (
            _Spline(fine, coarse) for fine, coarse in zip(shape_zyx, grid.shape, strict=True)
        )

    def plane(self, z: int) -> Plane:
        """Return the field in plane `z` (an index), shape (y, x)."""
        nodes, weights = self._along_z.nodes[z], self._along_z.weights[z]
        section = np.einsum("k,kyx->yx", weights, self._grid[nodes])
        return self._along_y.stretch(self._along_x.stretch(section.T).T)


class _Spline:
    """For each of `fine` positions, the four nearest of `coarse` nodes and their weights."""

    def __init__(self, fine: int, coarse: int) -> None:
        position = np.linspace(0, coarse - 1, fine)[:, np.newaxis]
        nodes = np.floor(position) + _REACH
        distance = np.abs(position - nodes)
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        self.weights = np.where(distance < 1, near, far).astype(np.float32)
        self.nodes = np.clip(nodes, 0, coarse - 1).astype(np.intp)

    def stretch(self, values: Plane) -> Plane:
        """Interpolate along the first axis: (coarse, n) becomes (fine, n)."""
        # Not a matrix product, as BLAS threads stall each other on a busy machine.
        stretched = np.zeros((len(self.nodes), values.shape[1]), np.float32)
        for nodes, weights in zip(self.nodes.T, self.weights.T, strict=True):
            stretched += weights[:, np.newaxis] * values[nodes]
        return stretched


def block_means(volume: npt.NDArray[np.uint16], edge_vx: int) -> Floats:
    """Average cubes of a volume.

    Args:
        volume: shape (z, y, x), each a multiple of `edge_vx`.
        edge_vx: edge of the cubes in voxels.

    Returns:
        The means, shape (z, y, x) divided by `edge_vx`.
    """
    z, y, x = (length // edge_vx for length in volume.shape)
    cubes = volume.reshape(z, edge_vx, y, edge_vx, x, edge_vx)
    return np.asarray(cubes.mean(axis=(1, 3, 5)), np.float64)


Volume = npt.NDArray[np.uint16]


def draw_neurite(labels: Volume, neurite: Neurite) -> None:
    """Draw a tube into `labels`, shape (z, y, x); where structures overlap, the brighter wins."""
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
    """Draw a cell body into `labels`, shape (z, y, x); a neuron gets a dimmer nucleus."""
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
    """Return a box of `labels` as a view, and the x, y, z of its voxel centres, broadcastable."""
    size = labels.shape[::-1]
    begin = np.clip(np.floor(low_vx), 0, size).astype(int)
    end = np.clip(np.ceil(high_vx), 0, size).astype(int)
    x, y, z = (np.arange(b, e) + 0.5 for b, e in zip(begin, end, strict=True))
    view = labels[begin[2] : end[2], begin[1] : end[1], begin[0] : end[0]]
    return view, (x, y[:, np.newaxis], z[:, np.newaxis, np.newaxis])


def _soft_step(inside_vx: Floats) -> Floats:
    """Rise smoothly from 0 to 1 as the distance inside a surface goes from -1 to 1 voxels."""
    t = np.clip(0.5 + 0.5 * inside_vx, 0, 1)
    return t * t * (3 - 2 * t)


def _brighten(patch: Volume, light: Floats) -> None:
    np.maximum(patch, light.astype(np.uint16), out=patch)


CAMERA_OFFSET: Final = 110.0
TISSUE_LIGHT: Final = 380.0
_HAZE_EDGE_VX: Final = 10


def render(scene: Scene, seed: int) -> npt.NDArray[np.uint16]:
    """Render a scene: structures, tissue, scattered light, stripes and noise.

    Args:
        scene: the scene to render.
        seed: seed of the tissue's texture and of the noise.

    Returns:
        The volume, shape (z, y, x) = (150, 420, 500); always the same for the same arguments.
    """
    shape = SIZE_VX[::-1]
    volume = np.zeros(shape, np.uint16)
    for neurite in scene.neurites:
        draw_neurite(volume, neurite)
    for cell in scene.cells:
        draw_cell(volume, cell)
    microscope = _Microscope(volume, seed)
    for z in range(shape[0]):
        microscope.expose(z)
    return volume


class _Microscope:
    """Turns the labelled structures of a volume into an image of it, in place."""

    def __init__(self, volume: npt.NDArray[np.uint16], seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (volume.shape[0], volume.shape[1], volume.shape[2])
        self._volume = volume
        self._rng = rng
        self._haze = SmoothField(0.22 * block_means(volume, _HAZE_EDGE_VX), shape)
        self._patches = SmoothField(rng.normal(0, 0.30, (6, 9, 11)), shape)
        self._mottle = SmoothField(rng.normal(0, 0.28, (38, 84, 100)), shape)
        self._stripes = SmoothField(rng.normal(0, 0.09, (12, 140, 3)), shape)
        x = np.arange(0.5, shape[2])
        y = np.arange(0.5, shape[1])
        self._radius = section_radius(x, y[:, np.newaxis])
        self._falloff = np.linspace(1.10, 0.88, shape[2], dtype=np.float32)

    def expose(self, z: int) -> None:
        """Replace plane `z` of the volume by its image."""
        tissue = tissue_level(self._radius / section_scale(z + 0.5)).astype(np.float32)
        texture = 1 + self._patches.plane(z) + self._mottle.plane(z)
        light = TISSUE_LIGHT * tissue * texture + self._haze.plane(z) + self._volume[z]
        light *= self._falloff * (1 + self._stripes.plane(z))
        noise = self._rng.standard_normal(light.shape, np.float32)
        light += CAMERA_OFFSET + noise * np.sqrt(60 + 0.8 * np.maximum(light, 0))
        self._volume[z] = np.clip(light, 0, 65535).astype(np.uint16)
