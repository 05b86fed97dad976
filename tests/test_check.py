"""``neurotrale check``: what can be wrong is made on purpose, found, and put in words."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.journals.compaction import Compaction
from neurotrale.annotations.journals.discarding import Discarding
from neurotrale.chunks.encode import encode_chunk
from neurotrale.cli import main
from neurotrale.locking.locks import Locks
from neurotrale.precomputed.grid import Grid
from neurotrale.storage.names import ChunkName
from neurotrale.tools.check.rules import KINDS
from neurotrale.tools.parallel import parallel_for_each, reservoir_sample
from tests.conftest import CopyDemo, StartService
from tests.datasets import ANNOTATIONS, boxes, gradient, info_of, write_dataset
from tests.processes import neurotrale, run
from tests.stacks import ingest, write_planes
from tests.stores import Stores, open_stores
from tests.test_advice import advice_to_remove
from tests.test_cli import like_anybody

Report = dict[str, Any]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four scales with clipped edges, and two blocks of annotations."""
    place = tmp_path_factory.mktemp("healthy")
    source = write_planes(place / "planes", gradient((20, 40, 30)))
    dataset = place / "data" / "brain"
    ingest(source, dataset, "--chunk-size", "8")
    for number, block in enumerate(("x0y0z0", "x1y1z0")):
        directory = dataset / "annotations" / block
        directory.mkdir(parents=True)
        for leaf in ("fibers.json", "z-0007.json"):
            own = [{**one, "id": f"{number}-{leaf}-{one['id']}"} for one in ANNOTATIONS]
            (directory / leaf).write_text(json.dumps(own, indent=1))
    (dataset / "annotations" / "block_info.csv").write_text("16,20,20\n")
    return dataset


@pytest.fixture
def brain(healthy: Path, tmp_path: Path) -> Path:
    """A copy of it to make sick."""
    shutil.copytree(healthy, tmp_path / "data" / "brain", symlinks=True)
    return tmp_path / "data" / "brain"


def check(dataset: Path, *options: str, code: int | None = None) -> Report:
    """Run the command in this process; give its report."""
    result = CliRunner().invoke(main, ["check", str(dataset), "--json", *options])
    assert code is None or result.exit_code == code, (result.output, result.exception)
    assert result.exit_code in (0, 1), (result.output, result.exception)
    report: Report = json.loads(result.stdout)
    return report


def words(dataset: Path, *options: str) -> str:
    """Run the command in this process; give what it says to people, on one line."""
    result = CliRunner().invoke(main, ["check", str(dataset), *options])
    assert result.exit_code in (0, 1), (result.output, result.exception)
    return " ".join(result.stdout.split())


def counts(report: Report) -> dict[str, int]:
    return {finding["kind"]: finding["count"] for finding in report["findings"]}


def places(report: Report, kind: str) -> list[tuple[str, str]]:
    (finding,) = [finding for finding in report["findings"] if finding["kind"] == kind]
    return [(place["place"], place["detail"]) for place in finding["places"]]


# --- clean ---


def test_check_healthy_dataset_finds_nothing(brain: Path) -> None:
    report = check(brain, code=0)
    assert report == {
        "dataset": str(brain),
        "verdict": "clean",
        "checked": {
            "scales": 4,
            "chunks_found": 4 * 5 * 3 + 2 * 3 * 2 + 2 + 1,
            "chunks_opened": 4 * 5 * 3 + 2 * 3 * 2 + 2 + 1,
            "annotation_files": 4,
            "annotations": 12,
        },
        "findings": [],
    }
    assert words(brain) == (
        "checked 75 chunks of 4 scales (75 opened) and 12 annotations in 4 files: no problems found"
    )


def test_check_demo_finds_nothing(tmp_path: Path, copy_demo: CopyDemo) -> None:
    assert check(copy_demo(tmp_path), code=0)["findings"] == []


@pytest.mark.parametrize(
    "options",
    [["--layout", "pages"], ["--compression", "zstd"], ["--compression", "none"], ["--isotropic"]],
    ids=str,
)
def test_check_what_ingest_wrote_finds_nothing(tmp_path: Path, options: list[str]) -> None:
    source = write_planes(tmp_path / "in", gradient((9, 20, 17)))
    ingest(source, tmp_path / "out", "--chunk-size", "8", *options)
    assert check(tmp_path / "out", code=0)["findings"] == []


def test_check_what_another_program_wrote_finds_nothing(dataset: Path) -> None:
    assert check(dataset, code=0)["findings"] == []


