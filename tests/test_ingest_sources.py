"""What ingest reads: files of planes, files of many pages; and what it refuses, all at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from neurotrale.chunks.tiff_pages import WHOLE_BYTES
from neurotrale.tools.ingest.plane_names import has_decimals, natural_key, split_names
from neurotrale.tools.ingest.plane_order import doubled_names, missing_names
from neurotrale.tools.ingest.sources import open_source
from tests.datasets import Voxels, gradient
from tests.stacks import ingest, noise, read_levels, write_planes

VOXELS = noise((5, 12, 14), "uint16")


def first_level(source: str | Path, dest: Path, *options: str) -> Voxels:
    ingest(source, dest, "--levels", "1", *options)
    (level,) = read_levels(dest)
    return level


def refused(source: str | Path, dest: Path, *options: str) -> str:
    """What is said of a source that is refused; nothing may be written."""
    result = ingest(source, dest, *options, code=1)
    assert not dest.exists()
    return result.output


# --- planes ---


@pytest.mark.parametrize(
    "tiff",
    [
        pytest.param({}, id="uncompressed"),
        pytest.param({"compression": "zlib"}, id="deflate"),
        pytest.param({"compression": "lzw", "predictor": 2}, id="lzw-predictor"),
        pytest.param({"compression": "zstd"}, id="zstd"),
        pytest.param({"compression": "packbits"}, id="packbits"),
        pytest.param({"compression": "jpeg2000"}, id="jpeg2000"),
        pytest.param({"byteorder": ">"}, id="big-endian"),
        pytest.param({"bigtiff": True}, id="bigtiff"),
        pytest.param({"tile": (16, 16), "compression": "zlib"}, id="tiles"),
        pytest.param({"rowsperstrip": 5, "compression": "zlib"}, id="strips"),
        pytest.param({"metadata": None}, id="no-metadata"),
        pytest.param({"ome": True}, id="ome"),
    ],
)
def test_planes_in_any_form_are_read(tmp_path: Path, tiff: dict[str, Any]) -> None:
    source = write_planes(tmp_path / "in", VOXELS, **tiff)
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


def test_planes_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    voxels = gradient((12, 5, 7))
    source = write_planes(tmp_path / "in", voxels)  # plane2 before plane10
    assert np.array_equal(first_level(source, tmp_path / "out"), voxels)


def test_planes_of_one_row_or_column_are_read(tmp_path: Path) -> None:
    for number, shape in enumerate([(3, 1, 5), (3, 5, 1), (3, 1, 1), (3, 4, 3)]):
        voxels = noise(shape, "uint8")
        source = write_planes(tmp_path / f"in{number}", voxels)
        assert np.array_equal(first_level(source, tmp_path / f"out{number}"), voxels)


def test_planes_in_directories_below_are_found(tmp_path: Path) -> None:
    write_planes(tmp_path / "in" / "a", VOXELS[:3])
    write_planes(tmp_path / "in" / "b", VOXELS[3:])
    source = tmp_path / "in" / "**" / "*.tif"
    assert "by name:   a/plane0.tif, a/plane1.tif ... b/plane1.tif" in refused(
        source, tmp_path / "out"
    )
    assert np.array_equal(first_level(source, tmp_path / "out", "--order", "name"), VOXELS)


def test_planes_in_directories_whose_numbers_go_on_are_found(tmp_path: Path) -> None:
    write_planes(tmp_path / "in" / "a", VOXELS)
    (tmp_path / "in" / "b").mkdir()
    for z in (3, 4):
        (tmp_path / "in" / "a" / f"plane{z}.tif").rename(tmp_path / "in" / "b" / f"plane{z}.tif")
    found = first_level(tmp_path / "in" / "**" / "*.tif", tmp_path / "out")
    assert np.array_equal(found, VOXELS)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ("z10 z9 z1", "z1 z9 z10"),
        ("b1 a2 a10", "a2 a10 b1"),
        ("x2y10 x10y1 x2y9", "x2y9 x2y10 x10y1"),
        ("007 10 9", "007 9 10"),
        ("z z1 z0", "z z0 z1"),
        ("1a 1 1b", "1 1a 1b"),
    ],
)
def test_natural_order_goes_by_numbers(names: str, ordered: str) -> None:
    assert sorted(map(Path, names.split()), key=natural_key) == [*map(Path, ordered.split())]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ("z0 z1 z3 z4", "z2"),
        ("z000 z001 z004 z005", "z002 z003"),
        ("z000 z020 z040 z060", ""),
        ("z000 z020 z060 z080", "z040"),
        ("s1_c1_z08 s1_c1_z09 s1_c1_z12 s1_c1_z13", "s1_c1_z10 s1_c1_z11"),
        ("a b c", ""),
        ("z1 z5", ""),
        ("x1z1 x1z2 x2z1 x2z2", ""),
        ("z1.9 z2.1 z2.2", ""),
        ("z3 z7 z9 z20", ""),
    ],
)
def test_missing_planes_are_those_between_numbered_ones(names: str, missing: str) -> None:
    paths = [*map(Path, names.split())]
    split = split_names(paths, decimals=has_decimals(paths) is True)
    assert missing_names(split) == missing.split()


def test_doubled_planes_are_those_of_one_number() -> None:
    paths = sorted(map(Path, ["z1.tif", "z01.tif", "z2.tif"]), key=natural_key)
    names = split_names(paths, decimals=False)
    assert doubled_names(names) == ["z1.tif: the same plane as z01.tif"]


# --- files of many pages ---

HYPERSTACK = noise((3, 4, 2, 12, 14), "uint16")  # T, Z, C, Y, X


@pytest.mark.parametrize(
    "tiff",
    [
        pytest.param({}, id="plain"),
        pytest.param({"compression": "zlib"}, id="deflate"),
        pytest.param({"bigtiff": True}, id="bigtiff"),
        pytest.param({"bigtiff": True, "byteorder": ">", "compression": "lzw"}, id="big-endian"),
        pytest.param({"byteorder": ">"}, id="big-endian-uncompressed"),
        pytest.param({"imagej": True}, id="imagej"),
        pytest.param({"imagej": True, "metadata": {"axes": "TYX"}}, id="imagej-time-for-z"),
        pytest.param({"ome": True, "metadata": {"axes": "ZYX"}}, id="ome"),
        pytest.param({"ome": True, "compression": "zlib", "tile": (16, 16)}, id="ome-tiles"),
        pytest.param({"volumetric": True}, id="one-volumetric-page"),
    ],
)
def test_pages_of_one_stack_are_its_planes(tmp_path: Path, tiff: dict[str, Any]) -> None:
    source = tmp_path / "stack.tif"
    tifffile.imwrite(source, VOXELS, photometric="minisblack", **tiff)
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


def test_pages_that_were_written_one_by_one_are_planes(tmp_path: Path) -> None:
    source = tmp_path / "stack.tif"
    with tifffile.TiffWriter(source) as writer:
        for plane in VOXELS:
            writer.write(plane, contiguous=False, photometric="minisblack")
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


def test_pages_without_any_metadata_are_planes(tmp_path: Path) -> None:
    source = tmp_path / "stack.tif"
    with tifffile.TiffWriter(source, bigtiff=True) as writer:
        for plane in VOXELS:
            writer.write(plane, metadata=None, photometric="minisblack", compression="zlib")
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_hyperstack_gives_the_chosen_channel_and_time(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "stack.tif"
    options: dict[str, Any] = {kind: True}
    tifffile.imwrite(source, HYPERSTACK, metadata={"axes": "TZCYX"}, **options)
    for time, channel in ((0, 0), (2, 1)):
        dest = tmp_path / f"out{time}"
        found = first_level(source, dest, "--time", str(time), "--channel", str(channel))
        assert np.array_equal(found, HYPERSTACK[time, :, channel])


WIDE = np.add.outer(np.arange(5000), np.arange(3500)).astype("uint16")[np.newaxis]


@pytest.mark.quick(4)
@pytest.mark.parametrize("as_stack", [False, True], ids=["planes", "stack"])
@pytest.mark.parametrize(
    "tiff",
    [
        pytest.param({}, id="uncompressed"),
        pytest.param({"byteorder": ">"}, id="big-endian"),
        pytest.param({"rowsperstrip": 700, "compression": "zlib"}, id="strips"),
        pytest.param({"rowsperstrip": 700}, id="uncompressed-strips"),
        pytest.param({"rowsperstrip": 5000, "compression": "zlib"}, id="one-strip"),
        pytest.param({"tile": (512, 1024), "compression": "zlib", "predictor": 2}, id="tiles"),
    ],
)
def test_plane_that_is_read_in_pieces_is_whole(
    tmp_path: Path, tiff: dict[str, Any], as_stack: bool
) -> None:
    assert WIDE.nbytes > WHOLE_BYTES
    voxels = np.concatenate([WIDE, WIDE + np.uint16(1)])
    source: str | Path = tmp_path / "stack.tif"
    if as_stack:
        tifffile.imwrite(source, voxels, photometric="minisblack", **tiff)
    else:
        source = write_planes(tmp_path / "in", voxels, **tiff)
    with closing(open_source(str(source), None, None, 1)) as opened:
        for z, plane in enumerate(voxels):
            rows = list(opened.read_plane(z))
            assert np.array_equal(np.concatenate([part for _, part in rows]), plane)
            assert [y for y, _ in rows] == np.cumsum([0, *(len(p) for _, p in rows)])[:-1].tolist()
            assert (len(rows) > 1) == (tiff.get("rowsperstrip") != len(plane))
            assert max(part.nbytes for _, part in rows) <= opened.read_memory_bytes


def test_file_of_a_single_plane_is_a_stack_of_one(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", VOXELS[:1])
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS[:1])


def test_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    source = tmp_path / "stack[1].tif"
    tifffile.imwrite(source, VOXELS, photometric="minisblack")
    assert np.array_equal(first_level(source, tmp_path / "out"), VOXELS)


# --- refused ---


def colours(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((12, 14, 3), "uint16"), photometric="rgb")


def pages(path: Path) -> None:
    tifffile.imwrite(path, VOXELS, photometric="minisblack")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "narrow": (lambda path: tifffile.imwrite(path, VOXELS[0, :, :9]), "9 x 12 pixels"),
    "turned": (lambda path: tifffile.imwrite(path, VOXELS[0].T), "12 x 14 pixels"),
    "other-type": (lambda path: tifffile.imwrite(path, VOXELS[0].astype("uint8")), "uint8, but"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable TIFF"),
    "text": (lambda path: path.write_text("plane"), "not a readable TIFF"),
    "cut-off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "but its header promises"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:9]), "not a readable TIFF"),
    "directory": (directory, "not a readable TIFF"),
    "colours": (colours, "3 channels, but most planes have 1"),
    "pages": (pages, "expected one plane"),
    "gone": (lambda path: path.unlink(), "missing"),
    "doubled": (lambda path: shutil.copy(path, path.with_name("plane003.tif")), "the same plane"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plane_is_named_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    spoil, said = BAD[name]
    source = write_planes(tmp_path / "in", VOXELS)
    spoil(tmp_path / "in" / "plane3.tif")
    output = refused(source, tmp_path / "out")
    (line,) = (line for line in output.splitlines() if "plane3" in line or "plane003" in line)
    assert said in line
    assert "1 problem;" in output


def test_bad_planes_are_all_named_at_once(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", np.concatenate([VOXELS, VOXELS, VOXELS]))
    wrong = ["narrow", "turned", "other-type", "empty", "text", "colours", "pages", "gone"]
    for number, name in enumerate(wrong, 2):
        BAD[name][0](tmp_path / "in" / f"plane{number}.tif")
    output = refused(source, tmp_path / "out")
    assert f"{len(wrong)} problems;" in output
    for number, name in enumerate(wrong, 2):
        (line,) = (line for line in output.splitlines() if f"plane{number}.tif" in line)
        assert BAD[name][1] in line


def test_bad_planes_without_number_are_counted_after_the_first_fifty(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", np.ones((60, 2, 2), "uint8"))
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(b"")
    output = refused(source, tmp_path / "out")
    assert "60 problems;" in output
    assert "... and 10 more" in output


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_type_that_datasets_do_not_have_is_refused(tmp_path: Path, dtype: str) -> None:
    source = write_planes(tmp_path / "in", np.ones((2, 3, 4), dtype))
    output = refused(source, tmp_path / "out")
    assert dtype in output
    assert "convert them to one of uint8" in output


STACKS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "channels-and-times": (
        lambda path: tifffile.imwrite(path, HYPERSTACK, ome=True, metadata={"axes": "TZCYX"}),
        [],
        "choose with --time",
    ),
    "channel-too-high": (
        lambda path: tifffile.imwrite(path, HYPERSTACK[0], ome=True, metadata={"axes": "ZCYX"}),
        ["--channel", "2"],
        "--channel 2 does not exist; it has 0 to 1",
    ),
    "time-of-none": (pages, ["--time", "1"], "--time 1 does not exist; it has 0 to 0"),
    "text": (lambda path: path.write_text("stack"), [], "not a readable TIFF"),
    "different-pages": (
        lambda path: [tifffile.imwrite(path, VOXELS[0, :n], append=True) for n in (9, 8)],
        [],
        "it holds 2 images",
    ),
    "compressed-volume": (
        lambda path: tifffile.imwrite(
            path, np.ones((16, 16, 16), "uint8"), volumetric=True, tile=(16, 16, 16),
            compression="zlib",
        ),
        [],
        "one page per plane",
    ),
    "float64": (lambda path: tifffile.imwrite(path, VOXELS.astype("float64")), [], "float64"),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_stack_that_is_not_clear_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    write, options, said = STACKS[name]
    source = tmp_path / "stack.tif"
    write(source)
    assert said in refused(source, tmp_path / "out", *options)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("lost", [40, 100, 500])
def test_stack_that_is_truncated_is_refused(
    tmp_path: Path, compression: str | None, lost: int
) -> None:
    source = tmp_path / "stack.tif"
    tifffile.imwrite(source, VOXELS, photometric="minisblack", compression=compression)
    source.write_bytes(source.read_bytes()[:-lost])
    assert "1 problem;" in refused(source, tmp_path / "out")


def test_time_of_a_pattern_is_refused(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", VOXELS)
    assert "for files of many pages" in refused(source, tmp_path / "out", "--time", "0")


def test_source_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    assert "No file matches" in refused(tmp_path / "no*.tif", tmp_path / "out")


def test_labels_of_a_float_type_are_refused(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((2, 3, 4), "float32"))
    assert "integer labels" in refused(source, tmp_path / "out", "--segmentation")


def test_plane_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", VOXELS, compression="zlib")
    path = tmp_path / "in" / "plane2.tif"
    content = bytearray(path.read_bytes())
    content[-40:] = bytes(40)
    path.write_bytes(content)  # whole for who looks at its header
    result = ingest(source, tmp_path / "out", code=1)
    assert "plane2.tif" in result.output
