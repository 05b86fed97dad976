"""Which of many examples and cases a quick run of the tests tries."""

from collections.abc import Mapping, Sequence

from hypothesis import settings

USUAL = 100
"""The examples of a test that names no number, in a run with ``--long``."""


def examples(number: int) -> int:
    """Give the number for ``settings(max_examples=...)``; a quick run tries a part of it.

    Args:
        number: What a run with ``--long`` tries.
    """
    return max(5, number * settings().max_examples // USUAL)


def representatives(cases: Sequence[Mapping[str, object]], number: int) -> list[int]:
    """Choose a few of a test's cases: with many different parameters, from all over its table.

    Args:
        cases: For each case, its parameters by name.
        number: How many cases to choose, at most.

    Returns:
        The indices of the chosen cases; the first case is one of them.
    """
    values = [{(name, id(value)) for name, value in case.items()} for case in cases]
    chosen: list[int] = []
    seen: set[tuple[str, int]] = set()
    for _ in range(min(number, len(cases))):
        others = [index for index in range(len(cases)) if index not in chosen]
        best = max(
            others,
            key=lambda index: (
                len(values[index] - seen),
                min((abs(index - other) for other in chosen), default=-index),
            ),
        )  # fmt: skip
        chosen.append(best)
        seen |= values[best]
    return sorted(chosen)
