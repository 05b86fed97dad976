"""Annotation files as Precomputed annotation sources, read as the format says."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.layers.annotation_reader import read_annotation
from neurotrale.layers.geometry import vertices_of
from neurotrale.layers.properties import assign_ids
from tests.conftest import Service, StartService, emptied
from tests.datasets import write_dataset
from tests.examples import examples
from tests.shapes import TYPES, Annotation, Reader, make_many, write

SIZE_VX = (100, 90, 70)


@pytest.fixture
def data_root(shared_service: Service) -> Path:
    return emptied(shared_service)


@pytest.fixture
def service(shared_service: Service, dataset: Path) -> Service:
    return shared_service


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service with a dataset of two blocks that hold every kind."""
    root = tmp_path_factory.mktemp("layers")
    annotations = write_dataset(root / "lab" / "brain") / "annotations"
    for block in ("x0y0z0", "x1y0z0"):
        for leaf, type_ in TYPES.items():
            count = 40 if block == "x0y0z0" else 15
            write(annotations / block / f"{leaf}.json", make_many(type_, count, SIZE_VX))
    (annotations / "x0y0z0" / "fibers.json").unlink()
    return start_service(root)


def files(shared: Service, leaf: str) -> list[list[Annotation]]:
    found = sorted((shared.root / "lab/brain/annotations").glob(f"*/{leaf}.json"))
    return [json.loads(file.read_text()) for file in found]


def layer(shared: Service, leaf: str, kind: str | None = None, block: str = "x0y0z0") -> Reader:
    base = f"{shared.url}/lab/brain/annotations/{block}/{leaf}.json"
    return Reader(f"{base}/layers/{kind or leaf}")


def drawn(annotation: Annotation) -> list[list[float]]:
    """The points that a viewer must draw, as float32."""
    kind = annotation["type"].lower()
    if kind == "point":
        points = [annotation["point"]]
    elif kind == "ellipsoid":
        points = [annotation["center"], annotation["radii"]]
    elif kind in ("linestring", "polygon"):
        points = annotation["points"]
        if kind == "polygon":
            points = [*points, points[0]]
        if len(points) == 1:
            points = points * 2
    else:
        points = [annotation["pointA"], annotation["pointB"]]
    return np.array(points, "f4").tolist()


def shown(annotation: Annotation) -> dict[str, Any]:
    """What a viewer must show of an annotation."""
    length = annotation.get("length")
    return {
        "points": drawn(annotation),
        "id": annotation["id"],
        "length": pytest.approx(np.nan if length is None else length, nan_ok=True),
        "description": annotation.get("description") or "(none)",
        "anntype": annotation.get("anntype") or "(none)",
        "reviewed": "yes" if annotation.get("reviewed") else "no",
        "visited": "yes" if annotation.get("visited") else "no",
    }


# --- One file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", TYPES)
def test_source_of_a_file_holds_each_annotation_with_all_that_is_shown(
    shared: Service, leaf: str
) -> None:
    (annotations, _) = files(shared, leaf)
    found = layer(shared, leaf).everything()
    assert {one["id"]: one for one in found.values()} == {a["id"]: shown(a) for a in annotations}


@pytest.mark.parametrize("leaf", TYPES)
def test_index_by_id_holds_the_same_as_the_spatial_index(shared: Service, leaf: str) -> None:
    reader = layer(shared, leaf)
    found = reader.everything()
    assert len(found) == 40
    for number, annotation in found.items():
        assert repr(reader.one(number)) == repr(annotation)


def test_number_leads_back_to_file_and_id(shared: Service) -> None:
    reader = layer(shared, "points")
    for number, annotation in reader.everything().items():
        origin = requests.get(f"{reader.url}/origin/{number}").json()
        file = "lab/brain/annotations/x0y0z0/points.json"
        assert origin == {"file": file, "id": annotation["id"]}


def test_number_is_the_hash_of_the_id(shared: Service) -> None:
    for number, annotation in layer(shared, "points").everything().items():
        assert number == xxhash.xxh3_64_intdigest(annotation["id"].encode())


def test_coordinates_are_those_of_the_volume(shared: Service) -> None:
    info = layer(shared, "points").info
    assert info["@type"] == "neuroglancer_annotations_v1"
    assert info["dimensions"] == {"x": [1e-6, "m"], "y": [1e-6, "m"], "z": [2e-6, "m"]}
    assert list(info["dimensions"]) == ["x", "y", "z"]
    assert (info["lower_bound"], info["upper_bound"]) == ([0, 0, 0], [100, 90, 70])


