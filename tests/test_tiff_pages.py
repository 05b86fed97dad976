"""Pages of TIFF files in every form: what ingest, the service and the tools read of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.chunks import tiff_pages
from neurotrale.chunks.decode import Expected
from neurotrale.chunks.reader import ChunkReader
from neurotrale.cli import main
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredFile
from neurotrale.tools.ingest.sources import PlaneSource, open_source
from tests.datasets import Voxels, info_of
from tests.examples import examples
from tests.stacks import ingest, noise, read_levels
from tests.tiffs import CODECS, OF_BYTES, Form, Segment, segments_of, write_tiff

# Other compressions have no predictor.
PREDICTED = ("lzw", "deflate", "old-deflate", "zstd", "lzma")
DTYPES = ("uint8", "uint16", "uint32", "float32")


@dataclass(frozen=True)
class Case:
    """A file to write: its pages ``[sample, y, x]``, and how they are stored."""

    pages: list[Voxels]
    form: Form
    absent: set[Segment]
    seed: int

    def write(self, path: Path) -> list[Voxels]:
        return write_tiff(path, self.pages, self.form, self.absent, self.seed)


@st.composite
def cases(draw: st.DrawFn, most_samples: int = 1) -> Case:
    samples = draw(st.integers(1, most_samples))
    rows, columns = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    codec = draw(st.sampled_from(sorted(CODECS)))
    dtype = draw(st.sampled_from(DTYPES if codec in OF_BYTES else DTYPES[:2]))
    tile = draw(st.sampled_from([(16, 16), (16, 32), (48, 16), (64, 80), None]))
    plain = codec in OF_BYTES
    form = Form(
        segment=tile or (draw(st.integers(1, rows)), 0),
        codec=codec,
        predictor=codec in PREDICTED and dtype != "float32" and draw(st.booleans()),
        big_endian=draw(st.booleans()),
        bigtiff=draw(st.booleans()),
        reversed_bits=plain and draw(st.integers(0, 4)) == 0,
        planar=draw(st.booleans()) or (not plain and samples == 2),
        nodata=draw(st.sampled_from([None, 0, 7, 255])),
        shuffled=draw(st.booleans()),
        gaps=draw(st.booleans()),
        shared=draw(st.booleans()),
        headers_last=draw(st.booleans()),
    )
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    depth = draw(st.integers(1, 3))
    pages = []
    absent: set[Segment] = set()
    sparse = draw(st.sampled_from([0, 0.3, 0.9]))
    for number in range(depth):
        page = rng.integers(0, 256, (samples, rows, columns)).astype(dtype)
        for index, (_, y, x) in enumerate(segments_of(page.shape, form)):
            if rng.random() < 0.3:
                page[:, y, x] = 5  # the bytes of such segments are equal
            if rng.random() < sparse:
                absent.add((number, index))
        pages.append(page)
    return Case(pages, form, absent, seed)


@contextmanager
def limits(whole_bytes: int, block_bytes: int) -> Iterator[None]:
    """Read small pages in the way in which large ones are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_pages, "WHOLE_BYTES", whole_bytes)
        patch.setattr(tiff_pages, "BLOCK_BYTES", block_bytes)
        yield


LIMITS = st.sampled_from([(2**25, 2**23), (2**10, 2**9), (0, 2**12), (0, 1)])


def assert_tifffile_agrees(path: Path, case: Case, truth: list[Voxels]) -> None:
    """tifffile itself reads the header of the file as voxels if a lone, plain strip is absent."""
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == len(truth)
        for page, expected in zip(tiff.pages, truth, strict=True):
            assert isinstance(page, tifffile.TiffPage)
            if not page.is_contiguous or page.dataoffsets[0]:
                samples_last = expected if case.form.planar else np.moveaxis(expected, 0, -1)
                assert np.array_equal(page.asarray(), samples_last.reshape(page.shape))


@settings(max_examples=examples(400), deadline=None)
@given(case=cases(most_samples=3), sizes=LIMITS)
def test_blocks_of_a_page_are_its_rows_whatever_its_form(
    case: Case, sizes: tuple[int, int]
) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "page.tif")
        truth = case.write(path)
        assert_tifffile_agrees(path, case, truth)
        with limits(*sizes), tifffile.TiffFile(path) as tiff:
            for page, expected in zip(tiff.pages, truth, strict=True):
                for sample, plane in enumerate(expected):
                    blocks = list(tiff_pages.page_rows(page, sample))
                    assert np.array_equal(np.concatenate([rows for _, rows in blocks]), plane)
                    starts = np.cumsum([0, *(len(rows) for _, rows in blocks)])[:-1]
                    assert [y for y, _ in blocks] == starts.tolist()
                    assert {rows.dtype for _, rows in blocks} == {plane.dtype}


def planes_of(source: PlaneSource) -> list[Voxels]:
    return [
        np.concatenate([rows for _, rows in source.read_plane(z)])
        for z in range(source.shape_zyx[0])
    ]


