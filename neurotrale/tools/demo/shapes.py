"""The shapes in the demo's scene: the tissue, neurites and cells.

Positions are (x, y, z) in voxels of the full scale. Voxel i spans [i, i + 1), so its centre is at
i + 0.5. All modules of the demo use this convention, so that volume and annotations agree.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SIZE_VX: Final = (500, 420, 150)
RESOLUTION_NM: Final = (1800, 1800, 2000)

# Brightness from the axis of the slab outwards: grey nucleus, dark tract, cell layer, rim.
_RADIUS_KNOTS: Final = (0.0, 0.24, 0.34, 0.47, 0.53, 0.60, 0.71, 0.80, 0.955, 1.0, 1.025)
_LEVEL_KNOTS: Final = (0.82, 0.86, 0.62, 0.52, 0.56, 0.80, 1.00, 0.84, 0.78, 0.45, 0.0)


def section_radius(x: Floats, y: Floats) -> Floats:
    """Return the normalised radius of (x, y) in the widest section: 0 on the axis, 1 on the edge.

    Args:
        x: positions along x in voxels, any shape that broadcasts with `y`.
        y: positions along y in voxels.

    Returns:
        The normalised radius, in the broadcast shape.
    """
    u = (x - 252) / 222
    v = (y - 208) / 186
    angle = np.arctan2(v, u)
    lumps = 1 + 0.030 * np.cos(2 * angle + 0.7) + 0.035 * np.cos(3 * angle - 1.2)
    fissure = 0.08 * np.exp(-(((angle - 1.52) / 0.16) ** 2))
    return np.asarray((np.abs(u) ** 2.3 + np.abs(v) ** 2.3) ** (1 / 2.3) / (lumps - fissure))


def section_scale(z: float) -> float:
    """Return the width of the section at `z` (voxels) relative to the widest one."""
    return 1.02 - 0.10 * ((z - 95) / 95) ** 2


def tissue_radius(position_vx: Floats) -> float:
    """Return the normalised radius at one (x, y, z) position: below 1 inside the tissue."""
    x, y, z = position_vx
    return float(section_radius(np.asarray(x), np.asarray(y))) / section_scale(float(z))


def tissue_level(radius: Floats) -> Floats:
    """Return the brightness of unlabelled tissue, 0 to 1, at normalised radii of any shape."""
    return np.interp(radius, _RADIUS_KNOTS, _LEVEL_KNOTS)


def inside_volume(position_vx: Floats, margin_vx: float = 0.0) -> bool:
    """Return whether an (x, y, z) position is at least `margin_vx` away from every face."""
    return bool(
        np.all(position_vx >= margin_vx) and np.all(position_vx < np.subtract(SIZE_VX, margin_vx))
    )


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
        """Return the normalised distance of positions: 0 at the centre, 1 on the surface.

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
            Vertices in order, not closed, shape (16, 3), (x, y, z); None if the plane misses the
            cell or only grazes it.
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
