"""Names of planes in parts: the numbers in them, with signs and decimals, and what is between."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

_NUMBER = re.compile(r"(\d+)", re.ASCII)
# A sign, whole digits, and digits after a point; "3-4" holds no sign.
_WHOLE = re.compile(r"((?<![0-9])[+-])?([0-9]+)()")
_DECIMAL = re.compile(r"((?<![0-9])[+-])?([0-9]+)(?:\.([0-9]+))?")
_DOTTED = re.compile(r"[0-9]+\.([0-9]+)(\.[0-9])?")
_LENGTH_UNIT = re.compile(r"[ _]?(um|µm|μm|nm|mm)(?![a-z])", re.IGNORECASE)
_EXTENSION = re.compile(r"(\.ome)?\.(tiff?|tf8|tf2|btf|lsm|stk)$", re.IGNORECASE)


Value: TypeAlias = "int | Fraction"


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts ``z9.tif`` before ``z10.tif``, directories included."""
    parts = _NUMBER.split(str(path))
    key = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return key, str(path)


@dataclass(frozen=True, slots=True)
class SplitName:
    """A name in parts.

    Attributes:
        path: The file.
        texts: The text before each number, and the one after the last, without extension.
        numbers: Sign, digits before the point, and digits after it, of each number.
    """

    path: Path
    texts: tuple[str, ...]
    numbers: tuple[tuple[str, str, str], ...]

    @property
    def kind(self) -> tuple[str, ...]:
        """The name without its numbers."""
        return tuple(text.casefold() for text in self.texts)

    def pattern(self, columns: Sequence[int], number: str = "*") -> str:
        """Return the name with * for some numbers, or another number for the last of them."""
        numbers = [f"{sign}{a}{'.' if b else ''}{b}" for sign, a, b in self.numbers]
        for column in columns:
            numbers[column] = number if column == columns[-1] else "*"
        pairs = zip(self.texts, [*numbers, ""], strict=True)
        return "".join(text + part for text, part in pairs) + extension(self.path)


def extension(path: Path) -> str:
    """Return the extension of a TIFF file: ``.tif``, ``.ome.tif``, ..."""
    match = _EXTENSION.search(path.name)
    return match[0] if match else ""


def stem(name: str) -> str:
    """Return a name without the extension of a TIFF file."""
    return _EXTENSION.sub("", name)


def relative_names(paths: Sequence[Path], among: Sequence[Path]) -> list[str]:
    """Return names of files below the directory that some files have in common."""
    directories = {str(path).rpartition("/")[0] for path in among}
    if len(directories) == 1:
        start = len(directories.pop()) + 1
        return [path.name if start == 1 else str(path)[start:] for path in paths]
    common = os.path.commonpath(directories) if "" not in directories else ""
    return [os.path.relpath(path, common) if common else str(path) for path in paths]


class PlaneNames(Sequence[SplitName]):
    """The names of planes in some order.

    Args:
        names: The names, with directories as far as these differ.

    Attributes:
        columns: The values of each number that all names have.
        varying: The columns whose values are not the same in all names.
        kinds: How many names there are of each kind.
    """

    def __init__(self, names: Sequence[SplitName]) -> None:
        self._names = names
        self.kinds = Counter(name.kind for name in names)
        count = min((len(name.numbers) for name in names), default=0)
        self.columns = [_values(names, column) for column in range(count)]
        self.varying = [i for i, column in enumerate(self.columns) if len(set(column)) > 1]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        """Return a name."""
        return self._names[index]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [name.path for name in self._names]

    @property
    def have_as_many_numbers(self) -> bool:
        """Whether all names have as many numbers, and at least one."""
        return bool(self.columns) and len({len(name.numbers) for name in self._names}) == 1

    def by_number(self) -> PlaneNames:
        """Return the names in the order of their numbers, the last first; else of their texts."""
        columns = [self.columns[column] for column in reversed(self.varying)]
        keys = list(zip(*columns, strict=True)) or [()] * len(self)
        indices = sorted(range(len(self)), key=lambda index: keys[index])
        return PlaneNames([self._names[index] for index in indices])

    def groups(self) -> list[dict[Value, SplitName]]:
        """Group the names by all but the last number that varies.

        All are one group if the other numbers go up together with the last one.

        Returns:
            The groups, each with its names by the values of the last number, in their order.
        """
        if not self.varying:
            return []
        *others, last = (self.columns[column] for column in self.varying)
        rows = sorted(zip(last, *others, self._names, strict=True), key=lambda row: row[0])
        if all(a[0] < b[0] and _all_rise(a[1:-1], b[1:-1]) for a, b in pairwise(rows)):
            return [{row[0]: row[-1] for row in rows}]
        groups: dict[object, dict[Value, SplitName]] = defaultdict(dict)
        for value, *rest, name in rows:
            groups[name.kind, *rest][value] = name
        return list(groups.values())


def _all_rise(before: Sequence[Value], after: Sequence[Value]) -> bool:
    return all(a <= b for a, b in zip(before, after, strict=True))


def _values(names: Sequence[SplitName], column: int) -> list[Value]:
    """Return the values of a number of all names.

    A minus after a letter is a dash, unless some names have none there.
    """
    numbers = [name.numbers[column] for name in names]
    dashes = {sign for sign, _, _ in numbers} == {"-"} and all(
        name.texts[column][-1:].isalpha() for name in names
    )
    signs = {"-": "" if dashes else "-"}
    return [
        Fraction(f"{signs.get(sign, '')}{whole}.{part}")
        if part
        else int(signs.get(sign, "") + whole)
        for sign, whole, part in numbers
    ]


def split_names(paths: Sequence[Path], *, decimals: bool) -> PlaneNames:
    """Split the names of files, with their directories as far as these differ.

    Args:
        paths: The files.
        decimals: Whether a dot between digits is a decimal point.
    """
    pattern = _DECIMAL if decimals else _WHOLE
    names = []
    for path, relative in zip(paths, relative_names(paths, paths), strict=True):
        parts = [part or "" for part in pattern.split(stem(relative))]
        numbers = zip(parts[1::4], parts[2::4], parts[3::4], strict=True)
        names.append(SplitName(path, tuple(parts[::4]), tuple(numbers)))
    return PlaneNames(names)


def has_decimals(paths: Sequence[Path]) -> bool | None:
    """Return whether dots between digits are decimal points; None if that is not clear.

    Args:
        paths: The files, in natural order.
    """
    stems = [stem(name) for name in relative_names(paths, paths)]
    matches = [match for match in map(_DOTTED.search, stems) if match]
    if not matches or any(match[2] for match in matches):
        return False
    if all(_LENGTH_UNIT.match(match.string, match.end()) for match in matches):
        return True
    decimal, whole = (split_names(paths, decimals=flag) for flag in (True, False))
    if len(decimal.kinds) < len(whole.kinds):  # z0.5 and z1
        return True
    widths = {len(match[1]) for match in matches}
    if len(widths) == 1 or decimal.by_number().paths == list(paths):
        return False
    even = _is_even(decimal), _is_even(whole)
    return even[0] if even[0] != even[1] else None


def _is_even(names: PlaneNames) -> bool:
    """Return whether the last number that varies goes up by the same step everywhere."""
    return len({b - a for group in names.groups() for a, b in pairwise(group)}) <= 1
