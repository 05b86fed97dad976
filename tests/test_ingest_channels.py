"""Ingest of several channels: hyperstacks, colours, planes of several channels."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
import tifffile

from neurotrale.precomputed.info import parse_info
from tests.conftest import Service
from tests.datasets import Voxels
from tests.stacks import HALVES, chunk_boxes, expected_levels, ingest, noise
from tests.test_clients import CLIENTS, read

STACK = noise((3, 9, 20, 37), "uint16")  # C, Z, Y, X
COLOURS = np.ascontiguousarray(STACK.transpose(1, 2, 3, 0))  # Z, Y, X, S


def hyperstack(directory: Path, kind: str, **more: Any) -> Path:
    path = directory / ("stack.ome.tif" if kind == "ome" else "stack.tif")
    options: dict[str, Any] = {kind: True, **more}
    tifffile.imwrite(path, STACK.swapaxes(0, 1), metadata={"axes": "ZCYX"}, **options)
    return path


def planes(directory: Path, voxels: Voxels, **options: Any) -> Path:
    directory = directory / "planes"
    directory.mkdir()
    for z, plane in enumerate(voxels):
        tifffile.imwrite(directory / f"z{z}.tif", plane, **options)
    return directory


def stack(directory: Path, voxels: Voxels, **options: Any) -> Path:
    tifffile.imwrite(directory / "stack.tif", voxels, **options)
    return directory / "stack.tif"


RGB: dict[str, Any] = {"photometric": "rgb"}
PLANAR: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
ALPHA: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
GREY_ALPHA: dict[str, Any] = {
    "photometric": "minisblack",
    "planarconfig": "contig",
    "extrasamples": ["unassalpha"],
}
RGBA = np.concatenate([COLOURS, COLOURS[..., :1] + np.uint16(7)], axis=-1)

SOURCES: dict[str, Any] = {
    "ImageJ hyperstack": lambda d: (hyperstack(d, "imagej"), STACK),
    "OME-TIFF": lambda d: (hyperstack(d, "ome"), STACK),
    "OME-TIFF, compressed": lambda d: (hyperstack(d, "ome", compression="zlib"), STACK),
    "channels before z": lambda d: (
        stack(d, STACK, metadata={"axes": "CZYX"}, ome=True, compression="zlib"),
        STACK,
    ),
    "channels alone": lambda d: (
        stack(d, STACK[:, 0], metadata={"axes": "CYX"}, ome=True),
        STACK[:, :1],
    ),
    "RGB planes": lambda d: (planes(d, COLOURS, **RGB), STACK),
    "RGB planes in tiles": lambda d: (
        planes(d, COLOURS, **RGB, tile=(16, 16), compression="zlib"),
        STACK,
    ),
    "planar RGB planes": lambda d: (planes(d, STACK.swapaxes(0, 1), **PLANAR), STACK),
    "RGBA planes": lambda d: (planes(d, RGBA, **ALPHA), np.moveaxis(RGBA, -1, 0)),
    "grey and alpha": lambda d: (planes(d, COLOURS[..., :2], **GREY_ALPHA), STACK[:2]),
    "CYX planes": lambda d: (
        planes(d, STACK.swapaxes(0, 1), ome=True, metadata={"axes": "CYX"}),
        STACK,
    ),
    "RGB stack": lambda d: (stack(d, COLOURS, **RGB), STACK),
    "RGB stack, compressed": lambda d: (stack(d, COLOURS, **RGB, compression="lzw"), STACK),
    "RGB stack, big-endian": lambda d: (stack(d, COLOURS, **RGB, byteorder=">"), STACK),
    "planar RGB stack": lambda d: (
        stack(d, STACK.swapaxes(0, 1), **PLANAR, compression="zlib"),
        STACK,
    ),
}


def expected(voxels: Voxels, levels: int) -> list[Voxels]:
    each = [expected_levels(channel, HALVES[: levels - 1]) for channel in voxels]
    return [np.stack([channel[number] for channel in each]) for number in range(levels)]


def read_channels(dataset: Path) -> list[Voxels]:
    """Read every chunk with tifffile."""
    info = json.loads((dataset / "info").read_text())
    levels = []
    for scale in info["scales"]:
        x, y, z = scale["size"]
        voxels = np.zeros((info["num_channels"], z, y, x), info["data_type"])
        for name, box in chunk_boxes((x, y, z), scale["chunk_sizes"][0]):
            chunk = tifffile.imread(dataset / scale["key"] / f"{name}.tiff")
            part = voxels[(slice(None), *box)]
            part[:] = chunk.reshape(part.shape)
        levels.append(voxels)
    return levels


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("layout", ["single", "pages"])
@pytest.mark.quick(18)
def test_every_channel_of_every_level_is_right(tmp_path: Path, name: str, layout: str) -> None:
    source, voxels = SOURCES[name](tmp_path)
    options = ("--levels", "3", "--layout", layout, "--chunk-size", "16,16,8")
    ingest(source, tmp_path / "out", *options)
    found = read_channels(tmp_path / "out")
    for number, level in enumerate(expected(voxels, 3)):
        assert found[number].dtype == level.dtype
        assert np.array_equal(found[number], level), f"level {number}"


@pytest.mark.parametrize("name", ["OME-TIFF", "RGB planes", "planar RGB stack", "RGB stack"])
def test_channel_picks_one(tmp_path: Path, name: str) -> None:
    source, voxels = SOURCES[name](tmp_path)
    ingest(source, tmp_path / "out", "--channel", "1", "--levels", "1")
    assert np.array_equal(read_channels(tmp_path / "out")[0], voxels[1:2])
    said = ingest(source, tmp_path / "no", "--channel", "3", code=1).output
    assert "--channel 3 does not exist; it has 0 to 2" in said


@pytest.mark.clients
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("layout", ["single", "pages"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "uint64"])
@pytest.mark.quick(4)
def test_client_reads_every_voxel_of_every_channel(
    tmp_path: Path, shared_service: Service, client: str, layout: str, dtype: str
) -> None:
    voxels = STACK.astype(dtype)
    source = stack(tmp_path, voxels, metadata={"axes": "CZYX"}, photometric="minisblack")
    name = f"{client}-{layout}-{dtype}"
    options = ("--levels", "2", "--layout", layout, "--chunk-size", "16")
    ingest(source, shared_service.root / name, *options)
    for number, level in enumerate(expected(voxels, 2)):
        found = read(CLIENTS[client](f"{shared_service.url}/{name}", number))
        assert found.dtype == level.dtype
        assert np.array_equal(found, level), f"level {number}"


def test_chunk_of_several_channels_is_passed_through(
    tmp_path: Path, shared_service: Service
) -> None:
    dest = shared_service.root / "passed"
    ingest(hyperstack(tmp_path, "imagej"), dest, "--levels", "1")
    chunk = "1_1_1/0-37_0-20_0-9"
    url = f"{shared_service.url}/passed/{chunk}"
    answer = requests.get(url, headers={"Accept-Encoding": "gzip"}, stream=True)
    body = answer.raw.read(decode_content=False)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert body[10:-8] in (dest / f"{chunk}.tiff").read_bytes()
    plain = requests.get(url, headers={"Accept-Encoding": "identity"})
    assert plain.content == STACK.tobytes()


def test_viewer_shows_channels_in_colours_with_their_contrast(
    tmp_path: Path, shared_service: Service
) -> None:
    voxels = np.stack([np.full((9, 20, 37), value, "uint16") for value in (100, 2000, 30000)])
    voxels[:, :, 5:, :] //= 2
    source = stack(tmp_path, voxels, metadata={"axes": "CZYX"}, ome=True)
    ingest(source, shared_service.root / "colours", "--levels", "1")
    about = requests.get(f"{shared_service.url}/api/datasets/colours").json()
    assert about["volume"]["channels"] == 3
    preview = imagecodecs.png_decode((shared_service.root / "colours" / "preview.png").read_bytes())
    assert preview.shape[-1] == 3


def test_plan_counts_all_channels(tmp_path: Path) -> None:
    source = hyperstack(tmp_path, "imagej")
    plan = ingest(source, tmp_path / "out", "--dry-run").output
    assert "source  9 planes of 37 x 20 uint16 with 3 channels, 40 kB" in plan


@pytest.mark.long
def test_channels_are_ingested_in_shards_with_little_memory(tmp_path: Path) -> None:
    voxels = np.tile(STACK, (1, 5, 2, 2))
    source = stack(tmp_path, voxels, metadata={"axes": "CZYX"}, ome=True)
    options = ("--levels", "3", "--chunk-size", "8", "--memory", "140M")
    for part in (["--shard", "1/2"], ["--shard", "2/2"], ["--finish"]):
        ingest(source, tmp_path / "out", *options, *part)
    for found, level in zip(read_channels(tmp_path / "out"), expected(voxels, 3), strict=True):
        assert np.array_equal(found, level)


def test_planes_with_other_channels_are_named(tmp_path: Path) -> None:
    source = planes(tmp_path, COLOURS, **RGB)
    tifffile.imwrite(source / "z3.tif", STACK[0, 3], photometric="minisblack")
    said = ingest(source, tmp_path / "out", code=1).output
    assert "z3.tif: 1 channels, but most planes have 3" in said


# --- stacks in several files ---


def test_source_once_a_channel_makes_one_volume(tmp_path: Path) -> None:
    first = planes(tmp_path, STACK[0], photometric="minisblack")
    (tmp_path / "other").mkdir()
    second = stack(tmp_path / "other", STACK[1], photometric="minisblack", compression="zlib")
    options = ("--source", str(second), "--levels", "2", "--chunk-size", "16")
    plan = ingest(first, tmp_path / "out", *options, "--dry-run").output
    assert "with 2 channels" in plan
    ingest(first, tmp_path / "out", *options)
    for found, level in zip(read_channels(tmp_path / "out"), expected(STACK[:2], 2), strict=True):
        assert np.array_equal(found, level)


def test_planes_of_a_channel_that_were_rewritten_are_noticed(tmp_path: Path) -> None:
    sources = []
    for channel in range(2):
        (tmp_path / str(channel)).mkdir()
        options: dict[str, Any] = {"photometric": "minisblack"}
        sources.append(planes(tmp_path / str(channel), STACK[channel], **options))
    dest, more = tmp_path / "out", ("--source", str(sources[1]), "--levels", "1")
    ingest(sources[0], dest, *more)
    tifffile.imwrite(sources[1] / "z4.tif", STACK[2, 4], photometric="minisblack")
    assert "z4.tif has" in ingest(sources[0], dest, *more, code=1).output
    ingest(sources[0], dest, *more, "--again")
    voxels = STACK[:2].copy()
    voxels[1, 4] = STACK[2, 4]
    assert np.array_equal(read_channels(dest)[0], voxels)


def test_channels_that_differ_are_named(tmp_path: Path) -> None:
    first = planes(tmp_path, STACK[0], photometric="minisblack")
    second = stack(tmp_path, STACK[1, :5], photometric="minisblack")
    said = ingest(first, tmp_path / "out", "--source", str(second), code=1).output
    assert "stack.tif: 5 planes of 37 x 20 uint16, but" in said
    assert "9 planes of 37 x 20 uint16" in said


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["plain", "imagej"])
def test_stack_that_is_cut_into_files_is_joined(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    for number, (start, stop) in enumerate([(0, 4), (4, 8), (8, 9)]):
        options: dict[str, Any] = {"photometric": "minisblack"}
        if kind == "imagej":
            options = {"imagej": True, "metadata": {"axes": "ZCYX"}}
        part = STACK[:, start:stop].swapaxes(0, 1) if kind == "imagej" else STACK[0, start:stop]
        tifffile.imwrite(tmp_path / "in" / f"part{number}.tif", part, **options)
    voxels = STACK if kind == "imagej" else STACK[:1]
    for part_options in (["--shard", "1/2"], ["--shard", "2/2"], ["--finish"]):
        ingest(
            tmp_path / "in", tmp_path / "out", "--levels", "2", "--chunk-size", "4", *part_options
        )
    for found, level in zip(read_channels(tmp_path / "out"), expected(voxels, 2), strict=True):
        assert np.array_equal(found, level)


def test_pieces_of_a_stack_that_differ_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, rows in enumerate((20, 20, 19)):
        path = tmp_path / "in" / f"part{number}.tif"
        tifffile.imwrite(path, STACK[0, :4, :rows], photometric="minisblack")
    said = ingest(tmp_path / "in", tmp_path / "out", code=1).output
    assert "part2.tif: 37 x 19 uint16 with 1 channels, but" in said


def ome_files(directory: Path, pages: list[tuple[str, list[tuple[int, int]]]]) -> None:
    """Write an OME image in several files: for each its name, and its planes (c, z)."""
    directory.mkdir()
    blocks = "".join(
        f'<TiffData IFD="{ifd}" FirstC="{c}" FirstZ="{z}" FirstT="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{number:032x}</UUID></TiffData>'
        for number, (name, held) in enumerate(pages)
        for ifd, (c, z) in enumerate(held)
    )
    channels = 1 + max(c for _, held in pages for c, _ in held)
    for number, (name, held) in enumerate(pages):
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
            f' UUID="urn:uuid:{number:032x}"><Image ID="Image:0"><Pixels ID="Pixels:0"'
            f' DimensionOrder="XYCZT" Type="uint16" SizeX="37" SizeY="20" SizeZ="9"'
            f' SizeC="{channels}" SizeT="1" PhysicalSizeX="0.4" PhysicalSizeY="0.4"'
            f' PhysicalSizeZ="3">{blocks}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(directory / name) as writer:
            for c, z in held:
                writer.write(STACK[c, z], description=text, metadata=None, photometric="minisblack")


OME_FILES: dict[str, tuple[list[tuple[str, list[tuple[int, int]]]], list[str]]] = {
    "a file a plane": ([(f"z{z}.ome.tif", [(0, z)]) for z in range(9)], ["*"]),
    "a few planes a file": (
        [(f"part{n}.ome.tif", [(0, 3 * n + z) for z in range(3)]) for n in range(3)],
        ["*"],
    ),
    "a file a plane and channel": (
        [(f"c{c}_z{z}.ome.tif", [(c, z)]) for z in range(9) for c in range(2)],
        ["c0_*", "c1_*"],
    ),
}


@pytest.mark.parametrize("kind", OME_FILES)
def test_ome_image_in_several_files_is_read(tmp_path: Path, kind: str) -> None:
    pages, patterns = OME_FILES[kind]
    ome_files(tmp_path / "in", pages)
    more = [option for name in patterns[1:] for option in ("--source", f"{tmp_path}/in/{name}")]
    ingest(tmp_path / "in" / patterns[0], tmp_path / "out", *more, "--levels", "1")
    assert np.array_equal(read_channels(tmp_path / "out")[0], STACK[: len(patterns)])


def test_one_file_of_an_ome_image_in_several_is_read_alone_and_that_is_said(
    tmp_path: Path,
) -> None:
    pages, _ = OME_FILES["a few planes a file"]
    ome_files(tmp_path / "in", pages)
    said = ingest(tmp_path / "in" / "part1.ome.tif", tmp_path / "out", "--levels", "1").output
    assert "the image is in 3 files" in said
    assert np.array_equal(read_channels(tmp_path / "out")[0], STACK[:1, 3:6])


def test_ome_files_that_mix_channels_are_refused(tmp_path: Path) -> None:
    pages = [(f"part{n}.ome.tif", [(0, 3 * n), (1, 3 * n), (0, 3 * n + 1)]) for n in range(3)]
    ome_files(tmp_path / "in", pages)
    said = ingest(tmp_path / "in", tmp_path / "out", code=1).output
    assert "expected one channel and time in each file" in said


def test_viewer_adds_the_colours_of_more_than_three_channels(
    tmp_path: Path, shared_service: Service
) -> None:
    voxels = np.concatenate([STACK, STACK[:2] // 4])
    source = stack(tmp_path, voxels, metadata={"axes": "CZYX"}, photometric="minisblack", ome=True)
    ingest(source, shared_service.root / "five", "--levels", "1")
    layer = shown(shared_service, "five")
    names = ["red", "green", "blue", "magenta", "cyan"]
    assert list(layer["shaderControls"]) == names
    for channel, name in enumerate(names):
        assert f"#uicontrol invlerp {name}(channel={channel})" in layer["shader"]
        assert f"{name}() * vec3(" in layer["shader"]


LUT = np.zeros((3, 256), "uint8")
LUT[1] = np.arange(256)
DYES = {"Name": ["DAPI", "GFP, long", "float"], "Color": [0x0000FFFF, 0x00FF00FF, -16776961]}
WHITE = {"Color": [-1, -1, -1]}
STYLED: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "OME": (
        {"ome": True, "metadata": {"axes": "CZYX", "Channel": DYES}},
        ["#0000ff", "#00ff00", "#ff0000"],
        ["DAPI_1", "GFP_long_2", "float_3"],
    ),
    "ImageJ": (
        {"imagej": True, "metadata": {"axes": "ZCYX", "LUTs": [LUT, LUT[::-1], LUT // 2]}},
        ["#00ff00", "#00ff00", "#007f00"],
        ["channel_1", "channel_2", "channel_3"],
    ),
    "white, which OME also means where none is stated": (
        {"ome": True, "metadata": {"axes": "CZYX", "Channel": WHITE}},
        [],
        ["red", "green", "blue"],
    ),
    "none": ({"ome": True, "metadata": {"axes": "CZYX"}}, [], ["red", "green", "blue"]),
}


def shown(service: Service, name: str) -> dict[str, Any]:
    """The layer of the volume in the state with which a viewer is opened."""
    page = requests.get(f"{service.url}/api/datasets/{name}/open").text
    match = re.search(r'data-state="([^"]*)"', page)
    assert match is not None
    (layer,) = json.loads(html.unescape(match[1]))["layers"]
    return dict(layer)


@pytest.mark.parametrize("kind", STYLED)
def test_channels_have_the_colours_that_their_source_states(
    tmp_path: Path, shared_service: Service, kind: str
) -> None:
    options, colours, names = STYLED[kind]
    voxels = STACK.swapaxes(0, 1) if kind == "ImageJ" else STACK
    name = f"styled-{kind.split()[0].strip(',')}"
    source = stack(tmp_path, voxels, photometric="minisblack", **options)
    said = ingest(source, shared_service.root / name, "--levels", "1").output
    info = json.loads((shared_service.root / name / "info").read_text())
    assert [one["color"] for one in info.get("channels", [])] == colours
    assert ("colours of the channels" in said) == bool(colours)
    layer = shown(shared_service, name)
    assert list(layer["shaderControls"]) == names
    for number, colour in enumerate(colours):
        vector = ", ".join(f"{part / 255:.3f}" for part in bytes.fromhex(colour[1:]))
        assert f"{names[number]}() * vec3({vector})" in layer["shader"]
    ingest(shared_service.root / name, tmp_path / "again", "--levels", "1")
    again = json.loads((tmp_path / "again/info").read_text())
    assert again.get("channels") == info.get("channels")


def test_each_source_brings_the_colour_of_its_channel(tmp_path: Path) -> None:
    sources = []
    for number in range(2):
        channel = {"Name": [f"dye {number}"], "Color": [(0xFF << 8 * (3 - number)) - 2**32]}
        path = tmp_path / f"dye{number}.ome.tif"
        metadata = {"axes": "ZYX", "Channel": channel}
        tifffile.imwrite(path, STACK[number], ome=True, metadata=metadata)
        sources.append(path)
    for name, more in (("out", []), ("converted", ["--to", "float32"])):
        options = ["--source", str(sources[1]), "--levels", "1", *more]
        ingest(sources[0], tmp_path / name, *options)
        info = json.loads((tmp_path / name / "info").read_text())
        assert info["channels"] == [
            {"name": "dye 0", "color": "#ff0000"},
            {"name": "dye 1", "color": "#00ff00"},
        ]


@pytest.mark.parametrize(
    "channels",
    [7, "many", [1, 2], [{"color": "red"}] * 3, [{"color": "#0000ff"}] * 2, {"a": {}}, None],
)
def test_channels_of_other_programs_in_info_are_no_colours(channels: object) -> None:
    stated = {"data_type": "uint8", "num_channels": 3, "scales": [], "channels": channels}
    assert parse_info(json.dumps(stated).encode()).styles == []


@pytest.mark.parametrize("channel", [0, 2])
def test_channel_of_planes_of_several_pages_is_read(tmp_path: Path, channel: int) -> None:
    options: dict[str, Any] = {"ome": True, "metadata": {"axes": "CYX"}}
    source = planes(tmp_path, STACK.swapaxes(0, 1), **options)
    ingest(source, tmp_path / "out", "--channel", str(channel), "--levels", "1")
    assert np.array_equal(read_channels(tmp_path / "out")[0], STACK[channel : channel + 1])
