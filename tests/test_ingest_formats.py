"""Ingest of datasets in other formats, and the command line of precomputed-tif as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import tifffile
from click.testing import CliRunner, Result

from neurotrale.cli import main
from tests.blockfs import tool_levels, unpack, write_volume
from tests.conftest import Service
from tests.datasets import Voxels, gradient, write_dataset
from tests.stacks import HALVES, expected_levels, ingest, read_levels, write_planes
from tests.test_clients import CLIENTS, REAL_DATA, read


def ingest_plainly(*arguments: object, code: int = 0) -> Result:
    """Run the command with these arguments alone."""
    result = CliRunner().invoke(main, ["ingest", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def resolution_um(dataset: Path) -> list[float]:
    scale = json.loads((dataset / "info").read_text())["scales"][0]
    return [nm / 1000 for nm in scale["resolution"]]


def assert_levels_equal(dataset: Path, voxels: Voxels, segmentation: bool = False) -> None:
    levels = read_levels(dataset)
    for found, expected in zip(
        levels, expected_levels(voxels, HALVES[: len(levels) - 1], segmentation), strict=True
    ):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


# --- datasets ---


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["blockfs", "zarr", "ngff"])
def test_dataset_that_the_tool_wrote_is_converted(tmp_path: Path, name: str) -> None:
    unpack(tmp_path / "in")
    said = ingest_plainly("--source", tmp_path / "in" / name, "--dest", tmp_path / "out").output
    assert_levels_equal(tmp_path / "out", tool_levels()[0])
    assert resolution_um(tmp_path / "out") == [1.8, 1.8, 2.0]
    assert "the voxel size 1.8,1.8,2 um is that of the source" in said
    assert {"blockfs": "blockfs", "zarr": "zarr version 2", "ngff": "OME-NGFF"}[name] in said


@pytest.mark.quick(1)
@pytest.mark.parametrize("layout", ["single", "pages"])
def test_dataset_of_our_own_is_converted(tmp_path: Path, layout: str) -> None:
    voxels = gradient((70, 40, 50))
    planes = write_planes(tmp_path / "planes", voxels)
    ingest(planes, tmp_path / "first", "--layout", layout, "--chunk-size", "24,16,20")
    ingest_plainly("--source", tmp_path / "first", "--dest", tmp_path / "out")
    assert_levels_equal(tmp_path / "out", voxels)
    assert resolution_um(tmp_path / "out") == [1, 1, 1]


@pytest.mark.parametrize("chunk", ["64", "17,33,9", "128"])
def test_chunks_of_the_source_need_not_be_those_of_the_dataset(tmp_path: Path, chunk: str) -> None:
    voxels = gradient((45, 50, 60), "uint32")
    write_volume(tmp_path / "in", voxels, 20, shards=3)
    ingest(tmp_path / "in", tmp_path / "out", "--chunk-size", chunk, "--memory", "200M")
    assert_levels_equal(tmp_path / "out", voxels)


@pytest.mark.long
def test_dataset_is_converted_in_shards(tmp_path: Path) -> None:
    voxels = gradient((70, 40, 50))
    write_volume(tmp_path / "in", voxels, 16)
    options = ["--source", tmp_path / "in", "--chunk-size", "8"]
    ingest_plainly(*options, "--dest", tmp_path / "whole")
    for shard in ("2/3", "1/3", "3/3"):
        ingest_plainly(*options, "--dest", tmp_path / "parts", "--shard", shard)
    ingest_plainly(*options, "--dest", tmp_path / "parts", "--finish")
    for found, expected in zip(
        read_levels(tmp_path / "parts"), read_levels(tmp_path / "whole"), strict=True
    ):
        assert np.array_equal(found, expected)


def test_absent_chunks_are_zero_and_counted(tmp_path: Path) -> None:
    voxels = gradient((16, 16, 40))
    write_volume(tmp_path / "in", voxels, 16, absent=(1,))
    said = ingest(tmp_path / "in", tmp_path / "out").output
    voxels[:, :, 16:32] = 0
    assert_levels_equal(tmp_path / "out", voxels)
    assert "1 chunks are absent" in said


def test_labels_stay_labels(tmp_path: Path) -> None:
    voxels = gradient((20, 20, 20), "uint32") // 9000
    write_volume(tmp_path / "in", voxels, 16)
    info = json.loads((tmp_path / "in" / "info").read_text())
    (tmp_path / "in" / "info").write_text(json.dumps({**info, "type": "segmentation"}))
    said = ingest(tmp_path / "in", tmp_path / "out", "--levels", "2").output
    assert "segmentation" in said
    assert_levels_equal(tmp_path / "out", voxels, segmentation=True)


def write_zarr(path: Path, voxels: Voxels, **metadata: Any) -> None:
    """Write an array with tensorstore."""
    spec = {
        "driver": "zarr",
        "kvstore": f"file://{path}/",
        "metadata": {
            "shape": list(voxels.shape),
            "chunks": [min(n, 16) for n in voxels.shape],
            "dtype": voxels.dtype.str,
            **metadata,
        },
    }
    tensorstore.open(spec, create=True).result().write(voxels).result()


ZARRS: dict[str, dict[str, Any]] = {
    "plain": {"compressor": None},
    "nested": {"dimension_separator": "/"},
    "zlib": {"compressor": {"id": "zlib", "level": 5}},
    "gzip": {"compressor": {"id": "gzip", "level": 5}},
    "zstd": {"compressor": {"id": "zstd", "level": 3}},
    "blosc lz4": {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
    "fortran": {"order": "F"},
    "fill": {"fill_value": 7},
}


@pytest.mark.parametrize("kind", ZARRS)
@pytest.mark.parametrize("dtype", ["<u2", ">i2", "|u1"])
def test_every_voxel_of_zarr_is_converted(tmp_path: Path, kind: str, dtype: str) -> None:
    voxels = gradient((20, 21, 35), "uint16").astype(dtype)
    write_zarr(tmp_path / "in", voxels, **ZARRS[kind])
    ingest(tmp_path / "in", tmp_path / "out", "--levels", "2")
    assert_levels_equal(tmp_path / "out", voxels.astype(voxels.dtype.newbyteorder("=")))


_STEPS = {"z": 3, "y": 0.5, "x": 0.4}


def write_ngff(path: Path, voxels: Voxels, axes: str) -> None:
    write_zarr(path / "0", voxels, dimension_separator="/")
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    space = {"type": "space", "unit": "micrometer"}
    image = {
        "version": "0.4",
        "axes": [{"name": axis, **(space if axis in "xyz" else {})} for axis in axes],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [_STEPS.get(axis, 1) for axis in axes]}
                ],
            }
        ],
    }
    (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))


@pytest.mark.clients
@pytest.mark.parametrize("client", CLIENTS)
def test_channels_of_ngff_are_channels_of_the_dataset(
    tmp_path: Path, shared_service: Service, client: str
) -> None:
    voxels = np.stack([gradient((20, 21, 35)) + 1000 * c for c in range(3)])
    write_ngff(tmp_path / "in", voxels[np.newaxis], "tczyx")
    name = f"ngff-{client}"
    dest = shared_service.root / name
    said = ingest_plainly(
        "--source", tmp_path / "in", "--dest", dest, "--levels", "2", "--chunk-size", "16"
    ).output
    assert "0.4,0.5,3 um is that of the source" in said
    levels = [expected_levels(channel, HALVES[:1]) for channel in voxels]
    for number in range(2):
        found = read(CLIENTS[client](f"{shared_service.url}/{name}", number))
        assert np.array_equal(found, np.stack([each[number] for each in levels]))
    ingest(tmp_path / "in", tmp_path / "one", "--channel", "2", "--levels", "2")
    assert_levels_equal(tmp_path / "one", voxels[2])
    shutil.rmtree(dest)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "filters": ({"filters": [{"id": "delta"}]}, "filters are not supported"),
    "compressor": ({"compressor": {"id": "lzma"}}, "'lzma' is not supported"),
    "too large": ({"chunks": [2**20, 2**20, 1]}, "too large"),
    "one size too few": ({"chunks": [16, 16]}, "expected sizes along"),
    "version": ({"zarr_format": 3}, "not the description of an array"),
    "type": ({"dtype": "u99"}, "not the description of an array"),
    "complex": ({"dtype": "<c8"}, "complex64"),
}


@pytest.mark.parametrize("bad", BAD)
def test_zarr_that_cannot_be_read_is_refused_before_any_work(tmp_path: Path, bad: str) -> None:
    write_zarr(tmp_path / "in", gradient((20, 20, 20)))
    members, text = BAD[bad]
    file = tmp_path / "in" / ".zarray"
    file.write_text(json.dumps({**json.loads(file.read_text()), **members}))
    assert text in ingest(tmp_path / "in", tmp_path / "out", code=1).output
    assert not (tmp_path / "out").exists()


def test_damaged_chunk_of_a_source_stops_the_ingest(tmp_path: Path) -> None:
    write_zarr(tmp_path / "in", gradient((20, 20, 20)))
    (tmp_path / "in" / "1.0.0").write_bytes(b"damaged")
    said = ingest(tmp_path / "in", tmp_path / "out", code=1).output
    assert "1.0.0: the chunk is damaged" in said


@pytest.mark.parametrize(
    ("members", "text"),
    [({"encoding": "jpeg"}, "'jpeg'"), ({"sharding": {"@type": "x"}}, "sharded")],
    ids=["jpeg", "sharded"],
)
def test_dataset_that_cannot_be_read_is_refused(
    tmp_path: Path, members: dict[str, Any], text: str
) -> None:
    dataset = write_dataset(tmp_path / "in")
    info = json.loads((dataset / "info").read_text())
    info["scales"][0].update(members)
    (dataset / "info").write_text(json.dumps(info))
    assert text in ingest(dataset, tmp_path / "out", code=1).output


# --- the command line of precomputed-tif ---


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real stack, one plane a file."""
    voxels = tifffile.imread(REAL_DATA / "img3d.tif")
    directory = tmp_path_factory.mktemp("nuclei")
    for z, plane in enumerate(voxels):
        tifffile.imwrite(directory / f"img_{z:04d}.tif", plane, photometric="minisblack")
    return directory


