"""Smooth random and blurred fields: coarse grids, read back at full size one plane at a time."""

from typing import Final

import numpy as np
import numpy.typing as npt

from neurotrale.demo.tissue import Floats

Plane = npt.NDArray[np.float32]

_REACH: Final = np.arange(-1, 3)


class SmoothField:
    """A coarse grid of values stretched over a volume with cubic B-splines.

    Args:
        grid: values, shape (gz, gy, gx); its corners lie on the volume's corners.
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
    """The four nearest of `coarse` nodes, and their weights, for each of `fine` positions."""

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
        # Not a matrix product: BLAS threads stall each other on a machine that is busy.
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
