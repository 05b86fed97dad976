"""The rules that an annotation must follow before it is written.

They are those of the viewer's own loader: what it would choke on is refused, what it ignores is
kept. Every problem names its place, as in ``[17].points[3]: expected 3 numbers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_PROBLEMS = 20
# Far below what the JSON reader manages: a file must stay readable once the annotation is in it.
MOST_LEVELS = 100

# type -> fields that hold one point, fields that hold a list of points
GEOMETRY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "point": (("point",), ()),
    "line": (("pointA", "pointB"), ()),
    "axis_aligned_bounding_box": (("pointA", "pointB"), ()),
    "ellipsoid": (("center", "radii"), ()),
    "linestring": ((), ("points",)),
    "polygon": ((), ("points",)),
}
NOT_NULL = ("type", "description", "reviewed", "visited", "length", "segments", "anntype")
KNOWN_KEYS = frozenset(
    {"id", *NOT_NULL} | {key for pair in GEOMETRY.values() for keys in pair for key in keys}
)


@dataclass(slots=True)
class Report:
    """What was found: problems refuse the body, warnings go with the answer."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_annotations(annotations: object) -> Report:
    """Check the body of a PUT: an array of annotations, each with an id of its own."""
    report = Report()
    if not isinstance(annotations, list):
        report.problems.append(
            f"the body: expected an array of annotations, found {_kind(annotations)}"
        )
        return report
    seen: dict[str, int] = {}
    warn = _Capped(report.warnings)
    problem = _Capped(report.problems)
    for index, annotation in enumerate(annotations):
        where = f"[{index}]"
        _check(annotation, where, problem, warn, nulls=True)
        id_ = annotation.get("id") if isinstance(annotation, dict) else None
        if isinstance(id_, str) and id_:
            first = seen.setdefault(id_, index)
            if first != index:
                problem(f"{where}.id: expected an id of its own, found {id_!r} of [{first}] again")
    warn.close()
    problem.close()
    return report


def check_each(annotations: Iterable[object]) -> Report:
    """Check the annotations of a file by themselves: all rules but that their ids differ.

    Args:
        annotations: Looked at one after the other, so that not all need be in memory at once.
    """
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    for index, annotation in enumerate(annotations):
        _check(annotation, f"[{index}]", problem, warn, nulls=True)
    warn.close()
    problem.close()
    return report


def check_annotation(annotation: object) -> Report:
    """Check the body of a PATCH, one annotation with its id filled in."""
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    _check(annotation, "", problem, warn, nulls=False)
    warn.close()
    problem.close()
    return report


Say = Callable[[str], None]


class _Capped:
    """Collects the first sentences and counts the rest."""

    def __init__(self, into: list[str]) -> None:
        self.into = into
        self.more = 0

    def __call__(self, sentence: str) -> None:
        if len(self.into) < MOST_PROBLEMS:
            self.into.append(sentence)
        else:
            self.more += 1

    def close(self) -> None:
        if self.more:
            self.into.append(f"and {self.more} more")


def _check(annotation: object, where: str, problem: Say, warn: Say, *, nulls: bool) -> None:
    if not isinstance(annotation, dict):
        problem(
            f"{where or 'the body'}: expected an annotation (an object), found {_kind(annotation)}"
        )
        return
    dot = f"{where}." if where else ""
    id_ = annotation.get("id")
    if not isinstance(id_, str) or not id_:
        problem(f"{dot}id: expected a non-empty string, found {_kind(id_, 'id' in annotation)}")
    for key in NOT_NULL:
        if key in annotation and annotation[key] is None:
            problem(f"{dot}{key}: null is not allowed; leave the key out instead")
    unknown = annotation.keys() - KNOWN_KEYS
    if unknown:
        warn(
            f"{where or 'the annotation'}: kept the unknown key"
            f"{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, sorted(unknown)))}"
        )
    _check_geometry(annotation, where, dot, problem, warn, nulls=nulls)
    _check_levels(annotation, dot, problem)


def _check_geometry(
    annotation: dict[str, Any], where: str, dot: str, problem: Say, warn: Say, *, nulls: bool
) -> None:
    kind = annotation.get("type")
    if kind is None:
        if "type" not in annotation:
            warn(f"{where or 'the annotation'}: has no type, viewers will not show it")
        return
    if not isinstance(kind, str):
        problem(f"{dot}type: expected a string, found {_kind(kind)}")
        return
    if kind.lower() not in GEOMETRY:
        warn(f"{dot}type: kept the unknown type {kind!r}, viewers may not show it")
        return
    single, several = GEOMETRY[kind.lower()]
    missing = [key for key in single + several if key not in annotation]
    for key in missing:
        problem(f"{dot}{key}: a {kind.lower()} needs it, and it is missing")
    for key in single:
        if key in annotation:
            _check_point(annotation[key], f"{dot}{key}", problem, warn, nulls)
    for key in several:
        if key in annotation:
            points = annotation[key]
            if not isinstance(points, list):
                problem(f"{dot}{key}: expected a list of points, found {_kind(points)}")
                continue
            for i, point in enumerate(points):
                _check_point(point, f"{dot}{key}[{i}]", problem, warn, nulls)


def _check_point(point: object, where: str, problem: Say, warn: Say, nulls: bool) -> None:
    numbers = list(_coordinates(point))
    if len(numbers) != 3:
        problem(f"{where}: expected 3 numbers")
        return
    null = False
    for number in numbers:
        if number.__class__ is float or number.__class__ is int:
            continue
        if number is not None or not nulls:
            problem(f"{where}: expected 3 numbers, found {_kind(number)}")
            return
        null = True
    if null:
        warn(f"{where}: kept a coordinate that is null (not a number in the viewer)")


def _coordinates(point: object) -> Iterator[object]:
    """Give the coordinates of a vertex, also of one that older viewers wrote as an object."""
    if isinstance(point, list):
        yield from point
    elif isinstance(point, dict) and point.keys() == {"0", "1", "2"}:
        yield from (point["0"], point["1"], point["2"])


def _check_levels(annotation: dict[str, Any], dot: str, problem: Say) -> None:
    kind = annotation.get("type")
    known = GEOMETRY.get(kind.lower()) if isinstance(kind, str) else None
    flat = known[0] + known[1] if known else ()  # the rules of points allow no deeper levels
    for key, value in annotation.items():
        if key not in flat and isinstance(value, (list, dict)) and _levels(value) > MOST_LEVELS:
            problem(f"{dot}{key}: nested more than {MOST_LEVELS} levels deep")


def _levels(value: object) -> int:
    level, count = [value], -1
    while level and count <= MOST_LEVELS:
        level = [child for item in level for child in _children(item)]
        count += 1
    return count


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _kind(value: object, present: bool = True) -> str:
    if not present:
        return "nothing"
    if value is None:
        return "null"
    names: dict[type, str] = {
        bool: "a boolean", int: "a number", float: "a number", str: "a string",
        list: "an array", dict: "an object",
    }  # fmt: skip
    if value == "":
        return "an empty string"
    return names[type(value)]
