"""``neurotrale doctor`` names what a promise of the service breaks on, and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from neurotrale.locking.filesystems import FileSystem, LockChoice, mounts
from neurotrale.tools.doctor import MIB, Diagnosis, automount, examine, lock, mount_of
from tests.datasets import write_dataset
from tests.processes import environment, names_in, neurotrale, run
from tests.users import ALICE, LAB, OWN, as_user

TOPICS = [
    "lock", "file system", "automount", "permissions", "times", "user", "openat2", "spool", "space",
    "writing", "group",
]  # fmt: skip
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data/brain")
    return tmp_path / "data"


def diagnosed(done: subprocess.CompletedProcess[str]) -> dict[str, Diagnosis]:
    assert done.returncode in (0, 1), done.stderr
    return {one["topic"]: Diagnosis(**one) for one in json.loads(done.stdout)}


def doctor(root: Path, *options: str) -> dict[str, Diagnosis]:
    return diagnosed(run(neurotrale("doctor", root, "--json", *options)))


def test_doctor_finds_no_problem_with_usual_data_and_leaves_nothing_behind(root: Path) -> None:
    before = names_in(root)
    done = run(neurotrale("doctor", root, "--max-body-mb", "1"))
    assert done.returncode == 0, done.stderr
    assert names_in(root) == before
    lines = done.stdout.splitlines()
    assert [line[:11].strip() for line in lines if not line.startswith(" ")] == TOPICS
    assert " problem " not in done.stdout
    assert "two processes counted 200 of 200" in lines[0]


@pytest.mark.long
def test_doctor_lists_the_same_facts_as_json(root: Path) -> None:
    found = doctor(root, "--max-body-mb", "1")
    assert list(found) == TOPICS
    assert all(one.fact and one.state in ("ok", "note", "problem") for one in found.values())
    assert all(one.advice or one.state == "ok" for one in found.values())


@pytest.mark.long
def test_doctor_notes_a_spool_directory_that_is_smaller_than_an_upload(root: Path) -> None:
    chosen = doctor(root, "--max-body-mb", "1", "--spool", str(root / "brain"))["spool"]
    assert (chosen.state, f" {root / 'brain'}," in chosen.fact) == ("ok", True)
    spool = doctor(root, "--max-body-mb", "1000000")["spool"]
    assert spool.state == "note"
    assert "--max-body-mb" in spool.advice
    assert "--spool or TMPDIR" in spool.advice


def test_doctor_finds_annotations_that_everybody_may_write(root: Path) -> None:
    block = root / "brain/annotations/x0y0z0"
    block.chmod(0o777)
    done = run(neurotrale("doctor", root, "--json"))
    assert done.returncode == 1
    group = diagnosed(done)["group"]
    assert (group.state, str(block) in group.fact) == ("problem", True)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("mode", "state", "part"),
    [
        (0o755, "ok", "only the owner"),
        (0o2755, "ok", "only the owner"),
        (0o775, "note", "not what is created"),
        (0o2775, "ok", "also what the service creates"),
    ],
    ids=["owner", "owner-setgid", "group", "group-setgid"],
)
def test_doctor_says_whether_a_group_can_work_together(
    root: Path, mode: int, state: str, part: str
) -> None:
    root.chmod(mode)
    group = doctor(root)["group"]
    assert (group.state, part in group.fact) == (state, True), group


def examined_by(uid: int, root: Path, *, namespace: bool = False) -> dict[str, Diagnosis]:
    def examined() -> str:
        return json.dumps([asdict(one) for one in examine(root, mounts(), MIB)])

    said = as_user(uid, examined, namespace=namespace)
    return {one["topic"]: Diagnosis(**one) for one in json.loads(said)}


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A data root that other users may look at."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        write_dataset(Path(place, "data/brain"))
        yield Path(place, "data")


@ROOT
def test_doctor_tells_a_user_who_may_not_write(reachable: Path) -> None:
    found = examined_by(ALICE, reachable)
    assert found["writing"].state == "note"
    assert "--read-only" in found["writing"].advice
    assert "permissions" not in found  # that needs a file of its own
    assert f"uid {ALICE}" in found["user"].fact


@ROOT
@pytest.mark.parametrize(
    ("owner", "group", "said"),
    [
        (ALICE, OWN, "the data's owner and group are known"),
        (ALICE, LAB, "the data's group has no number in it"),
        (0, 0, "the data's owner and group has no number in it"),
    ],
)
def test_doctor_tells_which_owner_a_user_namespace_lacks(
    reachable: Path, owner: int, group: int, said: str
) -> None:
    os.chown(reachable, owner, group)
    user = examined_by(ALICE, reachable, namespace=True)["user"]
    assert said in user.fact
    assert user.state == ("note" if "no number" in said else "ok")


@ROOT
@pytest.mark.long
def test_doctor_notes_a_read_only_mount(root: Path) -> None:
    mounted = ["mount --bind $0 $0 && mount -o remount,ro,bind $0 && exec $1 -m neurotrale doctor"]
    command = ["unshare", "--mount", "sh", "-c", mounted[0] + " --json $0", str(root)]
    done = subprocess.run(
        [*command, sys.executable], env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    found = diagnosed(done)
    assert "read-only" in found["file system"].fact
    assert "--read-only" in found["file system"].advice
    assert found["lock"].state == "note"


# --- what cannot be had on every machine ---


@pytest.mark.parametrize(
    ("choice", "excludes", "state", "part"),
    [
        (LockChoice("flock", "r"), True, "ok", "--prove"),
        (LockChoice("strict", "r"), False, "problem", "--lock KIND"),
        (LockChoice("flock", "r"), None, "note", "may write"),
        (LockChoice(None, "r"), None, "problem", "--read-only"),
    ],
)
def test_lock_is_diagnosed_by_its_trial(
    choice: LockChoice, excludes: bool | None, state: str, part: str
) -> None:
    one = lock(choice, "a trial" if excludes is not None else None, excludes)
    assert (one.state, part in one.advice) == (state, True), one


@pytest.mark.parametrize(("point", "state"), [("/", "note"), ("/elsewhere", "ok")])
def test_mount_on_demand_above_the_data_is_noted(tmp_path: Path, point: str, state: str) -> None:
    table = [FileSystem("autofs", Path(point), frozenset())]
    assert automount(tmp_path, table).state == state


def test_file_system_is_named_with_its_mount_point(tmp_path: Path) -> None:
    table = [
        FileSystem("ext4", Path("/"), frozenset()),
        FileSystem("lustre", tmp_path, frozenset()),
    ]
    assert mount_of(tmp_path / ".", table).fact.startswith(f"lustre, mounted at {tmp_path}")
