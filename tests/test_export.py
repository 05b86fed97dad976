"""Annotations as CSV, SWC and JSON Lines, by URL and on the command line."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path

import pytest
import requests

from tests.brains import cli
from tests.conftest import Service, StartService
from tests.datasets import write_dataset

COLUMNS = [
    "block", "file", "id", "type", "anntype", "reviewed", "visited", "length", "description",
    "x", "y", "z", "x_um", "y_um", "z_um", "points",
]  # fmt: skip
ANNOTATIONS = [
    {"id": "p", "type": "point", "anntype": "neuron", "point": [1.5, 2, 3], "reviewed": True,
     "description": 'two, "words"\nand a line', "length": 7},
    {"id": "b", "type": "axis_aligned_bounding_box", "pointA": [0, 0, 0], "pointB": [10, 20, 30],
     "visited": True},
    {"id": "e", "type": "ellipsoid", "center": [5, 6, 7], "radii": [1, 2, 3]},
    {"id": "f1", "type": "linestring", "anntype": "axon",
     "points": [[0, 0, 0], [10, 0, 0], [20, 30, 0]]},
    {"id": "f2", "type": "LineString", "anntype": "fiber\nbundle",
     "points": [[1, 1, 1], [2, 2, 2]]},
    {"id": "g", "type": "polygon", "points": [[0, 0, 5], [6, 0, 5], [6, 6, 5]]},
    {"id": "n", "type": "linestring", "anntype": "axon", "points": [[0, 0, 0], [None, 1, 1]]},
    {"id": "u", "type": "spiral"},
]  # fmt: skip
OTHERS = [{"id": "f1", "type": "linestring", "anntype": "Dendrite", "points": [[50, 60, 70]]}]


def write_brain(root: Path) -> Path:
    """Write a dataset with voxels of 1 x 1 x 2 micrometres and two blocks."""
    dataset = write_dataset(root / "brain")
    (dataset / "annotations/x0y0z0/fibers.json").write_text(json.dumps(ANNOTATIONS))
    (dataset / "annotations/x1y0z0").mkdir()
    (dataset / "annotations/x1y0z0/fibers.json").write_text(json.dumps(OTHERS))
    return dataset


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("export")
    write_brain(root)
    return start_service(root)


def get(shared: Service, format_: str, more: str = "") -> requests.Response:
    url = f"{shared.url}/brain/annotations/search?format={format_}{more}"
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200
    return answer


# --- CSV -----------------------------------------------------------------------------------------


def test_csv_has_a_row_for_each_annotation(shared: Service) -> None:
    answer = get(shared, "csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == COLUMNS
    where = ["x0y0z0", "fibers.json"]
    assert rows == [
        [*where, "p", "point", "neuron", "true", "false", "7.0", 'two, "words"\nand a line',
         "1.5", "2.0", "3.0", "1.5", "2.0", "6.0", "1"],
        [*where, "b", "axis_aligned_bounding_box", "", "false", "true", "", "",
         "5.0", "10.0", "15.0", "5.0", "10.0", "30.0", "2"],
        [*where, "e", "ellipsoid", "", "false", "false", "", "",
         "5.0", "6.0", "7.0", "5.0", "6.0", "14.0", "1"],
        [*where, "f1", "linestring", "axon", "false", "false", "", "",
         "10.0", "10.0", "0.0", "10.0", "10.0", "0.0", "3"],
        [*where, "f2", "LineString", "fiber\nbundle", "false", "false", "", "",
         "1.5", "1.5", "1.5", "1.5", "1.5", "3.0", "2"],
        [*where, "g", "polygon", "", "false", "false", "", "",
         "4.0", "2.0", "5.0", "4.0", "2.0", "10.0", "3"],
        [*where, "n", "linestring", "axon", "false", "false", "", "", *[""] * 6, "2"],
        [*where, "u", "spiral", "", "false", "false", "", "", *[""] * 6, "0"],
        ["x1y0z0", "fibers.json", "f1", "linestring", "Dendrite", "false", "false", "", "",
         "50.0", "60.0", "70.0", "50.0", "60.0", "140.0", "1"],
    ]  # fmt: skip


def test_csv_of_many_annotations_is_whole(dataset: Path, service: Service) -> None:
    many = [{"id": f"{n}", "type": "point", "point": [n, 2, 3]} for n in range(5000)]
    (dataset / "annotations/x0y0z0/fibers.json").write_text(json.dumps(many))
    answer = requests.get(f"{service.url}/brain/annotations/search?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["id"] for row in rows] == [f"{n}" for n in range(5000)]


def test_csv_without_voxel_size_has_no_micrometres(dataset: Path, service: Service) -> None:
    (dataset / "info").unlink()
    answer = requests.get(f"{service.url}/brain/annotations/x0y0z0/fibers.json?format=csv")
    first = next(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert (first["x"], first["x_um"]) == ("1.0", "")


# --- SWC -----------------------------------------------------------------------------------------

Node = tuple[int, int, float, float, float, float, int]


def nodes_of(text: str) -> list[Node]:
    """Read SWC as other programs do: what begins with # is a comment."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 7 for row in rows)
    return [
        (int(i), int(t), float(x), float(y), float(z), float(r), int(p))
        for i, t, x, y, z, r, p in rows
    ]