def test_volume_s_dimensions_are_divided_just_as_the_viewer_does(
    tmp_path: Path, start_service: StartService
) -> None:
    dataset = write_dataset(tmp_path / "data" / "brain")
    info = json.loads((dataset / "info").read_text())
    info["scales"][0] |= {"resolution": [1800, 1843, 0.7], "voxel_offset": [10, -20, 30]}
    (dataset / "info").write_text(json.dumps(info))
    service = start_service(dataset.parent)
    found = Reader(f"{service.url}/brain/annotations/layers/polylines").info
    assert [scale for scale, _ in found["dimensions"].values()] == [1800 / 1e9, 1843 / 1e9, 0.7e-9]
    assert found["lower_bound"] == [0, -20, 0]  # an annotation lies before the volume's beginning
    assert found["upper_bound"] == [110, 70, 100]


def test_kind_that_a_file_has_not_is_an_empty_source(shared: Service) -> None:
    reader = layer(shared, "points", "ellipsoids")
    assert reader.info["annotation_type"] == "ELLIPSOID"
    assert reader.everything() == {}


def test_overview_counts_what_can_be_drawn(shared: Service) -> None:
    url = f"{shared.url}/lab/brain/annotations"
    one = requests.get(f"{url}/x1y0z0/boxes.json/layers").json()
    assert one == {"layers": {"boxes": 15}, "skipped": {}, "damaged": {}}
    every = requests.get(f"{url}/layers").json()
    assert every == {"layers": dict.fromkeys(TYPES, 55), "skipped": {}, "damaged": {}}


@pytest.mark.parametrize(
    "path",
    [
        "x0y0z0/points.json/layers/nothing/info",
        "x0y0z0/missing.json/layers/points/info",
        "x0y0z0/points.json/layers/points/by_id/1",
        "x0y0z0/points.json/layers/points/by_id/99999999999999999999",
        "x0y0z0/points.json/layers/points/origin/1",
        "x0y0z0/points.json/layers/points/spatial0/0_0_1",
        "x0y0z0/points.json/layers/points/spatial9/0_0_0",
        "x0y0z0/points.json/layers/points/provenance",
        "../annotationz/layers/points/info",
    ],
)
def test_what_is_not_there_is_404(shared: Service, path: str) -> None:
    answer = requests.get(f"{shared.url}/lab/brain/annotations/{path}")
    assert answer.status_code == 404
    assert set(answer.json()) == {"title", "description"}


@pytest.mark.parametrize("path", ["layers", "layers/points/info", "layers/points/spatial0/0_0_0"])
def test_sources_cannot_be_written(shared: Service, path: str) -> None:
    answer = requests.put(f"{shared.url}/lab/brain/annotations/{path}", data=b"[]")
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


# --- A whole dataset ----------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", TYPES)
def test_source_of_a_dataset_holds_all_blocks(shared: Service, leaf: str) -> None:
    reader = Reader(f"{shared.url}/lab/brain/annotations/layers/{leaf}")
    found = reader.everything()
    expected = sorted(a["id"] for annotations in files(shared, leaf) for a in annotations)
    # The first 15 of a type have the same ids in both blocks: each is there, by its own number.
    assert sorted(one["id"] for one in found.values()) == expected
    assert len(found) == 55
    origins = {
        (origin["file"], origin["id"])
        for number in found
        for origin in [requests.get(f"{reader.url}/origin/{number}").json()]
    }
    assert len(origins) == 55


