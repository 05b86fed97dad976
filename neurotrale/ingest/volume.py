"""A stack that is in memory already."""

from __future__ import annotations

import hashlib
from typing import Any

from numpy.typing import NDArray


class Volume:
    """Planes of an array.

    Args:
        voxels: ``[z, y, x]``.
    """

    def __init__(self, voxels: NDArray[Any]) -> None:
        z, y, x = voxels.shape
        self.shape_zyx = (z, y, x)
        self.dtype = voxels.dtype.name
        self.fingerprint = hashlib.sha256(voxels.tobytes()).hexdigest()
        self._voxels = voxels

    def plane(self, z: int) -> NDArray[Any]:
        """Give a plane."""
        plane: NDArray[Any] = self._voxels[z]
        return plane

    def close(self) -> None:
        """Do nothing: no file is open."""