def test_check_colours_and_an_offset_finds_nothing(tmp_path: Path) -> None:
    voxels = np.stack([gradient((20, 30, 40))] * 3)
    dataset = tmp_path / "brain"
    (dataset / "1_1_1").mkdir(parents=True)
    info = info_of(voxels, 16, voxel_offset=[100, -20, 7])
    (dataset / "info").write_text(json.dumps(info))
    for name, box in boxes((40, 30, 20), 16):
        spans = [tuple(map(int, span.rsplit("-", 1))) for span in name.split("_")]
        moved = "_".join(
            f"{a + by}-{b + by}" for (a, b), by in zip(spans, (100, -20, 7), strict=True)
        )
        tifffile.imwrite(
            dataset / "1_1_1" / f"{moved}.tiff",
            voxels[(slice(None), *box)],
            photometric="minisblack",
            metadata={"axes": "CZYX"},
        )
    assert check(dataset, code=0)["findings"] == []


def test_check_chunks_stored_raw_and_packed_finds_nothing(brain: Path) -> None:
    tiffs = sorted((brain / "1_1_1").iterdir())
    for number, path in enumerate(tiffs):
        raw = np.ascontiguousarray(tifffile.imread(path)).tobytes()
        stem = path.with_suffix("")
        if number % 4 == 0:
            stem.write_bytes(raw)
        elif number % 4 == 1:
            stem.with_name(f"{stem.name}.gz").write_bytes(gzip.compress(raw))
        elif number % 4 == 2:
            stem.with_name(f"{stem.name}.br").write_bytes(imagecodecs.brotli_encode(raw))
        else:
            continue
        path.unlink()
    assert check(brain, code=0)["findings"] == []


def test_check_directory_above_datasets_names_them(brain: Path) -> None:
    report = check(brain.parent, code=1)
    assert places(report, "info-missing") == [("info", "there are datasets below it: brain")]


def test_check_annotations_without_a_volume_finds_nothing(brain: Path) -> None:
    for path in brain.iterdir():
        if path.name != "annotations":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = check(brain, code=0)
    assert (report["findings"], report["checked"]["annotations"]) == ([], 12)


def test_check_changes_nothing(brain: Path) -> None:
    (brain / "1_1_1" / "0-8_0-8_0-8.tiff").write_bytes(b"damage")

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in brain.rglob("*")
        }

    before = state()
    check(brain, code=1)
    assert state() == before


# --- one thing wrong at a time ---

FINE = "1_1_1/0-8_0-8_0-8"
FIBERS = "annotations/x0y0z0/fibers.json"
ARCHIVE = "annotations/x0y0z0/.fibers.json.journal."


def edit_info(dataset: Path, change: Callable[[Any], object]) -> None:
    info = json.loads((dataset / "info").read_text())
    change(info)
    (dataset / "info").write_text(json.dumps(info))


def edit_scale(number: int, **fields: Any) -> Callable[[Path], None]:
    def edit(dataset: Path) -> None:
        edit_info(dataset, lambda info: info["scales"][number].update(fields))

    return edit


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    def make(dataset: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_bytes(data)

    return make


def remove(*patterns: str) -> Callable[[Path], None]:
    def make(dataset: Path) -> None:
        for pattern in patterns:
            found = list(dataset.glob(pattern))
            assert found
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def rename(old: str, new: str) -> Callable[[Path], None]:
    def make(dataset: Path) -> None:
        (dataset / old).rename(dataset / new)

    return make


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).symlink_to(target)


def archived(dataset: Path) -> Stores:
    """Make a history of three changes: two archives, and a journal of the last one."""
    stores = open_stores(dataset.parent)
    compaction = Compaction(Locks("flock"))
    for n in range(3):
        stores.patch("changed", point=[n, n, n])
        compaction.compact(stores.file, FIBERS, "9")
    return stores


def discarded(dataset: Path) -> Stores:
    stores = archived(dataset)
    discarding = Discarding(Compaction(Locks("flock")), Contents())
    discarding.discard(stores.file, FIBERS, "9", "2026-07-01T00:00:00.000Z", "eve")
    return stores


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda dataset: os.truncate(dataset / name, size)


def flip(name: str, at: int) -> Callable[[Path], None]:
    def make(dataset: Path) -> None:
        content = bytearray((dataset / name).read_bytes())
        content[at] ^= 0xFF
        (dataset / name).write_bytes(content)

    return make


def wrong_crc(dataset: Path) -> None:
    path = dataset / f"{FINE}.tiff"
    content = path.read_bytes()
    at = content.index(b'"crc32": ') + 9
    other = b"2" if content[at : at + 1] == b"1" else b"1"
    path.write_bytes(content[:at] + other + content[at + 1 :])


def other_image(shape: tuple[int, int, int], dtype: str) -> bytes:
    return encode_chunk(gradient(shape, dtype))