def test_dataset_without_volume_has_dimensions_without_unit(
    tmp_path: Path, start_service: StartService
) -> None:
    annotations = tmp_path / "data" / "brain" / "annotations"
    far = make_many("point", 3, SIZE_VX)
    far[0]["point"] = [-1, 5, 300]
    write(annotations / "x0y0z0" / "a.json", far)
    service = start_service(tmp_path / "data")
    reader = Reader(f"{service.url}/brain/annotations/layers/points")
    assert reader.info["dimensions"] == {"x": [1, ""], "y": [1, ""], "z": [1, ""]}
    assert reader.info["lower_bound"] == [-256, 0, 0]
    assert reader.info["upper_bound"] == [256, 256, 512]
    assert len(reader.everything()) == 3


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "path", ["layers/points/info", "search?format=csv", "x0y0z0/a.json?format=csv"]
)
@pytest.mark.parametrize("nested", ["lab/brain", "lab/old/brain"])
def test_text_file_named_info_in_a_directory_above_is_not_the_dataset_s(
    tmp_path: Path, start_service: StartService, nested: str, path: str
) -> None:
    write(
        tmp_path / "data" / nested / "annotations" / "x0y0z0" / "a.json",
        make_many("point", 3, SIZE_VX),
    )
    (tmp_path / "data" / "lab" / "info").write_text("Ask Anna before you move anything here.")
    service = start_service(tmp_path / "data")
    answer = requests.get(f"{service.url}/{nested}/annotations/{path}")
    assert answer.status_code == 200, answer.text


def test_damaged_file_is_an_error_by_itself_and_named_among_others(
    dataset: Path, service: Service
) -> None:
    write(dataset / "annotations/x0y0z0/good.json", make_many("point", 3, SIZE_VX))
    (dataset / "annotations/x0y0z0/bad.json").write_text('[{"id": "a"')
    url = f"{service.url}/brain/annotations"
    answer = requests.get(f"{url}/x0y0z0/bad.json/layers/points/info")
    assert answer.status_code == 500
    assert "bad.json" in answer.json()["description"]
    overview = requests.get(f"{url}/layers").json()
    assert list(overview["damaged"]) == ["brain/annotations/x0y0z0/bad.json"]
    assert len(Reader(f"{url}/layers/points").everything()) == 3 + 1


# --- The spatial index ---------------------------------------------------------------------------


def touches(annotation: Annotation, lower: Any, upper: Any) -> bool:
    """Whether a box around a part of an annotation meets a cell."""
    kind, points = annotation["type"], np.array(drawn(annotation))
    if kind == "ellipsoid":
        parts = [(points[0] - points[1], points[0] + points[1])]
    elif kind in ("linestring", "polygon"):
        parts = [
            (points[i : i + 2].min(0), points[i : i + 2].max(0)) for i in range(len(points) - 1)
        ]
    else:
        parts = [(points.min(0), points.max(0))]
    return any((low <= upper).all() and (high >= lower).all() for low, high in parts)


@dataclass(frozen=True)
class Large:
    """A file with more annotations than one cell should hold, and all cells of its source."""

    reader: Reader
    annotations: list[Annotation]
    levels: list[dict[tuple[int, ...], dict[int, dict[str, Any]]]]


@pytest.fixture(scope="module", params=["point", "linestring"])
def large(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_service: StartService,
) -> Large:
    root = tmp_path_factory.mktemp("large")
    annotations = make_many(request.param, 9_000, (900, 900, 400))
    dataset = write_dataset(root / "brain")
    info = json.loads((dataset / "info").read_text())
    info["scales"][0] |= {"size": [900, 900, 400], "resolution": [1000, 1000, 2000]}
    (dataset / "info").write_text(json.dumps(info))
    if request.param == "linestring":
        across = [[x, 450.0, 200.0] for x in range(0, 900, 5)]
        annotations.append({"id": "across", "type": "linestring", "points": across})
    write(dataset / "annotations/x0y0z0/many.json", annotations)
    service = start_service(root)
    kind = "points" if request.param == "point" else "polylines"
    reader = Reader(f"{service.url}/brain/annotations/x0y0z0/many.json/layers/{kind}")
    levels = [reader.cells(level) for level in range(len(reader.info["spatial"]))]
    return Large(reader, annotations, levels)


def test_levels_together_hold_each_annotation_in_just_one(large: Large) -> None:
    levels = large.levels
    assert len(levels) > 1
    held = [{one["id"] for cell in level.values() for one in cell.values()} for level in levels]
    assert sum(map(len, held)) == len(large.annotations)
    assert set.union(*held) == {a["id"] for a in large.annotations}