def test_swc_has_a_tree_for_each_line_string_in_micrometres(shared: Service) -> None:
    answer = get(shared, "swc")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert nodes_of(answer.text) == [
        (1, 2, 0, 0, 0, 1, -1),
        (2, 2, 10, 0, 0, 1, 1),
        (3, 2, 20, 30, 0, 1, 2),
        (4, 0, 1, 1, 2, 1, -1),
        (5, 0, 2, 2, 4, 1, 4),
        (6, 3, 50, 60, 140, 1, -1),
    ]


def test_swc_says_units_names_and_what_it_left_out(shared: Service) -> None:
    comments = [line for line in get(shared, "swc").text.splitlines() if line.startswith("#")]
    text = "\n".join(comments)
    assert "micrometres" in text
    assert "voxel size 1000 x 1000 x 2000 nm" in text
    assert "# f1 x0y0z0/fibers.json axon" in comments
    assert "# f2 x0y0z0/fibers.json fiber bundle" in comments
    assert "# skipped n x0y0z0/fibers.json: no coordinates" in comments
    assert comments[-1] == "# skipped 5 annotations that are not line strings"


def test_swc_of_a_choice_has_that(shared: Service) -> None:
    assert len(nodes_of(get(shared, "swc", "&anntype=axon").text)) == 3


def test_swc_without_voxel_size_is_refused_with_the_mend(dataset: Path, service: Service) -> None:
    (dataset / "info").unlink()
    for path in ("search", "x0y0z0/fibers.json"):
        answer = requests.get(f"{service.url}/brain/annotations/{path}?format=swc")
        assert answer.status_code == 400
        assert "'info'" in answer.json()["description"]
    done = cli("export", dataset, "--format", "swc")
    assert done.returncode == 1
    assert "'info'" in done.stderr


# --- The command line ----------------------------------------------------------------------------


@pytest.mark.quick(2)
@pytest.mark.parametrize("format_", ["json", "jsonl", "csv", "swc"])
def test_command_writes_what_the_url_gives(shared: Service, tmp_path: Path, format_: str) -> None:
    dataset = shared.root / "brain"
    file = tmp_path / "out"
    done = cli("export", dataset, "--format", format_, "-o", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_bytes() == get(shared, format_).content
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    one = dataset / "annotations/x0y0z0/fibers.json"
    url = f"{shared.url}/brain/annotations/x0y0z0/fibers.json?format={format_}"
    done = cli("export", one, "--format", format_, "--output", file)
    assert done.returncode == 0
    assert file.read_bytes() == requests.get(url).content


def test_command_writes_json_lines_to_standard_output_by_default(shared: Service) -> None:
    done = cli("export", shared.root / "brain", "--type", "POINT", "--reviewed")
    assert [json.loads(line)["annotation"] for line in done.stdout.splitlines()] == ANNOTATIONS[:1]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--anntype", "axon", "--anntype", "Dendrite"), ["f1", "n", "f1"]),
        (("--type", "ellipsoid"), ["e"]),
        (("--not-reviewed", "--type", "point"), []),
        (("--bbox", "50,60,70,50,60,70"), ["f1"]),
    ],
)
def test_command_chooses_as_the_url_does(
    shared: Service, options: tuple[str, ...], ids: list[str]
) -> None:
    done = cli("export", shared.root / "brain", *options)
    assert [json.loads(line)["annotation"]["id"] for line in done.stdout.splitlines()] == ids


def test_command_takes_a_file_outside_of_any_dataset(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(OTHERS))
    done = cli("export", file)
    assert json.loads(done.stdout)["annotation"] == OTHERS[0]


def test_command_that_fails_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    dataset = write_brain(tmp_path)
    output = tmp_path / "out.csv"
    output.write_text("before")
    output.chmod(0o640)
    assert cli("export", dataset, "--bbox", "1,2", "-o", output).returncode == 1
    assert cli("export", tmp_path / "none", "-o", output).returncode == 1
    assert output.read_text() == "before"
    assert cli("export", dataset, "--format", "csv", "-o", output).returncode == 0
    assert output.read_text().startswith("block,")
    assert stat.S_IMODE(output.stat().st_mode) == 0o640


def test_command_writes_to_what_is_no_plain_file(tmp_path: Path) -> None:
    dataset = write_brain(tmp_path)
    assert cli("export", dataset, "-o", "/dev/null").returncode == 0
    assert not Path("/dev/null").is_file()


def test_command_does_not_write_among_the_annotations(tmp_path: Path) -> None:
    dataset = write_brain(tmp_path)
    file = dataset / "annotations/x0y0z0/fibers.json"
    before = file.read_bytes()
    for source in (dataset, file):
        done = cli("export", source, "-o", file)
        assert done.returncode == 1
        assert "among the annotations" in done.stderr
    assert file.read_bytes() == before


def test_command_names_damaged_files_and_writes_the_rest(tmp_path: Path) -> None:
    dataset = write_brain(tmp_path)
    (dataset / "annotations/x0y0z0/bad.json").write_text("[")
    output = tmp_path / "out.jsonl"
    done = cli("export", dataset, "-o", output)
    assert done.returncode == 1
    assert "x0y0z0/bad.json" in done.stderr
    assert len(output.read_text().splitlines()) == 1 + len(ANNOTATIONS) + len(OTHERS)
    swc = cli("export", dataset, "--format", "swc")
    assert "# skipped x0y0z0/bad.json" in swc.stdout