def array_of(*changes: dict[str, Any]) -> str:
    return json.dumps([{**ANNOTATIONS[0], "id": f"n{n}", **one} for n, one in enumerate(changes)])


def mkdir(name: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).mkdir()


@dataclass(frozen=True)
class Sick:
    """Something wrong, made on purpose.

    Attributes:
        id: What it is.
        make: Does it to a dataset.
        found: What must be found: kinds with their counts.
        place: The first place of the first kind.
        says: What must be said about it there.
    """

    id: str
    make: Callable[[Path], object]
    found: dict[str, int]
    place: str
    says: str = ""


SICK = (
    Sick("no info", remove("info"), {"info-missing": 1}, "info"),
    Sick("no JSON in info", write("info", "{"), {"info-broken": 1}, "info", "malformed"),
    Sick("info of something else", write("info", "{}"), {"info-broken": 1}, "info", "data_type"),
    Sick("info without scales", lambda d: edit_info(d, lambda i: i.update(scales=[])),
         {"info-broken": 1}, "info", "at least one scale"),
    Sick("size of zero", edit_scale(3, size=[0, 5, 3]), {"scale-broken": 1, "stray": 1}, "info",
         "'8_8_8': expected a size above 0"),
    Sick("no resolution", edit_scale(3, resolution=[0, 1, 1]), {"scale-broken": 1, "stray": 1},
         "info", "resolution above 0"),
    Sick("no chunk size", edit_scale(3, chunk_sizes=[]), {"scale-broken": 1, "stray": 1}, "info",
         "chunk size"),
    Sick("key that leaves the dataset", edit_scale(3, key="../x"),
         {"scale-broken": 1, "stray": 1}, "info", "never served"),
    Sick("two scales of one key", edit_scale(3, key="4_4_4", size=[8, 10, 5]),
         {"scale-broken": 1, "stray": 1}, "info", "'4_4_4' appears twice"),
    Sick("file in place of a scale", lambda d: (remove("8_8_8")(d), write("8_8_8", "x")(d)),
         {"scale-missing": 1}, "8_8_8", "not a directory"),
    Sick("no directory", remove("8_8_8"), {"scale-missing": 1}, "8_8_8", "no such directory"),
    Sick("empty directory", remove("4_4_4/*"), {"scale-missing": 1}, "4_4_4", "0 of 2 chunks"),
    Sick("missing chunk", remove(f"{FINE}.tiff"), {"chunk-missing": 1}, FINE),
    Sick("missing chunk inside a coarse scale", remove("2_2_2/0-8_0-8_0-8.tiff"),
         {"chunk-missing": 1}, "2_2_2/0-8_0-8_0-8"),
    Sick("a single edge chunk missing", remove("2_2_2/8-15_16-20_8-10.tiff"),
         {"chunk-missing": 1}, "2_2_2/8-15_16-20_8-10"),
    Sick("missing edge", remove("2_2_2/*_16-20_*"), {"edge-missing": 4}, "2_2_2/0-8_16-20_0-8"),
    Sick("missing edges", remove("2_2_2/*_16-20_*", "2_2_2/8-15_*"), {"edge-missing": 8},
         "2_2_2/0-8_16-20_0-8"),
    Sick("missing edge of the finest scale", remove("1_1_1/24-30_*"), {"chunk-missing": 15},
         "1_1_1/24-30_0-8_0-8"),
    Sick("truncated", cut(f"{FINE}.tiff", 300), {"chunk-damaged": 1}, f"{FINE}.tiff",
         "is truncated"),
    Sick("zero bytes", cut(f"{FINE}.tiff", 0), {"chunk-damaged": 1}, f"{FINE}.tiff"),
    Sick("damage in the voxels", flip(f"{FINE}.tiff", -40), {"chunk-damaged": 1}, f"{FINE}.tiff",
         "damage"),
    Sick("wrong checksum", wrong_crc, {"chunk-damaged": 1}, f"{FINE}.tiff", "CRC-32"),
    Sick("no TIFF", write(f"{FINE}.tiff", "hello"), {"chunk-damaged": 1}, f"{FINE}.tiff"),
    Sick("another extent", write(f"{FINE}.tiff", other_image((8, 8, 7), "uint16")),
         {"chunk-damaged": 1}, f"{FINE}.tiff", "expected 8x8x8 voxels (x, y, z)"),
    Sick("another type", write(f"{FINE}.tiff", other_image((8, 8, 8), "uint8")),
         {"chunk-damaged": 1}, f"{FINE}.tiff", "uint8"),
    Sick("raw chunk of another size", lambda d: (remove(f"{FINE}.tiff")(d),
         write(FINE, bytes(1023))(d)), {"chunk-damaged": 1}, FINE, "1024 bytes"),
    Sick("packed chunk that is damaged", lambda d: (remove(f"{FINE}.tiff")(d),
         write(f"{FINE}.gz", gzip.compress(bytes(1024))[:-9])(d)), {"chunk-damaged": 1},
         f"{FINE}.gz"),
    Sick("TIFF in another encoding", edit_scale(3, encoding="compressed_segmentation"),
         {"chunk-encoding": 1, "not-looked-into": 1}, "8_8_8/0-4_0-5_0-3.tiff",
         "'compressed_segmentation'"),
    Sick("end not clipped", rename("8_8_8/0-4_0-5_0-3.tiff", "8_8_8/0-8_0-8_0-8.tiff"),
         {"scale-missing": 1, "chunk-off-grid": 1}, "8_8_8", "0 of 1 chunks"),
    Sick("one short", rename("2_2_2/8-15_0-8_0-8.tiff", "2_2_2/8-14_0-8_0-8.tiff"),
         {"chunk-missing": 1, "chunk-off-grid": 1}, "2_2_2/8-15_0-8_0-8"),
    Sick("outside the volume", write("1_1_1/32-40_0-8_0-8.tiff", other_image((8, 8, 8), "uint16")),
         {"chunk-off-grid": 1}, "1_1_1/32-40_0-8_0-8.tiff", "outside the volume"),
    Sick("leading zeros", rename(f"{FINE}.tiff", "1_1_1/00-08_0-8_0-8.tiff"),
         {"chunk-missing": 1, "chunk-off-grid": 1}, FINE),
    Sick("stored twice", lambda d: shutil.copy(d / f"{FINE}.tiff", d / f"{FINE}.tif"),
         {"chunk-twice": 1}, FINE),
    Sick("stray file", write("1_1_1/notes.txt", "x"), {"stray": 1}, "1_1_1/notes.txt"),
    Sick("stray directory", mkdir("1_1_1/0-8"), {"stray": 1}, "1_1_1/0-8"),
    Sick("scale that info lacks", mkdir("16_16_16"), {"stray": 1}, "16_16_16", "no such scale"),
    Sick("blockfs", lambda d: (remove("4_4_4/*")(d), write("4_4_4/precomputed.blockfs", "x")(d),
         write("4_4_4/precomputed.blockfs.0", "x")(d), write("4_4_4/notes.txt", "x")(d)),
         {"chunk-damaged": 1, "scale-missing": 1, "stray": 1}, "4_4_4/precomputed.blockfs",
         "directory file of blockfs"),
    Sick("blockfs beside the chunks", write("1_1_1/precomputed.blockfs.12", "x"),
         {"other-layout": 1}, "1_1_1", "blockfs"),
    Sick("zarr", lambda d: (write("1_1_1/.zarray", "{}")(d), write("1_1_1/.zattrs", "{}")(d),
         mkdir("1_1_1/0")(d), write("1_1_1/0/0", "x")(d), mkdir("1_1_1/12")(d)),
         {"other-layout": 1}, "1_1_1", "zarr version 2"),
    Sick("zarr of flat chunks", lambda d: (write("1_1_1/.zarray", "{}")(d),
         write("1_1_1/0.0.0", "x")(d), write("1_1_1/0.11.0", "x")(d)), {"other-layout": 1},
         "1_1_1", "zarr version 2"),
    Sick("zarr that lost its description", mkdir("1_1_1/0"), {"other-layout": 1}, "1_1_1",
         "there is no metadata file"),
    Sick("zarr version 3", lambda d: (write("1_1_1/zarr.json", "{}")(d), mkdir("1_1_1/c")(d)),
         {"other-layout": 1}, "1_1_1", "zarr version 3"),
    Sick("zarr version 3 of flat chunks", lambda d: (write("1_1_1/zarr.json", "{}")(d),
         write("1_1_1/c.0.11.0", "x")(d)), {"other-layout": 1}, "1_1_1", "zarr version 3"),
    Sick("N5", lambda d: (write("1_1_1/attributes.json", "{}")(d), mkdir("1_1_1/0")(d)),
         {"other-layout": 1}, "1_1_1", "N5"),
    Sick("OME-NGFF", lambda d: (write(".zgroup", "{}")(d), write(".zattrs", "{}")(d),
         mkdir("0")(d), write("0/.zarray", "{}")(d)), {"other-layout": 1}, ".", "OME-NGFF"),
    Sick("shards that info lacks", write("1_1_1/0a.shard", "x"), {"other-layout": 1}, "1_1_1",
         "sharding"),
    Sick("zarr scale that info lacks", lambda d: (mkdir("16_16_16")(d),
         write("16_16_16/.zarray", "{}")(d)), {"other-layout": 1}, "16_16_16", "zarr"),
    Sick("leftover", write("1_1_1/.0-8_0-8_0-8.tiff.tmp", "x"), {"leftover": 1},
         "1_1_1/.0-8_0-8_0-8.tiff.tmp"),
    Sick("name with a line feed", write("1_1_1/a\nb", "x"), {"never-served": 1}, r"1_1_1/a\nb"),
    Sick("name that is not UTF-8", write("1_1_1/a\udcff", "x"), {"never-served": 1},
         r"1_1_1/a\udcff"),
    Sick("link that leaves", link("1_1_1/passwd", "/etc/passwd"), {"link-outside": 1},
         "1_1_1/passwd", "points to /etc/passwd"),
    Sick("scale that is elsewhere", lambda d: (shutil.move(d / "8_8_8", d.parents[1] / "away"),
         link("8_8_8", "../../away")(d)), {"link-outside": 1}, "8_8_8", "points to ../../away"),
    Sick("link that leads nowhere", link("annotations/x0y0z0/gone.json", "nothing.json"),
         {"link-broken": 1}, "annotations/x0y0z0/gone.json", "points to nothing.json"),
    Sick("link that leaves and leads nowhere", link("8_8_8/gone.tiff", "/no/such/place"),
         {"link-broken": 1}, "8_8_8/gone.tiff", "points to /no/such/place, which does not exist"),
    Sick("annotation file of no bytes", cut(FIBERS, 0), {"annotations-empty": 1}, FIBERS,
         "0 bytes"),
    Sick("annotation file cut off", cut(FIBERS, 100), {"annotations-broken": 1}, FIBERS,
         "mistake"),
    Sick("annotation file with NaN", write(FIBERS, '[{"id": "a", "length": NaN}]'),
         {"annotations-broken": 1}, FIBERS),
    Sick("object around the array", write(FIBERS, '{"annotations": []}'),
         {"annotations-broken": 1}, FIBERS),
    Sick("annotation that breaks a rule", write(FIBERS, array_of({}, {"point": [1, 2]})),
         {"annotation-malformed": 1}, FIBERS, "[1].point: expected 3 numbers"),
    Sick("thirty that do", write(FIBERS, array_of(*[{"description": None}] * 30)),
         {"annotation-malformed": 1}, FIBERS, "and 27 more"),
    Sick("annotation with an unknown key", write(FIBERS, array_of({"colour": "red"})),
         {"annotation-odd": 1}, FIBERS, "'colour'"),
    Sick("id twice in a file", write(FIBERS, array_of({"id": "a"}, {}, {"id": "a"})),
         {"id-repeated": 1}, FIBERS, "'a' at [0], [2]"),
    Sick("ids in two files", lambda d: shutil.copy(d / FIBERS, d / "annotations/x1y1z0/copy.json"),
         {"id-elsewhere": 3}, FIBERS, "is also in annotations/x1y1z0/copy.json"),
    Sick("archive with another byte", lambda d: (archived(d), flip(f"{ARCHIVE}1.zst", 60)(d)),
         {"archive-damaged": 1}, f"{ARCHIVE}1.zst", "this archive is damaged"),
    Sick("archive cut off", lambda d: (archived(d), cut(f"{ARCHIVE}2.zst", 90)(d)),
         {"archive-damaged": 1}, f"{ARCHIVE}2.zst", "it is cut off"),
    Sick("archive that is a link", lambda d: (archived(d), rename(f"{ARCHIVE}2.zst", "x")(d),
         link(f"{ARCHIVE}2.zst", "../../x")(d)), {"archive-damaged": 1}, f"{ARCHIVE}2.zst",
         "it is a symbolic link"),
    Sick("first archive missing", lambda d: (archived(d), remove(f"{ARCHIVE}1.zst")(d)),
         {"history-incomplete": 1}, ARCHIVE[:-1], "records 1 to 1 of the history are missing"),
    Sick("last archive missing", lambda d: (archived(d), remove(f"{ARCHIVE}2.zst")(d)),
         {"history-incomplete": 1}, ARCHIVE[:-1], "records 2 to 2 of the history are missing"),
    Sick("all archives missing", lambda d: (archived(d), remove(f"{ARCHIVE}1.zst")(d),
         remove(f"{ARCHIVE}2.zst")(d)), {"history-incomplete": 1}, ARCHIVE[:-1],
         "the first one that is there is 3"),
    Sick("checkpoint cut off", lambda d: (discarded(d), cut(f"{ARCHIVE}checkpoint.zst", 90)(d)),
         {"archive-damaged": 1}, f"{ARCHIVE}checkpoint.zst", "it is cut off"),
    Sick("slice of five digits", write("annotations/x0y0z0/z-12345.json", "[]"),
         {"slice-name": 1}, "annotations/x0y0z0/z-12345.json"),
    Sick("slice without zeros in front", rename("annotations/x0y0z0/z-0007.json",
         "annotations/x0y0z0/z-7.json"), {"slice-name": 1}, "annotations/x0y0z0/z-7.json"),
    Sick("no block size", remove("annotations/block_info.csv"), {"block-size": 1},
         "annotations/block_info.csv", "it is missing"),
    Sick("block size of nonsense", write("annotations/block_info.csv", "16,20"),
         {"block-size": 1}, "annotations/block_info.csv", "three positive"),
    Sick("block outside", rename("annotations/x1y1z0", "annotations/x2y1z0"),
         {"block-outside": 1}, "annotations/x2y1z0",
         "starts at x = 32, the volume has 0 to 30"),
    Sick("block before the first", rename("annotations/x1y1z0", "annotations/x-1y0z0"),
         {"block-outside": 1}, "annotations/x-1y0z0"),
    Sick("both kinds of names", rename("annotations/x1y1z0", "annotations/x0002_y0002"),
         {"blocks-mixed": 1}, "annotations/x0002_y0002", "beside x0y0z0"),
    Sick("a block under both names", mkdir("annotations/x0002_y0002"), {"blocks-mixed": 1},
         "annotations/x0002_y0002", "x1y1z0 is the same block"),
    Sick("file among the blocks", write("annotations/fibers.json", "[]"), {"stray": 1},
         "annotations/fibers.json"),
    Sick("annotations of another format", write("annotations/info", "{}"),
         {"not-looked-into": 1}, "annotations"),
    Sick("broken tree", write("tree.json", "{"), {"tree-broken": 1}, "tree.json"),
)  # fmt: skip
# These have tests of their own below.
ELSEWHERE = {
    "chunk-empty",
    "blockfs",
    "unreadable",
    "slices-many",
    "shard-damaged",
    "shard-misplaced",
}


