"""64-bit numbers for annotations, whose own ids are strings.

The viewer knows annotations by number. A number is the hash of the string: the same in every
source that holds the annotation, whatever else changes. The few that would collide within a source
are moved to the next free number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]

_MODULUS = 2**64


def digest(text: str) -> int:
    """Hash a string to 64 bits."""
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass"))


def numbers_of(
    ids: Sequence[str], wheres: Sequence[str], hashed: Callable[[str], int] = digest
) -> Numbers:
    """Give each annotation of a source a number of its own, never 0.

    Args:
        ids: The annotations' ids; "" for one that has none.
        wheres: What tells annotations of the same id from each other: their place.
        hashed: From a string to 0 ... 2**64 - 1.

    Returns:
        Shape (n,). Which annotation is moved depends on ids and places, not on the order.
    """
    numbers = np.fromiter(
        (hashed(id_ or where) for id_, where in zip(ids, wheres, strict=True)), np.uint64, len(ids)
    )
    if len(np.unique(numbers)) == len(numbers) and numbers.all():
        return numbers
    taken = {0}
    for row in sorted(range(len(ids)), key=lambda row: (ids[row], wheres[row])):
        number = int(numbers[row])
        while number in taken:
            number = (number + 1) % _MODULUS
        taken.add(number)
        numbers[row] = number
    return numbers
