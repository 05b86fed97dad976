"""What the demo's scene is made of: neurites and cells, in voxels of the full scale."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from neurotrale.demo.tissue import Floats

CellKind = Literal["neuron", "glia"]
OUTLINE_VERTICES: Final = 16


@dataclass(frozen=True, eq=False)
class Neurite:
    """An unbranched piece of a nerve cell's process: a tube along a polyline.

    Attributes:
        kind: an axon is long and is annotated, a dendrite is a stub on a cell body.
        points_vx: vertices, shape (n, 3), float64, (x, y, z).
        radii_vx: the tube's radius at each vertex, shape (n,), float64.
        brightness: grey value of its core above the tissue.
    """

    kind: Literal["axon", "dendrite"]
    points_vx: Floats
    radii_vx: Floats
    brightness: float


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell body: an ellipsoid whose sections along z are lobed, rotated ellipses.

    Attributes:
        kind: neurons are large and bright, glia small.
        centre_vx: centre, shape (3,), float64, (x, y, z).
        semi_axes_vx: half lengths along the cell's own first two axes and along z, shape (3,).
        yaw_rad: rotation of the first two axes in the (x, y) plane.
        lobing: relative depth of the dents in the outline.
        brightness: grey value of its body above the tissue.
    """

    kind: CellKind
    centre_vx: Floats
    semi_axes_vx: Floats
    yaw_rad: float
    lobing: float
    brightness: float

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return how far out positions lie: 0 at the centre, 1 on the surface.

        Args:
            x: positions along x in voxels; `x`, `y` and `z` broadcast.
            y: positions along y in voxels.
            z: positions along z in voxels.

        Returns:
            The normalised distance, in the broadcast shape.
        """
        dx, dy = x - self.centre_vx[0], y - self.centre_vx[1]
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        u = (cos * dx + sin * dy) / self.semi_axes_vx[0]
        v = (cos * dy - sin * dx) / self.semi_axes_vx[1]
        w = (z - self.centre_vx[2]) / self.semi_axes_vx[2]
        section = (u**2 + v**2) / self._lobes(np.arctan2(v, u)) ** 2
        return np.asarray(np.sqrt(section + w**2), np.float64)

    def outline(self, z_vx: float) -> Floats | None:
        """Trace the surface in the plane at `z_vx`.

        Args:
            z_vx: position of the plane along z in voxels.

        Returns:
            Vertices in order, not closed, shape (16, 3), (x, y, z); None where the plane misses
            the cell or merely grazes it.
        """
        w = (z_vx - self.centre_vx[2]) / self.semi_axes_vx[2]
        if abs(w) > 0.9:
            return None
        angle = np.linspace(0, 2 * np.pi, OUTLINE_VERTICES, endpoint=False)
        reach = self._lobes(angle) * np.sqrt(1 - w**2)
        u = reach * np.cos(angle) * self.semi_axes_vx[0]
        v = reach * np.sin(angle) * self.semi_axes_vx[1]
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        offsets = np.stack([cos * u - sin * v, sin * u + cos * v], axis=1)
        return np.column_stack([self.centre_vx[:2] + offsets, np.full(len(angle), z_vx)])

    def _lobes(self, angle: Floats) -> Floats:
        return 1 + self.lobing * np.cos(3 * angle + 5 * self.yaw_rad)


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn and annotated; the tissue around it is the same for every scene."""

    neurites: tuple[Neurite, ...]
    cells: tuple[Cell, ...]
