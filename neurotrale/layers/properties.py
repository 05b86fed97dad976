"""What a viewer is told about each annotation beside its geometry.

The format has numbers only. Texts (the annotation's own id, its type of object, its description)
are enumerations: a number that is the hash of the text, and a label for it in `info`. So a number
means the same in every source and after every edit; a viewer that still has an older `info` shows
a number without label at worst, never a wrong label. For the same reason the layout never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurotrale.layers.ids import digest

# Beyond this `info` would grow larger than what is drawn; ids are then found by number only.
LABELLED_IDS = 200_000
LABELLED_TEXTS = 10_000
LONGEST_LABEL = 200

_OTHER = 2**16 - 1
_DTYPE = np.dtype(
    [
        # The uint32 first: the package `neuroglancer` (2.41) misplaces one that is not.
        ("id", "<u4"),
        ("length", "<f4"),
        ("description", "<i4"),
        ("anntype", "<u2"),
        ("reviewed", "u1"),
        ("visited", "u1"),
    ]
)
WORDS = _DTYPE.itemsize // 4
"""Bytes of an annotation's properties, in units of four."""

Words = NDArray[np.uint32]
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Columns:
    """The properties of annotations, a value for each.

    Attributes:
        ids: Their own ids.
        anntypes: What they are: neuron, axon, ...; "" for nothing.
        descriptions: What people wrote; "" for nothing.
        reviewed: 0 or 1.
        visited: 0 or 1.
        lengths: As the file has them; NaN for none.
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
        columns: What to encode.
        numbers: The annotations' 64-bit numbers.

    Returns:
        The description of the properties as `info` has it; and the encoded values, shape
        (n, `WORDS`).
    """
    values = np.zeros(len(columns.ids), _DTYPE)
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
        _plain("length", "float32", "Length, as the file has it; NaN where it has none."),
        _enumeration(
            "description",
            "int32",
            "What people wrote about it.",
            {0: ""}
            | _labels(
                ((code, text) for text, code in sorted(descriptions.items())), LABELLED_TEXTS
            ),
        ),
        _enumeration(
            "anntype",
            "uint16",
            "What it is.",
            _labels((code, text) for text, code in anntypes.items()) | {_OTHER: "(other)"},
        ),
        _enumeration("reviewed", "uint8", "Whether a person reviewed it.", _YES_NO),
        _enumeration("visited", "uint8", "Whether a person looked at it.", _YES_NO),
    ]
    return described, values.view(np.uint32).reshape(-1, WORDS)


_YES_NO = {0: "no", 1: "yes"}


def _anntype_codes(texts: Sequence[str]) -> dict[str, int]:
    """Give each distinct text a code of its own, 0 for none."""
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


def _labels(pairs: Iterable[tuple[int, str]], most: int | None = None) -> dict[int, str]:
    """Gather labels; where texts share a number, the label names them all."""
    labels: dict[int, str] = {}
    for code, text in pairs:
        label = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
        if code in labels and label != labels[code]:
            label = f"{labels[code]} or {label}"
        if most is None or len(labels) < most:
            labels[code] = label
    return labels


def _plain(name: str, type_: str, description: str) -> Json:
    return {"id": name, "type": type_, "description": description}


def _enumeration(name: str, type_: str, description: str, labels: dict[int, str]) -> Json:
    enumeration: Json = _plain(name, type_, description)
    if labels:
        enumeration["enum_values"] = list(labels)
        enumeration["enum_labels"] = [label or "(none)" for label in labels.values()]
    return enumeration
