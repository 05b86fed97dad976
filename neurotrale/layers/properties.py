"""The properties of annotations in a source, and the 64-bit numbers that identify them.

The format has numeric properties only. Texts (the annotation's own id, its type of object, its
description) are enumerations: the number is the hash of the text, and `info` has a label for it.
So a number means the same in every source and after every edit: at worst, a viewer with an older
`info` shows a number without a label, never a wrong label. For the same reason, the layout never
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import xxhash

from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

Numbers: TypeAlias = "NDArray[np.uint64]"

_MODULUS = 2**64


def digest(text: str) -> int:
    """Hash a string to 64 bits."""
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass"))


def assign_ids(
    ids: Sequence[str],
    locations_of: Callable[[], Sequence[str]],
    hash_text: Callable[[str], int] = digest,
) -> Numbers:
    """Assign a unique number other than 0 to each annotation of a source.

    Args:
        ids: The annotations' ids; "" for a missing one.
        locations_of: Returns a unique text for each annotation, which distinguishes those with the
            same id. It is called only if there are some.
        hash_text: Hashes a string to 0 ... 2**64 - 1.

    Returns:
        Shape (n,). How collisions are resolved depends on ids and locations, not on the order.
    """
    texts = ids
    if not all(ids):
        texts = [id_ or at for id_, at in zip(ids, locations_of(), strict=True)]
    numbers = np.fromiter(map(hash_text, texts), np.uint64, len(ids))
    if len(np.unique(numbers)) == len(numbers) and numbers.all():
        return numbers
    locations = locations_of()
    taken = {0}
    for row in sorted(range(len(ids)), key=lambda row: (ids[row], locations[row])):
        number = int(numbers[row])
        while number in taken:
            number = (number + 1) % _MODULUS
        taken.add(number)
        numbers[row] = number
    return numbers


# With more ids, `info` would outgrow the annotations; ids are then found by number only.
LABELLED_IDS = 200_000
LABELLED_TEXTS = 10_000
LONGEST_LABEL = 200

_OTHER = 2**16 - 1
_FIELDS = [
    # The uint32 comes first: the package `neuroglancer` (2.41) misplaces it anywhere else.
    ("id", "<u4"),
    ("length", "<f4"),
    ("description", "<i4"),
    ("anntype", "<u2"),
    ("reviewed", "u1"),
    ("visited", "u1"),
]
WORDS = 4
"""Size of an annotation's properties in 4-byte words."""

Words: TypeAlias = "NDArray[np.uint32]"
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Columns:
    """The properties of annotations, each with a value per annotation.

    Attributes:
        ids: The ids in the file.
        anntypes: The kinds of object: neuron, axon, ...; "" for none.
        descriptions: The descriptions; "" for none.
        reviewed: 0 or 1.
        visited: 0 or 1.
        lengths: The lengths in the file; NaN for none.
    """

    ids: Sequence[str]
    anntypes: Sequence[str]
    descriptions: Sequence[str]
    reviewed: NDArray[np.uint8]
    visited: NDArray[np.uint8]
    lengths: NDArray[np.float32]


def properties_of(columns: Columns, numbers: NDArray[np.uint64]) -> tuple[list[Json], Words]:
    """Encode properties.

    Args:
        columns: The properties.
        numbers: The annotations' 64-bit numbers.

    Returns:
        The description of the properties for `info`, and the encoded values, shape (n, `WORDS`).
    """
    values = np.zeros(len(columns.ids), np.dtype(_FIELDS))
    values["length"] = columns.lengths
    values["reviewed"], values["visited"] = columns.reviewed, columns.visited
    short = (numbers & np.uint64(2**32 - 1)).astype(np.uint32)
    values["id"] = short
    anntypes = _anntype_codes(columns.anntypes)
    values["anntype"] = [anntypes.get(text, _OTHER) for text in columns.anntypes]
    texts = set(columns.descriptions) - {""}
    descriptions = {text: 1 + digest(text) % (2**31 - 1) for text in texts}
    values["description"] = [descriptions.get(text, 0) for text in columns.descriptions]
    described = [
        _enumeration("id", "uint32", "The annotation's id in the file.", _ids(columns.ids, short)),
        _property("length", "float32", "Length as in the file; NaN if it has none."),
        _enumeration(
            "description",
            "int32",
            "Description.",
            {0: ""}
            | _labels(
                ((code, text) for text, code in sorted(descriptions.items())), LABELLED_TEXTS
            ),
        ),
        _enumeration(
            "anntype",
            "uint16",
            "Kind of object.",
            _labels((code, text) for text, code in anntypes.items()) | {_OTHER: "(other)"},
        ),
        _enumeration("reviewed", "uint8", "Whether a person reviewed it.", _YES_NO),
        _enumeration("visited", "uint8", "Whether a person looked at it.", _YES_NO),
    ]
    return described, values.view(np.uint32).reshape(-1, WORDS)


_YES_NO = {0: "no", 1: "yes"}


def _anntype_codes(texts: Sequence[str]) -> dict[str, int]:
    """Assign a unique code to each distinct text, 0 to the empty one."""
    codes = {"": 0}
    taken = {0, _OTHER}
    for text in sorted(set(texts) - {""})[:LABELLED_TEXTS]:
        code = digest(text) % _OTHER
        while code in taken:
            code = (code + 1) % _OTHER
        taken.add(code)
        codes[text] = code
    return codes


def _ids(ids: Sequence[str], short: NDArray[np.uint32]) -> dict[int, str]:
    if len(ids) > LABELLED_IDS:
        return {}
    return _labels(zip(short.tolist(), ids, strict=True))


def _labels(pairs: Iterable[tuple[int, str]], limit: int | None = None) -> dict[int, str]:
    """Collect labels; if texts share a number, the label names them all."""
    labels: dict[int, str] = {}
    for code, text in pairs:
        label = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
        if code in labels and label != labels[code]:
            label = f"{labels[code]} or {label}"
        if limit is None or len(labels) < limit:
            labels[code] = label
    return labels


def _property(name: str, type_: str, description: str) -> Json:
    return {"id": name, "type": type_, "description": description}


def _enumeration(name: str, type_: str, description: str, labels: dict[int, str]) -> Json:
    enumeration: Json = _property(name, type_, description)
    if labels:
        enumeration["enum_values"] = list(labels)
        enumeration["enum_labels"] = [label or "(none)" for label in labels.values()]
    return enumeration
