"""Ingest in the world: killed, started twice, divided into shards, short of memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.processes import environment, eventually, neurotrale, run
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

SHAPE = (150, 60, 70)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_planes(tmp_path_factory.mktemp("planes"), noise(SHAPE, "uint16"))


@pytest.fixture(scope="module")
def whole(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of the data set that comes of a run that nothing disturbs."""
    dest = tmp_path_factory.mktemp("whole") / "out"
    ingest(source, dest, *OPTIONS)
    return visible_files(dest)


OPTIONS = ("--chunk-size", "8", "--levels", "5", "--n-cores", "2")


def command(source: str, dest: Path, *options: str) -> list[str]:
    return neurotrale(
        "ingest", "--source", source, "--dest", dest, "--voxel-size", "1,1,1", *OPTIONS, *options
    )


def chunks_of(dest: Path) -> int:
    return sum(1 for _ in dest.glob("*/*.tiff"))


def leftovers(dest: Path) -> set[str]:
    """What is in the hidden directory beside the state that stays."""
    kept = {"plan.json", "finish.json"}
    found = {path.name for path in (dest / ".ingest").iterdir()} - kept
    return {name for name in found if not name.endswith(".json")}


# --- crashes ---


def kill_after(arguments: list[str], condition: Callable[[], bool]) -> bool:
    """Start a process and kill it without warning; tell whether it was still at work."""
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        eventually(lambda: condition() or process.poll() is not None, "it makes no progress")
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_gives_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dest, killed = tmp_path / "out", 0
    for _ in range(4):
        more = chunks_of(dest) + int(rng.integers(1, 400))
        killed += kill_after(command(source, dest), lambda more=more: chunks_of(dest) >= more)  # type: ignore[misc]
        there = visible_files(dest)
        others = [(n, len(c), len(whole[n])) for n, c in there.items() if c != whole[n]]
        assert others == [], "chunks that are not whole: name, bytes, bytes of an undisturbed run"
    assert killed >= 1
    done = run(command(source, dest))
    assert done.returncode == 0, done.stderr
    assert visible_files(dest) == whole
    assert leftovers(dest) == set()


