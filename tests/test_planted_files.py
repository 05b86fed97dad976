"""Links, pipes and the like that a member of the group puts where the service keeps its own files.

The block's directory is shared by a group, and another user of it plants them. Whatever is planted,
nobody else's file is read, written or created, no request waits, and the answer names the file.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import requests

from neurotrale.annotations.journals.first_content import FirstContent
from neurotrale.errors import DamagedError
from neurotrale.locking.probe import probe_lock
from tests.brains import cli, error_of
from tests.conftest import Service, StartService
from tests.stores import IN_MEMORY, annotation, array, open_stores

A, B, C = (annotation(id_) for id_ in "abc")
SECRET = b"export SECRET=1\n"
GROUP, PLANTER = 54321, 54322
PATIENCE_S = 20  # of one request; the service waits for nothing here


# --- the place, and who plants ---


@dataclass
class Shared:
    """A data root whose block is shared by a group, and what must stay as it is.

    Attributes:
        root: The data root.
        service: A service on it.
        home: A directory outside of the root that only the service's user may enter.
    """

    root: Path
    service: Service
    home: Path

    @property
    def block(self) -> Path:
        return self.root / "brain" / "annotations" / "x0y0z0"

    @property
    def inside(self) -> Path:
        return self.root / "brain" / "annotations" / "x1y0z0" / "fibers.json"

    def url(self, leaf: str) -> str:
        return f"{self.service.url}/brain/annotations/x0y0z0/{leaf}"

    def victims(self) -> dict[str, tuple[int, int, int, int, bytes]]:
        """Everything outside of the block: mode, owner, group, number of names, content."""
        found = {}
        for place in (self.home, self.inside.parent):
            for path in (place, *place.rglob("*")):
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else b""
                found[str(path)] = (
                    status.st_mode, status.st_uid, status.st_gid, status.st_nlink, content
                )  # fmt: skip
        return found


def as_planter(action: Callable[[], object]) -> None:
    """Do something as another user of the group, or as ourselves where only root may do that."""
    if os.geteuid() != 0:
        action()
        return
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(PLANTER)
            os.umask(0o002)
            action()
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def share(directory: Path) -> None:
    """Let the group write in a directory, and own what is made there."""
    directory.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(directory, -1, GROUP)
    directory.chmod(0o2775)


def make_shared(place: Path, start: StartService, *options: str) -> Shared:
    return Shared(place / "data", start(place / "data", *options), place / "home")


def fill(place: Path) -> None:
    place.chmod(0o755)
    share(place / "data" / "brain" / "annotations" / "x0y0z0")
    share(place / "data" / "brain" / "annotations" / "x1y0z0")
    (place / "data" / "brain" / "annotations" / "x1y0z0" / "fibers.json").write_bytes(array(A))
    (place / "home" / "directory").mkdir(parents=True)
    (place / "home" / "bashrc").write_bytes(SECRET)
    (place / "home" / "bashrc").chmod(0o600)
    (place / "home").chmod(0o700)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that other users may enter; pytest's own they may not."""
    directory = Path(tempfile.mkdtemp(prefix="planted-", dir=IN_MEMORY))
    fill(directory)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def shared(place: Path, start_service: StartService) -> Iterator[Shared]:
    made = make_shared(place, start_service, "--lock", "flock", "--workers", "1")
    yield made
    made.service.stop()


@pytest.fixture(scope="module")
def strict(start_service: StartService) -> Iterator[Shared]:
    directory = Path(tempfile.mkdtemp(prefix="planted-", dir=IN_MEMORY))
    fill(directory)
    made = make_shared(directory, start_service, "--lock", "strict", "--workers", "1")
    yield made
    made.service.stop()
    shutil.rmtree(directory)


def _socket(path: Path, shared: Shared) -> None:
    # By a descriptor, as the path of a socket may have a hundred bytes only.
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


