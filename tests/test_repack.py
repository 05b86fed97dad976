"""``neurotrale repack``: other files, the same voxels, at every moment."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import requests
import tifffile
from click.testing import CliRunner, Result

from neurotrale.chunks.segments import find_segments
from neurotrale.cli import main
from neurotrale.tools.ingest.report import size_text
from tests.conftest import StartService
from tests.datasets import boxes, gradient, info_of, write_chunks
from tests.processes import PATIENCE_S, environment, eventually, neurotrale, run
from tests.stacks import ingest, noise, read_levels, visible_files, write_planes
from tests.test_cli import like_anybody
from tests.test_clients import CLIENTS, read
from tests.test_ingest_clients import STACKS

DTYPES = ("uint8", "int16", "uint32", "uint64", "float32")
COMPRESSIONS = ("deflate", "zstd", "none")


def repack(dataset: Path, *options: str, code: int = 0) -> Result:
    """Run the command in this process; it must end with an exit code."""
    result = CliRunner().invoke(main, ["repack", str(dataset), *options])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def write_volume(path: Path, voxels: Any, chunk_vx: int = 8, **tiff: Any) -> Path:
    """Write a volume of one scale as another program does."""
    write_chunks(path / "1_1_1", voxels, chunk_vx, **tiff)
    (path / "info").write_text(json.dumps(info_of(voxels, chunk_vx)))
    return path


def chunks_of(dataset: Path) -> list[Path]:
    return sorted((dataset / "1_1_1").iterdir())


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    """A dataset of three scales, written by ingest."""
    source = write_planes(tmp_path / "planes", noise((20, 30, 25), "uint16"))
    ingest(source, tmp_path / "data" / "brain", "--chunk-size", "8", "--levels", "3")
    return tmp_path / "data" / "brain"


# --- voxels ---


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_repack_there_and_back_gives_every_voxel_and_every_byte(
    tmp_path: Path, dtype: str, compression: str
) -> None:
    voxels = noise((13, 21, 10), dtype)
    dataset = write_volume(tmp_path / "brain", voxels)
    repack(dataset, "--layout", "single", "--compression", compression)
    once = visible_files(dataset)
    assert np.array_equal(read_levels(dataset)[0], voxels)
    repack(dataset, "--layout", "pages", "--compression", compression)
    assert np.array_equal(read_levels(dataset)[0], voxels)
    assert all(not find(path).is_tile for path in chunks_of(dataset))
    repack(dataset, "--layout", "single", "--compression", compression)
    assert visible_files(dataset) == once
    assert all(find(path).is_tile for path in chunks_of(dataset))


def find(path: Path) -> Any:
    segments = find_segments(path.read_bytes())
    assert segments is not None
    return segments


@pytest.mark.parametrize(
    "tiff",
    [
        pytest.param({"compression": "zlib"}, id="precomputed-tif"),
        pytest.param({"compression": None}, id="uncompressed"),
        pytest.param({"byteorder": ">", "compression": None}, id="big-endian"),
        pytest.param({"compression": "lzw", "predictor": True}, id="lzw with a predictor"),
        pytest.param({"tile": (16, 16), "compression": "zlib"}, id="tiles"),
        pytest.param({"bigtiff": True}, id="BigTIFF"),
        pytest.param({"rowsperstrip": 2}, id="many strips"),
    ],
)
@pytest.mark.parametrize("layout", ["single", "pages"])
def test_repack_what_other_programs_wrote_gives_every_voxel(
    tmp_path: Path, tiff: dict[str, Any], layout: str
) -> None:
    voxels = noise((13, 21, 10), "uint16")
    dataset = write_volume(tmp_path / "brain", voxels, **tiff)
    repack(dataset, "--layout", layout)
    assert np.array_equal(read_levels(dataset)[0], voxels)
    for path in chunks_of(dataset):
        segments = find(path)
        assert segments.is_tile == (layout == "single")
        assert (segments.compression, segments.big_endian) == ("deflate", False)


def test_repack_all_scales_or_the_named_ones(brain: Path) -> None:
    levels = read_levels(brain)
    before = visible_files(brain)
    result = repack(brain, "--layout", "pages", "--scale", "2_2_2", "--scale", "4_4_4/")
    after = visible_files(brain)
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"2_2_2", "4_4_4"}
    named = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert named == ["2_2_2", "4_4_4", "total"]
    repack(brain, "--layout", "pages")
    for mine, theirs in zip(read_levels(brain), levels, strict=True):
        assert np.array_equal(mine, theirs)


def test_repack_says_how_many_chunks_and_bytes(brain: Path) -> None:
    result = repack(brain, "--layout", "pages")
    assert "1_1_1: 48 chunks rewritten, 0 needed no change;" in result.stdout
    assert "2_2_2: 8 chunks rewritten, 0 needed no change;" in result.stdout
    size = sum(path.stat().st_size for path in (brain / "4_4_4").iterdir())
    assert result.stdout.splitlines()[2].endswith(f" before, {size_text(size)} now")


@pytest.mark.clients
@pytest.mark.parametrize("name", ["brain", "nuclei", "nuclei-labels"])
@pytest.mark.long
def test_real_stack_ingested_checked_and_repacked_is_read_whole_by_clients(
    tmp_path: Path, start_service: StartService, name: str
) -> None:
    make, options = STACKS[name]
    voxels = make()
    dataset = tmp_path / "data" / "real"
    ingest(write_planes(tmp_path / "planes", voxels), dataset, *options, "--layout", "pages")
    for layout in ("single", "pages", "single"):
        repack(dataset, "--layout", layout)
        checked = CliRunner().invoke(main, ["check", str(dataset)])
        assert checked.exit_code == 0, checked.output
        assert checked.output.endswith("no problems found\n")
    service = start_service(dataset.parent)
    for open_scale in CLIENTS.values():
        found = read(open_scale(f"{service.url}/real", 0))
        assert np.array_equal(found, voxels[np.newaxis])
    service.stop()


# --- what stays ---


def test_repack_what_is_as_wanted_is_not_touched(brain: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in brain.rglob("*.tiff")}

    before = state()
    result = repack(brain, "--layout", "single")
    assert "1_1_1: 0 chunks rewritten, 48 needed no change" in result.stdout
    assert state() == before


def test_repack_single_without_a_checksum_is_written_anew(tmp_path: Path) -> None:
    voxels = gradient((16, 16, 16))
    tile = {"tile": (16, 16, 16), "volumetric": True, "compression": "zlib"}
    dataset = write_volume(tmp_path / "brain", voxels, 16, **tile)
    assert find(chunks_of(dataset)[0]).crc32 is None
    assert "1 chunks rewritten" in repack(dataset, "--layout", "single").stdout
    assert find(chunks_of(dataset)[0]).crc32 is not None


def test_repack_keeps_modes_links_and_what_is_no_chunk(brain: Path) -> None:
    chunk, other = brain / "1_1_1/0-8_0-8_0-8.tiff", brain / "1_1_1/8-16_0-8_0-8.tiff"
    chunk.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(chunk, 12345, 12346)
    owner = chunk.stat().st_uid, chunk.stat().st_gid
    shutil.move(other, brain.parent / "elsewhere.tiff")
    other.symlink_to("../../elsewhere.tiff")
    content = other.read_bytes()
    (brain / "1_1_1/notes.txt").write_text("mine")
    result = repack(brain, "--layout", "pages")
    assert chunk.stat().st_mode & 0o7777 == 0o640
    assert (chunk.stat().st_uid, chunk.stat().st_gid) == owner
    assert not find(chunk).is_tile
    assert other.is_symlink()
    assert other.read_bytes() == content
    assert "symbolic links, left unchanged: 1" in result.stderr
    assert (brain / "1_1_1/notes.txt").read_text() == "mine"
    names = {path.name for path in (brain / "1_1_1").iterdir()}
    assert not [name for name in names if name.startswith(".")]


def test_repack_damaged_chunk_stays_and_the_others_are_rewritten(brain: Path) -> None:
    paths = [brain / "1_1_1" / f"{name}.tiff" for name in ("0-8_0-8_0-8", "8-16_0-8_0-8")]
    os.truncate(paths[0], 300)
    content = bytearray(paths[1].read_bytes())
    at = content.index(b'"crc32": ') + 9
    content[at] = ord("2") if content[at] == ord("1") else ord("1")
    paths[1].write_bytes(content)
    damaged = [path.read_bytes() for path in paths]
    result = repack(brain, "--layout", "pages", code=1)
    assert "46 chunks rewritten" in result.stdout
    assert "unchanged: 1_1_1/0-8_0-8_0-8.tiff: page 0 expects" in result.stderr
    assert "unchanged: 1_1_1/8-16_0-8_0-8.tiff: its voxels do not have" in result.stderr
    assert [path.read_bytes() for path in paths] == damaged


def test_repack_where_no_space_is_left_changes_nothing_more(brain: Path) -> None:
    before = visible_files(brain)
    command = shlex.join(neurotrale("repack", brain, "--layout", "pages", "--scale", "1_1_1"))
    done = run(["sh", "-c", f"ulimit -f 1; exec {command}"])  # files of 512 bytes at most
    assert done.returncode == 1
    assert "the disk is full or a quota or file-size limit is reached" in done.stderr
    after = visible_files(brain)
    assert after.keys() == before.keys()
    small = {name for name in before if after[name] != before[name]}
    assert all(len(after[name]) <= 512 for name in small)
    repack(brain, "--layout", "pages", "--scale", "1_1_1")


def test_repack_of_chunks_that_are_no_tiffs_says_so(tmp_path: Path) -> None:
    dataset = write_volume(tmp_path / "brain", gradient((8, 8, 8)))
    for path in chunks_of(dataset):
        path.rename(path.with_suffix(".gz"))
    assert "1_1_1: no TIFF chunks" in repack(dataset, "--layout", "single").stdout


@pytest.mark.parametrize("flag", ["--plan", "--dry-run"])
def test_repack_plan_says_what_would_be_done_and_does_nothing(brain: Path, flag: str) -> None:
    before = visible_files(brain)
    result = repack(brain, "--layout", "pages", flag)
    assert "1_1_1: 0 of 48 chunks need no change; about" in result.stdout
    assert "4_4_4: 0 of 1 chunks need no change" in result.stdout
    assert visible_files(brain) == before
    result = repack(brain, "--layout", "single", flag)
    assert "1_1_1: 48 of 48 chunks need no change" in result.stdout


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "jpeg"}, "The scale 1_1_1 has the encoding 'jpeg'"),
        ({"sharding": {"@type": "neuroglancer_uint64_sharded_v1"}}, "The scale 1_1_1 is sharded"),
        ({"key": "../away"}, "outside the dataset"),
        ({"key": "gone"}, "The scale gone has no directory"),
    ],
    ids=str,
)
def test_repack_of_what_it_cannot_is_refused_before_anything_is_done(
    brain: Path, change: dict[str, Any], says: str
) -> None:
    info = json.loads((brain / "info").read_text())
    info["scales"][0].update(change)
    (brain / "info").write_text(json.dumps(info))
    (brain.parent / "away").mkdir()
    before = visible_files(brain)
    result = repack(brain, "--layout", "pages", code=1)
    assert says in result.stderr
    assert visible_files(brain) == before
    repack(brain, "--layout", "pages", "--scale", "2_2_2")


def test_repack_of_several_channels_is_refused(tmp_path: Path) -> None:
    dataset = write_volume(tmp_path / "brain", gradient((8, 8, 8)))
    info = info_of(np.zeros((3, 8, 8, 8), "uint16"), 8)
    (dataset / "info").write_text(json.dumps(info))
    assert "3 channels" in repack(dataset, "--layout", "single", code=1).stderr


def test_repack_of_an_unknown_scale_names_those_there_are(brain: Path) -> None:
    result = repack(brain, "--layout", "pages", "--scale", "8_8_8", code=1)
    assert "There is no scale '8_8_8': info has 1_1_1, 2_2_2, 4_4_4." in result.stderr


def test_repack_without_info_is_refused(brain: Path) -> None:
    (brain / "info").unlink()
    assert "info" in repack(brain, "--layout", "pages", code=1).stderr


def test_repack_where_it_may_not_write_is_refused(brain: Path) -> None:
    before = visible_files(brain)
    (brain / "2_2_2").chmod(0o555)
    done = run(like_anybody(neurotrale("repack", brain, "--layout", "pages")))
    (brain / "2_2_2").chmod(0o755)
    if done.returncode == 0:
        pytest.skip("permissions do not hold for this user")
    assert done.returncode == 1
    assert "2_2_2 cannot be written (permission denied)" in done.stderr
    assert visible_files(brain) == before


@pytest.mark.parametrize(
    "options", [[], ["--layout", "zip"], ["--layout", "single", "--jobs", "0"]]
)
def test_repack_with_options_that_make_no_sense_is_refused(brain: Path, options: list[str]) -> None:
    repack(brain, *options, code=2)


# --- crashes ---


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A dataset of many small chunks, of which a repack takes a moment."""
    return write_volume(tmp_path / "data" / "brain", noise((64, 80, 64), "uint16"))