def test_command_of_the_readme_runs_as_printed(nuclei: Path, tmp_path: Path) -> None:
    said = ingest_plainly("--source", f"{nuclei}/*.tif*", "--dest", tmp_path / "out", "--levels", 3)
    assert "WARNING: no voxel size is given" in said.output
    assert "1.8,1.8,2 um" in said.output
    assert resolution_um(tmp_path / "out") == [1.8, 1.8, 2.0]
    voxels = np.stack([tifffile.imread(path) for path in sorted(nuclei.iterdir())])
    found = read_levels(tmp_path / "out")
    assert [level.shape for level in found] == [(31, 61, 57), (16, 31, 29), (8, 16, 15)]
    assert np.array_equal(found[0], voxels)


def test_plan_says_what_is_assumed(nuclei: Path, tmp_path: Path) -> None:
    plan = ingest_plainly("--source", nuclei, "--dest", tmp_path / "a" / "b", "--dry-run").output
    assert "note    WARNING: no voxel size is given" in plan
    assert f"the directory {tmp_path / 'a'} does not exist: it is made" in plan
    assert not (tmp_path / "a").exists()


def ome(sizes: dict[str, Any]) -> dict[str, Any]:
    return {"ome": True, "metadata": {"axes": "ZYX", **sizes}}


