"""Which annotations may touch a box: found for a whole file at once, before any is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurotrale.layers.geometry import geometry_of
from neurotrale.layers.reading import Annotation
from neurotrale.layers.spatial import Boxes
from neurotrale.queries.wanted import Box


def near(annotations: Sequence[Annotation], box: Box) -> list[int]:
    """Give the places of the annotations whose own boxes touch a box, ascending.

    Those that touch it themselves are among them.
    """
    low, high = np.array(box[0]), np.array(box[1])
    found = np.zeros(len(annotations), bool)
    for kind, shapes in geometry_of(annotations).shapes.items():
        around = Boxes.of(kind, shapes).around()
        # One step outwards: as float32 a coordinate may have been rounded into or out of the box.
        lower = np.nextafter(around.lower, np.float32(-np.inf))
        upper = np.nextafter(around.upper, np.float32(np.inf))
        touched = ((lower <= high) & (upper >= low)).all(axis=1)
        found[shapes.places[around.owners[touched]]] = True
    places: list[int] = np.flatnonzero(found).tolist()
    return places
