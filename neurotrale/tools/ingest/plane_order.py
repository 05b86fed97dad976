"""The order of planes by their names, and what the names say of missing and foreign planes.

Names are read in two ways. *By name*: from left to right, whole numbers by their value. *By
number*: the last number first, with signs and decimals where the names show them. If both give the
same order, or the names show which of them is meant, that is the order of the planes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from neurotrale.errors import BadInputError, SourceError, printable, reading
from neurotrale.tools.ingest.plane_names import (
    PlaneNames,
    SplitName,
    Value,
    has_decimals,
    natural_key,
    relative_names,
    split_names,
    stem,
)

NAME, NUMBER = "NAME", "NUMBER"
"""The ways to read names, as values of ``--order``; any other value is a file."""

# What programs add to the name of a copy.
_COPY = re.compile(
    r"(?:copy of |kopie von )?(.+?)(?:[ _]?\((\d+)\)|[ _-]+(?:copy|kopie)(?: ?\(?\d+\)?)?|~)?$",
    re.IGNORECASE,
)
_LISTING = "--order with the path of a file that lists the names, one a line"
_MOST_KINDS = 5
# A larger gap is more than a few lost planes; only the first ones are named.
_MOST_NAMED = 1000
# More files than one in this many, of another kind than the others, are no strays.
_FEW = 10


@dataclass(frozen=True, slots=True)
class PlaneOrder:
    """The order of planes.

    Attributes:
        paths: The files, in order.
        problems: Planes that are missing, doubled, or no planes of this stack.
        text: The order for people: the first names, the last one, and the step.
    """

    paths: list[Path]
    problems: list[str]
    text: str


def order_planes(paths: Sequence[Path], order: str | None) -> PlaneOrder:
    """Find the order of planes.

    Args:
        paths: The files.
        order: `NAME`, `NUMBER`, or a file that lists the names; None to decide by the names.

    Raises:
        BadInputError: The names can be read in two ways, or do not fit `order`.
    """
    if order is not None and order.upper() not in (NAME, NUMBER):
        return _as_listed(paths, Path(order))
    paths = sorted(paths, key=natural_key)
    decimals = has_decimals(paths)
    names = split_names(paths, decimals=decimals is not False)
    if order is None:
        strays = _strays(names)
        if strays:
            others = PlaneNames([name for name in names if name.path not in strays])
            gaps = [f"{name}: missing" for name in missing_names(others)]
            return PlaneOrder(paths, [*strays.values(), *gaps], "")
        names = _as_shown(names, decimals)
    elif order.upper() == NUMBER:
        if not names.have_as_many_numbers:
            raise BadInputError(
                "--order NUMBER needs names with numbers, as many in each. Use --order NAME,"
                f" or {_LISTING}."
            )
        names = names.by_number()
    elif decimals is None:
        names = split_names(paths, decimals=False)
    problems = [f"{name}: missing" for name in missing_names(names)]
    return PlaneOrder(names.paths, problems + doubled_names(names), _order_text(names, order))


def _as_shown(names: PlaneNames, decimals: bool | None) -> PlaneNames:
    """Return names, which are in natural order, in the order that they show.

    Raises:
        SourceError: They show two.
    """
    if not names.have_as_many_numbers:
        if any(name.numbers for name in names):
            raise SourceError("\n".join(map(printable, _many_kinds(names))))
        return names
    by_number = names.by_number()
    if by_number.paths == names.paths:
        return names
    if decimals is not None and len(names.varying) == 1 and len(names.kinds) == 1:
        signs = {name.numbers[names.varying[0]][0] for name in names}
        if decimals or len(signs) > 1 or "-" not in signs:
            return by_number
    raise SourceError("\n".join(map(printable, _two_readings(names, by_number))))


def _as_listed(paths: Sequence[Path], listing: Path) -> PlaneOrder:
    with reading(str(listing)):
        lines = [line.strip() for line in listing.read_text("utf-8-sig").splitlines()]
    names = [line for line in lines if line]
    known: dict[str, list[Path]] = defaultdict(list)
    for path, relative in zip(paths, relative_names(paths, paths), strict=True):
        for key in {path.name, relative, str(path)}:
            known[key].append(path)
    problems = [f"{name}: listed twice" for name, n in Counter(names).items() if n > 1]
    for name in dict.fromkeys(names):
        if len(known[name]) != 1:
            found = f"the name of {len(known[name])} files" if known[name] else "not in --source"
            problems.append(f"{name}: in {listing}, but {found}")
    ordered = [known[name][0] for name in names if len(known[name]) == 1]
    unlisted = sorted(set(paths).difference(ordered), key=natural_key)
    problems += [f"{path.name}: in --source, but not in {listing}" for path in unlisted]
    text = _order_text(split_names(ordered, decimals=False), str(listing)) if ordered else ""
    return PlaneOrder(ordered or list(paths), problems, text)


def _two_readings(by_name: PlaneNames, by_number: PlaneNames) -> Iterator[str]:
    kinds, varying = by_name.kinds, by_name.varying
    what = "a sign or a point in their names may be none"
    if len(kinds) > 1:
        what = "both numbers and other parts of their names vary"
    elif len(varying) > 1:
        what = f"{len(varying)} numbers in their names vary"
    yield f"The order of the planes is not clear, as {what}. Nothing was written."
    yield f"  by name:   {_ends(by_name)}"
    yield f"  by number: {_ends(by_number)}"
    yield f"Use --order NAME, --order NUMBER, or {_LISTING}."
    if len(kinds) == 1 and len(varying) > 1:
        fewest = min(varying, key=lambda column: len(set(by_name.columns[column])))
        pattern = by_name[0].pattern([column for column in varying if column != fewest])
        yield (
            "If they are several channels, times or tiles, narrow --source to one of them, such"
            f" as '{pattern}'."
        )


def _many_kinds(names: PlaneNames) -> Iterator[str]:
    yield "The order of the planes is not clear: their names have different parts."
    first = {name.kind: name for name in reversed(names)}
    for kind, count in names.kinds.most_common(_MOST_KINDS):
        yield f"  {first[kind].path.name}{f' and {count - 1} like it' if count > 1 else ''}"
    if len(names.kinds) > _MOST_KINDS:
        yield f"  ... and {len(names.kinds) - _MOST_KINDS} other kinds"
    yield f"Narrow --source to the planes. Or use --order NAME, or {_LISTING}."


# --- problems ---


def missing_names(names: PlaneNames) -> list[str]:
    """Find the planes that are missing from a numbered series.

    The numbers may go up in steps, as in ``z000.tif, z020.tif, z040.tif``; the most common
    difference between neighbours is the step. If several numbers vary, it is about the last one.

    Returns:
        The names that would close the gaps, with * for numbers that are not known.
    """
    groups = names.groups()
    steps = Counter(b - a for group in groups for a, b in pairwise(group))
    if len(names) < 3 or not steps or not names.have_as_many_numbers:
        return []
    step = max(steps, key=lambda gap: (steps[gap], -gap))
    if any(gap % step for gap in steps):
        return []
    column = names.varying[-1]
    unknown = names.varying if len(groups) == 1 else [column]
    gaps = (
        group[before].pattern(unknown, _digits(number, group[before], group[after], column))
        for group in groups
        for before, after in pairwise(group)
        for number in _between(before, after, step)
    )
    return list(islice(gaps, _MOST_NAMED))


def _between(before: Value, after: Value, step: Value) -> Iterator[Value]:
    number = before + step
    while number < after:
        yield number
        number += step


def _digits(number: Value, before: SplitName, after: SplitName, column: int) -> str:
    """Write a number as its neighbours are written."""
    neighbours = [name.numbers[column] for name in (before, after)]
    alike = [parts for parts in neighbours if (parts[0] == "-") == (number < 0)] or neighbours
    plus = "+" if any(sign == "+" for sign, _, _ in neighbours) else ""
    sign = "-" if number < 0 or neighbours[0][0] == neighbours[1][0] == "-" else plus
    places = max(len(part) for _, _, part in neighbours)
    width = min(len(whole) for _, whole, _ in alike)
    if not places:
        return f"{sign}{abs(int(number)):0{width}}"
    return f"{sign}{abs(float(number)):0{width + places + 1}.{places}f}"


def doubled_names(names: PlaneNames) -> list[str]:
    """Report planes that have the same number, such as ``z7.tif`` and ``z07.tif``."""
    first: dict[object, Path] = {}
    doubled = []
    for name in names:
        numbers = tuple((sign == "-", int(a), b.rstrip("0")) for sign, a, b in name.numbers)
        known = first.setdefault((name.kind, numbers), name.path)
        if known is not name.path:
            doubled.append(f"{name.path.name}: the same plane as {known.name}")
    return doubled


def _strays(names: PlaneNames) -> dict[Path, str]:
    """Find the files that are no planes of their own, each with what it is instead."""
    copies = dict(_copies(names.paths))
    others = PlaneNames([name for name in names if name.path not in copies])
    return {**copies, **dict(_foreign(others))}


def _copies(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Find files like ``z1 (1).tif`` and ``z1 copy.tif`` beside ``z1.tif``."""
    originals = {(path.parent, stem(path.name)): path for path in paths}
    found: dict[Path, list[Path]] = defaultdict(list)
    for (parent, name), path in originals.items():
        match = _COPY.fullmatch(name)
        original = originals.get((parent, match[1])) if match else None
        if original is not None and original is not path:
            found[original].append(path)
    for original, copies in found.items():
        # "z (1)", "z (2)", "z (3)" beside a lone "z" are the planes themselves.
        if len(copies) < 3 or len(found) > 1:
            yield from ((copy, f"{copy.name}: a copy of {original.name}") for copy in copies)