STATED: dict[str, tuple[dict[str, Any], list[float], str]] = {
    "OME": (
        ome({"PhysicalSizeX": 0.4, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2}),
        [0.4, 0.5, 2],
        "is that of the OME metadata",
    ),
    "OME in nm": (
        ome({f"PhysicalSize{a}{b}": c for a in "XYZ" for b, c in (("", 400), ("Unit", "nm"))}),
        [0.4, 0.4, 0.4],
        "is that of the OME metadata",
    ),
    "OME without z": (
        ome({"PhysicalSizeX": 0.4, "PhysicalSizeY": 0.5}),
        [0.4, 0.5, 2],
        "WARNING: the OME metadata states 0.4,0.5,?",
    ),
    "ImageJ": (
        {
            "imagej": True,
            "resolution": (2.5, 2),
            "metadata": {"axes": "ZYX", "spacing": 3, "unit": "um"},
        },
        [0.4, 0.5, 3],
        "is that of the ImageJ metadata",
    ),
    "ImageJ in pixels": (
        {"imagej": True, "resolution": (2.5, 2), "metadata": {"axes": "ZYX", "unit": "pixel"}},
        [1.8, 1.8, 2],
        "the source states none",
    ),
    "resolution": (
        {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None},
        [0.5, 0.5, 2],
        "WARNING: the resolution in the file states 0.5,0.5,?",
    ),
    "resolution of a printer": (
        {"resolution": (72, 72), "resolutionunit": "INCH", "metadata": None},
        [1.8, 1.8, 2],
        "the source states none",
    ),
    "nothing": ({"metadata": None}, [1.8, 1.8, 2], "the source states none"),
}


@pytest.mark.parametrize("kind", STATED)
def test_voxel_size_is_that_of_the_source(tmp_path: Path, kind: str) -> None:
    options, expected, text = STATED[kind]
    source = tmp_path / "stack.ome.tif" if "ome" in options else tmp_path / "stack.tif"
    tifffile.imwrite(source, gradient((9, 16, 16)), photometric="minisblack", **options)
    said = ingest_plainly("--source", source, "--dest", tmp_path / "out").output
    assert resolution_um(tmp_path / "out") == pytest.approx(expected)
    assert text in said


