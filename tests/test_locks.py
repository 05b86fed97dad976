"""Locks that exclude: chosen by file system, held by one writer, broken only when told to."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier

import pytest
import requests

from neurotrale.errors import BusyError, MissingError, ReadOnlyError, StartError
from neurotrale.locking.filesystems import (
    FileSystem,
    LockKind,
    LockSetting,
    choose,
    file_system_of,
    file_systems_below,
    mounts,
)
from neurotrale.locking.locks import Locks, lock_path
from neurotrale.locking.probe import ParticipantReport, ProbeResult, probe_lock
from tests.brains import Brain, cli, error_of, new_brain, point, succeed
from tests.conftest import StartService

REPOSITORY = Path(__file__).resolve().parent.parent
KINDS = pytest.mark.parametrize("kind", ["flock", "strict"])


# --- the mount table ---


def line(point: str, kind: str, options: str = "rw,relatime", super_options: str = "rw") -> str:
    """A line of the mount table, as proc(5) describes it."""
    return f"36 35 98:0 /root {point} {options} shared:1 master:2 - {kind} server {super_options}\n"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write a mount table with a local root and these lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "mountinfo"
        path.write_text(line("/", "ext4") + "".join(lines))
        return path

    return write


def test_file_system_is_that_of_the_nearest_mount_above(table: Callable[..., Path]) -> None:
    found = mounts(
        table(line("/data", "nfs4"), line("/data/scratch", "lustre"), line("/data/scratch2", "xfs"))
    )
    kinds = {path: file_system_of(Path(path), found).kind for path in (
        "/", "/home", "/data", "/data/a/b", "/data/scratch", "/data/scratch/a", "/data/scratch2/a",
        "/data/scratch3", "/database",
    )}  # fmt: skip
    assert kinds == {
        "/": "ext4", "/home": "ext4", "/data": "nfs4", "/data/a/b": "nfs4",
        "/data/scratch": "lustre", "/data/scratch/a": "lustre", "/data/scratch2/a": "xfs",
        "/data/scratch3": "nfs4", "/database": "ext4",
    }  # fmt: skip


def test_file_system_of_a_place_that_is_mounted_over_is_the_last_one(
    table: Callable[..., Path],
) -> None:
    found = mounts(table(line("/data", "autofs"), line("/data", "nfs4")))
    assert file_system_of(Path("/data/brain"), found).kind == "nfs4"


def test_file_system_of_a_link_is_that_of_what_it_leads_to(
    table: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to("far")
    found = mounts(table(line(f"{tmp_path}/far", "gpfs")))
    assert file_system_of(tmp_path / "near" / "brain", found).kind == "gpfs"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        pytest.param(r"/my\040data", "/my data", id="space"),
        pytest.param(r"/tab\011stop", "/tab\tstop", id="tab"),
        pytest.param(r"/two\012lines", "/two\nlines", id="newline"),
        pytest.param(r"/back\134slash", r"/back\slash", id="backslash"),
        pytest.param(r"/a\040-\040b", "/a - b", id="like-the-separator"),
        pytest.param("/Daten/Mäuse", "/Daten/Mäuse", id="umlaut"),
        pytest.param("/no\u00a0break\u2028x", "/no\u00a0break\u2028x", id="other-white-space"),
    ],
)
def test_mount_point_is_read_whatever_its_name(
    table: Callable[..., Path], written: str, name: str
) -> None:
    found = mounts(table(line(written, "beegfs"), line("/last", "xfs")))
    assert [mount.mounted_at for mount in found] == [Path("/"), Path(name), Path("/last")]
    assert file_system_of(Path(name) / "brain", found).kind == "beegfs"


def test_mount_options_are_those_of_the_mount_and_of_the_file_system(
    table: Callable[..., Path],
) -> None:
    (_, found) = mounts(table(line("/l", "lustre", "rw,noatime", "rw,flock,lazystatfs")))
    assert found == FileSystem(
        "lustre", Path("/l"), frozenset(["rw", "noatime", "flock", "lazystatfs"])
    )


def test_mount_without_optional_fields_is_read(table: Callable[..., Path]) -> None:
    found = mounts(table("36 35 0:34 / /data rw - tmpfs\n"))
    assert found[-1] == FileSystem("tmpfs", Path("/data"), frozenset(["rw", ""]))


def test_file_systems_below_a_root_are_its_own_and_those_mounted_in_it(
    table: Callable[..., Path],
) -> None:
    found = mounts(table(line("/data", "xfs"), line("/data/a/b", "nfs"), line("/database", "gpfs")))
    below = file_systems_below(Path("/data"), found)
    assert [mount.kind for mount in below] == ["xfs", "nfs"]


def test_path_outside_every_mount_is_on_an_unknown_file_system() -> None:
    assert file_system_of(Path("/data"), []).kind == "unknown"


def test_mount_table_of_this_machine_is_read() -> None:
    found = mounts()
    assert file_system_of(Path("/proc/self"), found).kind == "proc"
    assert all(mount.mounted_at.is_absolute() for mount in found)


# --- the choice ---

LUSTRE = "rw,checksum"

SYSTEMS = [
    pytest.param("ext4", "rw", "flock", id="ext4"),
    pytest.param("xfs", "rw", "flock", id="xfs"),
    pytest.param("tmpfs", "rw", "flock", id="tmpfs"),
    pytest.param("overlay", "rw", "flock", id="overlay"),
    pytest.param("ceph", "rw", "flock", id="ceph"),
    pytest.param("nfs", "rw,local_lock=none", "strict", id="nfs"),
    pytest.param("nfs4", "rw", "strict", id="nfs4"),
    pytest.param("lustre", LUSTRE, "strict", id="lustre"),
    pytest.param("lustre", f"{LUSTRE},flock", "flock", id="lustre-flock"),
    pytest.param("lustre", f"{LUSTRE},localflock", "strict", id="lustre-localflock"),
    pytest.param("lustre", f"{LUSTRE},flock,localflock", "strict", id="lustre-both"),
    pytest.param("gpfs", "rw", "strict", id="gpfs"),
    pytest.param("beegfs", "rw", "strict", id="beegfs"),
    pytest.param("cifs", "rw", "strict", id="cifs"),
    pytest.param("fuse.sshfs", "rw", "strict", id="sshfs"),
    pytest.param("9p", "rw", "strict", id="9p"),
    pytest.param("newfs", "rw", "strict", id="not-known-here"),
    pytest.param("fuse.newfs", "rw", "strict", id="fuse-not-known-here"),
    pytest.param("unknown", "rw", "strict", id="unknown"),
    pytest.param("fuse.s3fs", "rw", None, id="s3fs"),
    pytest.param("fuse.rclone", "rw", None, id="rclone"),
]


def system(kind: str, options: str) -> FileSystem:
    return FileSystem(kind, Path("/data"), frozenset(options.split(",")))


@pytest.mark.parametrize(("kind", "options", "chosen"), SYSTEMS)
def test_auto_takes_the_lock_that_excludes_there_for_certain(
    kind: str, options: str, chosen: LockKind | None
) -> None:
    choice = choose("auto", system(kind, options))
    assert choice.kind == chosen
    assert kind in choice.reason
    assert "beware" not in choice.reason


@pytest.mark.parametrize(("kind", "options", "chosen"), SYSTEMS)
def test_setting_is_the_administrator_s_word_with_a_warning_where_flock_may_not_exclude(
    kind: str, options: str, chosen: LockKind | None
) -> None:
    choice = choose("flock", system(kind, options))
    assert choice.kind == "flock"
    assert ("beware" in choice.reason) == (chosen != "flock")


@pytest.mark.parametrize(("kind", "options", "chosen"), SYSTEMS)
def test_setting_strict_is_taken_with_a_warning_where_nothing_excludes(
    kind: str, options: str, chosen: LockKind | None
) -> None:
    choice = choose("strict", system(kind, options))
    assert choice.kind == "strict"
    assert ("beware" in choice.reason) == (chosen is None)


@pytest.mark.parametrize(("kind", "options", "chosen"), SYSTEMS)
def test_setting_none_is_taken_everywhere_and_says_what_it_means(
    kind: str, options: str, chosen: LockKind | None
) -> None:
    choice = choose("none", system(kind, options))
    assert choice.kind == "none"
    assert "only one writer" in choice.reason


# --- the check before the service starts ---


def test_check_tells_file_system_choice_and_reason_for_the_root_and_each_mount_below(
    table: Callable[..., Path],
) -> None:
    locks = Locks(mount_table=table(line("/data", "nfs4"), line("/data/lab", "xfs")))
    first, second = locks.check(Path("/data"))
    assert first.startswith("/data (nfs4): strict, ")
    assert second.startswith("/data/lab (xfs): flock, ")


@pytest.mark.parametrize("point", ["/", "/data", "/data/lab"], ids=["above", "root", "below"])
def test_check_refuses_to_start_where_no_lock_excludes_and_names_the_mend(
    table: Callable[..., Path], point: str
) -> None:
    locks = Locks(mount_table=table(line(point, "fuse.s3fs")))
    with pytest.raises(StartError) as caught:
        locks.check(Path("/data"))
    message = str(caught.value)
    assert f"below {point} " in message
    assert "fuse.s3fs" in message
    assert "--read-only" in message
    assert "--lock none" in message


@pytest.mark.parametrize("setting", ["flock", "strict", "none"])
def test_check_takes_the_administrator_s_word(
    table: Callable[..., Path], setting: LockSetting
) -> None:
    locks = Locks(setting, mount_table=table(line("/data", "fuse.s3fs")))
    (sentence,) = locks.check(Path("/data"))
    assert sentence.startswith(f"/data (fuse.s3fs): {setting}, ")


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(line("/database", "fuse.s3fs"), id="beside-the-root"),
        pytest.param(line("/data/lab", "fuse.s3fs", options="ro"), id="mounted-read-only"),
        pytest.param(line("/data/lab", "fuse.s3fs", super_options="ro"), id="read-only-itself"),
    ],
)
def test_check_minds_only_what_may_be_written(table: Callable[..., Path], elsewhere: str) -> None:
    Locks(mount_table=table(elsewhere)).check(Path("/data"))


def test_hold_on_a_file_system_that_came_later_refuses_where_no_lock_excludes(
    table: Callable[..., Path], tmp_path: Path
) -> None:
    locks = Locks(mount_table=table(line(str(tmp_path), "fuse.s3fs")))
    with pytest.raises(ReadOnlyError, match=r"fuse\.s3fs"), locks.hold(tmp_path / "f", "f"):
        pytest.fail("held")


def test_service_says_in_its_log_which_lock_it_chose_and_why(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path)
    root = file_system_of(tmp_path, mounts())
    choice = choose("auto", root)
    expected = f"locks on {root.mounted_at} ({root.kind}): {choice.kind}, {choice.reason}"
    assert expected in service.log()
    service.stop()


def test_service_with_an_unknown_lock_is_a_usage_error(tmp_path: Path) -> None:
    done = cli("serve", tmp_path, "--lock", "soft")
    assert done.returncode == 2
    assert "--lock" in done.stderr


# --- one writer at a time ---

HOLD = """
import sys
from pathlib import Path
from neurotrale.locking.locks import Locks
with Locks(sys.argv[1]).hold(Path(sys.argv[2]), "the file"):
    print("held", flush=True)
    sys.stdin.read()
