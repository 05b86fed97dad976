"""From planes to a dataset: every voxel of every level, the names, `info`, the files."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurotrale.chunks.decode import Expected
from neurotrale.chunks.encode import encode_chunk
from neurotrale.chunks.reader import ChunkReader
from neurotrale.chunks.segments import find_segments
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredFile
from neurotrale.tools.ingest.levels import downsample_mean, downsample_mode
from tests.datasets import gradient
from tests.examples import examples
from tests.stacks import (
    HALVES,
    expected_levels,
    ingest,
    labels,
    noise,
    read_levels,
    visible_files,
    write_planes,
)

DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32")
LAYOUTS = ("single", "pages")


def assert_levels(dataset: Path, expected: list[Any]) -> None:
    found = read_levels(dataset)
    assert len(found) == len(expected)
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == theirs.shape
        assert np.array_equal(mine, theirs), f"level {number}"


def info_of(dataset: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((dataset / "info").read_text())
    return info


# --- voxels ---


@pytest.mark.quick(5)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ingest_odd_extents_gives_the_mean_at_every_level(
    tmp_path: Path, dtype: str, layout: str
) -> None:
    voxels = noise((37, 21, 43), dtype)
    source = write_planes(tmp_path / "in", voxels)
    ingest(source, tmp_path / "out", "--chunk-size", "8", "--layout", layout)
    assert_levels(tmp_path / "out", expected_levels(voxels, HALVES[:3]))
    assert info_of(tmp_path / "out")["data_type"] == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_ingest_segmentation_gives_the_most_frequent_label(
    tmp_path: Path, dtype: str, layout: str
) -> None:
    voxels = labels((19, 21, 25), dtype)
    source = write_planes(tmp_path / "in", voxels)
    ingest(source, tmp_path / "out", "--chunk-size", "8", "--segmentation", "--layout", layout)
    expected = expected_levels(voxels, HALVES[:2], segmentation=True)
    assert_levels(tmp_path / "out", expected)
    assert info_of(tmp_path / "out")["type"] == "segmentation"
    for level in read_levels(tmp_path / "out"):
        assert set(np.unique(level)) <= set(np.unique(voxels))


@pytest.mark.parametrize("segmentation", [False, True], ids=["image", "labels"])
def test_ingest_isotropic_leaves_long_axes_until_voxels_are_cubes(
    tmp_path: Path, segmentation: bool
) -> None:
    voxels = labels((21, 35, 45), "uint16") if segmentation else noise((21, 35, 45), "uint16")
    source = write_planes(tmp_path / "in", voxels)
    options = ["--isotropic", "--voxel-size", "0.5,0.5,2", "--chunk-size", "8", "--levels", "4"]
    ingest(source, tmp_path / "out", *options, *(["--segmentation"] * segmentation))
    steps = [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    scales = info_of(tmp_path / "out")["scales"]
    assert [scale["key"] for scale in scales] == ["1_1_1", "2_2_1", "4_4_1", "8_8_2"]
    assert scales[2]["resolution"] == [2000, 2000, 2000]
    assert scales[3]["resolution"] == [4000, 4000, 4000]
    assert_levels(tmp_path / "out", expected_levels(voxels, steps, segmentation))


def test_ingest_axes_of_three_lengths_halves_the_shortest_first(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", gradient((9, 40, 40)))
    ingest(source, tmp_path / "out", "--isotropic", "--voxel-size", "1,2,4", "--levels", "4",
           "--chunk-size", "8")  # fmt: skip
    keys = [scale["key"] for scale in info_of(tmp_path / "out")["scales"]]
    assert keys == ["1_1_1", "2_2_1", "4_2_1", "8_4_2"]


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(*[st.integers(1, 23)] * 3),
    chunk=st.tuples(*[st.integers(1, 9)] * 3),
    levels=st.integers(1, 4),
    layout=st.sampled_from(LAYOUTS),
    segmentation=st.booleans(),
)
def test_ingest_any_extent_and_chunk_gives_every_voxel(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    levels: int,
    layout: str,
    segmentation: bool,
) -> None:
    place = tmp_path_factory.mktemp("any")
    voxels = labels(shape, "uint32") if segmentation else noise(shape, "uint16")
    source = place / "stack.tif"
    tifffile.imwrite(source, voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    options = ["--chunk-size", ",".join(map(str, chunk)), "--layout", layout]
    options += ["--segmentation"] * segmentation
    most = 1 + max(n - 1 for n in shape).bit_length()
    levels = min(levels, most)
    ingest(source, place / "out", "--levels", str(levels), *options)
    assert_levels(place / "out", expected_levels(voxels, HALVES[: levels - 1], segmentation))


@settings(max_examples=examples(60), deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    step=st.tuples(*[st.integers(1, 2)] * 3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_shrink_any_step_is_the_mean_and_the_most_frequent(
    shape: tuple[int, int, int], step: tuple[int, int, int], dtype: str, seed: int
) -> None:
    voxels = noise(shape, dtype, seed)
    assert np.array_equal(downsample_mean(voxels, step), expected_levels(voxels, [step])[1])
    if dtype != "float32":
        voxels = labels(shape, dtype, seed)
        assert np.array_equal(
            downsample_mode(voxels, step), expected_levels(voxels, [step], True)[1]
        )


def test_ingest_not_a_number_stays_where_it_is(tmp_path: Path) -> None:
    voxels = np.ones((4, 4, 4), "float32")
    voxels[0, 0, 0] = np.nan
    ingest(write_planes(tmp_path / "in", voxels), tmp_path / "out", "--levels", "2")
    fine, coarse = read_levels(tmp_path / "out")
    assert np.isnan(fine).sum() == np.isnan(coarse).sum() == 1
    assert np.isnan(coarse[0, 0, 0])
    assert (tmp_path / "out" / "preview.png").is_file()


# --- info ---


def test_ingest_info_states_nanometres_and_exact_sizes(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", gradient((5, 7, 9)))
    ingest(source, tmp_path / "out", "--voxel-size", "1.8,0.0015,2.05", "--levels", "3",
           "--chunk-size", "4,2,8")  # fmt: skip
    info = info_of(tmp_path / "out")
    assert (info["type"], info["data_type"], info["num_channels"]) == ("image", "uint16", 1)
    assert [scale["key"] for scale in info["scales"]] == ["1_1_1", "2_2_2", "4_4_4"]
    assert [scale["size"] for scale in info["scales"]] == [[9, 7, 5], [5, 4, 3], [3, 2, 2]]
    assert [scale["resolution"] for scale in info["scales"]] == [
        [1800, 1.5, 2050], [3600, 3, 4100], [7200, 6, 8200]
    ]  # fmt: skip
    for scale in info["scales"]:
        assert scale["chunk_sizes"] == [[4, 2, 8]]
        assert (scale["encoding"], scale["voxel_offset"]) == ("raw", [0, 0, 0])


@pytest.mark.parametrize(
    ("shape", "levels"), [((4, 4, 4), 1), ((64, 64, 65), 2), ((64, 200, 64), 3), ((1, 1, 1), 1)],
    ids=str,
)  # fmt: skip
def test_ingest_without_levels_makes_as_many_as_bring_it_into_one_chunk(
    tmp_path: Path, shape: tuple[int, int, int], levels: int
) -> None:
    ingest(write_planes(tmp_path / "in", np.ones(shape, "uint8")), tmp_path / "out")
    assert len(info_of(tmp_path / "out")["scales"]) == levels


def test_ingest_too_many_levels_are_refused(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", gradient((2, 2, 2)))
    result = ingest(source, tmp_path / "out", "--levels", "3", code=1)
    assert "already a single voxel" in result.output
    assert not (tmp_path / "out").exists()


# --- chunk files ---


@pytest.mark.parametrize("compression", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (13, 44, 3), (3, 4, 3), (5, 1, 1), (1, 7, 4), (1, 1, 1)], ids=str
)
def test_chunk_in_one_segment_is_passed_through_at_any_extent(
    tmp_path: Path, shape: tuple[int, int, int], dtype: str, compression: Any
) -> None:
    voxels = noise(shape, dtype)
    content = encode_chunk(voxels, "single", compression)
    path = tmp_path / "chunk.tiff"
    path.write_bytes(content)
    assert np.array_equal(tifffile.imread(path).reshape(shape), voxels)
    segments = find_segments(content)
    assert segments is not None
    assert len(segments.spans) == 1
    assert (segments.crc32, segments.compression) == (zlib.crc32(voxels.tobytes()), compression)
    z, y, x = shape
    expected = Expected((x, y, z), dtype, 1)
    found = StoredFile(path.name, str(path), Stamp.of(path.stat()), "")
    sent = ChunkReader().read(found, expected, {"gzip", "zstd"})
    assert sent.coding == {"deflate": "gzip", "zstd": "zstd", "none": ""}[compression]
    if sent.coding == "gzip":
        assert gzip.decompress(sent.body) == voxels.tobytes()
    else:
        unpack = imagecodecs.zstd_decode if sent.coding else bytes
        assert bytes(unpack(sent.body)) == voxels.tobytes()


@pytest.mark.parametrize("compression", ["deflate", "zstd", "none"])
def test_chunk_in_pages_has_one_strip_a_plane(compression: Any) -> None:
    voxels = noise((64, 40, 52), "uint16")
    content = encode_chunk(voxels, "pages", compression)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        assert len(tiff.pages) == 64
        for page, plane in zip(tiff.pages, voxels, strict=True):
            assert isinstance(page, tifffile.TiffPage)
            assert (page.shape, len(page.dataoffsets), page.is_tiled) == ((40, 52), 1, False)
            assert np.array_equal(page.asarray(), plane)
        assert np.array_equal(tiff.asarray(), voxels)


def test_chunk_of_big_endian_voxels_is_stored_little_endian() -> None:
    voxels = gradient((3, 4, 5))
    assert encode_chunk(voxels.astype(">u2")) == encode_chunk(voxels)


def test_ingest_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", noise((20, 30, 40), "uint16"))
    for name in "ab":
        ingest(
            source, tmp_path / name, "--chunk-size", "16", "--n-cores", "1" if name == "a" else "3"
        )
    assert visible_files(tmp_path / "a") == visible_files(tmp_path / "b")


def test_ingest_leaves_only_the_dataset_and_what_it_remembers(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", gradient((20, 20, 20)))
    ingest(source, tmp_path / "out", "--chunk-size", "16")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "info", "preview.png", "1_1_1", "2_2_2", ".ingest"
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "out" / ".ingest").iterdir()} == {
        "plan.json", "1-of-1.json", "1-of-1.lock", "finish.json", "finish.lock"
    }  # fmt: skip


# --- preview ---


def read_png(path: Path) -> Any:
    return imagecodecs.png_decode(path.read_bytes())


def test_preview_shows_three_planes_through_the_middle(tmp_path: Path) -> None:
    voxels = np.zeros((40, 100, 300), "uint16")
    voxels[20, 50, 150] = 1000  # where the three planes meet
    voxels[0, 0, 0] = 1000  # on none of them
    ingest(write_planes(tmp_path / "in", voxels), tmp_path / "out", "--voxel-size", "1,1,2")
    picture = read_png(tmp_path / "out" / "preview.png")
    # x and y at one pixel a voxel, z at two; gaps of six.
    assert picture.shape == (100 + 6 + 80, 300 + 6 + 80, 3)
    assert picture[50, 150].tolist() == [255] * 3
    assert picture[50, 306 + 40].tolist() == [255] * 3
    assert picture[106 + 40, 150].tolist() == [255] * 3
    assert picture[0, 0].tolist() == [0] * 3


def test_preview_of_labels_is_coloured_and_leaves_the_background_black(tmp_path: Path) -> None:
    voxels = np.zeros((8, 300, 300), "uint32")
    voxels[:, :100], voxels[:, 100:200] = 5, 6
    source = write_planes(tmp_path / "in", voxels)
    ingest(source, tmp_path / "out", "--segmentation")
    picture = read_png(tmp_path / "out" / "preview.png")
    five, six, none = (tuple(picture[y, 200].tolist()) for y in (50, 150, 220))
    assert five != six
    assert none == (0, 0, 0)
    assert max(five) >= 64
    assert max(six) >= 64


ENCODE_MANY = """
import hashlib
import numpy as np
from neurotrale.chunks.encode import encode_chunk
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for _ in range(2000):
    shape = rng.integers(1, 4, 3)
    digest.update(encode_chunk(rng.integers(1999, 2002, shape).astype("uint32")))
print(digest.hexdigest())
"""


@pytest.mark.long
def test_chunks_are_the_same_bytes_whichever_process_encodes_them() -> None:
    command = [sys.executable, "-c", ENCODE_MANY]
    ran = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(25)]
    assert len({one.stdout for one in ran}) == 1
