"""TIFF to chunk: the right bytes or an error that says why, never wrong bytes; and over HTTP."""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tifffile
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from neurotrale.chunks.decode import Expected, decode_chunk
from neurotrale.chunks.store import Chunks
from neurotrale.errors import DamagedError, MissingError
from neurotrale.precomputed.info import parse_info
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files
from neurotrale.storage.names import ChunkPath
from tests.conftest import Service, StartService
from tests.datasets import Voxels, boxes, gradient, info_of, wait_until_settled, write_chunks
from tests.examples import examples

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
TRUNCATIONS = 40

# What is in a file is compared with `[channel, z, y, x]`, little-endian; shapes are in that order.
Shape = tuple[int, int, int, int]
Write = Callable[..., None]


def make_voxels(shape: Shape, dtype: str = "uint16") -> Voxels:
    """Make voxels that all differ where the type allows it, and that use all of its bits."""
    random = np.random.default_rng(sum(shape))
    if dtype == "float32":
        voxels: Voxels = random.normal(0, 1e6, shape).astype(dtype)
        return voxels
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def raw(voxels: Voxels) -> bytes:
    """Give what the service must send."""
    return voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()


def promised(voxels: Voxels) -> Expected:
    channels, z, y, x = voxels.shape
    return Expected((x, y, z), voxels.dtype.name, channels)


# --- Every way to lay out a volume as TIFF that has a name -------------------------------------