@pytest.mark.quick(24)
@pytest.mark.parametrize("sick", SICK, ids=lambda sick: sick.id)
def test_check_finds_what_is_wrong_and_nothing_else_and_says_how_to_mend_it(
    brain: Path, sick: Sick
) -> None:
    sick.make(brain)
    report = check(brain)
    gravest = min(("error", "warning", "note").index(KINDS[kind].severity) for kind in sick.found)
    assert report["verdict"] == ("error", "warning", "note")[gravest]
    assert counts(report) == sick.found
    place, detail = places(report, next(iter(sick.found)))[0]
    assert place == sick.place
    assert sick.says in detail
    said = words(brain)
    assert sick.place in said
    for name, count in sick.found.items():
        kind = KINDS[name]
        assert f"{kind.severity} {kind.summary} ({name}): {count}" in said
        assert kind.viewer in said
        assert kind.fix in said
    assert advice_to_remove(said) == []


@pytest.mark.parametrize(
    ("make", "gravest"),
    [
        (write("1_1_1/notes.txt", "x"), "note"),
        (remove("2_2_2/*_16-20_*"), "warning"),
        (remove(f"{FINE}.tiff"), "error"),
    ],
)
def test_check_exit_code_is_that_of_the_gravest(
    brain: Path, make: Callable[[Path], object], gravest: str
) -> None:
    write("2_2_2/notes.txt", "x")(brain)
    make(brain)
    order = ("error", "warning", "note")
    for limit in order:
        fails = order.index(gravest) <= order.index(limit)
        assert check(brain, "--fail-on", limit, code=int(fails))["verdict"] == gravest
    check(brain, code=int(gravest != "note"))


