"""Every way from a TIFF file to a chunk gives the same voxels, and the cheapest one is taken."""

from __future__ import annotations

import gzip
import os
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from neurotrale.chunks import reader as read
from neurotrale.chunks.decode import Expected, decode_chunk
from neurotrale.chunks.reader import ChunkReader
from neurotrale.chunks.segments import find_segments
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredFile
from tests.datasets import Voxels, gradient
from tests.examples import examples

CODINGS = (frozenset[str](), frozenset({"gzip"}), frozenset({"zstd"}), frozenset({"gzip", "zstd"}))
BOTH = CODINGS[-1]
DECODED = CODINGS[0]
TILE = (16, 16, 16)
PASSED_AS = {"zlib": "gzip", "zstd": "zstd"}


def found(path: Path) -> StoredFile:
    return StoredFile(path.name, str(path), Stamp.of(path.stat()), "")


def expected(voxels: Voxels) -> Expected:
    z, y, x = voxels.shape
    return Expected((x, y, z), voxels.dtype.name, 1)


def raw(voxels: Voxels) -> bytes:
    return voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()


def unpack(body: bytes, coding: str) -> bytes:
    """Undo a content coding as a client does."""
    if coding == "gzip":
        return gzip.decompress(body)
    return bytes(imagecodecs.zstd_decode(body)) if coding else body


def crc32_of(voxels: Voxels) -> dict[str, Any]:
    return {"crc32": zlib.crc32(raw(voxels))}


def write(path: Path, voxels: Voxels, **options: Any) -> Path:
    tifffile.imwrite(path, voxels, photometric="minisblack", **options)
    return path


def read_chunk(path: Path, voxels: Voxels, codings: frozenset[str] = DECODED) -> tuple[bytes, str]:
    sent = ChunkReader().read(found(path), expected(voxels), codings)
    return bytes(sent.body), sent.coding


# --- the same voxels, whatever the file is like ---


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, int, int], dict[str, Any], bool]:
    """A shape (z, y, x), the options of a layout, and whether all voxels are in one segment."""
    extent = st.sampled_from([1, 3, 4, 5, 16, 19])
    z, y, x = draw(st.tuples(extent, extent, extent))
    kind = draw(st.sampled_from(["pages", "strips", "tiles", "volume", "padded"]))
    if kind == "pages":
        return (z, y, x), {}, z == 1
    if kind == "strips":
        rows = draw(st.integers(1, y + 2))
        return (z, y, x), {"rowsperstrip": rows}, z == 1 and rows >= y
    if kind == "tiles":
        return (z, y, x), {"tile": TILE[1:]}, (z, y, x) == (1, *TILE[1:])
    options = {"tile": TILE, "volumetric": True}
    if kind == "volume":
        return TILE, options, True
    return (z, y, x), options, (z, y, x) == TILE


def noise(shape: tuple[int, ...], dtype: str) -> Voxels:
    data = np.random.default_rng(len(dtype) + sum(shape)).integers(0, 200, shape)
    return np.asarray(data.astype(dtype))


@settings(max_examples=examples(250), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layout=layouts(),
    dtype=st.sampled_from(
        ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32", "float64"]
    ),
    byteorder=st.sampled_from(["<", ">"]),
    bigtiff=st.booleans(),
    compression=st.sampled_from([None, "zlib", "zstd", "lzw", "packbits"]),
    predictor=st.booleans(),
    states_crc32=st.booleans(),
)
@example(
    (TILE, {"tile": TILE, "volumetric": True}, True), "uint16", "<", False, "zlib", False, True
)
@example(
    (TILE, {"tile": TILE, "volumetric": True}, True), "uint16", "<", True, "zstd", False, False
)
@example((TILE, {"tile": TILE, "volumetric": True}, True), "uint16", ">", True, "zlib", False, True)
@example(((16, 16, 3), {}, False), "uint16", "<", False, "zlib", False, True)
def test_read_any_file_gives_the_voxels_that_tifffile_gives(
    layout: tuple[tuple[int, int, int], dict[str, Any], bool],
    dtype: str,
    byteorder: Any,
    bigtiff: bool,
    compression: str | None,
    predictor: bool,
    states_crc32: bool,
) -> None:
    shape, options, in_one_segment = layout
    predictor = predictor and compression in ("zlib", "zstd", "lzw")
    voxels = noise(shape, dtype)
    if states_crc32:
        options = {**options, "metadata": crc32_of(voxels)}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "chunk.tiff"
        try:
            write(
                path, voxels, byteorder=byteorder, bigtiff=bigtiff, compression=compression,
                predictor=predictor or None, **options,
            )  # fmt: skip
        except (ValueError, NotImplementedError, TypeError):
            assume(False)  # tifffile does not write such a file
        assert np.array_equal(tifffile.imread(path).reshape(shape), voxels)
        reader = ChunkReader()
        passes = in_one_segment and not predictor and byteorder == "<"
        for codings in (*CODINGS, *CODINGS):  # the second time with a plan that was kept
            sent = reader.read(found(path), expected(voxels), codings)
            coding = PASSED_AS.get(compression or "", "")
            way = coding if passes and coding in codings else ""
            # An extent of 1 may be lost on the way into the file; then tifffile finds it again.
            assert sent.coding == way or (1 in shape and sent.coding == "")
            assert unpack(bytes(sent.body), sent.coding) == raw(voxels)
            assert sent.stamp == Stamp.of(path.stat())


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_read_one_voxel_gives_it(tmp_path: Path, dtype: str, compression: str | None) -> None:
    voxels = gradient((1, 1, 1), "uint8").astype(dtype) + np.asarray(7).astype(dtype)
    path = write(tmp_path / "a.tiff", voxels, compression=compression)
    for codings in CODINGS:
        body, coding = read_chunk(path, voxels, codings)
        assert unpack(body, coding) == raw(voxels)