def rewritten(dataset: Path) -> int:
    return sum(find(path).is_tile for path in chunks_of(dataset) if not path.name.startswith("."))


@pytest.mark.long
def test_repack_killed_again_and_again_goes_on_and_loses_nothing(large: Path) -> None:
    random = Random(5)
    voxels = read_levels(large)[0]
    total, killed = len(chunks_of(large)), 0
    for _ in range(6):
        before = rewritten(large)
        aim = before + random.randrange(5, 90)
        command = neurotrale("repack", large, "--layout", "single", "--jobs", "2")
        with subprocess.Popen(command, env=environment()) as process:

            def far_enough(aim: int = aim, process: Any = process) -> bool:
                return rewritten(large) >= aim or process.poll() is not None

            eventually(far_enough, "the repack gets on")
            process.kill()
        killed += process.returncode < 0
        now = rewritten(large)
        assert before <= now
        for name, box in boxes((64, 80, 64), 8):
            chunk = tifffile.imread(large / "1_1_1" / f"{name}.tiff")
            assert np.array_equal(chunk.reshape(voxels[box].shape), voxels[box]), name
    assert killed >= 3
    result = repack(large, "--layout", "single")
    already = int(result.stdout.split(" rewritten, ")[1].split()[0])
    assert already > 0
    assert rewritten(large) == total
    assert np.array_equal(read_levels(large)[0], voxels)  # and nothing else lies there


