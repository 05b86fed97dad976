"""The demo dataset: whole, in the layout it claims, and annotated where something is drawn."""

import json
import re
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from neurotrale.chunks.segments import find_segments
from neurotrale.tools.demo import write_demo
from neurotrale.tools.demo.annotate import cut_at

Volume = npt.NDArray[np.uint16]

SIZES = {"1_1_1": (500, 420, 150), "2_2_2": (250, 210, 75), "4_4_4": (125, 105, 38)}
BLOCKS = {"x0y0z0": (0, 250), "x1y0z0": (250, 500)}
SLICES = (40, 75, 110)
LEAVES = ("fibers.json", "centroids.json", *(f"z-{z:04d}.json" for z in SLICES))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "not" / "there" / "yet")


@pytest.fixture(scope="session")
def volumes(dataset: Path) -> dict[str, Volume]:
    return {key: _assemble(dataset / key, size) for key, size in SIZES.items()}


def _assemble(directory: Path, size: tuple[int, int, int]) -> Volume:
    volume = np.zeros(size[::-1], np.uint16)
    for path in directory.iterdir():
        x0, x1, y0, y1, z0, z1 = map(int, re.findall(r"\d+", path.name))
        volume[z0:z1, y0:y1, x0:x1] = tifffile.imread(path)
    return volume