# --- labels ---

LAYOUTS: dict[str, dict[str, Any]] = {
    "pages": {},
    "volume": {"tile": TILE, "volumetric": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
@pytest.mark.parametrize("axes", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"])
def test_read_axes_with_labels_gives_z_y_x(
    tmp_path: Path, axes: str, compression: str | None, layout: str
) -> None:
    # All extents are alike: nothing but the labels tells which axis is which.
    voxels = gradient(TILE)
    stored = np.ascontiguousarray(voxels.transpose(["ZYX".index(letter) for letter in axes]))
    path = write(
        tmp_path / "a.tiff",
        stored,
        compression=compression,
        metadata={"axes": axes, **crc32_of(stored)},
        **LAYOUTS[layout],
    )
    for codings in CODINGS:
        body, coding = read_chunk(path, voxels, codings)
        assert unpack(body, coding) == raw(voxels)
        assert axes == "ZYX" or not coding


@pytest.mark.parametrize("axes", ["QYX", "TYX", "IYX", "CYX", "ZYX"])
def test_read_axes_with_labels_that_end_in_rows_and_columns_takes_the_lean_way(
    tmp_path: Path, axes: str
) -> None:
    voxels = gradient((4, 5, 6))
    path = write(tmp_path / "a.tiff", voxels, compression="zlib", metadata={"axes": axes})
    assert find_segments(path.read_bytes()) is not None
    assert read_chunk(path, voxels) == (raw(voxels), "")


def test_find_segments_leaves_ome_tiff_to_tifffile(tmp_path: Path) -> None:
    voxels = gradient((4, 5, 6))
    path = write(tmp_path / "a.ome.tiff", voxels, compression="zlib", metadata={"axes": "ZYX"})
    assert find_segments(path.read_bytes()) is None
    assert read_chunk(path, voxels, BOTH) == (raw(voxels), "")


@pytest.mark.parametrize("crc32", ["9999999999", '"no number"', "-1", "1.5", "null"])
def test_read_crc32_that_cannot_be_one_is_computed(tmp_path: Path, crc32: str) -> None:
    voxels = gradient(TILE)
    path = write(
        tmp_path / "a.tiff", voxels, compression="zlib", tile=TILE, volumetric=True,
        description=f'{{"shape": [16, 16, 16], "crc32": {crc32}}}', metadata=None,
    )  # fmt: skip
    body, coding = read_chunk(path, voxels, BOTH)
    assert coding == "gzip"
    assert gzip.decompress(body) == raw(voxels)


# --- damage ---


def written(place: Path, voxels: Voxels, layout: str, compression: str | None) -> bytes:
    path = place / "whole.tiff"
    return write(path, voxels, compression=compression, **LAYOUTS[layout]).read_bytes()


def read_or_refuse(path: Path, content: bytes, voxels: Voxels) -> bytes | None:
    path.write_bytes(content)
    try:
        return read_chunk(path, voxels)[0]
    except DamagedError:
        return None


def decode_or_refuse(path: Path, voxels: Voxels) -> bytes | None:
    try:
        return decode_chunk(path, path.name, expected(voxels))
    except DamagedError:
        return None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_read_truncated_file_is_refused_or_right(
    tmp_path: Path, compression: str | None, layout: str
) -> None:
    voxels = gradient(TILE, "uint8")
    content = written(tmp_path, voxels, layout, compression)
    refused = 0
    for size in {0, 1, 7, 8, *range(16, len(content), len(content) // 60), len(content) - 1}:
        find_segments(content[:size])
        body = read_or_refuse(tmp_path / "cut.tiff", content[:size], voxels)
        refused += body is None
        assert body in (None, raw(voxels)), size
    assert refused > 30


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_read_flipped_bit_is_refused_or_right(
    tmp_path: Path, compression: str, layout: str, data: st.DataObject
) -> None:
    voxels = gradient(TILE, "uint8")
    content = bytearray(written(tmp_path, voxels, layout, compression))
    # Most of the file are segments, but most of what can go wrong are tags.
    at = data.draw(st.integers(0, 600) | st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    find_segments(bytes(content))
    path = tmp_path / "flipped.tiff"
    body = read_or_refuse(path, bytes(content), voxels)
    if body not in (None, raw(voxels)):
        # A flip may make another valid file: then tifffile reads the same from it. Segments in
        # zstd may have no checksum.
        assert body == decode_or_refuse(path, voxels)


@given(content=st.binary(max_size=200))
def test_find_segments_of_any_bytes_never_raises(content: bytes) -> None:
    for start in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10" + bytes(7)):
        find_segments(start + content)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_flipped_bit_in_a_deflate_segment_is_always_refused(
    tmp_path: Path, layout: str
) -> None:
    voxels = gradient(TILE)
    content = written(tmp_path, voxels, layout, "zlib")
    segments = find_segments(content)
    assert segments is not None
    at, size = segments.spans[-1]
    for step in range(0, size, max(1, size // 40)):
        flipped = bytearray(content)
        flipped[at + step] ^= 4
        assert read_or_refuse(tmp_path / "a.tiff", bytes(flipped), voxels) is None, step


def replace_segment(path: Path, segment: bytes) -> None:
    """Put another segment in the place of the only one."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages.first
        tags = {tag.name: tag for tag in page.tags}
        end = path.stat().st_size
        with path.open("ab") as file:
            file.write(segment)
        tags["TileOffsets"].overwrite([end])
        tags["TileByteCounts"].overwrite([len(segment)])


@pytest.mark.parametrize(
    ("segment", "whole"),
    [
        pytest.param(zlib.compress(b"x" * 100), False, id="too-little"),
        pytest.param(zlib.compress(raw(gradient(TILE)))[:-4], False, id="no-checksum"),
        pytest.param(zlib.compress(raw(gradient(TILE)))[:-500], False, id="cut"),
        pytest.param(raw(gradient(TILE)), False, id="not-compressed"),
        pytest.param(zlib.compress(raw(gradient(TILE)) + b"more"), False, id="more-inside"),
        pytest.param(zlib.compress(raw(gradient(TILE))) + b"more", True, id="more-behind"),
    ],
)
def test_read_segment_of_another_size_is_refused_or_right(
    tmp_path: Path, segment: bytes, whole: bool
) -> None:
    voxels = gradient(TILE)
    path = write(
        tmp_path / "a.tiff", voxels, compression="zlib", tile=TILE, volumetric=True, metadata=None
    )
    replace_segment(path, segment)
    for codings in (DECODED, BOTH):
        if whole:
            body, coding = read_chunk(path, voxels, codings)
            assert unpack(body, coding) == raw(voxels)
        else:
            with pytest.raises(DamagedError, match="segment 0"):
                read_chunk(path, voxels, codings)


def test_read_uncompressed_pages_with_padding_gives_the_voxels(tmp_path: Path) -> None:
    voxels = gradient((3, 4, 5))
    path = write(tmp_path / "a.tiff", voxels, metadata=None, contiguous=False)
    padded = b"".join(raw(page) + bytes(6) for page in voxels)
    at = path.stat().st_size
    with path.open("ab") as file:
        file.write(padded)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for number, page in enumerate(tiff.pages):
            tags = {tag.name: tag for tag in tiff.pages.get(page.index).aspage().tags}
            tags["StripOffsets"].overwrite([at + number * 46])
            tags["StripByteCounts"].overwrite([46])
    assert find_segments(path.read_bytes()) is not None
    assert read_chunk(path, voxels) == (raw(voxels), "")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_read_stream_that_unpacks_without_end_takes_no_memory(
    tmp_path: Path, compression: str
) -> None:
    voxels = gradient(TILE)
    path = write(tmp_path / "a.tiff", voxels, compression=compression, tile=TILE, volumetric=True)
    endless = bytes(256 * 2**20)
    packed = (
        zlib.compress(endless, 1) if compression == "zlib" else imagecodecs.zstd_encode(endless)
    )
    del endless
    replace_segment(path, bytes(packed))
    tracemalloc.start()
    try:
        for codings in (DECODED, frozenset({"gzip"}), frozenset({"zstd"})):
            try:
                body, coding = read_chunk(path, voxels, codings)
            except DamagedError:
                continue
            assert (len(body), coding) == (voxels.nbytes, "")
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("back_to", [0, 1, 2], ids=["to-the-first", "to-the-second", "to-itself"])
@pytest.mark.parametrize("bigtiff", [False, True], ids=["classic", "bigtiff"])
def test_find_segments_of_pages_in_a_circle_comes_to_an_end(
    tmp_path: Path, bigtiff: bool, back_to: int
) -> None:
    voxels = gradient((3, 4, 5))
    path = write(tmp_path / "a.tiff", voxels, compression="zlib", bigtiff=bigtiff)
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in map(tiff.pages.get, range(3))]
        at = tiff.pages.next_page_offset
    assert at is not None
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q" if bigtiff else "<I", offsets[back_to]))
    assert find_segments(path.read_bytes()) is None


# --- what is kept ---


def test_read_file_that_is_replaced_gives_the_new_voxels(tmp_path: Path) -> None:
    reader = ChunkReader()
    path = tmp_path / "a.tiff"
    stamps = set()
    for number, compression in enumerate(("zlib", "zlib", "zstd", None, "lzw", "zlib")):
        voxels = gradient(TILE) + number
        new = write(
            tmp_path / "new.tiff", voxels, compression=compression, tile=TILE, volumetric=True
        )
        os.replace(new, path)
        for codings in (BOTH, DECODED):
            sent = reader.read(found(path), expected(voxels), codings)
            assert unpack(bytes(sent.body), sent.coding) == raw(voxels)
            stamps.add(sent.stamp)
    assert len(stamps) == 6


def test_read_file_that_was_replaced_after_it_was_found_has_the_stamp_of_what_was_read(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.tiff", gradient(TILE), compression="zlib")
    before = found(path)
    voxels = gradient(TILE) + 1
    os.replace(write(tmp_path / "new.tiff", voxels, compression="zlib"), path)
    sent = ChunkReader().read(before, expected(voxels), DECODED)
    assert sent.body == raw(voxels)
    assert sent.stamp == found(path).stamp != before.stamp


def test_read_file_that_is_gone_is_missing(tmp_path: Path) -> None:
    voxels = gradient((3, 4, 5))
    path = write(tmp_path / "a.tiff", voxels)
    gone = found(path)
    path.unlink()
    with pytest.raises(MissingError):
        ChunkReader().read(gone, expected(voxels), BOTH)


def test_read_many_files_keeps_a_bounded_number_of_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "CACHED_FILES", 5)
    voxels = gradient((1, 4, 5))
    content = write(tmp_path / "a.tiff", voxels, compression="zlib").read_bytes()
    paths = [tmp_path / f"{number}.tiff" for number in range(12)]
    reader = ChunkReader()
    for path in paths:
        path.write_bytes(content)
    for _ in range(2):
        for path in paths:
            sent = reader.read(found(path), expected(voxels), BOTH)
            assert gzip.decompress(sent.body) == raw(voxels)
            assert len(reader.cache) <= 5


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(Expected((6, 5, 5), "uint16", 1), id="extent"),
        pytest.param(Expected((6, 5, 4), "int16", 1), id="type"),
        pytest.param(Expected((6, 5, 4), "uint16", 2), id="channels"),
    ],
)
def test_read_what_does_not_fit_is_damage_in_every_coding(tmp_path: Path, wrong: Expected) -> None:
    path = write(tmp_path / "a.tiff", gradient((4, 5, 6)), compression="zlib")
    for codings in CODINGS:
        with pytest.raises(DamagedError, match="expected"):
            ChunkReader().read(found(path), wrong, codings)


def test_read_file_too_large_for_a_chunk_is_left_to_tifffile(tmp_path: Path) -> None:
    voxels = gradient((3, 4, 5))
    path = write(tmp_path / "a.tiff", voxels)
    with path.open("ab") as file:
        file.truncate(read.WHOLE_FILE_BYTES + 1)
    assert read_chunk(path, voxels, BOTH) == (raw(voxels), "")
