"""Annotations chosen by place, object, type and review, in one file and in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.layers.annotation_reader import Annotation
from neurotrale.queries.query import AnnotationQuery
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.examples import examples

# Every annotation is written in a way of its own, which must stay as it is.
FIRST = b"""[
   {"id":"p1","type":"Point","anntype":"neuron","point":[1e1, 20.0,30],"reviewed":true},
   {"id": "p2", "type": "point", "anntype": "glia", "point": [50, 50, 50], "reviewed": false},
   {"id": "line", "type": "line", "pointA": [0, 0, 0], "pointB": [100, 100, 100], "x": {"y": null}},
   {"id": "box", "type": "axis_aligned_bounding_box", "pointA": [90, 90, 60],
    "pointB": [70, 70, 40], "anntype": "neuron", "reviewed": true},
   {"id": "ball", "type": "ellipsoid", "center": [20, 60, 20], "radii": [10, 5, 5], "anntype": ""},
   {"id": "fiber", "type": "linestring", "anntype": "a,b & c", "reviewed": true,
    "points": [[0, 80, 10], [40, 80, 10], {"0": 40, "1": 99, "2": 10}]},
   {"id": "ring", "type": "polygon", "points": [[60, 10, 5], [80, 10, 5], [80, 30, 5]]},
   {"id": "nan", "type": "point", "point": [null, 1, 1]},
   {"id": "text", "type": "Text", "position": "\\u00fc"}
]
"""
SECOND = (
    b'[{"id":"p1","type":"point","anntype":"neuron","point":[66,5,5],"length":1234567890123456789}]'
)
IDS = ["p1", "p2", "line", "box", "ball", "fiber", "ring", "nan", "text"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("queries")
    annotations = write_dataset(root / "brain") / "annotations"
    (annotations / "x0y0z0" / "fibers.json").write_bytes(FIRST)
    (annotations / "x1y0z0").mkdir()
    (annotations / "x1y0z0" / "more.json").write_bytes(SECOND)
    (annotations / "x1y0z0" / ".hidden.json").write_bytes(SECOND)
    return start_service(root)


def ask(shared: Service, query: str, **headers: str) -> requests.Response:
    url = f"{shared.url}/brain/annotations/x0y0z0/fibers.json?{query}"
    return requests.get(url, headers=headers, timeout=60)


def ids(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [annotation["id"] for annotation in answer.json()]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("anntype=neuron", ["p1", "box"], id="anntype"),
        pytest.param("anntype=neuron&anntype=glia", ["p1", "p2", "box"], id="one of two"),
        pytest.param("anntype=a,b%20%26%20c", ["fiber"], id="anntype with a comma"),
        pytest.param("anntype=", ["line", "ball", "ring", "nan", "text"], id="without anntype"),
        pytest.param("anntype=Neuron", [], id="anntype in another case"),
        pytest.param("type=POINT", ["p1", "p2", "nan"], id="type in any case"),
        pytest.param("type=linestring&type=polygon", ["fiber", "ring"], id="two types"),
        pytest.param("type=text", ["text"], id="unknown type"),
        pytest.param("reviewed=true", ["p1", "box", "fiber"], id="reviewed"),
        pytest.param(
            "reviewed=FALSE", [i for i in IDS if i not in ("p1", "box", "fiber")], id="not"
        ),
        pytest.param("anntype=neuron&type=point&reviewed=true", ["p1"], id="all of it"),
        pytest.param("anntype=neuron&reviewed=0", [], id="nothing"),
        pytest.param("bbox=10,20,30,10,20,30", ["p1"], id="box of one position"),
        pytest.param("bbox=-1e9,-1e9,-1e9,1e9,1e9,1e9", IDS[:7], id="everywhere"),
        pytest.param("bbox=20,20,20,30,30,30", ["line"], id="a line that passes through"),
        pytest.param("bbox=20,31,20,30,40,30", [], id="a line that passes by"),
        pytest.param("bbox=75,75,45,76,76,46", ["box"], id="inside of a box"),
        pytest.param("bbox=10,60,20,10,60,20", ["ball"], id="the edge of a ball"),
        pytest.param("bbox=9,54,14,12,56,16", [], id="the corner of the box around a ball"),
        pytest.param("bbox=20,79,9,21,81,11", ["fiber"], id="between two points of a fiber"),
        pytest.param("bbox=20,85,9,21,90,11", [], id="beside a fiber"),
        pytest.param("bbox=69,19,5,71,21,5", ["ring"], id="the closing side of a polygon"),
        pytest.param("bbox=40,0,0,100,100,100&type=point", ["p2"], id="with a type"),
        pytest.param("token=x&visited=1", IDS, id="what is no query"),
    ],
)
def test_file_gives_what_is_asked_for(shared: Service, query: str, expected: list[str]) -> None:
    assert ids(ask(shared, query)) == expected


def test_annotations_are_given_byte_for_byte(shared: Service) -> None:
    items = [bytes(item) for item in msgspec.json.decode(FIRST, type=list[msgspec.Raw])]
    answer = ask(shared, "reviewed=true")
    assert answer.content == b"[" + b",\n".join([items[0], items[3], items[5]]) + b"]"
    assert answer.headers["Content-Type"] == "application/json"
    assert ask(shared, "anntype=none").content == b"[]"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("bbox=1,2,3", "x0,y0,z0,x1,y1,z1"),
        ("bbox=", "x0,y0,z0,x1,y1,z1"),
        ("bbox=0,0,0,1,1,nan", "x0,y0,z0,x1,y1,z1"),
        ("bbox=0,0,0,1,1,a", "x0,y0,z0,x1,y1,z1"),
        ("bbox=5,0,0,1,1,1", "lower corner"),
        ("bbox=0,0,0,1,1,1&bbox=0,0,0,1,1,1", "more than once"),
        ("reviewed=perhaps", "neither true nor false"),
        ("reviewed=", "neither true nor false"),
        ("type=", "type is empty"),
        ("format=xml", "json, jsonl, csv, swc"),
        ("format=", "json, jsonl, csv, swc"),
        ("id=p1&type=point", "one annotation"),
        ("id=p1&format=csv", "one annotation"),
    ],
)
def test_query_that_cannot_be_understood_is_400(shared: Service, query: str, words: str) -> None:
    answer = ask(shared, query)
    assert answer.status_code == 400
    assert words in answer.json()["description"]
    if not query.startswith("id="):
        answer = requests.get(f"{shared.url}/brain/annotations/search?{query}")
        assert answer.status_code == 400
        assert words in answer.json()["description"]


def test_answers_have_etags_of_their_own_that_change_with_the_file(
    dataset: Path, service: Service
) -> None:
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    queries = ("", "?type=point", "?type=polygon", "?format=csv", "?bbox=0,0,0,1,1,1")
    tags = {query: requests.get(url + query).headers["ETag"] for query in queries}
    assert len(set(tags.values())) == len(queries)
    for query, tag in tags.items():
        again = requests.get(url + query, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    requests.patch(url, params={"id": "new"}, json={"type": "point", "point": [1, 2, 3]})
    after = requests.get(f"{url}?type=point", headers={"If-None-Match": tags["?type=point"]})
    assert len(ids(after)) == 2
    assert after.headers["Cache-Control"] == "no-cache"


def test_large_answers_are_compressed_for_those_who_take_it(
    dataset: Path, service: Service
) -> None:
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    many = [{"id": f"{n}", "type": "point", "point": [n, 2, 3]} for n in range(500)]
    requests.put(url, json=many)
    packed = requests.get(f"{url}?type=point", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.json()) == 500
    again = requests.get(f"{url}?type=point", headers={"If-None-Match": packed.headers["ETag"]})
    assert again.status_code == 304
    part = requests.get(f"{url}?type=point", headers={"Range": "bytes=0-0"})
    assert (part.status_code, part.content) == (206, b"[")


def test_damaged_file_is_500(dataset: Path, service: Service) -> None:
    (dataset / "annotations/x0y0z0/fibers.json").write_text('[{"id"')
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    assert requests.get(f"{url}?type=point").status_code == 500
    assert requests.get(url.replace("fibers", "none") + "?type=point").status_code == 404


# --- All blocks ----------------------------------------------------------------------------------


def search(shared: Service, query: str = "", dataset: str = "brain") -> list[dict[str, Any]]:
    answer = requests.get(f"{shared.url}/{dataset}/annotations/search?{query}", timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.content.endswith(b"\n") or not answer.content
    return [json.loads(line) for line in answer.content.splitlines()]


def test_search_gives_all_annotations_of_all_blocks_in_order(shared: Service) -> None:
    found = search(shared)
    assert [one["annotation"] for one in found] == json.loads(FIRST) + json.loads(SECOND)
    assert [(one["block"], one["file"]) for one in found] == [
        *[("x0y0z0", "fibers.json")] * 9,
        ("x1y0z0", "more.json"),
    ]


def test_search_chooses_as_the_file_does(shared: Service) -> None:
    found = search(shared, "anntype=neuron&type=point")
    assert [(one["block"], one["annotation"]["id"]) for one in found] == [
        ("x0y0z0", "p1"),
        ("x1y0z0", "p1"),
    ]
    assert search(shared, "bbox=66,5,5,66,5,5")[0]["annotation"]["id"] == "p1"
    assert search(shared, "anntype=nothing") == []


def test_search_keeps_the_spelling_of_numbers(shared: Service) -> None:
    answer = requests.get(f"{shared.url}/brain/annotations/search?type=point")
    assert b'"point":[1e1,20.0,30]' in answer.content
    assert b'"length":1234567890123456789' in answer.content


def test_search_names_a_damaged_file_in_its_place(dataset: Path, service: Service) -> None:
    (dataset / "annotations/x0y0z0/a.json").write_text("{}")
    first, *others = search(service)
    assert (first["block"], first["file"]) == ("x0y0z0", "a.json")
    assert "array" in first["error"]
    assert len(others) == 3
    assert "a.json" in service.log()


def test_search_without_annotations_is_404_and_in_an_empty_dataset_empty(
    dataset: Path, service: Service
) -> None:
    assert requests.get(f"{service.url}/none/annotations/search").status_code == 404
    (dataset.parent / "empty" / "annotations").mkdir(parents=True)
    assert search(service, dataset="empty") == []


def test_search_head_has_no_body(shared: Service) -> None:
    answer = requests.head(f"{shared.url}/brain/annotations/search")
    assert (answer.status_code, answer.content) == (200, b"")


# --- Segments and boxes --------------------------------------------------------------------------

_AT = st.integers(-4, 4).map(float)
_POINT = st.tuples(_AT, _AT, _AT)


@given(_POINT, _POINT, _POINT, _POINT)
@settings(max_examples=examples(300), deadline=None)
def test_segment_is_found_where_points_of_it_are(
    start: Any, stop: Any, corner: Any, other: Any
) -> None:
    low, high = np.minimum(corner, other), np.maximum(corner, other)
    box = ",".join(f"{number}" for number in (*low, *high))
    line = Annotation(id="a", type="line", pointA=start, pointB=stop)
    along = np.linspace(start, stop, 8 * 9 * 5 * 7 + 1)  # with each crossing of whole numbers
    touched = ((along >= low - 1e-9) & (along <= high + 1e-9)).all(axis=1).any()
    assert AnnotationQuery.parse(bbox=box).matches(line) == touched
