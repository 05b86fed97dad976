"""Renders a scene the way a light-sheet microscope would see it."""

from typing import Final

import numpy as np
import numpy.typing as npt

from neurotrale.demo.drawing import draw_cell, draw_neurite
from neurotrale.demo.fields import SmoothField, block_means
from neurotrale.demo.shapes import Scene
from neurotrale.demo.tissue import SIZE_VX, section_radius, section_scale, tissue_level

CAMERA_OFFSET: Final = 110.0
TISSUE_LIGHT: Final = 380.0
_HAZE_EDGE_VX: Final = 10


def render(scene: Scene, seed: int) -> npt.NDArray[np.uint16]:
    """Render a scene: structures, tissue, the light they scatter, stripes and noise.

    Args:
        scene: what to draw.
        seed: of the tissue's texture and of the noise.

    Returns:
        The volume, shape (z, y, x) = (150, 420, 500). The same on every call.
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
