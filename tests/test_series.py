"""Files that hold more than the stack: thumbnails, reduced copies, masks, other images."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.datasets import Voxels
from tests.stacks import ingest, noise, read_levels
from tests.test_ingest_sources import first_level, refused

VOXELS = noise((9, 32, 40), "uint16")
SMALL = noise((9, 8, 10), "uint8", 1)
REDUCED, MASK = 1, 4
PLAIN: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}


def write_pages(path: Path, pages: list[tuple[Voxels, int]], **tiff: Any) -> Path:
    """Write pages one by one, each with its subfiletype."""
    with tifffile.TiffWriter(path) as writer:
        for page, kind in pages:
            writer.write(page, subfiletype=kind and REDUCED, **{**PLAIN, **tiff})
    with tifffile.TiffFile(path, mode="r+") as file:
        for number, (_, kind) in enumerate(pages):
            file.pages[number].aspage().tags["NewSubfileType"].overwrite(kind)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", [REDUCED, MASK])
@pytest.mark.parametrize("where", ["first", "second", "last", "in-the-middle", "each"])
def test_pages_of_a_stack_are_those_that_are_not_reduced(
    tmp_path: Path, where: str, kind: int, compression: str | None
) -> None:
    pages = [(plane, 0) for plane in VOXELS]
    if where == "each":
        small = [(plane, kind) for plane in SMALL]
        pages = [page for both in zip(pages, small, strict=True) for page in both]
    else:
        at = {"first": 0, "second": 1, "in-the-middle": 4, "last": 9}[where]
        pages.insert(at, (SMALL[0], kind))
    source = write_pages(tmp_path / "stack.tif", pages, compression=compression)
    plan = ingest(source, tmp_path / "out", "--dry-run").output
    assert "32 x 40 uint16" in plan
    assert "8 x 10 uint8 (reduced)" in plan
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_planes_may_have_thumbnails(tmp_path: Path, first: bool) -> None:
    (tmp_path / "in").mkdir()
    for z, plane in enumerate(VOXELS):
        pages = [(plane, 0), (SMALL[z], REDUCED)]
        write_pages(tmp_path / "in" / f"z{z}.tif", pages[::-1] if first else pages)
    source = tmp_path / "in" / "*.tif"
    note = f"note    series {int(first)} is read, of 2: "
    assert note in ingest(source, tmp_path / "out", "--dry-run").output
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)
    small = first_level(source, tmp_path / "small", "--series", str(int(not first)))
    assert np.array_equal(small, SMALL)


def test_first_image_of_an_ome_file_is_read_unless_told(tmp_path: Path) -> None:
    source = tmp_path / "two.ome.tif"
    other = noise((4, 20, 30), "uint8", 3)
    with tifffile.TiffWriter(source, ome=True) as writer:
        for voxels, name in ((VOXELS, "brain"), (other, "overview")):
            writer.write(voxels, photometric="minisblack", metadata={"axes": "ZYX", "Name": name})
    plan = ingest(source, tmp_path / "out", "--dry-run").output
    assert "series 0 is read, of 2: 0: 9 x 32 x 40 uint16 'brain', 1: 4 x 20 x 30 uint8" in plan
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)
    found = first_level(source, tmp_path / "second", "--series", "1")
    assert np.array_equal(found, other)
    said = refused(source, tmp_path / "third", "--series", "2")
    assert "--series 2 does not exist; it has 0 to 1" in said
    again = ingest(source, tmp_path / "out", "--levels", "1", "--series", "1", code=1).output
    assert "other options" in again


def test_levels_of_a_pyramid_are_left_out(tmp_path: Path) -> None:
    source = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(source, ome=True) as writer:
        writer.write(VOXELS, subifds=1, photometric="minisblack", metadata={"axes": "ZYX"})
        writer.write(VOXELS[:, ::2, ::2], subfiletype=REDUCED, photometric="minisblack")
    assert "1 reduced levels" in ingest(source, tmp_path / "out", "--dry-run").output
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


def test_images_that_nothing_tells_apart_from_planes_are_refused(tmp_path: Path) -> None:
    source = write_pages(tmp_path / "stack.tif", [*((p, 0) for p in VOXELS), (SMALL[0], 0)])
    said = refused(source, tmp_path / "out")
    assert "it holds 2 images (0: 9 x 32 x 40 uint16, 1: 8 x 10 uint8)" in said
    assert "--series" in said
    found = first_level(source, tmp_path / "out", "--series", "0")
    assert np.array_equal(found, VOXELS)


def write_lsm(path: Path, voxels: Voxels, compression: str | None) -> None:
    """Write ``[z, channel, y, x]`` as the microscope does: a thumbnail follows each page."""
    planes, channels, rows, columns = voxels.shape
    sizes = (columns, rows, planes, channels, 1, 2, 10, 8)
    header = struct.pack("<II8i6dHH", 67127628, 96, *sizes, 1e-6, 1e-6, 2e-6, 0, 0, 0, 0, 0)
    with tifffile.TiffWriter(path, byteorder="<") as writer:
        for z, page in enumerate(voxels):
            writer.write(
                page if channels > 1 else page[0], compression=compression, metadata=None,
                photometric="minisblack", planarconfig="separate" if channels > 1 else None,
                extratags=[(34412, 1, len(header), header, True)] if z == 0 else [],
            )  # fmt: skip
            writer.write(SMALL[z], subfiletype=REDUCED, **PLAIN)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_lsm_file_gives_its_planes(tmp_path: Path, compression: str | None, channels: int) -> None:
    source = tmp_path / "stack.lsm"
    voxels = noise((5, channels, 32, 40), "uint16")
    write_lsm(source, voxels, compression)
    with tifffile.TiffFile(source) as tiff:
        assert tiff.is_lsm
    for channel in range(channels):
        options = ["--channel", str(channel)] if channels > 1 else []
        found = first_level(source, tmp_path / f"out{channel}", *options)
        assert np.array_equal(found, voxels[:, channel])


# --- pages that are not there, or more than are counted ---


def end_of_chain(path: Path) -> int:
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages)
        assert tiff.pages.next_page_offset is not None
        return tiff.pages.next_page_offset


@pytest.mark.parametrize("link", [1, 0x7FFFFFFF])
@pytest.mark.parametrize(
    ("tiff", "is_counted"),
    [({"imagej": True}, True), ({"ome": True}, True), ({}, True), ({"metadata": None}, False)],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_last_page_that_refers_to_none_is_a_note_if_the_pages_are_counted(
    tmp_path: Path, tiff: dict[str, Any], is_counted: bool, compression: str | None, link: int
) -> None:
    source = tmp_path / "stack.tif"
    if tiff.get("imagej") and compression is None:
        tiff = {**tiff, "contiguous": False}
    tifffile.imwrite(source, VOXELS, photometric="minisblack", compression=compression, **tiff)
    content = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as file:
        order = file.byteorder
    struct.pack_into(f"{order}I", content, end_of_chain(source), link)
    source.write_bytes(content)
    if is_counted:
        assert (
            "refers to one that does not exist"
            in ingest(source, tmp_path / "out", "--levels", "1").output
        )
        assert np.array_equal(read_levels(tmp_path / "out")[0], VOXELS)
    else:
        assert "truncated" in refused(source, tmp_path / "out")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_that_imagej_does_not_count_are_left_out(
    tmp_path: Path, compression: str | None
) -> None:
    source = tmp_path / "stack.tif"
    tifffile.imwrite(source, VOXELS, imagej=True, compression=compression, metadata={"axes": "ZYX"})
    content = source.read_bytes()
    assert content.count(b"images=9\nslices=9") == 1
    source.write_bytes(content.replace(b"images=9\nslices=9", b"images=7\nslices=7"))
    plan = ingest(source, tmp_path / "out", "--dry-run").output
    assert "ImageJ counts 7 planes in it; 2 more are left out" in plan
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS[:7])