def write_tiff(path: Path, array: Voxels, **options: Any) -> None:
    """Write a TIFF, with every guess of tifffile that it would rather not make any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tifffile.imwrite(path, array, **options)


def _one_channel(**fixed: Any) -> Write:
    def write(path: Path, voxels: Voxels, **options: Any) -> None:
        write_tiff(path, voxels[0], **{"photometric": "minisblack", **fixed, **options})

    return write


def _channels(axes: str, **fixed: Any) -> Write:
    def write(path: Path, voxels: Voxels, **options: Any) -> None:
        array = voxels.transpose(["CZYX".index(letter) for letter in axes])
        write_tiff(path, array, **{"photometric": "minisblack", **fixed, **options})

    return write


ONE_CHANNEL: dict[str, Write] = {
    "pages": _one_channel(),
    "pages-without-description": _one_channel(metadata=None),
    "labelled": _one_channel(metadata={"axes": "ZYX"}),
    "strips-of-5-rows": _one_channel(rowsperstrip=5),
    "strips-of-1-row": _one_channel(rowsperstrip=1, metadata=None),
    "tiles": _one_channel(tile=(16, 32)),
    "tiles-without-description": _one_channel(tile=(16, 16), metadata=None),
    "volumetric-tiles": _one_channel(tile=(16, 16, 32), volumetric=True),
    "volumetric-planes": _one_channel(volumetric=True, metadata=None),
    "colours-guessed": _one_channel(photometric=None),
    "ome": _one_channel(ome=True, metadata={"axes": "ZYX"}),
    "one-of-one-channels": _channels("CZYX", metadata={"axes": "CZYX"}),
    "ome-one-of-one-channels": _channels("CZYX", ome=True, metadata={"axes": "CZYX"}),
    "channel-after-depth": _channels("ZCYX"),
    "backwards": _channels("XYZC", metadata={"axes": "XYZC"}),
}
SEVERAL_CHANNELS: dict[str, Write] = {
    "unlabelled": _channels("CZYX"),
    "unlabelled-tiles": _channels("CZYX", tile=(16, 16)),
    "labelled-czyx": _channels("CZYX", metadata={"axes": "CZYX"}),
    "labelled-zcyx": _channels("ZCYX", metadata={"axes": "ZCYX"}),
    "labelled-zyxc": _channels("ZYXC", metadata={"axes": "ZYXC"}, planarconfig="contig"),
    "contiguous-samples": _channels("ZYXC", planarconfig="contig"),
    "contiguous-samples-tiles": _channels("ZYXC", planarconfig="contig", tile=(16, 16)),
    "planar-samples": _channels("ZCYX", planarconfig="separate"),
    "planar-samples-strips": _channels("ZCYX", planarconfig="separate", rowsperstrip=3),
    "volumetric": _channels("CZYX", tile=(16, 16, 16), volumetric=True),
    "volumetric-planar": _channels(
        "CZYX", tile=(16, 16, 16), volumetric=True, planarconfig="separate"
    ),
    "ome-czyx": _channels("CZYX", ome=True, metadata={"axes": "CZYX"}),
    "ome-zcyx": _channels("ZCYX", ome=True, metadata={"axes": "ZCYX"}),
}
# ImageJ knows these types only, and is always big-endian.
IMAGEJ_TYPES = ("uint8", "uint16", "float32")
IMAGEJ: dict[str, Write] = {
    "imagej-stack": _channels("ZCYX", imagej=True, metadata={"axes": "ZCYX"}),
    "imagej-unlabelled": _one_channel(imagej=True),
}
COMPRESSIONS = ("none", "deflate", "adobe_deflate", "lzw", "zstd", "packbits", "lzma")
# Lossless image formats inside TIFF.
IMAGE_CODECS = ("png", "jpeg2000", "jpegxl", "lerc")


def coded(compression: str, *, predictor: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {} if compression == "none" else {"compression": compression}
    return {**options, "predictor": True} if predictor else options


@pytest.mark.parametrize("byteorder", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("bigtiff", [False, True], ids=["tiff", "bigtiff"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_decode_every_type_and_byte_order_gives_little_endian(
    tmp_path: Path, dtype: str, bigtiff: bool, byteorder: str, compression: str
) -> None:
    voxels = make_voxels((1, 3, 11, 7), dtype)
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL["pages"](path, voxels, bigtiff=bigtiff, byteorder=byteorder, **coded(compression))
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


# tifffile writes no predictor without a real compression, nor for 64 bits.
PREDICTED = [
    (compression, dtype, True)
    for compression in COMPRESSIONS
    if compression not in ("none", "packbits")
    for dtype in TYPES
    if dtype != "uint64"
]
PLAIN = [(compression, dtype, False) for compression in COMPRESSIONS for dtype in TYPES]


@pytest.mark.parametrize(("compression", "dtype", "predictor"), [*PLAIN, *PREDICTED])
def test_decode_every_compression_gives_the_voxels(
    tmp_path: Path, compression: str, dtype: str, predictor: bool
) -> None:
    voxels = make_voxels((1, 3, 21, 17), dtype)
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL["strips-of-5-rows"](path, voxels, **coded(compression, predictor=predictor))
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", IMAGE_CODECS)
def test_decode_lossless_image_codec_gives_the_voxels(
    tmp_path: Path, compression: str, dtype: str
) -> None:
    voxels = make_voxels((1, 3, 21, 17), dtype)
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL["pages"](path, voxels, **coded(compression))
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


def test_decode_lossy_codec_gives_what_it_holds(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(32), np.arange(48)).astype("uint8")
    path = tmp_path / "chunk.tiff"
    write_tiff(path, ramp, photometric="minisblack", compression="jpeg")
    decoded = np.frombuffer(decode_chunk(path, "chunk", Expected((48, 32, 1), "uint8", 1)), "uint8")
    assert np.abs(decoded.reshape(ramp.shape).astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("layout", ONE_CHANNEL)
def test_decode_every_layout_of_one_channel_gives_z_y_x(
    tmp_path: Path, layout: str, compression: str
) -> None:
    voxels = make_voxels((1, 9, 21, 37))
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL[layout](path, voxels, **coded(compression))
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", SEVERAL_CHANNELS)
def test_decode_every_layout_of_several_channels_gives_channel_z_y_x(
    tmp_path: Path, layout: str, channels: int, compression: str
) -> None:
    voxels = make_voxels((channels, 9, 21, 37))
    path = tmp_path / "chunk.tiff"
    SEVERAL_CHANNELS[layout](path, voxels, **coded(compression))
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


@pytest.mark.parametrize("dtype", IMAGEJ_TYPES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_decode_imagej_hyperstack_gives_channel_z_y_x(
    tmp_path: Path, channels: int, dtype: str
) -> None:
    voxels = make_voxels((channels, 9, 21, 37), dtype)
    path = tmp_path / "chunk.tiff"
    IMAGEJ["imagej-stack"](path, voxels)
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


def test_decode_imagej_stack_without_labels_gives_z_y_x(tmp_path: Path) -> None:
    voxels = make_voxels((1, 9, 21, 37))
    path = tmp_path / "chunk.tiff"
    IMAGEJ["imagej-unlabelled"](path, voxels)
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


def test_decode_rgb_image_gives_three_channels(tmp_path: Path) -> None:
    voxels = make_voxels((3, 4, 21, 37), "uint8")
    path = tmp_path / "chunk.tiff"
    write_tiff(path, voxels.transpose(1, 2, 3, 0), photometric="rgb")
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


def test_decode_reads_the_first_of_several_images(tmp_path: Path) -> None:
    voxels = make_voxels((1, 4, 21, 37))
    path = tmp_path / "chunk.tiff"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(voxels[0], photometric="minisblack")
        tiff.write(np.zeros((5, 6), "uint8"), photometric="minisblack")
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


# --- Edge chunks: extents of 1 to 4 are what colours and channels look like --------------------

SMALL = (1, 2, 3, 4)
EDGES = [
    pytest.param((z, y, x), id=f"z{z}-y{y}-x{x}")
    for z in (*SMALL, 20)
    for y in (1, 3, 20)
    for x in (*SMALL, 20)
]


@pytest.mark.parametrize("zyx", EDGES)
def test_decode_edge_chunk_of_any_small_extent_gives_the_voxels(
    tmp_path: Path, zyx: tuple[int, int, int]
) -> None:
    voxels = make_voxels((1, *zyx), "uint8")
    path = tmp_path / "chunk.tiff"
    for layout in ("pages", "pages-without-description", "colours-guessed", "tiles"):
        for compression in ("none", "deflate"):
            ONE_CHANNEL[layout](path, voxels, **coded(compression))
            assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels), layout
            assert decode_chunk(path, "chunk", Expected()) == raw(voxels), layout


@pytest.mark.parametrize("zyx", EDGES)
@pytest.mark.parametrize("channels", [2, 3])
def test_decode_edge_chunk_of_several_channels_gives_the_voxels(
    tmp_path: Path, channels: int, zyx: tuple[int, int, int]
) -> None:
    voxels = make_voxels((channels, *zyx), "uint8")
    path = tmp_path / "chunk.tiff"
    for layout in ("unlabelled", "labelled-zcyx", "ome-czyx"):
        SEVERAL_CHANNELS[layout](path, voxels)
        assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels), layout


@pytest.mark.parametrize("zyx", EDGES)
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_decode_several_channels_guessed_to_be_colours_is_right_or_refused(
    tmp_path: Path, channels: int, zyx: tuple[int, int, int]
) -> None:
    voxels = make_voxels((channels, *zyx), "uint8")
    path = tmp_path / "chunk.tiff"
    SEVERAL_CHANNELS["unlabelled"](path, voxels, photometric=None)
    z, y, x = zyx
    # Where a real image in colours would look just the same, nobody can tell.
    if (channels == z == y == x) if x in (3, 4) else (channels == z and z in (3, 4)):
        with pytest.raises(DamagedError):
            decode_chunk(path, "chunk", promised(voxels))
    else:
        assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chunks")


# --- All of it at once ---------------------------------------------------------------------------

extents = st.one_of(st.sampled_from(SMALL), st.integers(1, 40))


@st.composite
def stored_volumes(draw: st.DrawFn) -> tuple[Voxels, Write, dict[str, Any]]:
    channels = draw(st.sampled_from((1, 1, 1, 2, 3, 4, 7)))
    dtype = draw(st.sampled_from(TYPES))
    voxels = make_voxels((channels, draw(extents), draw(extents), draw(extents)), dtype)
    layouts = ONE_CHANNEL if channels == 1 else SEVERAL_CHANNELS
    name = draw(st.sampled_from(sorted(layouts)))
    compression = draw(st.sampled_from(COMPRESSIONS))
    predictor = compression not in ("none", "packbits") and draw(st.booleans())
    options = {
        **coded(compression, predictor=predictor),
        "bigtiff": draw(st.booleans()),
        "byteorder": draw(st.sampled_from("<>")),
    }
    return voxels, layouts[name], options


@settings(max_examples=examples(250), deadline=None)
@given(stored=stored_volumes())
def test_decode_any_volume_in_any_layout_gives_the_voxels(
    scratch: Path, stored: tuple[Voxels, Write, dict[str, Any]]
) -> None:
    voxels, write, options = stored
    path = scratch / "any.tiff"
    try:
        write(path, voxels, **options)
    except (ValueError, RuntimeError, tifffile.OmeXmlError):
        reject()  # tifffile itself does not write this combination
    assert decode_chunk(path, "chunk", promised(voxels)) == raw(voxels)


# --- Misfits: what is found is not what was promised --------------------------------------------

VOXELS = make_voxels((1, 4, 5, 6))
PROMISED = "expected 6x5x4 voxels (x, y, z), 1 channel, uint16"


@pytest.mark.parametrize(
    ("array", "found"),
    [
        pytest.param(make_voxels((1, 5, 5, 6))[0], "5x5x6", id="too-deep"),
        pytest.param(make_voxels((1, 3, 5, 6))[0], "3x5x6", id="too-shallow"),
        pytest.param(make_voxels((1, 4, 5, 64))[0], "4x5x64", id="too-wide"),
        pytest.param(VOXELS[0].transpose(2, 1, 0), "6x5x4", id="x-and-z-swapped"),
        pytest.param(VOXELS[0].transpose(0, 2, 1), "4x6x5", id="x-and-y-swapped"),
        pytest.param(VOXELS[0, 0], "5x6", id="one-plane"),
        pytest.param(VOXELS[0].reshape(2, 10, 6), "2x10x6", id="as-many-voxels-otherwise"),
        pytest.param(VOXELS.repeat(2, axis=0), "2x4x5x6", id="two-channels"),
        pytest.param(VOXELS[0].astype("uint8"), "uint8", id="uint8"),
        pytest.param(VOXELS[0].astype("int16"), "int16", id="int16"),
        pytest.param(VOXELS[0].astype("float32"), "float32", id="float32"),
        pytest.param(VOXELS[0].astype("float64"), "float64", id="float64"),
        pytest.param(VOXELS[0] > 9, "bool", id="bits"),
        pytest.param(VOXELS[0].astype("complex64"), "complex64", id="complex"),
    ],
)
def test_decode_misfit_is_damage_that_names_expected_and_found(
    tmp_path: Path, array: Voxels, found: str
) -> None:
    path = tmp_path / "chunk.tiff"
    write_tiff(path, array, photometric="minisblack")
    with pytest.raises(DamagedError) as damage:
        decode_chunk(path, "brain/1_1_1/chunk.tiff", promised(VOXELS))
    assert str(damage.value).startswith(f"brain/1_1_1/chunk.tiff: {PROMISED}")
    assert "found" in str(damage.value)
    assert found in str(damage.value)


@pytest.mark.parametrize(
    "voxels", [make_voxels((1, 4, 5, 6)), make_voxels((3, 4, 5, 6))], ids=["one", "three"]
)
def test_decode_other_number_of_channels_is_damage(tmp_path: Path, voxels: Voxels) -> None:
    path = tmp_path / "chunk.tiff"
    write_tiff(path, voxels, photometric="minisblack", metadata={"axes": "CZYX"})
    with pytest.raises(DamagedError, match="2 channels, uint16, found shape"):
        decode_chunk(path, "chunk", Expected((6, 5, 4), "uint16", 2))


def _png() -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), "uint8"))
    return b"\x89PNG\r\n\x1a\n" + file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="one-byte"),
        pytest.param(b"II", id="two-bytes"),
        pytest.param(bytes(512 * 1024), id="zeros"),
        pytest.param(b"<!DOCTYPE html><title>404</title>", id="web-page"),
        pytest.param(VOXELS.tobytes(), id="raw-chunk"),
        pytest.param(gzip.compress(VOXELS.tobytes()), id="gzip"),
        pytest.param(_png(), id="png"),
        pytest.param(b"II*\0", id="only-magic"),
        pytest.param(b"II*\0\0\0\0\0", id="no-first-page"),
        pytest.param(b"II*\0\x08\0\0\0\0\0\0\0\0\0", id="page-without-tags"),
        pytest.param(b"II*\0\xff\xff\xff\x7f", id="first-page-behind-the-end"),
        pytest.param(b"II*\0\x08\0\0\0\xff\xff" + bytes(64), id="65535-tags"),
        pytest.param(b"II+\0\x08\0\0\0" + b"\xff" * 8, id="bigtiff-far-away"),
    ],
)
def test_decode_what_is_no_tiff_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chunk.tiff"
    path.write_bytes(content)
    for expected in (promised(VOXELS), Expected()):
        with pytest.raises(DamagedError, match=r"^chunk: expected .*found"):
            decode_chunk(path, "chunk", expected)


def test_decode_absent_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        decode_chunk(tmp_path / "chunk.tiff", "chunk", promised(VOXELS))


# --- Damage: right bytes or an error, never wrong bytes ------------------------------------------


def is_right(path: Path, voxels: Voxels, expected: Expected) -> bool:
    """Decode: True for the right bytes, False for a refusal; anything else fails the test."""
    try:
        decoded = decode_chunk(path, "chunk", expected)
    except DamagedError:
        return False
    assert decoded == raw(voxels)
    return True


TRUNCATED = [
    *((name, code) for name in ("pages", "tiles") for code in (*COMPRESSIONS, *IMAGE_CODECS)),
    *((name, "none") for name in ONE_CHANNEL),
    *((name, "deflate") for name in ONE_CHANNEL),
]


@pytest.mark.quick(16)
@pytest.mark.parametrize(("layout", "compression"), sorted(set(TRUNCATED)))
def test_decode_truncated_anywhere_is_refused_or_right(
    tmp_path: Path, layout: str, compression: str
) -> None:
    voxels = make_voxels((1, 5, 20, 33))
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL[layout](path, voxels, **coded(compression))
    whole = path.read_bytes()
    expectations = (promised(voxels), Expected())
    assert all(is_right(path, voxels, expected) for expected in expectations)
    for size in np.linspace(0, len(whole) - 1, TRUNCATIONS, dtype=int):
        path.write_bytes(whole[:size])
        for expected in expectations:
            right = is_right(path, voxels, expected)
            # What is left is less than the voxels need, even at the best compression.
            assert not (right and size < len(whole) // 2)


@pytest.mark.parametrize("bigtiff", [False, True], ids=["tiff", "bigtiff"])
@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("channels", [2, 3])
def test_decode_truncated_several_channels_is_refused_or_right(
    tmp_path: Path, channels: int, compression: str, bigtiff: bool
) -> None:
    voxels = make_voxels((channels, 4, 20, 33))
    path = tmp_path / "chunk.tiff"
    for layout in ("unlabelled", "planar-samples", "ome-zcyx"):
        SEVERAL_CHANNELS[layout](path, voxels, bigtiff=bigtiff, **coded(compression))
        whole = path.read_bytes()
        for size in np.linspace(0, len(whole) - 1, TRUNCATIONS, dtype=int):
            path.write_bytes(whole[:size])
            is_right(path, voxels, promised(voxels))


@pytest.mark.parametrize("expected", [promised(VOXELS), Expected()], ids=["box", "no-box"])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
@pytest.mark.parametrize("described", [True, False], ids=["described", "not-described"])
def test_decode_file_that_tifffile_is_still_writing_is_refused_or_right(
    tmp_path: Path, described: bool, compression: str, expected: Expected
) -> None:
    path, copy = tmp_path / "chunk.tiff", tmp_path / "killed.tiff"
    outcomes = []

    def look() -> None:
        shutil.copyfile(path, copy)
        outcomes.append(is_right(copy, VOXELS, expected))

    def pages() -> Iterator[Voxels]:
        for page in VOXELS[0]:
            look()
            yield page
            look()

    with tifffile.TiffWriter(path) as tiff:
        look()
        tiff.write(
            pages(),
            shape=VOXELS.shape[1:],
            dtype=VOXELS.dtype,
            photometric="minisblack",
            metadata={} if described else None,
            **coded(compression),
        )
        tiff.filehandle.flush()
        outcomes.append(is_right(path, VOXELS, promised(VOXELS)) or True)
    assert not outcomes[0]
    assert is_right(path, VOXELS, expected)


def test_decode_file_written_page_by_page_is_refused_until_it_is_whole(tmp_path: Path) -> None:
    path, copy = tmp_path / "chunk.tiff", tmp_path / "killed.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for page in VOXELS[0]:
            shutil.copyfile(path, copy)
            assert not is_right(copy, VOXELS, promised(VOXELS))
            tiff.write(page, compression="deflate", photometric="minisblack", metadata=None)
    assert is_right(path, VOXELS, promised(VOXELS))


def patch_tags(path: Path, pages: slice = slice(None), **tags: Any) -> None:
    """Change values of tags in place; what they speak of stays as it is."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages[pages]:
            assert isinstance(page, tifffile.TiffPage)
            for name, value in tags.items():
                page.tags[name].overwrite(value, dtype="I")