# Runs a command that is interrupted once so many chunks are about to be in their places. The
# others take a moment each, so that on no machine all are there before it has noticed.
INTERRUPTED = """
import os, signal, sys, threading, time
left = int(sys.argv.pop(1))
def interrupt(event, arguments):
    global left
    if event == "os.rename" and os.fspath(arguments[1]).endswith(".tiff"):
        left -= 1
        if left == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if left <= 0:
            time.sleep(0.01)
sys.addaudithook(interrupt)
from neurotrale.cli import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_repack_interrupted_ends_at_once_and_leaves_nothing_half_done(large: Path) -> None:
    voxels = read_levels(large)[0]
    command = neurotrale("repack", large, "--layout", "single", "--jobs", "2")[3:]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "22", *command],
        env=environment(), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert said.strip() == "Aborted!"
    assert 20 <= rewritten(large) < len(chunks_of(large))
    assert np.array_equal(read_levels(large)[0], voxels)  # and nothing else lies there


def test_repack_removes_what_dead_repacks_left_and_no_more(brain: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(PATIENCE_S)
    node = os.uname().nodename
    scale = brain / "1_1_1"
    dead = scale / f".0-8_0-8_0-8.tiff.{node}-{process.pid}.tmp"
    living = scale / f".0-8_0-8_0-8.tiff.{node}-{os.getppid()}.tmp"
    elsewhere = scale / ".0-8_0-8_0-8.tiff.another-node-7.tmp"
    forgotten = scale / ".0-8_0-8_0-8.tiff.another-node-8.tmp"
    for path in (dead, living, elsewhere, forgotten):
        path.write_bytes(b"half a chunk")
    os.utime(forgotten, (0, 0))
    repack(brain, "--layout", "pages")
    assert [path.exists() for path in (dead, living, elsewhere, forgotten)] == [
        False, True, True, False
    ]  # fmt: skip


@pytest.mark.long
def test_two_repacks_at_once_lose_nothing(large: Path) -> None:
    voxels = read_levels(large)[0]
    commands = [
        neurotrale("repack", large, "--layout", layout, "--jobs", "2")
        for layout in ("single", "pages", "single")
    ]
    processes = [subprocess.Popen(command, env=environment()) for command in commands]
    assert {process.wait(PATIENCE_S) for process in processes} <= {0, 1}
    assert np.array_equal(read_levels(large)[0], voxels)


# --- while the service runs ---


@pytest.fixture
def repacked(large: Path) -> Iterator[list[int]]:
    """Repacks it to and fro, all the time; the exit codes so far."""
    stop = threading.Event()
    codes: list[int] = []

    def run_on() -> None:
        for layout in cycle(("single", "pages")):
            codes.append(run(neurotrale("repack", large, "--layout", layout)).returncode)
            if stop.is_set():
                break

    thread = threading.Thread(target=run_on)
    thread.start()
    yield codes
    stop.set()
    thread.join()
    assert set(codes) == {0}


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_service_while_repacking_gives_the_right_voxels_throughout(
    pytestconfig: pytest.Config,
    large: Path,
    start_service: StartService,
    repacked: list[int],
    seed: int,
    coding: str,
) -> None:
    voxels = noise((64, 80, 64), "uint16")
    service = start_service(large.parent)
    session = requests.Session()
    codings = set()
    names = boxes((64, 80, 64), 8)
    random = Random(seed)
    while len(repacked) < (8 if pytestconfig.option.long else 2):
        time.sleep(0.005)  # the processor is for repacking
        name, box = random.choice(names)
        answer = session.get(
            f"{service.url}/brain/1_1_1/{name}", headers={"Accept-Encoding": coding}
        )
        assert answer.status_code == 200, answer.text
        assert answer.content == np.ascontiguousarray(voxels[box]).tobytes(), name
        codings.add(answer.headers.get("Content-Encoding", "identity"))
    assert coding in codings
    service.stop()


@pytest.mark.long
def test_service_after_repacking_passes_chunks_on_as_they_are_stored(
    large: Path, start_service: StartService
) -> None:
    voxels = noise((64, 80, 64), "uint16")
    service = start_service(large.parent)
    name, box = boxes((64, 80, 64), 8)[17]
    url = f"{service.url}/brain/1_1_1/{name}"
    asked = {"Accept-Encoding": "gzip"}
    old = requests.get(url, headers=asked)
    assert "Content-Encoding" not in old.headers
    repack(large, "--layout", "single")
    answer = requests.get(url, headers=asked, stream=True)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["ETag"] != old.headers["ETag"]
    sent = answer.raw.read()
    segments = find(large / "1_1_1" / f"{name}.tiff")
    ((at, size),) = segments.spans
    stored = (large / "1_1_1" / f"{name}.tiff").read_bytes()[at : at + size]
    assert sent[10:-8] == stored[2:-4]
    assert gzip.decompress(sent) == old.content == np.ascontiguousarray(voxels[box]).tobytes()
    service.stop()