Plant = Callable[[Path, Shared], object]
THINGS: dict[str, Plant] = {
    "link-out": lambda path, shared: path.symlink_to(shared.home / "bashrc"),
    "link-to-nothing": lambda path, shared: path.symlink_to(shared.home / "new"),
    "link-to-directory": lambda path, shared: path.symlink_to(shared.home / "directory"),
    "link-in": lambda path, shared: path.symlink_to("../x1y0z0/fibers.json"),
    "link-in-to-nothing": lambda path, shared: path.symlink_to("../x1y0z0/.new.json.journal"),
    "link-to-itself": lambda path, shared: path.symlink_to(path.name),
    "link-to-device": lambda path, shared: path.symlink_to("/dev/zero"),
    "pipe": lambda path, shared: os.mkfifo(path, 0o666),
    "socket": _socket,
    "directory": lambda path, shared: path.mkdir(),
}
things = pytest.mark.parametrize("thing", THINGS)

JOURNAL, BASE, LOCK, TEMPORARY = ".{}.journal", ".{}.journal.base", ".{}.lock", ".{}.tmp"
BURST = ".{}.burst"
WRITES = ("put", "patch", "delete", "restore", "confirm")
READS = ("history", "revision", "held")
# Companion, whether there is a history already, and the requests that need the companion.
CASES: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    "journal": (JOURNAL, True, (*READS, *WRITES)),
    "first-journal": (JOURNAL, False, (*READS, *WRITES)),
    "first-base": (BASE, False, ("put", "patch", "delete")),
    "burst": (BURST, True, (*READS, *WRITES)),
    "first-burst": (BURST, False, (*READS, *WRITES)),
    "lock": (LOCK, True, WRITES),
    "first-lock": (LOCK, False, WRITES),
    "temporary": (TEMPORARY, True, WRITES),
    "first-temporary": (TEMPORARY, False, WRITES),
}


def ask(url: str, request: str) -> requests.Response:
    method, path, params, body = {
        "put": ("PUT", "", {}, array(C)),
        "patch": ("PATCH", "", {"id": "b"}, annotation("b", length=9)),
        "delete": ("DELETE", "", {"id": "a"}, b""),
        "restore": ("POST", "/restore", {"revision": "0"}, b"{}"),
        "confirm": ("DELETE", "/held", {}, b""),
        "history": ("GET", "/history", {}, b""),
        "revision": ("GET", "/history/1", {}, b""),
        "held": ("GET", "/held", {}, b""),
        "get": ("GET", "", {}, b""),
    }[request]
    headers = {"Content-Type": "application/json"}
    return requests.request(
        method, url + path, params=params, data=body, headers=headers, timeout=PATIENCE_S
    )


_numbers = count()


def new_file(shared: Shared, *, recorded: bool) -> Path:
    """Make an annotation file, with or without a history."""
    path = shared.block / f"z-{next(_numbers):04}.json"
    path.write_bytes(array(A, B))
    path.chmod(0o664)
    if recorded:
        url = shared.url(path.name)
        assert requests.patch(url, C, params={"id": "c"}, timeout=PATIENCE_S).status_code == 201
    return path


def plant(path: Path, thing: str, shared: Shared) -> None:
    """Put something in the place of a file; what was there is moved aside."""

    def do() -> None:
        if os.path.lexists(path):
            path.rename(path.with_name(f"aside-{path.name}"))
        THINGS[thing](path, shared)

    as_planter(do)