def _foreign(names: PlaneNames) -> Iterator[tuple[Path, str]]:
    """Find a few files whose names are unlike those of all others, such as ``MAX_z.tif``."""
    (kind, count), *others = names.kinds.most_common()
    if not others or count < 3 or len(names) - count > max(1, len(names) // _FEW):
        return
    usual = PlaneNames([name for name in names if name.kind == kind])
    pattern = usual[0].pattern(usual.varying)
    for name in names:
        if name.kind != kind:
            problem = (
                f"{name.path.name}: not named like the others ({pattern}); narrow --source to"
                " them, or use --order NAME if it is one of the planes"
            )
            yield name.path, problem


# --- text ---


def _ends(names: PlaneNames) -> str:
    """Return the first two names and the last one."""
    first, second, *last = relative_names([*names.paths[:2], *names.paths[2:][-1:]], names.paths)
    return f"{first}, {second}{''.join(f' ... {name}' for name in last)}"


def _order_text(names: PlaneNames, order: str | None) -> str:
    told = "" if order is None else f", --order {order}"
    if not names.have_as_many_numbers or not names.varying:
        return f"{_ends(names)} (by name{told})"
    steps = {b - a for a, b in pairwise(names.columns[names.varying[-1]])}
    step = f"step {float(min(steps)):g}" if len(steps) == 1 else "no even step"
    return f"{_ends(names)} ({step}{told})"
