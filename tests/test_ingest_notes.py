"""What ingest says of what is likely not meant: sizes, other formats; and of the next step."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from neurotrale.tools.ingest.plan import IngestRequest, plan_for
from neurotrale.tools.ingest.run import run_shard
from neurotrale.tools.ingest.sources import Volume
from tests.stacks import expected_levels, ingest, noise, read_levels, write_planes
from tests.test_ingest_sources import refused

HEADS = {
    "CZI": b"ZISRAWFILE" + bytes(600),
    "ND2": b"\xda\xce\xbe\n" + bytes(600),
    "LIF": b"\x70\0\0\0" + bytes(600),
    "OIB or ZVI": bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff\xe0",
    "NIfTI": b"\x5c\x01\0\0" + bytes(340) + b"n+1\0",
    "MRC": bytes(208) + b"MAP " + bytes(600),
    "DICOM": bytes(128) + b"DICM",
    "numpy": b"\x93NUMPY\x01\0",
    "gzip": b"\x1f\x8b\x08",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "empty": b"",
}


@pytest.mark.parametrize("as_stack", [False, True], ids=["planes", "stack"])
@pytest.mark.parametrize("name", HEADS)
def test_file_of_another_format_is_named(tmp_path: Path, name: str, as_stack: bool) -> None:
    write_planes(tmp_path / "in", noise((3, 4, 5), "uint8"))
    path = tmp_path / "in" / "plane1.tif"
    path.write_bytes(HEADS[name])
    said = refused(path if as_stack else tmp_path / "in" / "*.tif", tmp_path / "out")
    (line,) = (line for line in said.splitlines() if "plane1.tif" in line)
    assert f"{path}: not a readable TIFF, but a" in line
    assert name in line
    assert "Errno" not in said


def test_directory_among_planes_is_named(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((3, 4, 5), "uint8"))
    (tmp_path / "in" / "plane3.tif").mkdir()
    said = refused(source, tmp_path / "out")
    assert "plane3.tif: not a readable TIFF, but a directory: name the files in it" in said
    assert "Errno" not in said


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("1800,1800,2000", "1.8,1.8,2"),
        ("1.8,1.8,2000", "1.8,1.8,2"),
        ("1e-6,1e-6,1e-6", "0.001,0.001,0.001"),
    ],
)
def test_unlikely_size_of_a_voxel_is_a_question(tmp_path: Path, given: str, meant: str) -> None:
    source = write_planes(tmp_path / "in", noise((3, 4, 5), "uint8"))
    plan = ingest(source, tmp_path / "out", "--voxel-size", given, "--dry-run").output
    assert f"did you mean {meant}?" in plan
    for usual in ("0.001,0.001,0.001", "100,100,100", "1.8,1.8,2.0"):
        plan = ingest(source, tmp_path / "out", "--voxel-size", usual, "--dry-run").output
        assert "did you mean" not in plan


def test_chunks_that_no_texture_holds_are_a_note(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((3, 4, 5), "uint8"))
    for size, is_noted in (("2049,8,8", True), ("2048,8,8", False)):
        plan = ingest(source, tmp_path / "out", "--chunk-size", size, "--dry-run").output
        assert ("graphics cards" in plan) == is_noted


@pytest.mark.parametrize("layout", ["single", "pages"])
def test_nan_and_infinity_are_kept_without_a_warning(tmp_path: Path, layout: str) -> None:
    voxels = noise((8, 12, 14), "float32")
    voxels[0, 0, 0] = np.nan
    voxels[2, 2, 2:4] = np.inf, -np.inf
    voxels[4:6, 4:6, 4:6] = np.inf
    voxels[6:8, 6:8, 6:8] = np.nan
    source = write_planes(tmp_path / "in", voxels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        ingest(source, tmp_path / "out", "--levels", "2", "--chunk-size", "8", "--layout", layout)
        expected = expected_levels(voxels, [(2, 2, 2)])
    for found, level in zip(read_levels(tmp_path / "out"), expected, strict=True):
        assert np.array_equal(found, level, equal_nan=True)


def test_last_line_says_the_next_step(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((40, 4, 5), "uint8"))
    dest = tmp_path / "my data" / "brain"
    parts = ["--chunk-size", "8", "--shard"]
    said = ingest(source, dest, *parts, "1/2").output
    assert said.splitlines()[-1] == "next  --finish with the same options, after all 2 shards"
    ingest(source, dest, *parts, "2/2")
    said = ingest(source, dest, "--chunk-size", "8", "--finish").output
    assert said.splitlines()[-1] == f"next  neurotrale serve '{tmp_path / 'my data'}'"


def test_tiff_that_tifffile_cannot_decode_is_said_to_be_one(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((3, 4, 5), "uint8"))
    path = tmp_path / "in" / "plane1.tif"
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["StripOffsets"].overwrite(2**31)
    said = refused(source, tmp_path / "out")
    assert "but its header promises" in said


@pytest.mark.parametrize("shards", [1, 2])
def test_progress_counts_bytes_of_the_source(tmp_path: Path, shards: int) -> None:
    voxels = noise((40, 12, 14), "uint16")
    request = IngestRequest(
        "", tmp_path / "out", (1.0, 1.0, 1.0), chunk_vx=(8, 8, 8), shards=shards
    )
    plan = plan_for(request, Volume(voxels))
    total = 0
    for shard in range(1, shards + 1):
        steps: list[tuple[int, int]] = []
        run_shard(plan, shard, lambda done, whole: steps.append((done, whole)))  # noqa: B023
        start, stop = plan.planes_of(shard)
        assert {whole for _, whole in steps} == {voxels[start:stop].nbytes}
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]
        total += steps[-1][1]
    assert total == voxels.nbytes
