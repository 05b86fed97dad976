"""Ingest over a dataset that is finished, or half made, whose planes were written again since."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xxhash

from neurotrale.errors import BadInputError, ConflictError
from neurotrale.tools.ingest.plan import IngestRequest, make_plan
from neurotrale.tools.ingest.run import run_finish, run_shard
from neurotrale.tools.ingest.sources import open_source
from tests.processes import neurotrale, run
from tests.stacks import ingest, noise, visible_files, write_planes

DEPTH, SLAB = 44, 8
VOXELS = noise((DEPTH, 20, 24), "uint16")
OPTIONS = ("--chunk-size", "8", "--levels", "4", "--n-cores", "2")
LONG_AGO_S = 1_700_000_000
STACK = "stack.tif"

# Runs a command and kills it without warning when so many chunks and records are on disk.
KILLED = """
import os, signal, sys
from neurotrale.tools.ingest import part
from neurotrale.tools.ingest.output import AtomicWriter
from neurotrale.tools.ingest.checkpoint import Checkpoint
part.SYNC_EVERY_S = 0.0
left = int(sys.argv.pop(1))
def counted(method):
    def call(*arguments):
        global left
        result = method(*arguments)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
Checkpoint.record = counted(Checkpoint.record)
AtomicWriter.write = counted(AtomicWriter.write)
from neurotrale.cli import main
main(sys.argv[1:])
"""


def write_source(kind: str, directory: Path) -> None:
    directory.mkdir(parents=True)
    if kind == "planes":
        write_planes(directory, VOXELS)
    else:
        tifffile.imwrite(directory / STACK, VOXELS, photometric="minisblack")
    for path in directory.iterdir():
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))


def source_in(directory: Path) -> str:
    return str(directory / ("plane*.tif" if not (directory / STACK).exists() else STACK))


def killed(source: str, dest: Path, after: int, *options: str) -> bool:
    """Run the command, and kill it; tell whether it was still at work."""
    arguments = neurotrale("ingest", "--source", source, "--dest", dest, "--voxel-size", "1,1,1",
                           *OPTIONS, *options)[3:]  # fmt: skip
    done = run([sys.executable, "-c", KILLED, str(after), *arguments])
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def progress(dest: Path, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((dest / ".ingest" / f"{part}.json").read_text())
    return content


STATES = ("finished", "killed", "sharded")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each kind of source and each state, the source and what was made from it."""
    place = tmp_path_factory.mktemp("begun")
    for kind in ("planes", "stack"):
        for state in STATES:
            own = place / kind / state
            write_source(kind, own / "in")
            source, dest = source_in(own / "in"), own / "out"
            if state == "finished":
                ingest(source, dest, *OPTIONS)
            elif state == "killed":
                assert killed(source, dest, 30)
                assert progress(dest, "1-of-1")["planes"] == 16
            else:
                ingest(source, dest, *OPTIONS, "--shard", "1/2")
                ingest(source, dest, *OPTIONS, "--shard", "2/2")
    return place


@dataclass(frozen=True)
class Place:
    """A copy of a source and of a dataset that was made from it."""

    kind: str
    state: str
    directory: Path

    @property
    def planes(self) -> Path:
        return self.directory / "in"

    @property
    def dest(self) -> Path:
        return self.directory / "out"

    def run(self, *options: str, code: int = 0, source: str = "") -> str:
        """Run to the end what was begun; shards one by one."""
        source = source or source_in(self.planes)
        if self.state != "sharded":
            return ingest(source, self.dest, *OPTIONS, *options, code=code).output
        said = ""
        for part in (("--shard", "1/2"), ("--shard", "2/2"), ("--finish",)):
            result = ingest(source, self.dest, *OPTIONS, *options, *part, code=code)
            said += result.output
            if code:
                break
        return said

    def fresh(self, source: str = "") -> dict[str, bytes]:
        """What a run into an empty directory makes of the source as it is now."""
        ingest(source or source_in(self.planes), self.directory / "fresh", *OPTIONS)
        return visible_files(self.directory / "fresh")


