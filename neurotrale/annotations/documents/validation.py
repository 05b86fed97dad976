"""Validation of annotations before they are written.

The rules are those of the viewer's own loader: what it rejects is refused, what it ignores is
kept. Every problem starts with its location, for example ``[17].points[3]: expected 3 numbers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_PROBLEMS = 20
MOST_COUNTED = 10_000  # of those beyond
# Far below the limit of the JSON decoder: the file must stay readable with the annotation in it.
MAX_LEVELS = 100

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
    """The result of a check: problems, which make the body invalid, and warnings."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ArrayCheck:
    """Checks the annotations of an array, each of which has a unique id.

    Args:
        nulls: Whether coordinates may be null.
    """

    def __init__(self, *, nulls: bool = True) -> None:
        self.nulls = nulls
        self.report = Report()
        self.count = 0
        self._seen: dict[str, int] = {}
        self._warn = _Capped(self.report.warnings)
        self._problem = _Capped(self.report.problems)

    @property
    def is_hopeless(self) -> bool:
        """Whether there are so many problems that the rest need not be looked at."""
        return self._problem.more > MOST_COUNTED

    def add(self, annotation: object) -> None:
        """Check the next annotation."""
        _check(annotation, f"[{self.count}]", self._problem, self._warn, nulls=self.nulls)
        id_ = annotation.get("id") if isinstance(annotation, dict) else None
        self.add_flawless(id_ if isinstance(id_, str) else "")

    def add_flawless(self, id_: str) -> None:
        """Check that the id of the next annotation is unique; all else about it is right."""
        index, self.count = self.count, self.count + 1
        first = self._seen.setdefault(id_, index) if id_ else index
        if first != index:
            self._problem(f"[{index}].id: expected a unique id, found {id_!r}, as in [{first}]")

    def close(self) -> Report:
        """Return the result."""
        self._warn.close()
        self._problem.close()
        return self.report


def check_each(annotations: Iterable[object]) -> Report:
    """Check every annotation of a file by all rules except that ids are unique.

    Args:
        annotations: The annotations; consumed one by one, so they need not all be in memory.
    """
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    for index, annotation in enumerate(annotations):
        _check(annotation, f"[{index}]", problem, warn, nulls=True)
    warn.close()
    problem.close()
    return report


def check_annotation(annotation: object) -> Report:
    """Check the body of a PATCH: one annotation, with its id filled in."""
    report = Report()
    problem, warn = _Capped(report.problems), _Capped(report.warnings)
    _check(annotation, "", problem, warn, nulls=False)
    warn.close()
    problem.close()
    return report


AddSentence = Callable[[str], None]


class _Capped:
    """Collects the first sentences in a list and counts the rest."""

    def __init__(self, into: list[str]) -> None:
        self.into = into
        self.more = 0

    def __call__(self, sentence: str) -> None:
        if len(self.into) < MAX_PROBLEMS:
            self.into.append(sentence)
        else:
            self.more += 1

    def close(self) -> None:
        if self.more:
            more = f"more than {MOST_COUNTED}" if self.more > MOST_COUNTED else self.more
            self.into.append(f"and {more} more")


def _check(
    annotation: object, where: str, problem: AddSentence, warn: AddSentence, *, nulls: bool
) -> None:
    if not isinstance(annotation, dict):
        found = kind_of(annotation)
        problem(f"{where or 'the body'}: expected an annotation (an object), found {found}")
        return
    dot = f"{where}." if where else ""
    id_ = annotation.get("id")
    if not isinstance(id_, str) or not id_:
        problem(f"{dot}id: expected a non-empty string, found {kind_of(id_, 'id' in annotation)}")
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
    annotation: dict[str, Any],
    where: str,
    dot: str,
    problem: AddSentence,
    warn: AddSentence,
    *,
    nulls: bool,
) -> None:
    kind = annotation.get("type")
    if kind is None:
        if "type" not in annotation:
            warn(f"{where or 'the annotation'}: has no type, viewers will not show it")
        return
    if not isinstance(kind, str):
        problem(f"{dot}type: expected a string, found {kind_of(kind)}")
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
                problem(f"{dot}{key}: expected a list of points, found {kind_of(points)}")
                continue
            for i, point in enumerate(points):
                _check_point(point, f"{dot}{key}[{i}]", problem, warn, nulls)


def _check_point(
    point: object, where: str, problem: AddSentence, warn: AddSentence, nulls: bool
) -> None:
    numbers = list(_coordinates(point))
    if len(numbers) != 3:
        problem(f"{where}: expected 3 numbers")
        return
    null = False
    for number in numbers:
        if number.__class__ is float or number.__class__ is int:
            continue
        if number is not None or not nulls:
            problem(f"{where}: expected 3 numbers, found {kind_of(number)}")
            return
        null = True
    if null:
        warn(f"{where}: kept a coordinate that is null (not a number in the viewer)")


def _coordinates(point: object) -> Iterator[object]:
    """Iterate over the coordinates of a vertex; older viewers wrote vertices as objects."""
    if isinstance(point, list):
        yield from point
    elif isinstance(point, dict) and point.keys() == {"0", "1", "2"}:
        yield from (point["0"], point["1"], point["2"])


def _check_levels(annotation: dict[str, Any], dot: str, problem: AddSentence) -> None:
    kind = annotation.get("type")
    known = GEOMETRY.get(kind.lower()) if isinstance(kind, str) else None
    flat = known[0] + known[1] if known else ()  # the rules for points rule out deeper levels
    for key, value in annotation.items():
        if key not in flat and isinstance(value, (list, dict)) and _levels(value) > MAX_LEVELS:
            problem(f"{dot}{key}: nested more than {MAX_LEVELS} levels deep")


def _levels(value: object) -> int:
    level, count = [value], -1
    while level and count <= MAX_LEVELS:
        level = [child for item in level for child in _children(item)]
        count += 1
    return count


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def kind_of(value: object, present: bool = True) -> str:
    """Return what a value of JSON is, as a noun."""
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