def test_annotation_is_in_every_cell_of_its_level_that_it_touches_and_in_no_other(
    large: Large,
) -> None:
    reader = large.reader
    by_id = {a["id"]: a for a in large.annotations}
    lower = np.array(reader.info["lower_bound"])
    for level, spec in enumerate(reader.info["spatial"]):
        size = np.array(spec["chunk_size"])
        cells = {
            at: {one["id"] for one in cell.values()} for at, cell in large.levels[level].items()
        }
        ids = sorted(set.union(*cells.values()))
        for id_ in ids[:: len(ids) // 40 + 1]:
            expected = {
                at
                for at in cells
                if touches(
                    by_id[id_], lower + np.array(at) * size, lower + (np.array(at) + 1) * size
                )
            }
            assert {at for at, ids in cells.items() if id_ in ids} == expected


def test_cells_hold_no_more_than_their_limit_and_grids_fill_the_bounds(
    large: Large,
) -> None:
    reader = large.reader
    extent = np.array(reader.info["upper_bound"]) - reader.info["lower_bound"]
    before = None
    for level, spec in enumerate(reader.info["spatial"]):
        counts = [len(cell) for cell in large.levels[level].values()]
        assert max(counts) == spec["limit"] <= 4400
        size = np.array(spec["chunk_size"])
        assert (size * spec["grid_shape"] == extent).all()
        if before is not None:
            assert set((before / size).tolist()) <= {1.0, 2.0}
        before = size
    assert reader.info["spatial"][0]["grid_shape"] == [1, 1, 1]


def test_coarsest_level_is_a_sample_from_everywhere(large: Large) -> None:
    places = np.array([one["points"][0] for one in large.levels[0][0, 0, 0].values()])
    everywhere = np.array([drawn(a)[0] for a in large.annotations])
    share = len(places) / len(everywhere)
    for axis in range(3):
        middle = np.median(everywhere[:, axis])
        assert np.mean(places[:, axis] < middle) == pytest.approx(0.5, abs=0.05)
    assert 0.05 < share < 0.6


def test_many_annotations_at_one_place_end_in_a_few_levels(
    tmp_path: Path, start_service: StartService
) -> None:
    annotations = make_many("point", 50_000, SIZE_VX)
    for annotation in annotations:
        annotation["point"] = [5, 5, 5]
    dataset = write_dataset(tmp_path / "data" / "brain")
    write(dataset / "annotations/x0y0z0/many.json", annotations)
    service = start_service(dataset.parent)
    reader = Reader(f"{service.url}/brain/annotations/x0y0z0/many.json/layers/points")
    grids = [spec["grid_shape"] for spec in reader.info["spatial"]]
    assert len(grids) == 10
    held = [len(reader.cell(level, (0, 0, 0))) for level in range(4)]
    assert held == [4000] * 4


# --- What cannot be drawn ------------------------------------------------------------------------

WHOLE: list[Annotation] = [
    {"id": "p", "type": "POINT", "point": [1, 2, 3]},
    {"id": "v", "type": "LineString", "points": [{"0": 1, "1": 2, "2": 3}, [4, 5, 6]]},
    {"id": "s", "type": "polygon", "points": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]},
    {"id": "c", "type": "polygon", "points": [[1, 2, 3], [4, 5, 6], [1, 2, 3]]},
    {"id": "1", "type": "linestring", "points": [[1, 2, 3]]},
    {"id": "b", "type": "axis_aligned_bounding_box", "pointA": [9, 1, 5], "pointB": [2, 8, 5]},
    {"id": "e", "type": "ellipsoid", "center": [9, 1, 5], "radii": [-2, 8, 5]},
    {"id": "odd", "type": "point", "point": [1, 2, 4], "length": "12", "reviewed": None, "x": 1},
    {"type": "point", "point": [3, 3, 3]},
    {"id": 7, "type": "point", "point": [4, 4, 4]},
    {"id": "p", "type": "point", "point": [5, 5, 5]},
]
BROKEN: list[Any] = [
    {"id": "n", "type": "point", "point": [None, 2, 3]},
    {"id": "N", "type": "linestring", "points": [[1, 2, 3], [None, None, None]]},
    {"id": "r", "type": "ellipsoid", "center": [1, 2, 3], "radii": [None, None, None]},
    {"id": "h", "type": "point", "point": [1e300, 2, 3]},
    {"id": "H", "type": "point", "point": [10**400, 2, 3]},
    {"id": "2", "type": "point", "point": [1, 2]},
    {"id": "0", "type": "linestring", "points": []},
    {"id": "m", "type": "line", "pointA": [1, 2, 3]},
    {"id": "u", "type": "spiral", "points": [[1, 2, 3]]},
    {"id": "t"},
    5,
    None,
]