@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("tag", ["StripByteCounts", "StripOffsets"])
@pytest.mark.parametrize("number", [0, 2, 3])
def test_decode_page_whose_strip_was_never_written_is_damage(
    tmp_path: Path, number: int, tag: str, compression: str
) -> None:
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL["pages-without-description"](path, VOXELS, rowsperstrip=5, **coded(compression))
    patch_tags(path, slice(number, number + 1), **{tag: 0})
    refused = not is_right(path, VOXELS, promised(VOXELS))
    assert refused or (tag, compression) == ("StripByteCounts", "none")  # its length is known


@pytest.mark.parametrize("compression", ["none", "deflate", "packbits"])
@pytest.mark.parametrize("layout", ["strips-of-5-rows", "tiles"])
def test_decode_page_that_lists_too_few_segments_is_damage(
    tmp_path: Path, layout: str, compression: str
) -> None:
    path = tmp_path / "chunk.tiff"
    voxels = make_voxels((1, 1, 40, 70))
    ONE_CHANNEL[layout](path, voxels, **coded(compression))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        listed = {
            name: page.tags[name].value[:-1]
            for name in ("StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts")
            if name in page.tags
        }
    patch_tags(path, **listed)
    with pytest.raises(DamagedError):
        decode_chunk(path, "chunk", promised(voxels))