@pytest.fixture(params=["planes", "stack"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=STATES)
def place(request: pytest.FixtureRequest, kind: str, begun: Path, tmp_path: Path) -> Place:
    shutil.copytree(begun / kind / request.param, tmp_path / "own")
    return Place(kind, str(request.param), tmp_path / "own")


# --- what may happen to the planes ---


def file_of(planes: Path, z: int) -> Path:
    return planes / STACK if (planes / STACK).exists() else planes / f"plane{z}.tif"


def touch(planes: Path) -> None:
    for path in planes.iterdir():
        os.utime(path)


def rewrite(z: int, *, keep_time: bool = False) -> Callable[[Path], None]:
    """Change a voxel of a plane; the file keeps its size."""

    def change(planes: Path) -> None:
        path = file_of(planes, z)
        before = path.stat()
        voxels = np.array(tifffile.imread(path))
        # On planes that the preview shows.
        voxels[(z, 10, 12) if voxels.ndim == 3 else (10, 12)] ^= 0x5555
        tifffile.imwrite(path, voxels, photometric="minisblack")
        assert path.stat().st_size == before.st_size
        if keep_time:
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))

    return change


def rewrite_all(planes: Path) -> None:
    for z in range(DEPTH):
        rewrite(z)(planes)


def resize(planes: Path) -> None:
    rewrite(3)(planes)
    path = file_of(planes, 3)
    tifffile.imwrite(path, tifffile.imread(path), photometric="minisblack", compression="zlib")


def pad(planes: Path) -> None:
    """Make a file longer, its voxels stay the same."""
    with file_of(planes, 3).open("ab") as file:
        file.write(bytes(8))


def depth(count: int) -> Callable[[Path], None]:
    def change(planes: Path) -> None:
        voxels = np.resize(VOXELS, (count, *VOXELS.shape[1:]))
        if (planes / STACK).exists():
            tifffile.imwrite(planes / STACK, voxels, photometric="minisblack")
        elif count < DEPTH:
            (planes / f"plane{count}.tif").unlink()
        else:
            tifffile.imwrite(planes / f"plane{count - 1}.tif", voxels[-1])

    return change


def rename(planes: Path) -> None:
    for path in list(planes.iterdir()):
        path.rename(path.with_name(f"plane_new{path.name.removeprefix('plane')}"))


def copied(planes: Path) -> None:
    shutil.move(planes, planes.with_name("before"))
    planes.mkdir()
    for path in planes.with_name("before").iterdir():
        (planes / path.name).write_bytes(path.read_bytes())


def linked(planes: Path) -> None:
    shutil.move(planes, planes.with_name("elsewhere"))
    planes.symlink_to("elsewhere")


def linked_files(planes: Path) -> None:
    shutil.move(planes, planes.with_name("elsewhere"))
    planes.mkdir()
    for path in planes.with_name("elsewhere").iterdir():
        (planes / path.name).symlink_to(path)


def nothing(planes: Path) -> None:
    assert planes.is_dir()


@pytest.mark.quick(4)
@pytest.mark.parametrize("change", [nothing, linked, linked_files], ids=lambda f: f.__name__)
def test_same_planes_at_any_path_are_gone_on_with(
    place: Place, change: Callable[[Path], None]
) -> None:
    change(place.planes)
    assert "note" not in place.run()
    assert visible_files(place.dest) == place.fresh()


@pytest.mark.quick(2)
def test_planes_below_a_directory_of_another_name_are_gone_on_with(place: Place) -> None:
    shutil.move(place.planes, place.directory / "moved")
    source = source_in(place.directory / "moved")
    assert "note" not in place.run(source=source)
    assert visible_files(place.dest) == place.fresh(source)


@pytest.mark.quick(4)
@pytest.mark.parametrize("change", [touch, copied], ids=lambda f: f.__name__)
def test_planes_of_another_time_and_the_same_bytes_are_a_note(
    place: Place, change: Callable[[Path], None]
) -> None:
    change(place.planes)
    said = place.run()
    read = 1 if place.kind == "stack" else 16 if place.state == "killed" else DEPTH
    assert f"note: {read} file{'' if read == 1 else 's'} of the source ha" in said
    assert "another time than when read, but the same bytes" in said
    assert visible_files(place.dest) == place.fresh()
    if place.state != "sharded":
        assert "note" not in place.run()  # the times of now are kept