def test_odd_annotations_are_drawn_and_broken_ones_counted(dataset: Path, service: Service) -> None:
    file = dataset / "annotations/x0y0z0/odd.json"
    file.write_text(json.dumps([*BROKEN, *WHOLE]))
    url = f"{service.url}/brain/annotations/x0y0z0/odd.json/layers"
    assert requests.get(url).json() == {
        "layers": {"points": 5, "boxes": 1, "ellipsoids": 1, "polylines": 4},
        "skipped": {
            "coordinates that are no numbers": 4,
            "no coordinates": 4,
            "no type": 3,
            "unknown type": 1,
        },
        "damaged": {},
    }
    points = Reader(f"{url}/points").everything().values()
    assert sorted(one["points"][0] for one in points) == [
        [1, 2, 3],
        [1, 2, 4],
        [3, 3, 3],
        [4, 4, 4],
        [5, 5, 5],
    ]
    lines = {one["id"]: one["points"] for one in Reader(f"{url}/polylines").everything().values()}
    assert lines == {
        "v": [[1, 2, 3], [4, 5, 6]],
        "s": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]],
        "c": [[1, 2, 3], [4, 5, 6], [1, 2, 3]],
        "1": [[1, 2, 3], [1, 2, 3]],
    }
    (box,) = Reader(f"{url}/boxes").everything().values()
    assert box["points"] == [[2, 1, 5], [9, 8, 5]]
    (ball,) = Reader(f"{url}/ellipsoids").everything().values()
    assert ball["points"] == [[9, 1, 5], [2, 8, 5]]


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(), st.integers(),
       st.floats(allow_nan=False, allow_infinity=False), st.lists(st.lists(st.integers())))),
       st.sampled_from([*TYPES.values(), "polygon", "Text", ""]))  # fmt: skip
@settings(max_examples=examples(200), deadline=None)
def test_whatever_an_annotation_is_reading_it_gives_points_of_three_or_none(
    annotation: dict[str, Any], type_: str
) -> None:
    annotation |= {"type": type_}
    _, points = vertices_of(read_annotation(json.dumps(annotation).encode()))
    assert all(len(point) == 3 for point in points)


# --- Numbers -------------------------------------------------------------------------------------


def _few(text: str) -> int:
    """A hash that collides all the time, at either end of what fits."""
    return (xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) % 5 - 3) % 2**64


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), unique=True, max_size=60),
       st.randoms())  # fmt: skip
