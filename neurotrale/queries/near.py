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
        # A little larger: as float32 a coordinate may have been rounded out of the box.
        slack = np.maximum(np.abs(around.lower), np.abs(around.upper)) * 2.0**-20
        touched = ((around.lower - slack <= high) & (around.upper + slack >= low)).all(axis=1)
        found[shapes.places[around.owners[touched]]] = True
    places: list[int] = np.flatnonzero(found).tolist()
    return places
