"""Just enough letters to write a length on a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Five dots high.
_DOTS = {
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "5": "### #.. ### ..# ###",
    "n": "... ##. #.# #.# #.#",
    "m": "..... ##.#. #.#.# #.#.# #.#.#",
    "µ": ".... #..# #..# ###. #...",
    " ": ".. .. .. .. ..",
}


def write_text(text: str, scale: int) -> NDArray[np.bool_]:
    """Draw a text made of ``0125``, ``n``, ``m``, ``µ`` and spaces.

    Returns:
        Dots ``[y, x]``, each ``scale`` pixels wide.
    """
    columns: list[NDArray[np.bool_]] = []
    for letter in text:
        rows = [[dot == "#" for dot in row] for row in _DOTS[letter].split()]
        columns += [np.array(rows), np.zeros((5, 1), bool)]
    dots = np.concatenate(columns[:-1], axis=1)
    return dots.repeat(scale, axis=0).repeat(scale, axis=1)
