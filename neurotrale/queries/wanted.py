"""Which annotations are wanted: by place, kind of object, type and review."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from neurotrale.errors import BadInputError
from neurotrale.layers.geometry import vertices_of
from neurotrale.layers.kinds import Kind
from neurotrale.layers.reading import Annotation

Triple = tuple[float, float, float]
Box = tuple[Triple, Triple]
"""Lower and upper corner (x, y, z) in voxels, both inside."""

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What annotations must be; all of it must hold.

    Attributes:
        box: They touch this box; None for anywhere.
        anntypes: What they are, one of these; empty for anything. "" stands for those without.
        types: Their geometry, one of these in lower case; empty for any.
        reviewed: Whether a person reviewed them; None for either.
    """

    box: Box | None = None
    anntypes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    reviewed: bool | None = None

    @classmethod
    def parse(
        cls,
        bbox: str | None = None,
        anntype: Sequence[str] = (),
        type_: Sequence[str] = (),
        reviewed: str | None = None,
    ) -> Wanted:
        """Read what a person wrote.

        Raises:
            BadInputError: It cannot be understood; says what was expected.
        """
        if any(not name for name in type_):
            raise BadInputError("type is empty; name one, as in type=linestring.")
        return cls(
            None if bbox is None else _box(bbox),
            frozenset(anntype),
            frozenset(name.lower() for name in type_),
            None if reviewed is None else _truth(reviewed),
        )

    @property
    def name(self) -> str:
        """What tells this from any other wish."""
        return repr((self.box, sorted(self.anntypes), sorted(self.types), self.reviewed))

    def fits(self, annotation: Annotation) -> bool:
        """Tell whether an annotation is wanted."""
        return (
            (self.reviewed is None or annotation.reviewed == self.reviewed)
            and (not self.anntypes or annotation.anntype in self.anntypes)
            and (not self.types or annotation.type.lower() in self.types)
            and (self.box is None or _touches(annotation, self.box))
        )


EVERYTHING = Wanted()


def _box(text: str) -> Box:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise BadInputError(
            f"bbox={text[:100]!r} is no box; expected x0,y0,z0,x1,y1,z1 in voxels, as in"
            " bbox=0,0,0,250,420,150."
        )
    x0, y0, z0, x1, y1, z1 = numbers
    if x1 < x0 or y1 < y0 or z1 < z0:
        raise BadInputError(
            f"bbox={text[:100]!r} ends before it begins; expected the lower corner x0,y0,z0 first,"
            " then the upper one."
        )
    return (x0, y0, z0), (x1, y1, z1)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise BadInputError(f"reviewed={text[:100]!r} is neither true nor false.")
    return _TRUTH[text.lower()]


def _touches(annotation: Annotation, box: Box) -> bool:
    """Tell whether an annotation touches a box; one whose points are not all numbers does not."""
    kind, vertices = vertices_of(annotation)
    points = [
        (x, y, z) for x, y, z in vertices if x is not None and y is not None and z is not None
    ]
    if not points or len(points) < len(vertices):
        return False
    if kind is Kind.POINTS:
        return _crosses(points[0], points[0], box)
    first, second = points[0], points[1]
    if kind is Kind.BOXES:
        return _overlap(first, second, box)
    if kind is Kind.ELLIPSOIDS:
        return _reaches(first, second, box)
    return any(_crosses(start, stop, box) for start, stop in pairwise(points))


def _overlap(corner: Triple, other: Triple, box: Box) -> bool:
    return all(
        min(a, b) <= high and max(a, b) >= low
        for a, b, low, high in zip(corner, other, *box, strict=True)
    )


def _reaches(centre: Triple, radii: Triple, box: Box) -> bool:
    """Tell whether the point of a box that is nearest to an ellipsoid's centre is inside it."""
    distance = 0.0
    for at, radius, low, high in zip(centre, radii, *box, strict=True):
        away = max(low - at, 0.0, at - high)
        if away > 0:
            distance += (away / radius) ** 2 if radius else math.inf
    return distance <= 1


def _crosses(start: Triple, stop: Triple, box: Box) -> bool:
    """Tell whether a segment touches a box: how much of it lies between each pair of planes."""
    first, last = 0.0, 1.0
    for a, b, low, high in zip(start, stop, *box, strict=True):
        if a == b:
            if not low <= a <= high:
                return False
            continue
        enters, leaves = sorted(((low - a) / (b - a), (high - a) / (b - a)))
        first, last = max(first, enters), min(last, leaves)
    return first <= last