def look_of(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return status.st_mode, status.st_uid, status.st_gid, status.st_ino


@pytest.mark.quick(14)
@things
@pytest.mark.parametrize("case", CASES)
def test_planted_companion_is_a_500_that_names_it_and_harms_nobody(
    shared: Shared, case: str, thing: str
) -> None:
    form, recorded, failing = CASES[case]
    file = new_file(shared, recorded=recorded)
    hidden = file.with_name(form.format(file.name))
    plant(hidden, thing, shared)
    victims, planted, content = shared.victims(), look_of(hidden), file.read_bytes()
    for request in failing:
        description = error_of(ask(shared.url(file.name), request), 500)
        assert f"brain/annotations/x0y0z0/{hidden.name}: expected a regular file" in description
        assert "move it aside" in description
        assert (shared.victims(), look_of(hidden)) == (victims, planted), request
        assert file.read_bytes() == content, request
    assert ask(shared.url(file.name), "get").content == content
    neighbour = new_file(shared, recorded=False)
    assert ask(shared.url(neighbour.name), "patch").status_code == 200
    # Moved aside, as the answer says, it is in nobody's way any more.
    as_planter(lambda: hidden.rename(hidden.with_name(f"found-{hidden.name}")))
    assert ask(shared.url(file.name), "patch").status_code == 200
    assert shared.victims() == victims


@things
def test_planted_base_of_a_file_with_history_is_a_500_for_what_needs_it(
    shared: Shared, thing: str
) -> None:
    file = new_file(shared, recorded=True)
    hidden = file.with_name(BASE.format(file.name))
    plant(hidden, thing, shared)
    victims = shared.victims()
    assert ask(shared.url(file.name), "patch").status_code == 200
    file.write_bytes(b"[]")  # now the way back to the first content leads over the base
    for request in ("revision", "restore"):
        description = error_of(ask(shared.url(file.name), request), 500)
        assert f"{hidden.name}: expected a regular file" in description
    assert shared.victims() == victims


@pytest.mark.quick(6)
@things
@pytest.mark.parametrize("planted", [JOURNAL, TEMPORARY], ids=["journal", "temporary"])
def test_history_of_a_file_that_is_gone_does_not_follow_what_was_planted(
    shared: Shared, thing: str, planted: str
) -> None:
    file = shared.block / f"z-{next(_numbers):04}.json"
    assert ask(shared.url(file.name), "put").status_code == 201
    hidden = file.with_name(planted.format(file.name))
    plant(hidden, thing, shared)
    file.unlink()
    victims = shared.victims()
    assert hidden.name in error_of(ask(shared.url(file.name), "history"), 500)
    assert shared.victims() == victims


@pytest.mark.quick(6)
@things
@pytest.mark.parametrize("inner", ["", "claims"], ids=["coordination", "claims"])
@pytest.mark.parametrize("recorded", [True, False], ids=["later", "first"])
def test_planted_directory_of_strict_locks_is_a_500_and_harms_nobody(
    strict: Shared, inner: str, thing: str, recorded: bool
) -> None:
    if thing == "directory":
        thing = "link-to-directory"
    file = new_file(strict, recorded=recorded)
    hidden = file.with_name(f".{file.name}.lock.filelock")
    if inner and not recorded:
        as_planter(hidden.mkdir)
    if recorded and inner:
        hidden.chmod(0o2777)
    hidden = hidden / inner
    plant(hidden, thing, strict)
    victims, planted, content = strict.victims(), look_of(hidden), file.read_bytes()
    for request in WRITES:
        description = error_of(ask(strict.url(file.name), request), 500)
        assert f"{hidden.name}: expected a directory, found" in description
        assert (strict.victims(), look_of(hidden)) == (victims, planted), request
        assert file.read_bytes() == content
    assert ask(strict.url(file.name), "get").content == content
    assert ask(strict.url(file.name), "history").status_code == 200


@pytest.mark.quick(6)
@things
@pytest.mark.parametrize("name", ["held-v1-" + "0" * 32 + ".claim", "x"])
def test_planted_claim_of_strict_locks_is_a_500_and_harms_nobody(
    strict: Shared, thing: str, name: str
) -> None:
    file = new_file(strict, recorded=True)
    claims = file.with_name(f".{file.name}.lock.filelock") / "claims"
    claims.chmod(0o2777)
    plant(claims / name, thing, strict)
    victims = strict.victims()
    description = error_of(ask(strict.url(file.name), "patch"), 500)
    assert f".{file.name}.lock.filelock" in description
    assert "remove" not in description
    assert strict.victims() == victims


# --- the command line ---


@pytest.mark.parametrize(
    "thing",
    [
        thing if thing in ("link-out", "pipe") else pytest.param(thing, marks=pytest.mark.long)
        for thing in THINGS
    ],
)
def test_commands_meet_a_planted_journal_with_an_error_that_names_it(
    place: Path, shared: Shared, thing: str
) -> None:
    brain = Path(tempfile.mkdtemp(dir=place)) / "brain"
    (brain / "annotations" / "x0y0z0").mkdir(parents=True)
    file = brain / "annotations" / "x0y0z0" / "fibers.json"
    file.write_bytes(array(A))
    journal = file.with_name(".fibers.json.journal")
    THINGS[thing](journal, shared)
    victims = shared.victims()
    for command in (
        ("history", file),
        ("held", file),
        ("restore", file, "--removed"),
        ("restore", file, "--revision", "0"),
        ("history", file, "--show", "1"),
        ("corrections", brain),
    ):
        done = cli(*command)
        assert done.returncode == 1, done
        assert f"{journal.name}: expected a regular file" in done.stderr
    assert shared.victims() == victims


@things
def test_corrections_of_a_block_with_a_planted_journal_are_a_500_that_names_it(
    shared: Shared, thing: str
) -> None:
    brain = shared.root / f"brain-{thing}"
    share(brain / "annotations" / "x0y0z0")
    hidden = brain / "annotations" / "x0y0z0" / ".fibers.json.journal"
    plant(hidden, thing, shared)
    victims = shared.victims()
    url = f"{shared.service.url}/{brain.name}/annotations/corrections"
    description = error_of(requests.get(url, timeout=PATIENCE_S), 500)
    assert f"x0y0z0/{hidden.name}: expected a regular file" in description
    assert shared.victims() == victims


def test_file_behind_a_link_is_recorded_beside_itself_by_the_command_line(tmp_path: Path) -> None:
    stores = open_stores(tmp_path)
    stores.put(array(A, B))
    stores.delete("a")
    link = tmp_path / "link.json"
    link.symlink_to(stores.file)
    assert "delete" in cli("history", link).stdout
    assert cli("restore", link, "--removed").returncode == 0
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brain", "link.json"]
    assert b'"a"' in stores.file.read_bytes()


@pytest.mark.parametrize("thing", ["link-to-directory", "open-directory"])
def test_probe_in_a_directory_that_others_prepared_is_refused(
    place: Path, shared: Shared, thing: str
) -> None:
    directory = Path(tempfile.mkdtemp(dir=place)) / ".probe-7"
    if thing == "open-directory":
        directory.mkdir()
        directory.chmod(0o777)
        (directory / "inside").symlink_to(shared.home / "bashrc")
    else:
        THINGS[thing](directory, shared)
    victims = shared.victims()
    with pytest.raises(DamagedError, match=r"\.probe-7: expected a directory that only this user"):
        probe_lock(directory, "flock", 0, 1, 3, 20.0)
    assert shared.victims() == victims


def test_probe_directory_is_one_that_nobody_else_writes_in(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        result = probe_lock(tmp_path / "probe", "flock", 0, 1, 3, 20.0)
    finally:
        os.umask(umask)
    assert result.counted == 3
    assert list(tmp_path.iterdir()) == []


# --- what is swapped while the service works, and what a dead writer seems to have left ---


@pytest.mark.parametrize("form", [JOURNAL, BASE, LOCK, TEMPORARY])
@pytest.mark.long
def test_companion_that_is_swapped_for_a_link_all_the_time_harms_nobody(
    shared: Shared, form: str
) -> None:
    file = new_file(shared, recorded=True)
    hidden = file.with_name(form.format(file.name))
    aside = hidden.with_name(f"aside-{hidden.name}")
    victims, done = shared.victims(), threading.Event()

    def swap() -> None:
        while not done.is_set():
            with suppress(OSError):
                hidden.rename(aside)
            with suppress(OSError):
                hidden.symlink_to(shared.home / ("bashrc" if form != BASE else "new"))
            with suppress(OSError):
                hidden.unlink()
            with suppress(OSError):
                aside.rename(hidden)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(150):
            body = annotation("b", length=number)
            requests.patch(shared.url(file.name), body, params={"id": "b"}, timeout=PATIENCE_S)
    finally:
        done.set()
        swapping.join()
    assert shared.victims() == victims


@pytest.mark.quick(1)
@pytest.mark.parametrize("thing", ["link-out", "pipe", "link-to-device"])
def test_leftover_of_a_file_that_is_none_holds_nobody_up_and_tells_no_secret(
    tmp_path: Path, start_service: StartService, thing: str
) -> None:
    stores = open_stores(tmp_path / "data")
    stores.put(array(A))
    evil = stores.file.with_name("evil.json")
    shutil.copy(stores.journal.path, evil.with_name(".evil.json.journal"))
    evil.with_name(".evil.json.tmp").write_bytes(b"[")
    (tmp_path / "bashrc").write_bytes(SECRET)
    if thing == "pipe":
        os.mkfifo(evil)
    else:
        evil.symlink_to(tmp_path / "bashrc" if thing == "link-out" else "/dev/zero")
    service = start_service(stores.root)
    url = f"{service.url}/brain/annotations/x0y0z0/fibers.json"
    answer = requests.patch(url, B, params={"id": "b"}, timeout=PATIENCE_S)
    assert answer.status_code == 201
    for path in stores.file.parent.glob(".*"):
        assert b"SECRET" not in path.read_bytes()
    service.stop()


# --- files with several names ---


def test_journal_that_is_another_name_of_a_foreign_file_leaves_that_alone(shared: Shared) -> None:
    file = new_file(shared, recorded=False)
    foreign = shared.home / "bashrc"
    os.link(foreign, file.with_name(JOURNAL.format(file.name)))
    victims = shared.victims()
    answer = ask(shared.url(file.name), "patch")
    assert answer.status_code == 200
    assert foreign.read_bytes() == SECRET
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o600
    journal = file.with_name(JOURNAL.format(file.name))
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert ask(shared.url(file.name), "history").json()["changes"][0]["changed"] == ["b"]
    assert foreign.stat().st_nlink == 1
    assert {path: look[4] for path, look in shared.victims().items()} == {
        path: look[4] for path, look in victims.items()
    }


def test_backup_of_hard_links_keeps_what_it_saw_and_the_history_goes_on(tmp_path: Path) -> None:
    stores = open_stores(tmp_path / "data")
    stores.file.write_bytes(array(A))
    stores.patch("b")
    backup = tmp_path / "backup"
    subprocess.run(["cp", "-al", stores.file.parent, backup], check=True)
    saved = {path.name: path.read_bytes() for path in backup.iterdir()}
    mode = stores.journal.path.stat().st_mode
    stores.patch("c")
    stores.patch("d")
    assert {path.name: path.read_bytes() for path in backup.iterdir()} == saved
    assert [entry.n for entry in stores.journal.entries()] == [3, 2, 1]
    assert stores.past.revision(stores.place, 0) == array(A)
    assert stores.journal.path.stat().st_mode == mode
    assert stores.journal.path.stat().st_nlink == 1
    names = {f".fibers.json{end}" for end in (".lock", ".journal", ".journal.base")}
    assert {path.name for path in stores.file.parent.iterdir()} == {*names, "fibers.json"}


def test_new_file_never_has_the_set_user_id_of_the_old_one(tmp_path: Path) -> None:
    stores = open_stores(tmp_path)
    stores.file.write_bytes(array(A))
    stores.file.chmod(0o6775)
    stores.patch("b")
    for path in (stores.file, stores.journal.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o775


def test_base_is_what_was_read_even_when_the_file_is_swapped_before_it_is_kept(
    tmp_path: Path,
) -> None:
    stores = open_stores(tmp_path)
    stores.file.write_bytes(array(A))
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    content = stores.store.contents.read(stores.file)
    stores.file.unlink()
    stores.file.symlink_to(secret)
    FirstContent(stores.file, stores.journal.base_path).save(content)
    assert stores.journal.base() == array(A)
    assert secret.stat().st_nlink == 1
