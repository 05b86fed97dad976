"""What ingest writes, read through the service by other people's programs: every voxel."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
import tifffile

from tests.conftest import Service, StartService
from tests.datasets import Voxels
from tests.stacks import (
    HALVES,
    Steps,
    chunk_boxes,
    expected_levels,
    ingest,
    labels,
    noise,
    write_planes,
)
from tests.test_clients import CLIENTS, MNI, read, read_real
from tests.tiffs import Form, segments_of, write_tiff

pytestmark = pytest.mark.clients

STEPS: dict[str, Steps] = {"--isotropic": [(1, 2, 2), (2, 2, 2)]}


def brain() -> Voxels:
    """The brain of the nilearn wheel: a part of it, as the reference is slow."""
    measured = read_real(MNI)[0]
    return np.ascontiguousarray(measured[60:141, 70:161, 50:151]).astype("uint8")


def nuclei() -> Voxels:
    return read_real("img3d.tif")[0]


def nuclei_labels() -> Voxels:
    return read_real("mask3d.tif")[0].astype("uint32")


STACKS: dict[str, tuple[Callable[[], Voxels], list[str]]] = {
    "brain": (brain, ["--voxel-size", "1000"]),
    "nuclei": (nuclei, ["--voxel-size", "0.4,0.4,0.4", "--layout", "pages"]),
    "nuclei-labels": (nuclei_labels, ["--segmentation"]),
    "zstd": (lambda: noise((70, 71, 131), "uint16"), ["--compression", "zstd"]),
    "uncompressed": (lambda: noise((70, 71, 66), "float32"), ["--compression", "none"]),
    "uint64": (lambda: labels((67, 66, 65), "uint64"), ["--segmentation", "--chunk-size", "32"]),
    "flat": (
        lambda: noise((40, 90, 99), "uint32"),
        ["--isotropic", "--voxel-size", "1,1,2", "--chunk-size", "64,32,16"],
    ),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("ingested"))


@pytest.fixture(scope="module", params=STACKS)
def made(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Voxels]]:
    """A dataset below the root of the service, and what must be in it."""
    make, options = STACKS[request.param]
    voxels = make()
    dest = service.root / request.param
    if len(voxels) % 2:  # half of them come as planes, half as a file of many
        source: str | Path = write_planes(tmp_path_factory.mktemp("planes"), voxels)
    else:
        source = tmp_path_factory.mktemp("stack") / "stack.tif"
        tifffile.imwrite(source, voxels, metadata={"axes": "ZYX"}, photometric="minisblack")
    ingest(source, dest, "--levels", "3", *options)
    steps = STEPS.get(options[0], HALVES[:2])
    return dest, expected_levels(voxels, steps, "--segmentation" in options)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.quick(3)
def test_client_reads_every_voxel_that_was_ingested(
    service: Service, made: tuple[Path, list[Voxels]], client: str
) -> None:
    dest, levels = made
    for number, expected in enumerate(levels):
        found = read(CLIENTS[client](f"{service.url}/{dest.name}", number))
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected[np.newaxis]), f"level {number}"


def test_every_chunk_is_passed_through_as_it_is_stored(
    service: Service, made: tuple[Path, list[Voxels]]
) -> None:
    dest, levels = made
    coding = "zstd" if dest.name == "zstd" else "gzip"
    # Pages cannot be passed through, and plain voxels need no coding.
    sent_as = None if dest.name in ("nuclei", "uncompressed") else coding
    scales = json.loads((dest / "info").read_text())["scales"]
    for scale, expected in zip(scales, levels, strict=True):
        for name, box in chunk_boxes(tuple(scale["size"]), scale["chunk_sizes"][0]):
            url = f"{service.url}/{dest.name}/{scale['key']}/{name}"
            answer = requests.get(url, headers={"Accept-Encoding": coding}, stream=True)
            stored = (dest / scale["key"] / f"{name}.tiff").read_bytes()
            body = answer.raw.read(decode_content=False)
            assert answer.headers.get("Content-Encoding") == sent_as
            # What gzip needs before and after a deflate stream is not in the file.
            segment = body[10:-8] if sent_as == "gzip" else body
            assert segment in stored or dest.name == "nuclei"
            plain = requests.get(url, headers={"Accept-Encoding": "identity"}).content
            assert plain == expected[box].tobytes()


def test_preview_is_the_picture_of_the_dataset(
    service: Service, made: tuple[Path, list[Voxels]]
) -> None:
    dest, _ = made
    picture = requests.get(f"{service.url}/api/datasets/{dest.name}/preview.png")
    assert picture.content == (dest / "preview.png").read_bytes()


# Files of one page a plane, laid out as few programs do, yet as the format allows.
FORMS = {
    "sparse tiles": (Form(segment=(32, 32), shuffled=True, gaps=True), 1, "uint16"),
    "sparse strips, nodata": (Form(segment=(16, 0), nodata=7, big_endian=True), 1, "uint16"),
    "sparse, deflate": (Form(segment=(32, 16), codec="deflate", shuffled=True), 1, "uint8"),
    "shared": (Form(segment=(16, 16), shared=True, bigtiff=True), 1, "uint32"),
    "channels": (Form(segment=(16, 16), codec="lzw", shuffled=True), 3, "uint8"),
    "planar channels": (Form(segment=(32, 0), planar=True, gaps=True), 3, "uint16"),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("layout", ["default", "pages"])
@pytest.mark.parametrize("name", FORMS)
def test_client_reads_every_voxel_of_files_laid_out_in_any_way(
    service: Service, tmp_path: Path, name: str, layout: str, client: str
) -> None:
    form, samples, dtype = FORMS[name]
    voxels = np.stack([noise((36, 70, 90), dtype, seed) for seed in range(samples)], axis=1)
    count = len(segments_of((samples, 70, 90), form))
    chance = random.Random(name)
    for z, page in enumerate(voxels):
        absent = {(0, number) for number in range(count) if chance.random() < 0.3}
        (voxels[z],) = write_tiff(tmp_path / f"z{z:04}.tif", [page], form, absent, z)
    dest = service.root / f"{name} {layout} {client}".replace(",", "").replace(" ", "-")
    chosen = [] if layout == "default" else ["--layout", layout]
    ingest(str(tmp_path / "*.tif"), dest, "--levels", "2", "--voxel-size", "1,1,1", *chosen)
    channels = [
        expected_levels(np.ascontiguousarray(voxels[:, number]), HALVES[:1])
        for number in range(samples)
    ]
    for number in range(2):
        found = read(CLIENTS[client](f"{service.url}/{dest.name}", number))
        expected = np.stack([levels[number] for levels in channels])
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), f"level {number}"