def test_every_kind_of_finding_is_made_by_a_test() -> None:
    assert {kind for sick in SICK for kind in sick.found} | ELSEWHERE == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_says_what_viewers_show_and_how_to_mend_it(kind: Any) -> None:
    assert kind.summary
    assert kind.viewer.endswith(".")
    assert kind.fix.endswith(".")


# What the service answers for what is found: the file asked for, and the status.
ANSWERS = {
    "chunk-missing": (FINE, 404, remove(f"{FINE}.tiff")),
    "chunk-damaged": (FINE, 500, cut(f"{FINE}.tiff", 300)),
    "chunk-encoding": ("8_8_8/0-4_0-5_0-3", 500, edit_scale(3, encoding="jpeg")),
    "chunk-off-grid": (FINE, 404, rename(f"{FINE}.tiff", "1_1_1/0-7_0-8_0-8.tiff")),
    "info-broken": (FINE, 500, write("info", "{")),
    "never-served": ("1_1_1/a%0Ab", 404, write("1_1_1/a\nb", "x")),
    "link-outside": ("1_1_1/passwd", 404, link("1_1_1/passwd", "/etc/passwd")),
    "link-broken": ("1_1_1/gone", 404, link("1_1_1/gone", "nothing")),
    "annotations-empty": (FIBERS, 500, cut(FIBERS, 0)),
    "annotations-broken": (FIBERS, 500, cut(FIBERS, 100)),
}