@settings(max_examples=examples(300), deadline=None)
@given(case=cases(), sizes=LIMITS, is_old=st.booleans())
def test_planes_and_stacks_are_read_whatever_their_form(
    case: Case, sizes: tuple[int, int], is_old: bool
) -> None:
    with TemporaryDirectory() as directory, limits(*sizes):
        stack = Path(directory, "stack.tif")
        truth = np.concatenate(case.write(stack))
        with closing(open_source(str(stack), None, None, 1)) as source:
            assert np.array_equal(planes_of(source), truth)
        for z, page in enumerate(case.pages):
            absent = {(0, index) for number, index in case.absent if number == z}
            path = Path(directory, f"plane{z}.tif")
            replace(case, pages=[page], absent=absent).write(path)
            if is_old:  # the headers of files that are just being written are read again
                os.utime(path, (1e9, 1e9))
        with closing(open_source(f"{directory}/plane*.tif", None, None, 1)) as source:
            assert np.array_equal(planes_of(source), truth)


@settings(max_examples=examples(200), deadline=None)
@given(case=cases())
def test_chunks_are_served_whatever_their_form(case: Case) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "chunk.tiff")
        truth = np.concatenate(case.write(path))
        shape_vx = (truth.shape[2], truth.shape[1], truth.shape[0])
        stored = StoredFile("chunk.tiff", str(path), Stamp.of(path.stat()), "")
        expected = Expected(shape_vx, truth.dtype.name, 1)
        body = ChunkReader().read(stored, expected, frozenset()).body
        assert body == truth.astype(truth.dtype.newbyteorder("<")).tobytes()


@settings(max_examples=examples(60), deadline=None)
@given(case=cases(), layout=st.sampled_from(["single", "pages"]))
def test_chunks_are_checked_and_repacked_whatever_their_form(case: Case, layout: str) -> None:
    with TemporaryDirectory() as directory:
        dataset = Path(directory)
        depth, (_, rows, columns) = len(case.pages), case.pages[0].shape
        chunk = dataset / "1_1_1" / f"0-{columns}_0-{rows}_0-{depth}.tiff"
        chunk.parent.mkdir()
        truth = np.concatenate(case.write(chunk))
        (dataset / "info").write_text(json.dumps(info_of(truth, 70)))
        for options in (["check", "--fail-on", "error"], ["repack", "--layout", layout]):
            result = CliRunner().invoke(main, [options[0], directory, *options[1:]])
            assert result.exit_code == 0, result.output
        assert np.array_equal(tifffile.imread(chunk).reshape(truth.shape), truth)


@pytest.mark.parametrize("as_stack", [False, True], ids=["planes", "stack"])
def test_plan_and_summary_say_what_absent_tiles_read_as(tmp_path: Path, as_stack: bool) -> None:
    pages = [noise((1, 40, 50), "uint16", seed) for seed in range(3)]
    form = Form(segment=(16, 16), codec="deflate", nodata=9, shuffled=True)
    truth = [
        write_tiff(tmp_path / f"z{z}.tif", [page], form, {(0, 2), (0, 5)} if z else set())
        for z, page in enumerate(pages)
    ]
    source = tmp_path / "z*.tif"
    if as_stack:
        source = tmp_path / "stack.tif"
        write_tiff(source, pages, form, {(z, index) for z in (1, 2) for index in (2, 5)})
    note = "4 strips or tiles, of 2 planes, have no data in the file: they read as 9"
    assert note in ingest(source, tmp_path / "out", "--dry-run").output
    assert note in ingest(source, tmp_path / "out", "--levels", "1").output
    assert np.array_equal(read_levels(tmp_path / "out")[0], np.concatenate(truth)[:, 0])


def test_page_that_lists_too_few_tiles_is_refused(tmp_path: Path) -> None:
    for z in range(2):
        write_tiff(tmp_path / f"z{z}.tif", [noise((1, 40, 50), "uint8")], Form((16, 16)), set())
    with tifffile.TiffFile(tmp_path / "z1.tif", mode="r+") as tiff:
        page = tiff.pages.first
        for name in ("TileOffsets", "TileByteCounts"):
            page.tags[name].overwrite(page.tags[name].value[:-2])
    for source in (tmp_path / "z*.tif", tmp_path / "z1.tif"):
        assert "not list" in ingest(source, tmp_path / "out", code=1).output


@pytest.mark.parametrize("changed", ["time", "size", "neither"])
def test_plane_is_read_by_its_new_header_if_its_file_has_changed(
    tmp_path: Path, changed: str
) -> None:
    old, new = noise((1, 40, 50), "uint16", 1), noise((1, 40, 50), "uint16", 2)
    path = tmp_path / "z1.tif"
    for z in range(2):
        write_tiff(tmp_path / f"z{z}.tif", [old], Form((8, 0)), set())
        os.utime(tmp_path / f"z{z}.tif", (1e9, 1e9))
    with closing(open_source(str(tmp_path / "z*.tif"), None, None, 1)) as source:
        gaps = changed == "size"
        truth = write_tiff(path, [new], Form((8, 0), shuffled=True, gaps=gaps), set(), seed=3)
        if changed == "neither":
            truth = write_tiff(path, [new], Form((8, 0)), set())
            os.utime(path, (1e9, 1e9))
        assert np.array_equal(planes_of(source)[1], truth[0][0])
