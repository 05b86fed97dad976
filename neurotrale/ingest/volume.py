"""A stack that is in memory already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from neurotrale.ingest.pieces import Piece


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
        self.piece_bytes = 0  # it is there already
        self._voxels = voxels

    def pieces(self, z: int) -> Iterator[Piece]:
        """Give a plane, at once."""
        yield 0, self._voxels[z]

    def close(self) -> None:
        """Do nothing: no file is open."""