def _chunk_shapes(size: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Map every leaf name of a scale of `size` (x, y, z) to its shape (z, y, x)."""
    ranges = [[(i, min(i + 64, length)) for i in range(0, length, 64)] for length in size]
    return {
        f"{x[0]}-{x[1]}_{y[0]}-{y[1]}_{z[0]}-{z[1]}.tiff": (z[1] - z[0], y[1] - y[0], x[1] - x[0])
        for x, y, z in product(*ranges)
    }


def _read(dataset: Path, block: str, leaf: str) -> list[dict[str, Any]]:
    content = json.loads((dataset / "annotations" / block / leaf).read_text(encoding="utf-8"))
    assert isinstance(content, list)
    return content


def _everything(dataset: Path) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (block, leaf, annotation)
        for block, leaf in product(BLOCKS, LEAVES)
        for annotation in _read(dataset, block, leaf)
    ]


def _vertices(annotation: dict[str, Any]) -> npt.NDArray[np.float64]:
    return np.array(annotation.get("points", [annotation.get("point")]), np.float64)


def _values(volume: Volume, points: npt.NDArray[np.float64]) -> Volume:
    x, y, z = np.floor(points).astype(int).T
    return volume[z, y, x]


def _tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_info_fresh_dataset_describes_three_scales(dataset: Path) -> None:
    info = json.loads((dataset / "info").read_text(encoding="utf-8"))

    assert (info["type"], info["data_type"], info["num_channels"]) == ("image", "uint16", 1)
    assert {scale["key"]: tuple(scale["size"]) for scale in info["scales"]} == SIZES
    for factor, scale in zip((1, 2, 4), info["scales"], strict=True):
        assert scale["resolution"] == [1800 * factor, 1800 * factor, 2000 * factor]
        assert scale["chunk_sizes"] == [[64, 64, 64]]
        assert (scale["encoding"], scale["voxel_offset"]) == ("raw", [0, 0, 0])


@pytest.mark.parametrize("key", SIZES, ids=str)
def test_chunks_every_scale_are_all_there_in_shape(dataset: Path, key: str) -> None:
    expected = _chunk_shapes(SIZES[key])

    found = {}
    for path in (dataset / key).iterdir():
        block = tifffile.imread(path)
        assert block.dtype == np.uint16
        found[path.name] = block.shape

    assert found == expected


def test_chunk_file_is_one_segment_that_states_its_checksum(dataset: Path) -> None:
    path = dataset / "1_1_1" / "448-500_384-420_128-150.tiff"

    segments = find_segments(path.read_bytes())

    assert segments is not None
    assert (segments.shape_zyx, segments.dtype) == ((22, 36, 52), "uint16")
    assert (segments.compression, len(segments.spans)) == ("deflate", 1)
    assert segments.crc32 == zlib.crc32(tifffile.imread(path).tobytes())


@pytest.mark.parametrize(("fine", "coarse"), [("1_1_1", "2_2_2"), ("2_2_2", "4_4_4")])
def test_coarser_scale_is_the_rounded_mean_of_the_finer(
    volumes: dict[str, Volume], fine: str, coarse: str
) -> None:
    assert np.array_equal(volumes[coarse], _reference_halve(volumes[fine]))


def _reference_halve(volume: Volume) -> Volume:
    padded = np.pad(
        volume.astype(np.float64),
        [(0, length % 2) for length in volume.shape],
        constant_values=np.nan,
    )
    z, y, x = (length // 2 for length in padded.shape)
    means = np.nanmean(padded.reshape(z, 2, y, 2, x, 2), axis=(1, 3, 5))
    return np.floor(means + 0.5).astype(np.uint16)


def test_volume_shows_dim_tissue_in_the_dark(volumes: dict[str, Volume]) -> None:
    volume = volumes["1_1_1"]

    corners = volume[:, :20, :20]
    tissue = np.median(volume[:, 100:320, 100:400])
    assert corners.max() < 200
    assert 250 < tissue < 600
    assert 4000 < volume.max() < 10000


@pytest.mark.long
def test_second_build_elsewhere_is_the_same(dataset: Path, tmp_path: Path) -> None:
    second = write_demo(tmp_path)
    expected, found = _tree(dataset), _tree(second)
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name] != expected[name]]
    # The same voxels are now and then deflated otherwise: seen for one chunk in four builds.
    assert len(different) <= 2, different
    for name in different:
        assert name.endswith(".tiff"), name
        with tifffile.TiffFile(second / name) as ours, tifffile.TiffFile(dataset / name) as theirs:
            assert np.array_equal(ours.asarray(), theirs.asarray()), name
            assert ours.pages.first.description == theirs.pages.first.description, name


def test_second_call_after_an_edit_leaves_the_dataset_untouched(tmp_path: Path) -> None:
    edited = tmp_path / "demo-brain" / "annotations" / "x0y0z0" / "fibers.json"
    edited.parent.mkdir(parents=True)
    edited.write_bytes(b'[{"id":"mine"}]')
    (tmp_path / "demo-brain" / "info").write_bytes(b"{}")
    before = _tree(tmp_path)

    assert write_demo(tmp_path) == tmp_path / "demo-brain"

    assert _tree(tmp_path) == before


def test_directory_without_info_in_the_way_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "demo-brain").mkdir()
    (tmp_path / "demo-brain" / "notes.txt").write_bytes(b"keep me")

    with pytest.raises(FileExistsError, match="no info file"):
        write_demo(tmp_path)

    assert _tree(tmp_path) == {"demo-brain/notes.txt": b"keep me"}


def test_fresh_build_leaves_nothing_but_the_dataset(dataset: Path) -> None:
    assert [path.name for path in dataset.parent.iterdir()] == ["demo-brain"]
    assert {path.name for path in dataset.iterdir()} == {
        "info",
        "annotations",
        "preview.png",
        ".ingest",
        *SIZES,
    }
    assert {path.name for path in (dataset / "annotations").iterdir()} == {
        "block_info.csv",
        *BLOCKS,
    }
    for block in BLOCKS:
        names = {path.name for path in (dataset / "annotations" / block).iterdir()}
        assert names == set(LEAVES)


def test_fresh_build_is_as_open_as_its_surroundings(dataset: Path) -> None:
    assert dataset.stat().st_mode == dataset.parent.stat().st_mode


def test_block_info_holds_a_block_size_that_makes_two_blocks(dataset: Path) -> None:
    text = (dataset / "annotations" / "block_info.csv").read_text(encoding="utf-8")

    assert text == "250,420,150\n"


def test_ids_over_all_files_are_unique_hexadecimal(dataset: Path) -> None:
    ids = [annotation["id"] for _, _, annotation in _everything(dataset)]

    assert all(re.fullmatch(r"[0-9a-f]{40}", name) for name in ids)
    assert len(set(ids)) == len(ids)


def test_annotations_every_file_have_the_fields_of_their_type(dataset: Path) -> None:
    kinds = {"fibers": {"axon"}, "centroids": {"neuron", "glia"}, "z": {"neuron", "glia"}}
    types = {"fibers": "linestring", "centroids": "point", "z": "polygon"}
    for block, leaf in product(BLOCKS, LEAVES):
        annotations = _read(dataset, block, leaf)
        subject = re.split(r"[-.]", leaf)[0]
        assert annotations, f"{block}/{leaf}"
        assert {annotation["type"] for annotation in annotations} == {types[subject]}
        assert {annotation["anntype"] for annotation in annotations} <= kinds[subject]
        assert all(type(a["visited"]) is type(a["reviewed"]) is bool for a in annotations)


def test_reviewed_over_all_files_is_true_for_some_only(dataset: Path) -> None:
    assert {annotation["reviewed"] for _, _, annotation in _everything(dataset)} == {True, False}


def test_points_every_annotation_lie_in_their_block_and_volume(dataset: Path) -> None:
    for block, leaf, annotation in _everything(dataset):
        low, high = BLOCKS[block]
        points = _vertices(annotation)
        assert points.shape[1] == 3
        assert (points >= 0).all()
        assert (points < SIZES["1_1_1"]).all()
        # A cell on the border belongs to the block of its middle; its outline may reach across.
        inside = points.mean(axis=0, keepdims=True) if leaf.startswith("z-") else points
        assert (inside[:, 0] >= low).all(), annotation["id"]
        assert (inside[:, 0] <= high).all(), annotation["id"]


def test_lengths_of_fibers_are_those_of_their_polylines(dataset: Path) -> None:
    for block in BLOCKS:
        for fiber in _read(dataset, block, "fibers.json"):
            steps = np.diff(_vertices(fiber), axis=0)
            assert fiber["length"] == pytest.approx(np.linalg.norm(steps, axis=1).sum(), abs=0.01)


def test_fibers_lie_on_bright_voxels(dataset: Path, volumes: dict[str, Volume]) -> None:
    tissue = np.percentile(volumes["1_1_1"], 75)
    for block in BLOCKS:
        for fiber in _read(dataset, block, "fibers.json"):
            assert np.median(_values(volumes["1_1_1"], _vertices(fiber))) > 3 * tissue, fiber["id"]


def test_fibers_some_run_through_the_whole_depth(dataset: Path) -> None:
    depths = [_vertices(f)[:, 2] for block in BLOCKS for f in _read(dataset, block, "fibers.json")]

    assert sum(z.min() < 1 and z.max() > 149 for z in depths) >= 3


def test_fibers_that_cross_the_border_meet_on_it(dataset: Path) -> None:
    ends = {block: _ends_on_border(_read(dataset, block, "fibers.json")) for block in BLOCKS}

    assert len(ends["x0y0z0"]) > 5
    assert ends["x0y0z0"] == ends["x1y0z0"]


def _ends_on_border(fibers: list[dict[str, Any]]) -> set[tuple[float, ...]]:
    ends = (tuple(fiber["points"][end]) for fiber in fibers for end in (0, -1))
    return {end for end in ends if end[0] == 250}


@pytest.mark.parametrize(
    ("xs", "parts"),
    [
        pytest.param([1, 2, 3], [[1, 2, 3]], id="never-crosses"),
        pytest.param([8, 12], [[8, 10], [10, 12]], id="crosses-once"),
        pytest.param([8, 12, 9], [[8, 10], [10, 12, 10], [10, 9]], id="there-and-back"),
        pytest.param([8, 10, 12], [[8, 10], [10, 12]], id="vertex-on-the-border"),
        pytest.param([8, 10, 10, 12], [[8, 10, 10], [10, 12]], id="along-the-border"),
        pytest.param([8, 10, 8], [[8, 10, 8]], id="touches-from-below"),
        pytest.param([12, 10, 12], [[12, 10, 12]], id="touches-from-above"),
        pytest.param([10, 12], [[10, 12]], id="starts-on-the-border"),
    ],
)
def test_cut_at_polyline_near_the_border_gives_parts(
    xs: list[float], parts: list[list[float]]
) -> None:
    points = np.array([[x, 0.0, 0.0] for x in xs])

    assert [part[:, 0].tolist() for part in cut_at(points, 10.0)] == parts


def test_centroids_lie_in_bright_cells(dataset: Path, volumes: dict[str, Volume]) -> None:
    tissue = np.percentile(volumes["1_1_1"], 75)
    points = [_vertices(a) for block in BLOCKS for a in _read(dataset, block, "centroids.json")]

    assert len(points) >= 100
    assert (_values(volumes["1_1_1"], np.concatenate(points)) > 2.5 * tissue).all()


@pytest.mark.parametrize("z", SLICES, ids=str)
def test_contours_separate_bright_inside_from_dim_outside(
    dataset: Path, volumes: dict[str, Volume], z: int
) -> None:
    contours = [a for block in BLOCKS for a in _read(dataset, block, f"z-{z:04d}.json")]
    for contour in contours:
        points = _vertices(contour)
        middle = points.mean(axis=0)
        assert np.floor(points[:, 2]).tolist() == [z] * 16
        inner, outer = (
            np.median(_values(volumes["1_1_1"], middle + share * (points - middle)))
            for share in (0.6, 1.6)
        )
        assert inner > 2 * outer, contour["id"]
