"""Annotations read a piece at a time, and sources that were stored: the same as of the whole."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.pieces import (
    NotAnArrayError,
    decode_in_pieces,
    split_items,
)
from neurotrale.layers import annotation_reader
from neurotrale.layers.annotation_reader import read_annotation, read_annotations
from neurotrale.layers.geometry import GeometryKind
from neurotrale.layers.source import LayerSource, build_source
from neurotrale.layers.spatial_index import CoordinateSpace
from neurotrale.layers.stored_sources import decode_source, encode_source
from neurotrale.layers.tables import Table, build_table
from tests.examples import examples

BLANKS = st.text(" \n\r\t", max_size=3)
TEXTS = st.text('a,[]{}" \\', max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An array in some spelling, sometimes with a few bytes too many or too few."""
    items = draw(st.lists(JSON, max_size=8))
    text = draw(BLANKS) + "["
    for number, item in enumerate(items):
        text += ("," if number else "") + draw(BLANKS) + json.dumps(item) + draw(BLANKS)
    content = (text + draw(BLANKS) + "]" + draw(BLANKS)).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        cut = draw(st.integers(0, 2))
        content = (
            content[:at] + draw(st.sampled_from([b"", b",", b"]", b"["])) + content[at + cut :]
        )
    return content


_raw = msgspec.json.Decoder(list[msgspec.Raw])


@given(arrays(), st.integers(1, 20))
@settings(max_examples=examples(400), deadline=None)
def test_pieces_hold_the_items_of_the_whole_and_fail_where_it_fails(
    content: bytes, piece_bytes: int
) -> None:
    expected: list[bytes] | str
    try:
        expected = [bytes(item) for item in split_items(content)]
    except NotAnArrayError as error:
        expected = str(error)
    found: list[bytes] | str
    try:
        pieces = list(decode_in_pieces(content, _raw.decode, piece_bytes))
        found = [bytes(item) for piece in pieces for item in piece]
    except NotAnArrayError as error:
        found = str(error)
    assert found == expected


NUMBERS = st.none() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6, width=32)
POINTS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
TYPES = [
    *("point", "Point", "line", "axis_aligned_bounding_box", "ellipsoid", "linestring"),
    *("LineString", "polygon", "POLYGON", "text", ""),
]
ANNOTATIONS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES)},
        optional={
            "id": st.text(max_size=2) | st.just(5),
            "anntype": st.sampled_from(["axon", "neuron"]) | st.none(),
            "point": POINTS | st.just([1]),
            "pointA": POINTS,
            "pointB": POINTS,
            "center": POINTS,
            "radii": POINTS,
            "points": st.lists(POINTS, max_size=4) | st.just("none"),
            "reviewed": st.booleans() | st.just(1),
            "length": NUMBERS,
        },
    ),
    max_size=30,
)


def table_of(content: bytes, piece_bytes: int) -> Table:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(annotation_reader, "PIECE_BYTES", piece_bytes)
        return build_table("brain/annotations/x0y0z0/fibers.json", content, "etag")


def plain(table: Table) -> dict[str, Any]:
    """All of a table, as values that can be compared; NaN is a text."""
    return {
        "skipped": dict(table.skipped),
        **{
            kind.value: [
                part.shapes.indices.tolist(),
                part.shapes.offsets.tolist(),
                repr(part.shapes.coordinates.tolist()),
                list(part.columns.ids),
                list(part.columns.anntypes),
                part.columns.reviewed.tolist(),
                repr(part.columns.lengths.tolist()),
            ]
            for kind, part in sorted(table.parts.items(), key=lambda pair: pair[0].value)
        },
    }


@given(ANNOTATIONS, st.integers(1, 300))
@settings(max_examples=examples(200), deadline=None)
def test_file_read_in_pieces_is_the_same_table(
    annotations: list[dict[str, Any]], piece_bytes: int
) -> None:
    content = json.dumps(annotations).encode()
    assert plain(table_of(content, piece_bytes)) == plain(table_of(content, 10**9))
    one_by_one = [read_annotation(json.dumps(item).encode()) for item in annotations]
    assert [one for piece in read_annotations(content) for one in piece] == one_by_one


@given(ANNOTATIONS, st.sampled_from(list(GeometryKind)))
@settings(max_examples=examples(200), deadline=None)
def test_stored_source_is_that_which_was_computed(
    annotations: list[dict[str, Any]], kind: GeometryKind
) -> None:
    table = table_of(json.dumps(annotations).encode(), 10**9)
    source = build_source(kind, [table], CoordinateSpace())
    loaded, etag = decode_source(memoryview(b"".join(encode_source(source, "an etag"))))
    assert etag == "an etag"
    assert everything(loaded) == everything(source)


def everything(source: LayerSource) -> list[Any]:
    """All that a source can be asked for."""
    numbers = [int(number) for number in source.records.numbers]
    cells = []
    for depth, level in enumerate(source.levels):
        for x, y, z in zip(*np.unravel_index(level.codes, level.grid), strict=True):
            cells.append(source.cell(depth, (int(x), int(y), int(z))))
    assert source.cell(0, (9, 9, 9)) is None
    return [
        source.info,
        cells,
        [source.annotation(number) for number in numbers],
        [source.origin(number) for number in numbers],
        [(level.grid, level.chunk_size, level.limit) for level in source.levels],
        source.size_bytes,
    ]
