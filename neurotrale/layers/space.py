"""The coordinates of a data set: voxel size and bounds, from its volume where it has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.info import Info, Infos
from neurotrale.layers.geometry import Coordinates
from neurotrale.names import Parts

Floats = NDArray[np.float64]
Triple = tuple[float, float, float]

# Bounds that follow the annotations move in steps, so that an edit rarely moves the grid.
STEP_VX = 256


@dataclass(frozen=True, slots=True)
class Space:
    """Where annotations are.

    Attributes:
        voxel_nm: Size of a voxel (x, y, z) in nanometres; all 1 where it is not known.
        known: Whether it is.
        lower_vx: Where the volume begins.
        upper_vx: Where it ends; no more than where it begins when there is no volume.
    """

    voxel_nm: Triple = (1.0, 1.0, 1.0)
    known: bool = False
    lower_vx: Triple = (0.0, 0.0, 0.0)
    upper_vx: Triple = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, info: Info | None) -> Space:
        """Take the coordinates of the finest scale of a volume."""
        if info is None or not info.scales or min(info.scales[0].resolution) <= 0:
            return cls()
        scale = info.scales[0]
        (a, b, c), (x, y, z) = scale.voxel_offset, scale.size
        return cls(scale.resolution, True, (a, b, c), (a + x, b + y, c + z))

    @property
    def dimensions(self) -> dict[str, tuple[float, str]]:
        """The dimensions as `info` has them; without unit where the voxel size is not known."""
        if not self.known:
            return dict.fromkeys("xyz", (1, ""))
        # Divided, not multiplied: the viewer does so for the volume, and the two must agree.
        return {name: (nm / 1e9, "m") for name, nm in zip("xyz", self.voxel_nm, strict=True)}

    def around(self, lower: Coordinates, upper: Coordinates) -> tuple[Floats, Floats]:
        """Give bounds (x, y, z) that hold the volume and all boxes, each box a row."""
        start, stop = np.array(self.lower_vx, float), np.array(self.upper_vx, float)
        if len(lower):
            least, most = lower.min(axis=0).astype(float), upper.max(axis=0).astype(float)
            start = np.where(least < start, np.floor(least / STEP_VX) * STEP_VX, start)
            stop = np.where(most > stop, np.ceil(most / STEP_VX) * STEP_VX, stop)
        return start, np.maximum(stop, start + 1)


class Spaces:
    """Finds the coordinates of data sets.

    Args:
        infos: Where the volumes' `info` files are.
    """

    def __init__(self, infos: Infos) -> None:
        self.infos = infos

    def of(self, dataset: Parts) -> Space:
        """Give the coordinates of a data set as its `info` states them now.

        Raises:
            DamagedError: The `info` cannot be understood.
        """
        above = self.infos.above((*dataset, "annotations"))
        # One further up belongs to another data set.
        return Space.of(above[0] if above is not None and above[1] == "annotations" else None)