"""

COUNT = """
import sys
from pathlib import Path
from neurotrale.locking.locks import Locks
locks, file = Locks(sys.argv[1], 60.0), Path(sys.argv[2])
sys.stdin.read()
for _ in range(int(sys.argv[3])):
    with locks.hold(file, "the file"):
        file.write_text(str(int(file.read_text()) + 1))
"""


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@contextmanager
def holder(kind: str, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a file until the end, or until it is killed."""
    with python(HOLD, kind, file) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def release(process: subprocess.Popen[str]) -> None:
    """Let a holder go on to its end."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fibers.json"
    path.write_text("0")
    return path


def count_up(locks: Locks, file: Path, times: int) -> None:
    for _ in range(times):
        with locks.hold(file, "the file"):
            number = int(file.read_text())
            os.sched_yield()
            file.write_text(str(number + 1))


@KINDS
@pytest.mark.parametrize("instances", [1, 8], ids=["one-instance", "one-each"])
def test_lock_excludes_threads(file: Path, kind: LockSetting, instances: int) -> None:
    locks = [Locks(kind, 60.0) for _ in range(instances)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(count_up, locks[n % instances], file, 15) for n in range(8)]
        for job in jobs:
            job.result()
    assert file.read_text() == "120"


@pytest.mark.quick(1)
@KINDS
def test_lock_excludes_processes(file: Path, kind: str) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(python(COUNT, kind, file, 40)) for _ in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()  # all begin now
        assert [process.wait(90) for process in processes] == [0, 0, 0]
    assert file.read_text() == "120"


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["auto", "strict"])
def test_lock_excludes_two_services_on_one_data_root(
    tmp_path: Path, start_service: StartService, kind: str
) -> None:
    services = [start_service(tmp_path, "--lock", kind, "--workers", "2") for _ in range(2)]
    brain = new_brain(services[0], b"[]")
    barrier = Barrier(8)

    def edit(number: int) -> None:
        mine = Brain(services[number % 2], brain.name)
        barrier.wait(30)
        for step in range(6):
            mine.patch(point(f"{number}-{step}"))
        mine.delete(f"{number}-0")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(8)))
    assert brain.ids() == {f"{number}-{step}" for number in range(8) for step in range(1, 6)}
    assert sorted(change["revision"] for change in brain.history()) == list(range(1, 57))
    assert not list(tmp_path.rglob("*.claim"))
    assert not list(tmp_path.rglob("*.tmp"))
    for service in services:
        assert service.stop() == 0


def test_lock_none_leaves_no_lock_and_excludes_nobody(file: Path) -> None:
    locks = Locks("none", 0.0)
    with holder("flock", file), locks.hold(file, "the file"):
        pass
    others = [path.name for path in file.parent.iterdir()]
    assert sorted(others) == [".fibers.json.lock", "fibers.json"]  # the holder's


@KINDS
def test_lock_of_one_file_does_not_hinder_the_writer_of_another(file: Path, kind: str) -> None:
    with holder(kind, file), Locks("auto", 0.0).hold(file.with_name("other.json"), "other"):
        pass


@KINDS
def test_lock_leaves_nothing_but_itself(file: Path, kind: LockSetting) -> None:
    with Locks(kind).hold(file, "the file"):
        pass
    left = {str(path.relative_to(file.parent)) for path in file.parent.rglob("*")} - {file.name}
    claims = {".fibers.json.lock.filelock", ".fibers.json.lock.filelock/claims"}
    assert left == {".fibers.json.lock"} | (claims if kind == "strict" else set())


@KINDS
def test_lock_in_a_directory_that_is_gone_is_missing_and_makes_none(
    tmp_path: Path, kind: LockSetting
) -> None:
    with pytest.raises(MissingError), Locks(kind).hold(tmp_path / "gone" / "f.json", "gone/f"):
        pytest.fail("held")
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_lock_is_free_again_after_an_error_inside(file: Path, kind: LockSetting) -> None:
    locks = Locks(kind, 0.0)
    with pytest.raises(ZeroDivisionError), locks.hold(file, "the file"):
        raise ZeroDivisionError
    with locks.hold(file, "the file"):
        pass


@KINDS
def test_lock_if_free_tells_whether_anybody_has_it(file: Path, kind: LockSetting) -> None:
    locks = Locks(kind)
    with locks.try_hold(file) as free:
        assert free
        with locks.try_hold(file) as inside:
            assert not inside
    with holder(kind, file), locks.try_hold(file) as free:
        assert not free


# --- not in time ---


@KINDS
def test_lock_that_another_process_keeps_is_busy_after_the_time_out(
    file: Path, kind: LockSetting
) -> None:
    with holder(kind, file) as process:
        with pytest.raises(BusyError) as caught, Locks(kind, 0.1).hold(file, "brain/fibers.json"):
            pytest.fail("held")
        assert "brain/fibers.json" in str(caught.value)
        assert caught.value.retry_after_s > 0
        release(process)
        with Locks(kind, 0.0).hold(file, "the file"):
            pass


def test_time_out_counts_only_while_another_process_keeps_the_lock(file: Path) -> None:
    locks = Locks("flock", 0.0)

    def hold() -> None:
        with locks.hold(file, "the file"):
            pass

    with ThreadPoolExecutor(2) as pool:
        with locks.hold(file, "the file"):
            waiting = [pool.submit(hold) for _ in range(2)]
            time.sleep(0.1)
            assert not any(job.done() for job in waiting)
        for job in waiting:
            job.result(30)


def test_lock_is_given_to_a_writer_that_waits_as_soon_as_it_is_free(file: Path) -> None:
    waiting = threading.Event()

    def wait() -> str:
        waiting.set()
        with Locks("flock", 60.0).hold(file, "the file"):
            return file.read_text()

    with holder("flock", file) as process, ThreadPoolExecutor(1) as pool:
        job = pool.submit(wait)
        waiting.wait(30)
        file.write_text("released")
        release(process)
        assert job.result(30) == "released"


@pytest.mark.quick(1)
@KINDS
def test_edit_of_a_file_that_is_locked_is_503_until_it_is_free_and_reads_never_wait(
    tmp_path: Path, start_service: StartService, kind: str
) -> None:
    service = start_service(tmp_path, "--lock", kind, "--lock-timeout", "0.2")
    brain = new_brain(service, b"[]")
    with holder(kind, brain.file) as process:
        for method, data in (("PUT", b"[]"), ("PATCH", b"{}"), ("DELETE", None)):
            answer = requests.request(method, brain.url, params={"id": "a"}, data=data)
            assert "Save again" in error_of(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Cache-Control"] == "no-store"
        restoring = requests.post(f"{brain.url}/restore", json={}, params={"removed": "true"})
        error_of(restoring, 503)
        assert requests.get(brain.url).json() == []
        assert brain.history() == []
        release(process)
    brain.put([point("a")])
    assert requests.get(brain.url).json() == [point("a")]
    service.stop()


# --- holders that died ---


def test_flock_of_a_holder_that_was_killed_is_free_at_once(file: Path) -> None:
    with holder("flock", file) as process:
        process.kill()
        process.wait(30)
        with Locks("flock", 0.0).hold(file, "the file"):
            pass


def claims_of(lines: list[str]) -> dict[str, re.Match[str]]:
    pattern = re.compile(r"claim (\S+): (held|intent) by process (\d+) on (\S+), for (.+)")
    return {match.group(1): match for match in map(pattern.fullmatch, lines) if match is not None}


@pytest.mark.long
def test_strict_lock_of_a_holder_that_was_killed_blocks_until_its_claim_is_broken(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path, "--lock", "strict", "--lock-timeout", "0.2")
    brain = new_brain(service, b"[]")
    with holder("strict", brain.file) as process:
        process.kill()
        process.wait(30)
    error_of(requests.put(brain.url, json=[]), 503)
    claims = claims_of(succeed("locks", tmp_path, "--lock", "strict"))
    assert {match.group(2) for match in claims.values()} == {"held", "intent"}
    for match in claims.values():
        assert match.group(3) == str(process.pid)
        assert match.group(5) == str(brain.file)
    error_of(requests.put(brain.url, json=[]), 503)

    held = next(name for name, match in claims.items() if match.group(2) == "held")
    lines = succeed("locks", tmp_path, "--break", held)
    assert sorted(lines) == sorted(f"removed claim {name} of {brain.file}" for name in claims)
    assert not list(tmp_path.rglob("*.claim"))
    brain.put([point("a")])
    service.stop()


def test_break_of_a_claim_leaves_the_claims_of_others(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "deep" / "b.json"]
    files[1].parent.mkdir()
    with holder("strict", files[0]), holder("strict", files[1]):
        of_a, of_b = ({claim.name for claim in file.parent.glob("*/claims/*")} for file in files)
        assert len(of_a) == len(of_b) == 2
        succeed("locks", tmp_path, "--break", of_a.pop())
        assert {claim.name for claim in tmp_path.rglob("*.claim")} == of_b


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["held-v1-0.claim", "../x", ""])
def test_break_of_a_claim_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    done = cli("locks", tmp_path, "--break", name)
    assert done.returncode == 1
    assert f"no claim {name!r}" in done.stderr


# --- who may lock ---


def group_of_ours() -> int:
    """A group that we may give files to and that they do not get by themselves."""
    if os.geteuid() == 0:
        return os.getegid() + 1234
    others = set(os.getgroups()) - {os.getegid()}
    if not others:
        pytest.skip("needs a second group")
    return others.pop()


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("narrow_umask")
@pytest.mark.parametrize("mode", [0o664, 0o660, 0o644, 0o600, 0o440], ids=oct)
def test_flock_may_be_taken_by_those_who_may_write_the_file(file: Path, mode: int) -> None:
    group = group_of_ours()
    os.chown(file, -1, group)
    file.chmod(mode)
    with Locks("flock").hold(file, "the file"):
        pass
    status = lock_path(file).stat()
    assert stat.S_IMODE(status.st_mode) == mode | 0o600
    assert status.st_gid == group


@pytest.mark.usefixtures("narrow_umask")
@pytest.mark.parametrize("mode", [0o664, 0o660, 0o644, 0o600], ids=oct)
def test_strict_lock_may_be_taken_by_those_who_may_write_the_file(file: Path, mode: int) -> None:
    group = group_of_ours()
    os.chown(file, -1, group)
    file.chmod(mode)
    with Locks("strict").hold(file, "the file"):
        coordination = file.with_name(".fibers.json.lock.filelock")
        for directory in (coordination, coordination / "claims"):
            status = directory.stat()
            assert status.st_gid == group
            assert status.st_mode & 0o066 == mode & 0o066
            assert bool(status.st_mode & stat.S_IXGRP) == bool(mode & stat.S_IRGRP)
        for claim in (coordination / "claims").iterdir():
            assert claim.stat().st_gid == group
            assert claim.stat().st_mode & 0o044 == mode & 0o044


@pytest.mark.usefixtures("narrow_umask")
def test_lock_of_a_file_that_is_not_there_yet_follows_the_umask(tmp_path: Path) -> None:
    with Locks("flock").hold(tmp_path / "new.json", "new"):
        pass
    assert stat.S_IMODE((tmp_path / ".new.json.lock").stat().st_mode) == 0o644


# --- another kind of lock than before ---


def test_strict_lock_where_flock_was_used_fails_closed_and_says_what_to_remove(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path, "--lock", "strict")
    brain = new_brain(service, b"[]")
    with Locks("flock").hold(brain.file, "the file"):
        pass
    description = error_of(requests.put(brain.url, json=[point("a")]), 500)
    assert ".fibers.json.lock" in description
    assert "same kind of lock" in description
    assert brain.content() == []
    lock_path(brain.file).unlink()
    brain.put([point("a")])
    service.stop()


# --- the probe ---


def take_both(directory: Path, kind: LockKind, times: int = 40) -> ProbeResult:
    """Probe with a process beside this one; give what both saw."""
    program = (
        "import sys; from pathlib import Path; from neurotrale.locking.probe import probe_lock;"
        "print(probe_lock(Path(sys.argv[1]), sys.argv[2], 1, 2, int(sys.argv[3]), 60.0))"
    )
    with python(program, directory, kind, str(times)) as other:
        mine = probe_lock(directory, kind, 0, 2, times, 60.0)
        assert other.stdout is not None
        theirs = other.stdout.read()
        assert other.wait(60) == 0
    assert theirs.strip() == repr(mine)
    return mine


@KINDS
def test_probe_of_a_lock_that_excludes_sees_no_meeting_and_every_count(
    tmp_path: Path, kind: LockKind
) -> None:
    result = take_both(tmp_path / "probe", kind)
    assert result.excludes
    assert [one.acquisitions for one in result.reports] == [40, 40]
    assert [one.overlaps for one in result.reports] == [0, 0]
    assert result.counted == 80
    assert list(tmp_path.iterdir()) == []


def test_probe_without_a_lock_sees_that_nothing_excludes(tmp_path: Path) -> None:
    result = take_both(tmp_path / "probe", "none", 200)
    assert not result.excludes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("met", "counted", "excludes"),
    [
        pytest.param((0, 0), 20, True, id="excludes"),
        pytest.param((0, 0), 19, False, id="count-lost"),
        pytest.param((1, 0), 20, False, id="one-met"),
        pytest.param((0, 1), 20, False, id="other-met"),
    ],
)
def test_probe_result_excludes_when_nobody_met_and_no_count_was_lost(
    met: tuple[int, int], counted: int, excludes: bool
) -> None:
    assert (
        ProbeResult([ParticipantReport("n", 10, one) for one in met], counted).excludes is excludes
    )


def test_probe_whose_other_taker_never_comes_says_so(tmp_path: Path) -> None:
    with pytest.raises(BusyError, match="here-1"):
        probe_lock(tmp_path / "probe", "flock", 0, 2, 10, 0.2)


# --- the command ---

TAKER = re.compile(r"participant (\d) on \S+ held the lock (\d+) times, with (\d+) overlaps")


def test_locks_command_tells_file_system_choice_reason_and_what_two_processes_saw(
    tmp_path: Path,
) -> None:
    (tmp_path / "brain").mkdir()
    system_line, choice_line, *takers, verdict = succeed("locks", tmp_path)
    system = file_system_of(tmp_path, mounts())
    choice = choose("auto", system)
    assert system_line == f"{system.mounted_at}: {system.kind}"
    assert choice_line == f"  lock: {choice.kind}, {choice.reason}"
    matches = [TAKER.fullmatch(taker) for taker in takers]
    assert [match.groups() for match in matches if match] == [("0", "100", "0"), ("1", "100", "0")]
    assert verdict == f"counted 200 of 200: {choice.kind} excludes other writers"
    assert [path.name for path in tmp_path.iterdir()] == ["brain"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("by_environment", [False, True], ids=["option", "environment"])
def test_locks_command_tries_the_kind_that_is_set(tmp_path: Path, by_environment: bool) -> None:
    more = {"NEUROTRALE_LOCK": "strict"} if by_environment else {}
    options = () if by_environment else ("--lock", "strict")
    done = cli("locks", tmp_path, *options, **more)
    assert done.returncode == 0
    assert "  lock: strict, as set" in done.stdout
    assert done.stdout.splitlines()[-1] == "counted 200 of 200: strict excludes other writers"


def test_locks_command_exits_1_when_takers_meet(tmp_path: Path) -> None:
    done = cli("locks", tmp_path, "--lock", "none")
    assert done.returncode == 1
    assert "none does NOT exclude" in done.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_locks_command_under_srun_tells_on_every_node_what_all_saw(tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "2"}
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(cli, "locks", tmp_path, **slurm, SLURM_PROCID=str(rank)) for rank in (0, 1)
        ]
        first, second = (job.result() for job in jobs)
    assert (first.returncode, second.returncode) == (0, 0)
    head, told = first.stdout.splitlines()[:2], first.stdout.splitlines()[2:]
    assert head[1].startswith("  lock: ")
    assert second.stdout.splitlines() == told  # the file system is told once
    assert [line.partition(": ")[2][:13] for line in told] == [
        "participant 0", "participant 1", "counted 200 o",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_locks_command_in_a_batch_script_takes_two_processes_of_its_own(tmp_path: Path) -> None:
    done = cli("locks", tmp_path, SLURM_JOB_ID="7", SLURM_PROCID="0")
    assert done.returncode == 0
    assert "counted 200 of 200" in done.stdout


@pytest.mark.parametrize("name", ["gone", "file"])
def test_locks_command_on_no_directory_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = cli("locks", tmp_path / name)
    assert done.returncode == 2
    assert name in done.stderr


def test_locks_command_where_nothing_may_be_written_says_so() -> None:
    done = cli("locks", "/sys", "--lock", "flock")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: /sys cannot be written")