def test_service_answers_what_check_says_it_does(
    healthy: Path, tmp_path: Path, start_service: StartService
) -> None:
    for kind, (_, _, make) in ANSWERS.items():
        shutil.copytree(healthy, tmp_path / "data" / kind)
        make(tmp_path / "data" / kind)
        assert kind in counts(check(tmp_path / "data" / kind, code=1))
    service = start_service(tmp_path / "data")
    for kind, (place, status, _) in ANSWERS.items():
        answer = requests.get(f"{service.url}/{kind}/{place}")
        assert (kind, answer.status_code) == (kind, status), answer.text
    service.stop()


def test_check_what_may_not_be_read_is_found(brain: Path) -> None:
    (brain / f"{FINE}.tiff").chmod(0)
    (brain / FIBERS).chmod(0)
    (brain / "8_8_8").chmod(0)
    done = run(like_anybody(neurotrale("check", brain, "--json")))
    (brain / "8_8_8").chmod(0o755)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    denied = "Permission denied"
    assert places(report, "unreadable") == [
        (f"{FINE}.tiff", denied), ("8_8_8", denied), (FIBERS, denied)
    ]  # fmt: skip


def test_check_deep_volume_notes_that_slices_share_a_name(tmp_path: Path) -> None:
    write_dataset(tmp_path / "brain")
    edit_scale(0, size=[100, 90, 10_001])(tmp_path / "brain")
    report = check(tmp_path / "brain", "--sparse")
    assert counts(report)["slices-many"] == 1
    assert places(report, "slices-many") == [("info", "the last slice is 10000")]
    edit_scale(0, size=[100, 90, 10_000])(tmp_path / "brain")
    assert "slices-many" not in counts(check(tmp_path / "brain", "--sparse"))


