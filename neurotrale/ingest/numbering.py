"""The order of plane files: by the numbers in their names, and what is missing between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

_NUMBER = re.compile(r"(\d+)", re.ASCII)
# A gap of more than this is not a handful of lost planes; the first are named.
_MOST_NAMED = 1000


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort ``z9.tif`` before ``z10.tif``; directories count, too."""
    pieces = _NUMBER.split(str(path))
    numbered = [
        (int(piece), "") if number % 2 else (-1, piece) for number, piece in enumerate(pieces)
    ]
    return numbered, str(path)


def missing_names(paths: Sequence[Path]) -> list[str]:
    """Find the planes that are missing from a numbered series.

    The numbers may go up in steps, as in ``z000.tif, z020.tif, z040.tif``; the step that most
    neighbours have counts.

    Args:
        paths: In natural order.

    Returns:
        The names that would close the gaps; none when the names are not one numbered series.
    """
    pieces = [_NUMBER.split(path.name) for path in paths]
    if len({len(piece) for piece in pieces}) != 1:
        return []
    varying = [i for i, texts in enumerate(zip(*pieces, strict=True)) if len(set(texts)) > 1]
    if len(varying) != 1 or varying[0] % 2 == 0 or len(paths) < 3:
        return []
    place = varying[0]
    numbers = [int(piece[place]) for piece in pieces]
    steps = Counter(b - a for a, b in pairwise(numbers))
    step = max(steps, key=lambda gap: (steps[gap], -gap))
    if step == 0 or any(gap % step for gap in steps):
        return []
    return [
        "".join([*pieces[0][:place], number, *pieces[0][place + 1 :]])
        for number in _between(numbers, step, len(pieces[0][place]))
    ]


def doubled_names(paths: Sequence[Path]) -> list[str]:
    """Find planes that have the same number, such as ``z7.tif`` and ``z07.tif``."""
    keys = [natural_key(path)[0] for path in paths]
    return [
        f"{second.name}: the same plane as {first.name}"
        for (first, a), (second, b) in pairwise(zip(paths, keys, strict=True))
        if a == b
    ]


def _between(numbers: Sequence[int], step: int, width: int) -> Iterator[str]:
    named = 0
    for before, after in pairwise(numbers):
        for number in range(before + step, after, step):
            yield f"{number:0{width}d}"
            named += 1
            if named == _MOST_NAMED:
                return
