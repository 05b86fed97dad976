"""Kinds of values on the command line that click does not know."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_POWERS = {"": 2, "K": 1, "M": 2, "G": 3, "T": 4}
_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)
MOST_SHARDS = 100_000


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers above 0, ``x,y,z``; one stands for all three.

    Args:
        kind: What each of them is.
    """

    name = "x,y,z"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Read the numbers."""
        try:
            numbers = [self.kind(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
            example = "64,64,64" if self.kind is int else "1.8,1.8,2.0"
            self.fail(f"{value!r}: expected three numbers above 0, such as {example}.", param, ctx)
        x, y, z = numbers
        return x, y, z


class Size(click.ParamType[int]):
    """A number of bytes, such as ``500M`` or ``8G``; without a unit it is in MB, as for Slurm."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r}: expected a size, such as 500M or 8G.", param, ctx)
        return int(float(match[1]) * 1024 ** _POWERS[match[2].upper()])


class Shard(click.ParamType[tuple[int, int]]):
    """One part of many, ``I/N`` with I from 1 to N."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read the two numbers."""
        match = _SHARD.fullmatch(str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
            self.fail(f"{value!r}: expected I/N, such as 3/8, with I from 1 to N.", param, ctx)
        return int(match[1]), int(match[2])