CHANGES = [
    pytest.param(rewrite(3), id="rewritten"),
    pytest.param(rewrite_all, id="all-rewritten", marks=pytest.mark.long),
    pytest.param(resize, id="another-size"),
    pytest.param(pad, id="longer", marks=pytest.mark.long),
]


@pytest.mark.quick(4)
@pytest.mark.parametrize("change", CHANGES)
def test_planes_of_other_bytes_are_refused_and_made_anew_with_again(
    place: Place, change: Callable[[Path], None]
) -> None:
    before = visible_files(place.dest)
    change(place.planes)
    said = place.run(code=1)
    for words in ("has changed since", "--again", "another --dest"):
        assert words in said
    assert (STACK if place.kind == "stack" else "plane3.tif") in said
    assert visible_files(place.dest) == before
    plan = place.run("--dry-run") if place.state != "sharded" else ""
    assert not plan or "refused " in plan
    place.run("--again")
    assert visible_files(place.dest) == place.fresh()
    assert "note" not in place.run()
    assert visible_files(place.dest) == place.fresh()


@pytest.mark.quick(3)
def test_plane_of_the_same_size_and_time_is_found_by_force_check(place: Place) -> None:
    rewrite(3, keep_time=True)(place.planes)
    if place.state == "finished":
        assert "done before" in place.run()
    assert "has changed since" in place.run("--force-check", code=1)
    place.run("--force-check", "--again")
    assert visible_files(place.dest) == place.fresh()


@pytest.mark.quick(12)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(depth(DEPTH - 1), "plane43.tif is missing now", id="removed"),
        pytest.param(depth(DEPTH + 1), "plane44.tif is new", id="added"),
        pytest.param(rename, "plane_new0.tif", id="renamed"),
    ],
)
@pytest.mark.parametrize("again", [[], ["--again"]], ids=["", "again"])
def test_other_planes_are_refused(
    place: Place, change: Callable[[Path], None], said: str, again: list[str]
) -> None:
    before = visible_files(place.dest)
    change(place.planes)
    if place.kind == "stack":
        said = "plane_newstack.tif is new" if change is rename else "extent was"
    source = str(place.planes / "*.tif")
    output = place.run(*again, code=1, source=source)
    assert said in output
    assert "another --dest" in output
    assert visible_files(place.dest) == before


# --- what older versions kept ---


def age(dest: Path) -> None:
    """Take out of the records what older versions did not keep."""
    for path in (dest / ".ingest").glob("*.json"):
        kept = json.loads(path.read_text())
        if path.name == "plan.json":
            del kept["files"]
        else:
            kept = {"planes": kept["planes"], "done": kept.get("done", False)}
        path.write_text(json.dumps(kept))


@pytest.mark.quick(4)
@pytest.mark.parametrize("change", [nothing, touch, rewrite(3)], ids=["", "touched", "rewritten"])
def test_records_of_an_older_version_are_taken_with_a_note(
    place: Place, change: Callable[[Path], None]
) -> None:
    age(place.dest)
    before = visible_files(place.dest)
    change(place.planes)
    said = place.run()
    planes = 16 if place.state == "killed" else DEPTH
    note = f"note: {planes} planes could not be compared: an older version"
    assert said.count(note) == (3 if place.state == "sharded" else 1)
    if change is nothing:
        assert visible_files(place.dest) == place.fresh()
    if place.state == "finished":
        assert visible_files(place.dest) == before
    place.run("--again")
    assert visible_files(place.dest) == place.fresh()
    assert "note" not in place.run()


def test_hashes_of_planes_that_are_read_after_an_older_version_are_kept(place: Place) -> None:
    age(place.dest)
    place.run()
    if place.state == "killed" and place.kind == "planes":
        files = progress(place.dest, "1-of-1")["files"]
        assert [file["file"] for file in files] == list(range(16, DEPTH))
        rewrite(20)(place.planes)
        assert "plane20.tif has other bytes" in place.run(code=1)


def test_other_sizes_than_an_older_version_saw_are_refused(place: Place) -> None:
    age(place.dest)
    resize(place.planes)
    assert "planes of other names or sizes" in place.run(code=1)
    assert "planes of other names or sizes" in place.run("--again", code=1)


