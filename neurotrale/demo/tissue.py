"""The brain slab: how large the volume is and where in it there is tissue.

Positions are (x, y, z) in voxels of the full scale; voxel i spans [i, i + 1), so its centre is at
i + 0.5. Every module of the demo counts this way, so that what is drawn and what is annotated meet.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SIZE_VX: Final = (500, 420, 150)
RESOLUTION_NM: Final = (1800, 1800, 2000)

# From the axis of the slab outwards: a grey nucleus, a dark tract, a cell layer, the rim.
_RADIUS_KNOTS: Final = (0.0, 0.24, 0.34, 0.47, 0.53, 0.60, 0.71, 0.80, 0.955, 1.0, 1.025)
_LEVEL_KNOTS: Final = (0.82, 0.86, 0.62, 0.52, 0.56, 0.80, 1.00, 0.84, 0.78, 0.45, 0.0)


def section_radius(x: Floats, y: Floats) -> Floats:
    """Measure how far out (x, y) lies in the widest section: 0 on the slab's axis, 1 on its edge.

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
    """Return how wide the section at `z` (voxels) is, relative to the widest one."""
    return 1.02 - 0.10 * ((z - 95) / 95) ** 2


def tissue_radius(position_vx: Floats) -> float:
    """Return the normalised radius at one (x, y, z) position: below 1 inside the tissue."""
    x, y, z = position_vx
    return float(section_radius(np.asarray(x), np.asarray(y))) / section_scale(float(z))


def tissue_level(radius: Floats) -> Floats:
    """Return the brightness of unlabelled tissue, 0 to 1, at normalised radii of any shape."""
    return np.interp(radius, _RADIUS_KNOTS, _LEVEL_KNOTS)


def inside_volume(position_vx: Floats, margin_vx: float = 0.0) -> bool:
    """Tell whether an (x, y, z) position is at least `margin_vx` away from every face."""
    return bool(
        np.all(position_vx >= margin_vx) and np.all(position_vx < np.subtract(SIZE_VX, margin_vx))
    )
