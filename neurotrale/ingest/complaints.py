"""What is wrong with a source, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32")
# As many lines a person reads; the rest is counted.
_MOST_LINES = 50


def listed(problems: Sequence[str]) -> str:
    """Put all problems of a source into one message."""
    lines = [f"  {problem}" for problem in problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"  ... and {len(problems) - _MOST_LINES} more")
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    return "\n".join(
        [f"The source has {count}; mend them, then start again. Nothing was written.", *lines]
    )


def bad_dtype(dtype: str) -> list[str]:
    """Say what to do about voxels of a type that data sets do not have."""
    if dtype in DTYPES:
        return []
    return [f"the voxels are of type {dtype}; convert them to one of {', '.join(DTYPES)}"]


def unreadable(path: Path, error: Exception) -> str:
    """Say that a file is no TIFF, or one in a compression that cannot be read."""
    return f"{path}: not a TIFF that can be read ({str(error) or type(error).__name__})"