# --- only what has to be ---


def stamps(dest: Path) -> dict[str, int]:
    return {str(path.relative_to(dest)): path.stat().st_ino for path in dest.glob("*/[0-9]*.tiff")}


@pytest.mark.quick(1)
@pytest.mark.parametrize("z", [0, 17, DEPTH - 1])
def test_again_makes_only_the_slabs_of_changed_planes_and_what_depends_on_them(
    begun: Path, tmp_path: Path, z: int
) -> None:
    for state in ("finished", "sharded"):
        shutil.copytree(begun / "planes" / state, tmp_path / state)
        place = Place("planes", state, tmp_path / state)
        place.run()
        for path in list(
            place.dest.glob("*/[0-9]*.tiff")
        ):  # an inode of its own, that stays in use
            os.link(path, path.with_name(f".{path.name}"))
        before = stamps(place.dest)
        rewrite(z)(place.planes)
        plan = ingest(source_in(place.planes), place.dest, *OPTIONS, "--again", "--dry-run",
                      *["--shard", f"{1 + (z >= 32)}/2"] * (state == "sharded"))  # fmt: skip
        assert "redone  " in plan.output
        assert stamps(place.dest) == before
        place.run("--again")
        made = {name for name, inode in stamps(place.dest).items() if before[name] != inode}
        depends = set()
        for name in before:
            factor, (start, stop) = int(name.partition("_")[0]), spans_z(name)
            if start * factor <= z < stop * factor:
                depends.add(name)
        assert made == depends
        for path in place.dest.glob("*/.*"):
            path.unlink()
        assert visible_files(place.dest) == place.fresh()


def spans_z(name: str) -> tuple[int, int]:
    start, stop = name.removesuffix(".tiff").rpartition("_")[2].split("-")
    return int(start), int(stop)


def test_planes_that_were_not_read_yet_may_change(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun / "planes" / "killed", tmp_path / "own")
    place = Place("planes", "killed", tmp_path / "own")
    rewrite(30)(place.planes)
    place.run()
    assert visible_files(place.dest) == place.fresh()


@pytest.mark.quick(1)
def test_shard_that_goes_on_after_planes_of_another_changed_is_refused(
    kind: str, tmp_path: Path
) -> None:
    write_source(kind, tmp_path / "in")
    place = Place(kind, "sharded", tmp_path)
    source = source_in(place.planes)
    ingest(source, place.dest, *OPTIONS, "--shard", "1/2")
    rewrite_all(place.planes)
    second = ingest(source, place.dest, *OPTIONS, "--shard", "2/2", code=1)
    assert "--shard 1/2, then --finish" in second.output
    said = ingest(source, place.dest, *OPTIONS, "--shard", "2/2", "--again").output
    assert "note: planes of other shards have changed, too: run --shard 1/2" in said
    refused = ingest(source, place.dest, *OPTIONS, "--finish", "--again", code=1).output
    assert "--shard 1/2, then --finish" in refused
    place.run("--again")
    assert visible_files(place.dest) == place.fresh()


# --- crashes ---


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "after", [1, 10, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 13, 19, 24))]
)
def test_again_that_is_killed_goes_on_to_the_same_files(
    kind: str, begun: Path, tmp_path: Path, after: int
) -> None:
    shutil.copytree(begun / kind / "finished", tmp_path / "own")
    place = Place(kind, "finished", tmp_path / "own")
    rewrite(17)(place.planes)
    assert killed(source_in(place.planes), place.dest, after, "--again")
    place.run()
    assert visible_files(place.dest) == place.fresh()


def test_again_that_is_killed_notices_planes_that_change_once_more(
    begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun / "planes" / "finished", tmp_path / "own")
    place = Place("planes", "finished", tmp_path / "own")
    rewrite(1)(place.planes)
    rewrite(33)(place.planes)
    # The first slab has 9 chunks; one record before it, one behind it.
    assert killed(source_in(place.planes), place.dest, 14, "--again")
    assert progress(place.dest, "1-of-1")["again"] == [0, 4]
    rewrite(2)(place.planes)
    assert "plane2.tif has other bytes" in place.run(code=1)
    place.run("--again")
    assert visible_files(place.dest) == place.fresh()