# --- options ---


def test_check_sparse_says_nothing_of_absent_chunks(brain: Path) -> None:
    remove("1_1_1/0-8_*")(brain)
    assert counts(check(brain, code=1)) == {"chunk-missing": 15}
    assert check(brain, "--sparse", code=0)["findings"] == []


def test_check_sample_opens_that_many_and_looks_at_all_names(brain: Path) -> None:
    for path in (brain / "1_1_1").iterdir():
        os.truncate(path, 100)
    remove(f"{FINE}.tiff")(brain)
    report = check(brain, "--sample", "5", code=1)
    assert counts(report) == {"chunk-missing": 1, "chunk-damaged": 5}
    assert report["checked"]["chunks_found"] == 74
    assert report["checked"]["chunks_opened"] == 5 + 5 + 2 + 1
    assert counts(check(brain, "--sample", "0", code=1)) == {"chunk-missing": 1}


def test_check_parts_together_open_every_chunk_once(brain: Path) -> None:
    for path in (brain / "1_1_1").iterdir():
        os.truncate(path, 100)
    remove(f"{FINE}.tiff")(brain)
    whole = check(brain, "--places", "100", code=1)
    found: list[tuple[str, str]] = []
    opened = 0
    for part in range(1, 9):
        report = check(brain, "--part", f"{part}/8", "--places", "100", code=1)
        assert report["checked"]["chunks_found"] == whole["checked"]["chunks_found"]
        assert places(report, "chunk-missing") == places(whole, "chunk-missing")
        opened += report["checked"]["chunks_opened"]
        found += places(report, "chunk-damaged")
    assert opened == whole["checked"]["chunks_opened"]
    assert sorted(found) == places(whole, "chunk-damaged")
    sample = check(brain, "--part", "1/2", "--sample", "3", code=1)
    assert sample["checked"]["chunks_opened"] <= 3 * 4


def test_check_places_says_how_many_are_named(brain: Path) -> None:
    remove("1_1_1/0-8_*")(brain)
    assert len(places(check(brain), "chunk-missing")) == 5
    assert "and 10 more" in words(brain)
    all_of_them = places(check(brain, "--places", "100"), "chunk-missing")
    assert len(all_of_them) == 15
    assert all_of_them == sorted(all_of_them)


@pytest.mark.parametrize("jobs", ["1", "2", "7"])
def test_check_finds_the_same_with_any_number_of_jobs(brain: Path, jobs: str) -> None:
    for path in (brain / "1_1_1").glob("0-8_*"):
        os.truncate(path, 100)
    shutil.copy(brain / FIBERS, brain / "annotations/x1y1z0/copy.json")
    assert check(brain, "--jobs", jobs) == check(brain, "--jobs", "3")