@settings(max_examples=examples(200), deadline=None)
def test_numbers_never_collide_and_do_not_depend_on_the_order(
    named: list[tuple[str, int]], order: Any
) -> None:
    def numbered(pairs: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        ids, wheres = [id_ for id_, _ in pairs], [f"file#{place}" for _, place in pairs]
        return dict(zip(pairs, assign_ids(ids, lambda: wheres, _few).tolist(), strict=True))

    numbers = numbered(named)
    assert len(set(numbers.values())) == len(named)
    assert 0 not in numbers.values()
    shuffled = list(named)
    order.shuffle(shuffled)
    assert numbered(shuffled) == numbers


# --- Edits ---------------------------------------------------------------------------------------


def test_edits_are_seen_at_once_everywhere(dataset: Path, service: Service) -> None:
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    before = Reader(f"{url}/layers/points")
    (number,) = before.everything()
    new = {"type": "point", "point": [7, 8, 9], "anntype": "new"}
    for step in range(12):
        assert requests.patch(url, params={"id": f"n{step}"}, json=new).status_code == 201
        for scope in (url, f"{service.url}/brain/annotations"):
            now = Reader(f"{scope}/layers/points")
            found = now.everything()
            assert len(found) == 2 + step
            assert number in found
            assert all(now.one(each)["anntype"] for each in found)
            assert requests.get(f"{scope}/layers").json()["layers"]["points"] == 2 + step


def test_edits_by_other_programs_are_seen_even_in_the_same_instant(
    dataset: Path, service: Service
) -> None:
    file = dataset / "annotations/x0y0z0/fibers.json"
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json/layers/points"
    for x in range(1, 10):
        status = file.stat()
        file.write_text(json.dumps([{"id": "a", "type": "point", "point": [x, 2, 3]}]))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        (found,) = Reader(url).everything().values()
        assert found["points"] == [[x, 2, 3]]


def test_files_that_come_and_go_are_seen_in_the_dataset(dataset: Path, service: Service) -> None:
    """Also where every file has long been as it is."""
    annotations = dataset / "annotations"
    url = f"{service.url}/brain/annotations/layers/points"

    def points() -> list[list[float]]:
        for file in annotations.rglob("*.json"):
            os.utime(file, (1_000_000_000, 1_000_000_000))
        found = [sorted(one["points"][0] for one in Reader(url).everything().values())]
        found.append(sorted(one["points"][0] for one in Reader(url).everything().values()))
        assert found[0] == found[1]
        return found[0]

    assert points() == [[1, 2, 3]]
    new = write(annotations / "x7y0z0/new.json", [{"id": "n", "type": "point", "point": [7, 7, 7]}])
    assert points() == [[1, 2, 3], [7, 7, 7]]
    new = new.rename(new.with_name("other.json"))
    (number,) = (n for n, one in Reader(url).everything().items() if one["id"] == "n")
    origin = requests.get(f"{url}/origin/{number}").json()
    assert origin["file"] == "brain/annotations/x7y0z0/other.json"
    new.write_text(new.read_text().replace("7, 7, 7", "7, 7, 17"))
    assert points() == [[1, 2, 3], [7, 7, 17]]
    new.unlink()
    assert points() == [[1, 2, 3]]
    outside = write(dataset.parent.parent / "out" / "a.json", [{"id": "o"}]).parent
    (annotations / "x8y0z0").symlink_to(outside)
    (annotations / "x7y0z0" / "link.json").symlink_to(outside / "a.json")
    assert points() == [[1, 2, 3]]
    assert requests.get(url.removesuffix("/points")).json()["skipped"] == {}


def test_sources_are_whole_while_the_file_is_edited(dataset: Path, service: Service) -> None:
    annotations = dataset / "annotations"
    write(annotations / "x0y0z0/fibers.json", make_many("point", 3000, SIZE_VX))
    url = f"{service.url}/brain/annotations"

    def edit(number: int) -> int:
        new = {"type": "point", "point": [number, 2, 3]}
        file = f"{url}/x0y0z0/fibers.json"
        return requests.patch(file, params={"id": f"new {number}"}, json=new).status_code

    def look(number: int) -> int:
        scope = f"{url}/x0y0z0/fibers.json" if number % 2 else url
        return len(Reader(f"{scope}/layers/points").everything())

    with ThreadPoolExecutor(6) as pool:
        edits, looks = pool.map(edit, range(20)), pool.map(look, range(20))
        assert set(edits) == {201}
        # What is read in several requests may be of two versions, each of them whole.
        assert all(3000 <= count <= 3020 for count in looks)
    assert look(0) == look(1) == 3020
    assert "Traceback" not in service.log()


def test_volume_s_new_info_is_seen(dataset: Path, service: Service) -> None:
    url = f"{service.url}/brain/annotations/layers/points"
    assert Reader(url).info["upper_bound"] == [100, 90, 70]
    info = json.loads((dataset / "info").read_text())
    info["scales"][0]["size"] = [200, 190, 170]
    (dataset / "info").write_text(json.dumps(info))
    assert Reader(url).info["upper_bound"] == [200, 190, 170]


@pytest.mark.parametrize("path", ["", "/points/info", "/points/spatial0/0_0_0"])
def test_copies_are_asked_for_again_and_answered_304_until_an_edit(
    service: Service, path: str
) -> None:
    file = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    url = f"{file}/layers{path}"
    first = requests.get(url)
    assert first.headers["Cache-Control"] == "no-cache"
    asked = {"If-None-Match": first.headers["ETag"]}
    again = requests.get(url, headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    requests.patch(file, params={"id": "n"}, json={"type": "point", "point": [7, 8, 9]})
    after = requests.get(url, headers=asked)
    assert after.status_code == 200
    assert after.content != first.content


def test_large_cells_are_compressed_for_those_who_take_it(
    large: Large,
) -> None:
    url = f"{large.reader.url}/spatial0/0_0_0"
    plain = requests.get(url, headers={"Accept-Encoding": "identity"})
    packed = requests.get(url, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content == plain.content
    part = requests.get(url, headers={"Range": "bytes=8-19"})
    assert (part.status_code, part.content) == (206, plain.content[8:20])