@pytest.mark.quick(3)
def test_record_that_was_cut_off_is_begun_again(place: Place) -> None:
    path = place.dest / ".ingest" / f"1-of-{2 if place.state == 'sharded' else 1}.json"
    path.write_bytes(path.read_bytes()[:40])
    rewrite(3)(place.planes)
    # The other shard has read the same stack.
    place.run(*["--again"] * (place.state == "sharded" and place.kind == "stack"))
    assert visible_files(place.dest) == place.fresh()


# --- while it is read ---


def test_plane_that_is_written_while_it_is_read_is_noticed(kind: str, tmp_path: Path) -> None:
    write_source(kind, tmp_path / "in")
    with closing(open_source(source_in(tmp_path / "in"), None, None, 1)) as source:
        blocks = source.read_plane(3)
        next(blocks)
        rewrite(3)(tmp_path / "in")
        with pytest.raises(BadInputError, match="was written while it was read"):
            _ = [*blocks, source.records()]


def test_plane_that_is_written_after_it_was_read_is_noticed_at_the_end(
    kind: str, tmp_path: Path
) -> None:
    write_source(kind, tmp_path / "in")
    request = IngestRequest(source_in(tmp_path / "in"), tmp_path / "out", (1, 1, 1), 4, (8, 8, 8))
    written: list[int] = []

    def write_once(done: int, total: int) -> None:
        if done == total and not written:
            written.append(done)
            rewrite(3)(tmp_path / "in")

    plan = make_plan(request)
    with closing(plan.source):
        if kind == "stack":  # it stays open, so that this is seen at once
            with pytest.raises(BadInputError, match="was written while it was read"):
                run_shard(plan, 1, write_once)
            return
        run_shard(plan, 1, write_once)
        with pytest.raises(ConflictError, match=r"plane3\.tif has other bytes now"):
            run_finish(plan, lambda done, total: None)


# --- hashes ---


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "tiff",
    [
        {},
        {"compression": "zlib", "rowsperstrip": 100},
        {"tile": (512, 512)},
        {"metadata": None, "software": "x" * 3_000_000},
    ],
    ids=["one-run", "strips", "tiles", "far-header"],
)
def test_hash_of_a_large_plane_is_that_of_all_its_bytes(
    tmp_path: Path, tiff: dict[str, Any]
) -> None:
    voxels = np.random.default_rng(1).integers(0, 2**16, (2, 4500, 4000), "uint16")
    source = write_planes(tmp_path, voxels, **tiff)
    with (tmp_path / "plane1.tif").open("ab") as file:
        file.write(b"behind the last voxel")
    with closing(open_source(source, None, None, 1)) as planes:
        rows = [block for z in range(2) for _, block in planes.read_plane(z)]
        assert np.array_equal(np.concatenate(rows).reshape(voxels.shape), voxels)
        for z, record in planes.records().items():
            content = (tmp_path / f"plane{z}.tif").read_bytes()
            assert len(content) > 32 * 2**20
            assert record.size == len(content)
            assert record.xxh3_128 == {0: xxhash.xxh3_128_hexdigest(content)}


def test_shards_hash_all_bytes_of_a_stack_together(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 2**16, (40, 1000, 1000), "uint16")
    tifffile.imwrite(tmp_path / STACK, voxels, photometric="minisblack")
    with (tmp_path / STACK).open("ab") as file:
        file.write(bytes(40 * 2**20))
    content = (tmp_path / STACK).read_bytes()
    options = ("--chunk-size", "256,256,4", "--levels", "2")
    for number in (1, 2, 3):
        ingest(tmp_path / STACK, tmp_path / "out", *options, "--shard", f"{number}/3")
    together: dict[str, str] = {}
    for number in (1, 2, 3):
        (file_record,) = progress(tmp_path / "out", f"{number}-of-3")["files"]
        together |= file_record["xxh3_128"]
    step = 32 * 2**20
    parts = [content[at : at + step] for at in range(0, len(content), step)]
    assert together == {str(n): xxhash.xxh3_128_hexdigest(part) for n, part in enumerate(parts)}