def test_check_link_within_the_named_root_is_fine(brain: Path) -> None:
    shutil.move(brain / "8_8_8", brain.parents[1] / "away")
    (brain / "8_8_8").symlink_to("../../away")
    assert counts(check(brain, code=1)) == {"link-outside": 1}
    assert check(brain, "--root", str(brain.parents[1]), code=0)["findings"] == []
    assert check(brain, "--follow-symlinks", code=0)["findings"] == []


def test_check_dataset_that_is_a_link_out_of_the_root_is_found_and_looked_at(
    brain: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "brain").symlink_to(brain)
    remove(f"{FINE}.tiff")(brain)
    report = check(tmp_path / "root" / "brain", code=1)
    assert counts(report) == {"chunk-missing": 1, "link-outside": 1}
    assert places(report, "link-outside") == [(".", f"points to {brain}")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["/no/such/place"],
        ["{}/info"],
        ["{}", "--sample", "-1"],
        ["{}", "--part", "9/8"],
        ["{}", "--root", "/no"],
    ],
    ids=str,
)
def test_check_that_cannot_be_made_ends_with_two(brain: Path, arguments: list[str]) -> None:
    filled = [word.format(brain) for word in arguments]
    assert CliRunner().invoke(main, ["check", *filled]).exit_code == 2


def test_check_from_within_the_dataset_names_the_same(
    brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(brain)
    assert check(Path("."), code=0)["dataset"] == str(brain)


# --- the parts ---


@settings(deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 20)] * 3),
    chunk=st.tuples(*[st.integers(2, 9)] * 3),
    offset=st.tuples(*[st.integers(-50, 50)] * 3),
    seed=st.integers(0, 1000),
)
def test_grid_knows_every_chunk_and_tells_those_that_are_absent(
    size: tuple[int, int, int],
    chunk: tuple[int, int, int],
    offset: tuple[int, int, int],
    seed: int,
) -> None:
    grid = Grid(size, chunk, offset)
    spans = [
        [f"{a + o}-{min(a + c, n) + o}" for a in range(0, n, c)]
        for n, c, o in zip(size, chunk, offset, strict=True)
    ]
    names = ["_".join(one) for one in product(*spans)]
    assert grid.count == len(names)
    present = set(Random(seed).sample(names, len(names) // 2))
    for name in names:
        parsed = ChunkName.parse(name)
        assert parsed is not None
        index = grid.index(name, parsed)
        assert not isinstance(index, str)
        assert grid.name(index) == name
        if name in present:
            assert not grid.mark(index)
            assert grid.mark(index)
    missing, missed, at_edge, edges = grid.absent(len(names))
    assert {*missed, *edges} == set(names) - present
    assert (missing, at_edge) == (len(missed), len(edges))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0-7_0-8_0-8", "expected 0-8_0-8_0-8"),
        ("4-12_0-8_0-8", "expected 0-8_0-8_0-8"),
        ("8-16_0-8_0-8", "expected 8-12_0-8_0-8"),
        ("8-12_00-8_0-8", "expected 8-12_0-8_0-8"),
        ("0-8_16-24_0-8", "16-24 is outside the volume, which has 0-16 along y"),
        ("0-8_0-8_-8-0", "-8-0 is outside the volume, which has 0-20 along z"),
    ],
)
def test_grid_says_why_a_name_does_not_fit(name: str, says: str) -> None:
    parsed = ChunkName.parse(name)
    assert parsed is not None
    assert Grid((12, 16, 20), (8, 8, 8), (0, 0, 0)).index(name, parsed) == says


def test_grid_of_more_chunks_than_can_be_counted_takes_no_memory() -> None:
    grid = Grid((2**40, 2**40, 2**40), (64, 64, 64), (0, 0, 0))
    assert not grid.is_counted
    assert not grid.mark((1, 2, 3))
    assert grid.absent(5) == (0, [], 0, [])


def test_reservoir_sample_takes_every_item_as_likely() -> None:
    random = Random(1)
    counted = [0] * 10
    for _ in range(3000):
        for one in reservoir_sample(range(10), 3, random):
            counted[one] += 1
    assert sum(counted) == 9000
    assert all(780 < count < 1020 for count in counted)


def test_parallel_for_each_with_an_error_stops_and_raises_it() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 20:
            raise LookupError("twenty")
        done.append(number)

    with pytest.raises(LookupError, match="twenty"):
        parallel_for_each(range(10**9), work, 3)
    assert set(range(18)) <= set(done)
    assert len(done) < 10**6