@pytest.mark.parametrize("bytes_left", [0, 1, 64, 119], ids="{}-bytes".format)
def test_decode_strip_that_unpacks_to_too_little_is_damage(tmp_path: Path, bytes_left: int) -> None:
    path = tmp_path / "chunk.tiff"
    strips = [zlib.compress(page.tobytes()) for page in VOXELS[0]]
    strips[2] = zlib.compress(VOXELS[0, 2].tobytes()[: 2 * (bytes_left // 4)])
    tifffile.imwrite(
        path, iter(strips), shape=(4, 5, 6), dtype="uint16", compression="deflate",
        photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(DamagedError):
        decode_chunk(path, "chunk", promised(VOXELS))


@pytest.mark.parametrize("compression", ["deflate", "lzma", "png"])
def test_decode_compressed_byte_that_flipped_is_damage(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "chunk.tiff"
    voxels = make_voxels((1, 2, 30, 30))
    ONE_CHANNEL["pages"](path, voxels, **coded(compression))
    with tifffile.TiffFile(path) as tiff:
        middle = tiff.pages.first.dataoffsets[0] + tiff.pages.first.databytecounts[0] // 2
    content = bytearray(path.read_bytes())
    content[middle] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        decode_chunk(path, "chunk", promised(voxels))


BOMBS: dict[str, dict[str, Any]] = {
    "wide-and-long": {"ImageWidth": 2**31 - 1, "ImageLength": 2**31 - 1},
    "wide": {"ImageWidth": 2**32 - 1},
    "long": {"ImageLength": 2**32 - 1},
    "long-below-the-limit": {"ImageLength": 2**26},
    "many-samples": {"SamplesPerPixel": 65535, "ImageLength": 65535},
    "no-width": {"ImageWidth": 0},
    "no-rows-in-a-strip": {"RowsPerStrip": 0},
    "strip-of-4-gigabytes": {"StripByteCounts": 2**32 - 1},
    "strip-behind-the-end": {"StripOffsets": 2**32 - 1},
    "odd-bits": {"BitsPerSample": 65535},
    "unknown-compression": {"Compression": 65000},
}
# Nothing hangs on these where the voxels follow each other uncompressed.
HARMLESS = ("strip-of-4-gigabytes", "no-rows-in-a-strip")


@pytest.mark.parametrize("expected", [promised(VOXELS[:, :1]), Expected()], ids=["box", "no-box"])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_decode_header_that_promises_too_much_is_damage(
    tmp_path: Path, bomb: str, compression: str, expected: Expected
) -> None:
    path = tmp_path / "chunk.tiff"
    ONE_CHANNEL["pages-without-description"](path, VOXELS[:, :1], **coded(compression))
    patch_tags(path, **BOMBS[bomb])
    refused = not is_right(path, VOXELS[:, :1], expected)
    assert refused or (compression == "none" and bomb in HARMLESS)


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "zstd", "lzma"])
def test_decode_gigantic_tile_is_refused_or_right(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "chunk.tiff"
    voxels = make_voxels((1, 1, 20, 20))
    ONE_CHANNEL["tiles"](path, voxels, **coded(compression))
    patch_tags(path, TileWidth=65536, TileLength=65536)
    is_right(path, voxels, promised(voxels))


def test_decode_stream_that_unpacks_without_end_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "chunk.tiff"
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(2**24)) for _ in range(8)) + packer.flush()
    tifffile.imwrite(
        path, iter([bomb]), shape=(5, 6), dtype="uint16", compression="deflate",
        photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(DamagedError):
        decode_chunk(path, "chunk", promised(VOXELS[:, :1]))


@pytest.mark.parametrize("back_to", [0, 1, -1], ids=["first", "second", "itself"])
@pytest.mark.parametrize("pages", [4, 100, 101, 250])
def test_decode_pages_in_a_circle_is_refused(tmp_path: Path, pages: int, back_to: int) -> None:
    path = tmp_path / "chunk.tiff"
    voxels = make_voxels((1, pages, 5, 6))
    ONE_CHANNEL["pages-without-description"](path, voxels, **coded("deflate"))
    with tifffile.TiffFile(path) as tiff:
        target, link = tiff.pages[back_to].offset, tiff.pages.next_page_offset
    assert link is not None
    content = bytearray(path.read_bytes())
    content[link : link + 4] = target.to_bytes(4, "little")
    path.write_bytes(content)
    for expected in (promised(voxels), Expected()):
        assert not is_right(path, voxels, expected)


OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{0}1">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16"
 SizeX="6" SizeY="5" SizeZ="4" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>
<TiffData IFD="0" PlaneCount="4"><UUID FileName="{1}">urn:uuid:{0}2</UUID></TiffData>
</Pixels></Image></OME>""".format("00000000-0000-0000-0000-00000000000", "{}")


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "absent"])
def test_decode_description_that_names_another_file_does_not_open_it(
    tmp_path: Path, exists: bool
) -> None:
    other, path = tmp_path / "other.tiff", tmp_path / "chunk.ome.tiff"
    if exists:
        write_tiff(other, np.zeros_like(VOXELS[0]), photometric="minisblack", metadata=None)
    write_tiff(
        path, VOXELS[0], photometric="minisblack", metadata=None, description=OME.format(other)
    )
    assert decode_chunk(path, "chunk", promised(VOXELS)) == raw(VOXELS)


flips = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from((0, 1, 0x7F, 0x80, 0xFF))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=examples(200), deadline=None)
@given(
    layout=st.sampled_from(sorted(ONE_CHANNEL)),
    compression=st.sampled_from((*COMPRESSIONS, *IMAGE_CODECS)),
    bigtiff=st.booleans(),
    flips=flips,
    box=st.booleans(),
)
def test_decode_any_damage_is_refused_or_gives_a_chunk_of_the_right_size(
    scratch: Path,
    layout: str,
    compression: str,
    bigtiff: bool,
    flips: list[tuple[int, int]],
    box: bool,
) -> None:
    path = scratch / "damaged.tiff"
    try:
        ONE_CHANNEL[layout](path, VOXELS, bigtiff=bigtiff, **coded(compression))
    except (ValueError, RuntimeError, tifffile.OmeXmlError):
        reject()
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        decoded = decode_chunk(path, "chunk", promised(VOXELS) if box else Expected())
    except DamagedError:
        return
    assert not box or len(decoded) == VOXELS.nbytes


# --- What `info` promises ------------------------------------------------------------------------

INFO: dict[str, Any] = info_of(VOXELS[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_info_of_every_type_is_understood(dtype: str) -> None:
    assert parse_info(json.dumps({**INFO, "data_type": dtype}).encode()).data_type == dtype


def test_info_with_unknown_keys_is_understood() -> None:
    more = {"@type": "neuroglancer_multiscale_volume", "mesh": "mesh", "skeletons": None}
    scales = [{**INFO["scales"][0], "sharding": None, "hidden": True}]
    info = parse_info(json.dumps({**INFO, **more, "scales": scales}).encode())
    scale = info.scale("1_1_1")
    assert scale is not None
    assert scale.size == (6, 5, 4)
    assert info.scale("2_2_2") is None


BROKEN_INFOS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"info", id="no-json"),
    pytest.param(json.dumps(INFO).encode()[:-20], id="cut-short"),
    pytest.param(b"[]", id="array"),
    pytest.param(b"null", id="null"),
    pytest.param(b"{}", id="nothing-in-it"),
    pytest.param(b'\xff\xfe{"data_type": 1}', id="not-utf-8"),
    pytest.param(b"[" * 100_000, id="nested-without-end"),
    *(
        pytest.param(json.dumps({**INFO, key: value}).encode(), id=f"{key}-{name}")
        for key, name, value in [
            ("data_type", "unknown", "float16"),
            ("data_type", "number", 16),
            ("data_type", "null", None),
            ("num_channels", "text", "1"),
            ("num_channels", "fraction", 1.5),
            ("num_channels", "list", [1]),
            ("scales", "object", {}),
            ("scales", "null", None),
            ("scales", "of-texts", ["1_1_1"]),
            ("scales", "without-size", [{"key": "1_1_1"}]),
            ("scales", "flat", [{**INFO["scales"][0], "size": [6, 5]}]),
            ("scales", "size-text", [{**INFO["scales"][0], "size": "6x5x4"}]),
        ]
    ),
]


@pytest.mark.parametrize("content", BROKEN_INFOS)
def test_info_that_is_broken_is_damage_that_names_it(content: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^lab/brain/info: expected .*but it is malformed: "):
        parse_info(content, "lab/brain/info")


# --- Over HTTP -----------------------------------------------------------------------------------

CHUNK = "0-6_0-5_0-4"


@dataclass
class Site:
    """One service for all tests, which only add datasets of their own."""

    service: Service

    def add(self, name: str, voxels: Voxels = VOXELS, **info: Any) -> Path:
        """Write a dataset with one chunk, which holds the whole volume; give its directory."""
        dataset = self.service.root / name
        scale = dataset / "1_1_1"
        scale.mkdir(parents=True)
        channels, z, y, x = voxels.shape
        description = {**info_of(voxels), **info}
        (dataset / "info").write_text(json.dumps(description))
        layout = ONE_CHANNEL["pages"] if channels == 1 else SEVERAL_CHANNELS["labelled-zcyx"]
        layout(scale / f"0-{x}_0-{y}_0-{z}.tiff", voxels)
        return dataset

    def get(self, path: str, method: str = "GET", **headers: str) -> requests.Response:
        sent = {"Accept-Encoding": "identity"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.service.url}/{path}"
        return requests.request(method, url, headers=sent, timeout=60, allow_redirects=False)

    def refusal(self, path: str) -> str:
        """Ask for a chunk that is there but damaged; give what the answer says."""
        answer = self.get(path)
        assert answer.status_code == 500, answer.content[:200]
        assert answer.json()["title"] == "Damaged file"
        description = answer.json()["description"]
        assert isinstance(description, str)
        return description


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Site:
    return Site(start_service(tmp_path_factory.mktemp("site")))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_chunk_of_every_type_is_sent_raw(site: Site, dtype: str, channels: int) -> None:
    voxels = make_voxels((channels, 4, 5, 6), dtype)
    name = f"types/{dtype}-{channels}"
    site.add(name, voxels)
    answer = site.get(f"{name}/1_1_1/{CHUNK}")
    assert answer.status_code == 200
    assert answer.content == raw(voxels)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(voxels.nbytes)


@pytest.mark.parametrize("path", ["flat", "lab/mouse-3", "a/b/c/d/e", "with space", "µ/脳"])
def test_every_chunk_of_a_volume_is_sent_raw(site: Site, path: str) -> None:
    voxels = gradient((70, 65, 130))
    dataset = site.service.root / path
    write_chunks(dataset / "1_1_1", voxels)
    (dataset / "info").write_text(json.dumps(info_of(voxels)))
    for name, box in boxes((130, 65, 70)):
        assert site.get(f"{path}/1_1_1/{name}").content == voxels[box].tobytes()
    assert site.get(f"{path}/1_1_1/128-192_0-64_0-64").status_code == 404  # ends are clipped
    assert site.get(f"{path}/2_2_2/0-64_0-64_0-64").status_code == 404


def test_chunk_with_negative_offset_is_sent_raw(site: Site) -> None:
    dataset = site.add("negative")
    scale = dataset / "1_1_1"
    (scale / f"{CHUNK}.tiff").rename(scale / "-70--64_-3-2_-4-0.tiff")
    assert site.get("negative/1_1_1/-70--64_-3-2_-4-0").content == raw(VOXELS)


@pytest.mark.parametrize(
    ("name", "info", "complaint"),
    [
        (
            "type",
            {"data_type": "uint8"},
            "expected 6x5x4 voxels (x, y, z), 1 channel, uint8, found",
        ),
        ("channels", {"num_channels": 2}, "2 channels, uint16, found shape 4x5x6"),
    ],
    ids=["type", "channels"],
)
def test_chunk_that_info_does_not_promise_is_500_that_names_both(
    site: Site, name: str, info: dict[str, Any], complaint: str
) -> None:
    site.add(f"misfit/{name}", **info)
    description = site.refusal(f"misfit/{name}/1_1_1/{CHUNK}")
    assert complaint in description
    assert description.startswith(f"misfit/{name}/1_1_1/{CHUNK}.tiff: expected")


@pytest.mark.parametrize(
    "box", ["0-6_0-5_0-5", "0-5_0-5_0-4", "0-4_0-5_0-6", "1-6_0-5_0-4", "0-64_0-64_0-64"]
)
def test_chunk_of_another_extent_than_its_name_is_500_that_names_both(site: Site, box: str) -> None:
    dataset = site.add(f"extent/{box}")
    (dataset / "1_1_1" / f"{CHUNK}.tiff").rename(dataset / "1_1_1" / f"{box}.tiff")
    assert "found shape 4x5x6" in site.refusal(f"extent/{box}/1_1_1/{box}")


@pytest.mark.parametrize("content", BROKEN_INFOS)
def test_chunk_below_a_broken_info_is_500_that_names_info(
    site: Site, content: bytes, request: pytest.FixtureRequest
) -> None:
    name = f"broken/{request.node.callspec.id}"
    dataset = site.add(name)
    (dataset / "info").write_bytes(content)
    assert site.refusal(f"{name}/1_1_1/{CHUNK}").startswith(f"{name}/info: expected")


@pytest.mark.parametrize("encoding", ["jpeg", "png", "compressed_segmentation", "compresso"])
def test_chunk_as_tiff_in_a_scale_of_another_encoding_is_500(site: Site, encoding: str) -> None:
    name = f"encoding/{encoding}"
    site.add(name, scales=[{**INFO["scales"][0], "encoding": encoding}])
    assert repr(encoding) in site.refusal(f"{name}/1_1_1/{CHUNK}")


def test_chunk_stored_in_the_encoding_of_its_scale_is_sent_as_it_is(site: Site) -> None:
    dataset = site.add("segments", scales=[{**INFO["scales"][0], "encoding": "jpeg"}])
    (dataset / "1_1_1" / CHUNK).write_bytes(b"\xff\xd8 jpeg")
    assert site.get(f"segments/1_1_1/{CHUNK}").content == b"\xff\xd8 jpeg"


def test_chunk_without_info_is_checked_against_its_name_only(site: Site) -> None:
    dataset = site.add("no-info")
    (dataset / "info").unlink()
    assert site.get(f"no-info/1_1_1/{CHUNK}").content == raw(VOXELS)
    shutil.copy(dataset / "1_1_1" / f"{CHUNK}.tiff", dataset / "1_1_1" / "0-6_0-5_0-3.tiff")
    assert "expected 6x5x3 voxels" in site.refusal("no-info/1_1_1/0-6_0-5_0-3")


def test_chunk_of_a_scale_that_info_does_not_list_is_checked_against_the_rest(site: Site) -> None:
    dataset = site.add("more-scales")
    shutil.copytree(dataset / "1_1_1", dataset / "2_2_2")
    assert site.get(f"more-scales/2_2_2/{CHUNK}").content == raw(VOXELS)
    write_tiff(dataset / "2_2_2" / f"{CHUNK}.tiff", VOXELS[0].astype("uint8"))
    assert "uint16, found" in site.refusal(f"more-scales/2_2_2/{CHUNK}")


def test_chunk_of_a_scale_with_a_nested_key_belongs_to_the_info_above(site: Site) -> None:
    scales = [{**INFO["scales"][0], "key": "scales/fine/1_1_1", "encoding": "jpeg"}]
    dataset = site.add("nested-key", scales=scales)
    (dataset / "scales").mkdir()
    shutil.move(dataset / "1_1_1", dataset / "scales" / "fine" / "1_1_1")
    assert "'jpeg'" in site.refusal(f"nested-key/scales/fine/1_1_1/{CHUNK}")


def test_chunk_of_a_dataset_in_a_dataset_belongs_to_the_nearer_info(site: Site) -> None:
    site.add("outer", num_channels=2)
    site.add("outer/inner")
    assert site.get(f"outer/inner/1_1_1/{CHUNK}").content == raw(VOXELS)


def test_chunk_without_info_ignores_a_file_of_that_name_further_up(site: Site) -> None:
    dataset = site.add("lab/no-info")
    (dataset / "info").unlink()
    (dataset.parent / "info").write_text("Ask Anna before you move anything here.")
    assert site.get(f"lab/no-info/1_1_1/{CHUNK}").content == raw(VOXELS)


def test_chunk_of_a_dataset_that_is_the_root_belongs_to_its_info(tmp_path: Path) -> None:
    (tmp_path / "1_1_1").mkdir()
    (tmp_path / "info").write_text(json.dumps({**INFO, "data_type": "uint8"}))
    write_tiff(tmp_path / "1_1_1" / f"{CHUNK}.tiff", VOXELS[0], photometric="minisblack")
    chunks = Chunks(Files(DataRoot(tmp_path)))
    chunk = ChunkPath(("1_1_1",), CHUNK)
    tiff = chunks.find_tiff(chunk)
    assert tiff is not None
    assert chunks.expected(chunk, tiff) == Expected((6, 5, 4), "uint8", 1)


# --- Over HTTP: what changes on disk -------------------------------------------------------------


def test_info_that_changes_on_disk_is_noticed_at_once(site: Site) -> None:
    dataset = site.add("changing-info")
    path = f"changing-info/1_1_1/{CHUNK}"
    other = {**INFO, "data_type": "uint32"}  # as many bytes as before
    for _ in range(3):
        (dataset / "info").write_text(json.dumps(INFO))
        assert site.get(path).status_code == 200
        (dataset / "new").write_text(json.dumps(other))
        (dataset / "new").replace(dataset / "info")
        assert "uint32, found" in site.refusal(path)
    (dataset / "info").unlink()
    assert site.get(path).status_code == 200


def test_chunk_replaced_on_disk_is_sent_anew_with_another_etag(site: Site) -> None:
    dataset = site.add("changing-chunk")
    path = f"changing-chunk/1_1_1/{CHUNK}"
    file = dataset / "1_1_1" / f"{CHUNK}.tiff"
    seen: set[str] = set()
    for value in range(5):
        voxels = np.full_like(VOXELS, value)
        ONE_CHANNEL["pages"](file.with_name("new"), voxels)
        file.with_name("new").replace(file)
        answer = site.get(path, If_None_Match=", ".join(seen) or '"none"')
        assert answer.status_code == 200
        assert answer.content == raw(voxels)
        seen.add(answer.headers["ETag"])
    assert len(seen) == 5
    wait_until_settled(dataset)
    last = site.get(path).headers["ETag"]
    assert site.get(path, If_None_Match=last).status_code == 304


def test_chunk_that_comes_and_goes_is_noticed_at_once(site: Site) -> None:
    dataset = site.add("coming-chunk")
    path = f"coming-chunk/1_1_1/{CHUNK}"
    file = dataset / "1_1_1" / f"{CHUNK}.tiff"
    decoded = site.get(path)
    file.with_suffix("").write_bytes(b"exact")
    exact = site.get(path, If_None_Match=decoded.headers["ETag"])
    assert (exact.status_code, exact.content) == (200, b"exact")
    file.with_suffix("").unlink()
    file.rename(file.with_suffix(".tif"))
    assert site.get(path).content == raw(VOXELS)
    file.with_suffix(".tif").unlink()
    assert site.get(path).status_code == 404


def test_chunk_half_written_is_500_until_it_is_whole(site: Site) -> None:
    dataset = site.add("writing")
    file = dataset / "1_1_1" / f"{CHUNK}.tiff"
    whole = file.read_bytes()
    file.write_bytes(whole[: VOXELS.nbytes // 2])
    assert "expected" in site.refusal(f"writing/1_1_1/{CHUNK}")
    file.write_bytes(whole)
    assert site.get(f"writing/1_1_1/{CHUNK}").content == raw(VOXELS)


# --- Over HTTP: validators, ranges, damage -------------------------------------------------------


def test_decoded_chunk_has_validators_head_and_ranges(site: Site) -> None:
    wait_until_settled(site.add("parts"))
    path, whole = f"parts/1_1_1/{CHUNK}", raw(VOXELS)
    answer = site.get(path)
    head = site.get(path, "HEAD")
    assert head.content == b""
    for header in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Cache-Control"):
        assert head.headers[header] == answer.headers[header]
    part = site.get(path, Range="bytes=7-19")
    assert (part.status_code, part.content) == (206, whole[7:20])
    assert part.headers["Content-Range"] == f"bytes 7-19/{len(whole)}"
    assert part.headers["ETag"] == answer.headers["ETag"]
    behind = site.get(path, Range=f"bytes={len(whole)}-")
    assert behind.status_code == 416
    assert behind.headers["Content-Range"] == f"bytes */{len(whole)}"
    known = site.get(path, If_None_Match=answer.headers["ETag"])
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["ETag"] == answer.headers["ETag"]
    since = site.get(path, If_Modified_Since=answer.headers["Last-Modified"])
    assert since.status_code == 304


def test_tiff_itself_is_sent_even_if_it_is_a_misfit(site: Site) -> None:
    dataset = site.add("as-file", data_type="uint8")
    answer = site.get(f"as-file/1_1_1/{CHUNK}.tiff", Accept="image/tiff")
    assert answer.content == (dataset / "1_1_1" / f"{CHUNK}.tiff").read_bytes()
    octets = site.get(f"as-file/1_1_1/{CHUNK}.tiff", Accept="application/octet-stream")
    assert octets.status_code == 500


def test_damage_is_logged_with_the_file_and_the_reason(site: Site) -> None:
    dataset = site.add("logged")
    (dataset / "1_1_1" / f"{CHUNK}.tiff").write_bytes(b"")
    description = site.refusal(f"logged/1_1_1/{CHUNK}")
    assert f"Damaged file: {description}" in site.service.log()
    assert "Traceback" not in site.service.log()


def peak_memory_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def test_bombs_do_not_take_the_memory_they_promise(site: Site) -> None:
    dataset = site.add("bombs", VOXELS[:, :1])
    file = dataset / "1_1_1" / "0-6_0-5_0-1.tiff"
    for tags in BOMBS.values():
        for compression in ("none", "deflate", "lzw"):
            ONE_CHANNEL["pages-without-description"](file, VOXELS[:, :1], **coded(compression))
            patch_tags(file, **tags)
            assert site.get("bombs/1_1_1/0-6_0-5_0-1").status_code in (200, 500)
            shutil.copy(file, file.with_name("any.tiff"))  # nothing promises its extent
            assert site.get("bombs/1_1_1/any").status_code in (200, 500)
    children = Path(f"/proc/{site.service.process.pid}/task/{site.service.process.pid}/children")
    assert all(peak_memory_mb(int(pid)) < 250 for pid in children.read_text().split())