def test_voxel_size_that_contradicts_the_source_is_a_warning(tmp_path: Path) -> None:
    options, _, _ = STATED["OME"]
    tifffile.imwrite(
        tmp_path / "s.ome.tif", gradient((9, 16, 16)), photometric="minisblack", **options
    )
    for given, warned in (("0.4,0.5,2", False), ("0.4,0.5,2.5", True), ("0.402,0.5,2", False)):
        plan = ingest_plainly(
            *("--source", tmp_path / "s.ome.tif", "--dest", tmp_path / "out"),
            *("--voxel-size", given, "--dry-run"),
        ).output
        both = f"WARNING: --voxel-size is {given} um, but the OME metadata states 0.4,0.5,2 um"
        assert (both in plan) == warned


@pytest.mark.parametrize(
    "directory", ["a[1]", "[brackets]", "st*rs", "wh?t", "all [z]*?"], ids=lambda name: name
)
@pytest.mark.parametrize("end", ["*.tif", "plane?.tif", ""], ids=["star", "mark", "directory"])
def test_directory_with_any_name_is_found(tmp_path: Path, directory: str, end: str) -> None:
    voxels = gradient((5, 16, 16))
    write_planes(tmp_path / directory, voxels)
    write_planes(tmp_path / "a1", gradient((5, 16, 16)) + 1)  # what a pattern would take
    ingest(tmp_path / directory / end, tmp_path / "out")
    assert_levels_equal(tmp_path / "out", voxels)


def test_home_directory_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_planes(tmp_path / "planes", gradient((5, 16, 16)))
    ingest("~/planes/*.tif", Path("~/out"))
    assert_levels_equal(tmp_path / "out", gradient((5, 16, 16)))
    ingest("~/planes", Path("~/out2"))
    assert_levels_equal(tmp_path / "out2", gradient((5, 16, 16)))


def test_directory_without_planes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    said = ingest(tmp_path / "empty", tmp_path / "out", code=1).output
    assert "no TIFF file" in said


@pytest.mark.parametrize("dest", ["in", "in/out", "in/../in", "in/deep/out", "link/out"])
@pytest.mark.parametrize("pattern", ["in", "in/**/*.tif"])
def test_dest_in_the_source_is_refused(tmp_path: Path, dest: str, pattern: str) -> None:
    write_planes(tmp_path / "in", gradient((5, 16, 16)))
    (tmp_path / "link").symlink_to("in")
    before = sorted(os.listdir(tmp_path / "in"))
    said = ingest(f"{tmp_path}/{pattern}", Path(f"{tmp_path}/{dest}"), code=1).output
    assert "is in the source" in said
    assert sorted(os.listdir(tmp_path / "in")) == before


@pytest.mark.parametrize("dest", ["in", "in/out", "in/1_1_1"])
def test_dest_in_a_dataset_that_is_the_source_is_refused(tmp_path: Path, dest: str) -> None:
    write_volume(tmp_path / "in", gradient((16, 16, 16)), 16)
    assert "is in the source" in ingest(tmp_path / "in", tmp_path / dest, code=1).output


def test_dest_beside_the_planes_of_a_pattern_is_taken_but_not_their_own(tmp_path: Path) -> None:
    source = write_planes(tmp_path, gradient((5, 16, 16)))
    assert "is in the source" in ingest(source, tmp_path, code=1).output
    ingest(source, tmp_path / "out")
    assert_levels_equal(tmp_path / "out", gradient((5, 16, 16)))


def test_dest_beside_a_single_file_is_taken(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.tif", gradient((5, 16, 16)), photometric="minisblack")
    ingest(tmp_path / "s.tif", tmp_path / "out")
    assert_levels_equal(tmp_path / "out", gradient((5, 16, 16)))


def test_chunks_that_were_left_out_have_their_value(tmp_path: Path) -> None:
    voxels = gradient((20, 20, 40))
    voxels[:, :, :16] = 7
    planes = write_planes(tmp_path / "planes", voxels)
    ingest(planes, tmp_path / "in", "--skip-empty", "7", "--chunk-size", "16")
    assert not (tmp_path / "in" / "1_1_1" / "0-16_0-16_0-16.tiff").exists()
    ingest(tmp_path / "in", tmp_path / "out", "--levels", "2")
    assert_levels_equal(tmp_path / "out", voxels)