def test_killed_before_any_chunk_is_begun_again(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    kill_after(command(source, dest), lambda: (dest / ".ingest").exists())
    ingest(source, dest, *OPTIONS)
    assert visible_files(dest) == whole


@pytest.mark.parametrize("made", [[], [".ingest"], [".ingest/plan.json"]], ids=str)
def test_stopped_while_it_makes_its_directories_is_begun_again(
    source: str, whole: dict[str, bytes], tmp_path: Path, made: list[str]
) -> None:
    dest = tmp_path / "out"
    ingest(source, tmp_path / "other", *OPTIONS)
    dest.mkdir()
    for name in made:
        (dest / name).parent.mkdir(exist_ok=True)
        if name.endswith(".json"):
            (dest / name).write_bytes((tmp_path / "other" / name).read_bytes())
        else:
            (dest / name).mkdir()
    ingest(source, dest, *OPTIONS)
    assert visible_files(dest) == whole


@pytest.mark.parametrize("planes", range(8, 150, 24))
def test_resumed_at_any_slab_gives_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path, planes: int
) -> None:
    dest = tmp_path / "out"
    ingest(source, dest, *OPTIONS)
    # As if it had been killed just after these planes: later chunks are not there yet.
    (dest / ".ingest" / "1-of-1.json").write_text(json.dumps({"planes": planes, "done": False}))
    (dest / ".ingest" / "finish.json").unlink()
    (dest / "preview.png").unlink()
    for path in dest.glob("*/*.tiff"):
        factor = int(path.parent.name.partition("_")[0])
        end = int(path.stem.rpartition("-")[2])
        if -(-min(end * factor, SHAPE[0]) // 8) * 8 > planes:
            path.unlink()
    result = ingest(source, dest, *OPTIONS)
    assert "going on with what was there" in result.output
    assert visible_files(dest) == whole


def test_resumed_reads_only_planes_that_are_not_done(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    planes = write_planes(tmp_path / "in", noise((64, 20, 20), "uint8"))
    ingest(planes, dest, *OPTIONS)
    before = visible_files(dest)
    (dest / ".ingest" / "1-of-1.json").write_text(json.dumps({"planes": 40, "done": False}))
    for path in (tmp_path / "in").iterdir():  # looks whole, cannot be read
        if int(path.stem.removeprefix("plane")) < 40:
            content = path.read_bytes()
            path.write_bytes(content[:-400] + bytes(400))
    ingest(planes, dest, *OPTIONS)
    assert visible_files(dest) == before


def test_done_already_writes_nothing(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    ingest(source, dest, *OPTIONS)
    (dest / "info").write_text(json.dumps({"edited": True}))
    stamps = {path: path.stat().st_mtime_ns for path in dest.glob("*/*.tiff")}
    result = ingest(source, dest, *OPTIONS)
    assert "done before" in result.output
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert json.loads((dest / "info").read_text()) == {"edited": True}


# --- what is in the way ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layout", "pages"), '--layout was "single", now "pages"'),
        (("--compression", "zstd"), '--compression was "deflate", now "zstd"'),
        (("--voxel-size", "1,1,2"), "--voxel-size (nm) was"),
        (("--levels", "4"), "--levels was"),
        (("--chunk-size", "16"), "--chunk-size was [8, 8, 8], now [16, 16, 16]"),
        (("--segmentation",), "--segmentation was false, now true"),
        (("--shard", "1/2"), "shards was 1, now 2"),
    ],
)
def test_other_options_than_begun_with_are_refused(
    source: str, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    dest = tmp_path / "out"
    ingest(source, dest, *OPTIONS)
    before = visible_files(dest)
    result = ingest(source, dest, *OPTIONS, *options, code=1)
    assert "begun with other options" in result.output
    assert said in result.output
    assert visible_files(dest) == before


def test_other_planes_than_begun_with_are_refused(tmp_path: Path) -> None:
    first = write_planes(tmp_path / "a", np.ones((4, 5, 6), "uint8"))
    second = write_planes(tmp_path / "b", np.ones((4, 5, 6), "uint8"), compression="zlib")
    ingest(first, tmp_path / "out")
    assert "stack was" in ingest(second, tmp_path / "out", code=1).output


def test_data_set_of_others_is_refused_and_kept(source: str, tmp_path: Path) -> None:
    (tmp_path / "info").write_text("{}")
    assert "holds a data set already" in ingest(source, tmp_path, *OPTIONS, code=1).output
    assert visible_files(tmp_path) == {"info": b"{}"}


def test_annotations_that_were_there_first_are_no_hindrance(source: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    ingest(source, tmp_path, "--levels", "1")
    assert (tmp_path / "annotations").is_dir()


def test_second_run_at_the_same_time_is_refused(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    with subprocess.Popen(command(source, dest), env=environment()) as first:
        eventually(lambda: chunks_of(dest) > 0, "it does not begin")
        first.send_signal(signal.SIGSTOP)
        try:
            second = run(command(source, dest))
        finally:
            first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    assert second.returncode == 1
    assert "Another ingest is at work" in second.stderr


def test_full_disk_is_said_and_gone_on_with(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    limit = "import resource, sys\nfrom neurotrale.cli import main\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\nmain(sys.argv[1:])"
    failed = run([sys.executable, "-c", limit, *command(source, dest)[3:]])
    assert failed.returncode == 1
    assert "the disk is full or a quota" in failed.stderr
    assert "Traceback" not in failed.stderr
    ingest(source, dest, *OPTIONS)


def test_forbidden_directory_is_said(source: str) -> None:
    result = ingest(source, Path("/sys/out"), *OPTIONS, code=1)  # not even root may write there
    assert "permission" in result.output


# --- shards ---


@pytest.mark.parametrize("shards", [1, 2, 3, 17])
def test_shards_in_any_order_and_finish_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path, shards: int
) -> None:
    dest = tmp_path / "out"
    order = np.random.default_rng(shards).permutation(shards) + 1
    for number in order:
        ingest(source, dest, *OPTIONS, "--shard", f"{number}/{shards}")
    ingest(source, dest, *OPTIONS, "--finish")
    assert visible_files(dest) == whole
    assert leftovers(dest) == set()


def test_shards_at_the_same_time_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    processes = [
        subprocess.Popen(command(source, dest, "--shard", f"{n}/3"), env=environment())
        for n in (1, 2, 3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    finished = run(command(source, dest, "--finish"))
    assert finished.returncode == 0, finished.stderr
    assert visible_files(dest) == whole


def test_shards_of_labels_with_long_axes_give_the_levels_of_one_run(tmp_path: Path) -> None:
    voxels = labels((45, 30, 26), "uint32")
    source = write_planes(tmp_path / "in", voxels)
    options = ["--segmentation", "--isotropic", "--voxel-size", "1,1,2", "--chunk-size", "4"]
    options += ["--levels", "4"]
    for number in (2, 3, 1):
        ingest(source, tmp_path / "out", *options, "--shard", f"{number}/3")
    ingest(source, tmp_path / "out", *options, "--finish")
    expected = expected_levels(voxels, [(1, 2, 2), *HALVES[:2]], segmentation=True)
    for mine, theirs in zip(read_levels(tmp_path / "out"), expected, strict=True):
        assert np.array_equal(mine, theirs)


def test_shards_do_not_write_the_same_chunk(source: str, tmp_path: Path) -> None:
    written = []
    for number in (1, 2, 3):
        before = {path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/*.tiff")}
        ingest(source, tmp_path / "out", *OPTIONS, "--shard", f"{number}/3")
        after = {path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/*.tiff")}
        stamps = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in before}
        written.append((after - before, stamps))
    assert all(new for new, _ in written)
    for path, stamp in written[-1][1].items():
        assert (tmp_path / "out" / path).stat().st_mtime_ns == stamp


def test_finish_before_all_shards_names_those_that_are_missing(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    ingest(source, dest, *OPTIONS, "--shard", "2/4")
    result = ingest(source, dest, *OPTIONS, "--finish", code=3)
    assert "3 of 4 shards are not complete" in result.output
    for number in (1, 3, 4):
        assert f"--shard {number}/4" in result.output
    assert "--shard 2/4" not in result.output


def test_finish_of_nothing_is_refused(source: str, tmp_path: Path) -> None:
    result = ingest(source, tmp_path / "out", *OPTIONS, "--finish", code=1)
    assert "not begun yet" in result.output


def test_shard_and_finish_killed_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    kill_after(command(source, dest, "--shard", "1/2"), lambda: chunks_of(dest) > 150)
    ingest(source, dest, *OPTIONS, "--shard", "2/2")
    assert ingest(source, dest, *OPTIONS, "--finish", code=3).exit_code == 3
    ingest(source, dest, *OPTIONS, "--shard", "1/2")
    before = chunks_of(dest)
    kill_after(command(source, dest, "--finish"), lambda: chunks_of(dest) > before)
    ingest(source, dest, *OPTIONS, "--finish")
    assert visible_files(dest) == whole


# --- memory ---

_MEASURED = r"""
import re, sys
from neurotrale.cli import main
try:
    main(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()
    print("peak", int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024)
"""


@pytest.mark.parametrize("segmentation", [False, True], ids=["image", "labels"])
def test_stack_larger_than_the_memory_stays_under_the_limit(
    tmp_path: Path, segmentation: bool
) -> None:
    planes, side, limit = 84, 1600, 200 * 2**20
    plane = np.zeros((side, side), "uint16")
    source = write_planes(
        tmp_path / "in", (plane + np.uint16(z) for z in range(planes)), compression="zlib"
    )
    assert planes * plane.nbytes > 2 * limit
    arguments = neurotrale("ingest", "--source", source, "--dest", tmp_path / "out",
                           "--voxel-size", "1,1,1", "--memory", "200M", "--n-cores", "2",
                           *["--segmentation"] * segmentation)[3:]  # fmt: skip
    done = run([sys.executable, "-c", _MEASURED, *arguments])
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.rpartition("peak ")[2])
    assert peak < limit
    fine = read_levels(tmp_path / "out")[0]
    assert np.array_equal(fine[:, 5, 7], np.arange(planes))
    assert leftovers(tmp_path / "out") == set()


@pytest.mark.parametrize("memory", ["135M", "1G"])
def test_scratch_file_and_memory_give_the_same_files(tmp_path: Path, memory: str) -> None:
    voxels = noise((40, 300, 500), "uint32")
    source = write_planes(tmp_path / "in", voxels)
    ingest(source, tmp_path / "out", "--chunk-size", "16", "--memory", memory)
    plan = ingest(source, tmp_path / "x", "--chunk-size", "16", "--memory", memory, "--plan")
    assert ("\nscratch " in plan.output) == (memory == "135M")
    assert np.array_equal(read_levels(tmp_path / "out")[0], voxels)


def test_memory_for_not_even_a_plane_is_refused(source: str, tmp_path: Path) -> None:
    result = ingest(source, tmp_path / "out", *OPTIONS, "--memory", "20M", code=1)
    assert "--memory is too little" in result.output
    assert not (tmp_path / "out").exists()
