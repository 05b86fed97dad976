"""Who may read and write what the service writes: modes, owners, ACLs, and directories of a group.

The second users are real, and so are the user namespaces: a child process becomes another user, and
enters a namespace that maps this user alone, as an unprivileged container does.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.errors import DamagedError
from neurotrale.late import load_all
from neurotrale.locking.locks import Locks
from neurotrale.storage.acl import AclEntry, nfs4_group_rights
from neurotrale.storage.atomic import replace_file
from neurotrale.storage.names import BlockName
from neurotrale.storage.permissions import Permissions
from tests.conftest import StartService
from tests.processes import unmount
from tests.stores import ANN, NAME, Stores, annotation, array, open_stores
from tests.users import ALICE, BOB, EVE, LAB, OWN, as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

A = annotation("a")
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY_NAMED = 2**32 - 1
USERS = (ALICE, BOB)
STRICT = pytest.mark.parametrize("kind", ["flock", "strict"])

load_all()  # other users may not be able to read what Python is installed in
codecs.lookup("ascii")


# --- users, ACLs and directories ---


def acl(named: dict[int, int], *, group: int = 0, mask: int = 6, other: int = 0) -> bytes:
    """The extended attribute of an ACL; the owner of a file has rw, that of a directory rwx."""
    entries = [(USER_OBJ, 6 | mask, NOBODY_NAMED)]
    entries += [(USER, rights, uid) for uid, rights in sorted(named.items())]
    entries += [
        (GROUP_OBJ, group, NOBODY_NAMED), (MASK, mask, NOBODY_NAMED), (OTHER, other, NOBODY_NAMED)
    ]  # fmt: skip
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def access(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, ACCESS)
    except OSError:
        return None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that every user can reach, on a file system with ACLs."""
    for parent in (None, "/var/tmp", "/dev/shm"):
        directory = Path(tempfile.mkdtemp(prefix="permissions-", dir=parent))
        try:
            os.setxattr(directory, ACCESS, acl({ALICE: 7}, mask=7))
            os.removexattr(directory, ACCESS)
        except OSError:
            directory.rmdir()
            continue
        directory.chmod(0o755)
        yield directory
        shutil.rmtree(directory)
        return
    pytest.skip("no file system with ACLs here")


def lab(root: Path, directory_mode: int = 0o2775, owner: int = ALICE) -> Path:
    """Make the directory of a block that belongs to the lab."""
    block = root / "brain" / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    for path in (root / "brain", block.parent, block):
        os.chown(path, owner, LAB)
        path.chmod(directory_mode)
    return block


def lab_file(root: Path, file_mode: int = 0o664, owner: int = ALICE) -> Path:
    file = lab(root) / NAME.leaf
    file.write_bytes(array(A))
    os.chown(file, owner, LAB)
    file.chmod(file_mode)
    return file


def patching(root: Path, id_: str, lock: str = "flock") -> Callable[[], str]:
    def patch() -> str:
        stores(root, lock).patch(id_)
        return "saved"

    return patch


def stores(root: Path, lock: str = "flock") -> Stores:
    return open_stores(root, lock, 0.5, make=False)  # type: ignore[arg-type]


def companions(file: Path) -> list[Path]:
    return [file.with_name(f".{file.name}{end}") for end in (".lock", ".journal", ".journal.base")]


# --- what a replaced file keeps ---


def test_replaced_file_keeps_its_acl_and_its_group_gets_nothing(root: Path) -> None:
    file = root / "fibers.json"
    file.write_bytes(array(A))
    file.chmod(0o600)
    os.setxattr(file, ACCESS, acl({BOB: 6}))
    before = access(file)
    replace_file(file, [b"[]"])
    assert access(file) == before
    assert mode(file) == 0o660  # these bits are the mask
    assert as_user(BOB, lambda: file.open("r+").read()) == "[]"
    assert as_user(EVE, lambda: file.open("r+").read()).startswith("PermissionError")


def test_replaced_file_keeps_user_attributes_and_no_others(root: Path) -> None:
    file = root / "fibers.json"
    file.write_bytes(array(A))
    for name in ("user.project", "trusted.x", "security.x"):
        os.setxattr(file, name, b"one")
    replace_file(file, [b"[]"])
    assert {name for name in os.listxattr(file) if name != "security.selinux"} == {"user.project"}
    assert os.getxattr(file, "user.project") == b"one"


def test_temporary_file_is_open_to_nobody_before_all_is_set(root: Path) -> None:
    os.setxattr(root, DEFAULT, acl({EVE: 7}, group=7, mask=7, other=5))
    file = root / "fibers.json"
    file.write_bytes(array(A))
    os.removexattr(file, ACCESS)
    file.chmod(0o644)
    seen: list[object] = []

    def pieces() -> Iterator[bytes]:
        temporary = root / ".fibers.json.tmp"
        yield b"["
        seen.append(mode(temporary))
        seen.append(as_user(EVE, lambda: temporary.read_bytes()))
        yield b"]"

    replace_file(file, pieces())
    assert seen[0] == 0o600
    assert str(seen[1]).startswith("PermissionError")
    assert mode(file) == 0o644
    assert access(file) is None  # the directory's default is for new files


def test_replacement_by_a_colleague_does_not_shut_the_owner_out(root: Path) -> None:
    file = lab_file(root, 0o600)
    os.setxattr(file, ACCESS, acl({BOB: 6}))
    assert as_user(BOB, lambda: replace_file(file, [b"[]"]).st_uid) == str(BOB)
    assert as_user(ALICE, lambda: file.open("r+").read()) == "[]"
    assert as_user(EVE, lambda: file.open("r+").read()).startswith("PermissionError")


def test_chunk_of_another_temporary_name_keeps_its_acl(root: Path) -> None:
    chunk = root / "0-64_0-64_0-64"
    chunk.write_bytes(b"chunk")
    os.setxattr(chunk, ACCESS, acl({BOB: 4}, mask=4))
    before = access(chunk)
    replace_file(chunk, [b"packed"], temporary=root / ".chunk.node-7.tmp")
    assert access(chunk) == before


NFS4 = struct.pack(">I", 3) + b"".join(
    struct.pack(">4I", 0, 0, mask, len(who)) + who + b"\0" * (-len(who) % 4)
    for mask, who in ((0x3, b"OWNER@"), (0x1, b"GROUP@"), (0x3, b"bob@lab.example"))
)


def test_group_bits_without_an_acl_are_the_rights_of_the_group_itself() -> None:
    entries = (AclEntry(1, 2**32 - 1, 6), AclEntry(2, BOB, 6), AclEntry(4, 2**32 - 1, 4),
               AclEntry(16, 2**32 - 1, 6), AclEntry(32, 2**32 - 1, 0))  # fmt: skip
    assert Permissions(0, 0, 0o660, entries).mode_without_acl == 0o640
    assert nfs4_group_rights(NFS4) == 4
    assert Permissions(0, 0, 0o660, (), {"system.nfs4_acl": NFS4}).mode_without_acl == 0o640
    unread = Permissions(0, 0, 0o664, (), {"system.nfs4_acl_xdr": b"?"})
    assert unread.mode_without_acl == 0o644
    assert Permissions(0, 0, 0o664).mode_without_acl == 0o664


# --- companions ---


@STRICT
def test_companions_have_the_acl_of_the_file_and_the_colleague_may_save(
    root: Path, kind: str
) -> None:
    file = lab_file(root, 0o600)
    os.setxattr(file, ACCESS, acl({BOB: 6}))
    assert as_user(ALICE, patching(root, "b", kind)) == "saved"
    for companion in companions(file):
        assert access(companion) == access(file), companion
    assert as_user(BOB, patching(root, "c", kind)) == "saved"
    assert as_user(ALICE, patching(root, "d", kind)) == "saved"
    assert as_user(BOB, patching(root, "e", kind)) == "saved"
    assert as_user(EVE, patching(root, "f", kind)).startswith("ReadOnlyError")
    assert [entry.n for entry in stores(root).journal.entries()] == [4, 3, 2, 1]


@STRICT
def test_companions_follow_a_chmod_at_the_next_write(root: Path, kind: str) -> None:
    file = lab_file(root, 0o640)
    assert as_user(ALICE, patching(root, "b", kind)) == "saved"
    assert {mode(companion) for companion in companions(file)} == {0o640}
    assert as_user(BOB, patching(root, "c", kind)).startswith("ReadOnlyError")
    file.chmod(0o660)
    assert as_user(ALICE, patching(root, "d", kind)) == "saved"
    assert {mode(companion) for companion in companions(file)} == {0o660}
    assert as_user(BOB, patching(root, "e", kind)) == "saved"
    file.chmod(0o600)
    os.chown(file, ALICE, LAB)
    stores(root, kind).patch("f")
    for companion in companions(file)[:2]:
        assert mode(companion) == 0o600, companion
        assert companion.stat().st_uid == ALICE


def test_group_may_write_at_once_after_a_chmod_of_the_file_alone(root: Path) -> None:
    file = lab_file(root, 0o644)
    assert as_user(ALICE, patching(root, "b")) == "saved"
    assert as_user(BOB, patching(root, "c")).startswith("ReadOnlyError")
    file.chmod(0o664)
    assert as_user(BOB, patching(root, "d")) == "saved"
    assert as_user(ALICE, patching(root, "e")) == "saved"
    assert {mode(companion) for companion in companions(file)[:2]} == {0o664}
    assert [entry.n for entry in stores(root).journal.entries()] == [3, 2, 1]
    assert stores(root).past.revision(stores(root).place, 0) == array(A)


def test_lock_that_is_held_is_not_replaced(root: Path) -> None:
    file = lab_file(root, 0o644)
    assert as_user(ALICE, patching(root, "b")) == "saved"
    file.chmod(0o664)
    lock = companions(file)[0]
    before = lock.stat().st_ino
    with Locks("flock").hold(file, "f"):
        lock.chmod(0o644)
        assert not as_user(BOB, patching(root, "c")).startswith("saved")
        assert lock.stat().st_ino == before


def test_foreign_file_in_place_of_a_journal_never_gets_the_mode_of_the_annotation_file(
    root: Path,
) -> None:
    file = lab_file(root, 0o664)
    secret = root / "secret"
    secret.write_bytes(b"export SECRET=1\n")
    secret.chmod(0o600)
    journal = companions(file)[1]
    os.link(secret, journal)
    for id_ in "bcd":
        stores(root).patch(id_)
        assert mode(journal) == 0o600
    assert mode(secret) == 0o600


@pytest.mark.parametrize("closed", ["journal", "lock"])
def test_error_names_the_file_that_is_in_the_way(root: Path, closed: str) -> None:
    file = lab_file(root, 0o664)
    assert as_user(ALICE, patching(root, "b")) == "saved"
    companion = file.with_name(f".{file.name}.{closed}")
    companion.chmod(0o600)
    said = as_user(BOB, patching(root, "c"))
    assert said.startswith("ReadOnlyError: brain/annotations/x0y0z0/fibers.json cannot be written")
    assert f": brain/annotations/x0y0z0/{companion.name} is in the way (Permission denied)" in said
    assert as_user(ALICE, patching(root, "d")) == "saved"  # it follows the file again
    assert as_user(BOB, patching(root, "e")) == "saved"


def test_error_names_what_cannot_be_created(root: Path) -> None:
    file = lab_file(root, 0o664)
    assert as_user(ALICE, patching(root, "b")) == "saved"
    file.parent.chmod(0o2755)
    said = as_user(BOB, patching(root, "c"))
    assert "fibers.json cannot be written: brain/annotations/x0y0z0/.fibers.json" in said
    assert "cannot be created (Permission denied)" in said


# --- whose companions are used ---


@pytest.mark.parametrize("name", ["lock", "journal", "lock.filelock"])
def test_companion_of_a_stranger_is_an_error_that_names_it_and_its_owner(
    root: Path, name: str
) -> None:
    file = lab_file(root, 0o664)
    file.parent.chmod(0o2755)
    kind = "strict" if name == "lock.filelock" else "flock"
    companion = file.with_name(f".{file.name}.{name}")
    companion.mkdir() if kind == "strict" else companion.touch()
    os.chown(companion, EVE, LAB)
    said = as_user(ALICE, patching(root, "b", kind))
    assert said.startswith(f"DamagedError: brain/annotations/x0y0z0/{companion.name}: expected ")
    assert f"found a file of uid {EVE}" in said
    assert file.read_bytes() == array(A)
    if name == "journal":
        with pytest.raises(DamagedError, match=f"uid {EVE}"):
            list(stores(root).past.changes(stores(root).place, ChangeFilter()))


@pytest.mark.parametrize(
    ("owner", "directory_mode", "accepted"),
    [
        pytest.param(0, 0o2755, True, id="root"),
        pytest.param(ALICE, 0o2755, True, id="owner-of-the-directory"),
        pytest.param(BOB, 0o2755, True, id="owner-of-the-file"),
        pytest.param(EVE, 0o2755, False, id="stranger"),
        pytest.param(EVE, 0o2775, True, id="member-of-the-group"),
    ],
)
def test_companion_is_used_by_its_owner(
    root: Path, owner: int, directory_mode: int, accepted: bool
) -> None:
    file = lab_file(root, 0o664, owner=BOB)
    stores(root).patch("b")
    os.chown(companions(file)[1], owner, LAB)
    file.parent.chmod(directory_mode)
    said = as_user(BOB + 100, lambda: [one.n for one in stores(root).journal.entries()])
    assert (said == "[1]") is accepted, said


def test_mask_of_an_acl_counts_as_writable_for_the_group(root: Path) -> None:
    file = lab_file(root, 0o664)
    stores(root).patch("b")
    os.chown(companions(file)[1], EVE, LAB)
    file.parent.chmod(0o755)
    os.setxattr(file.parent, ACCESS, acl({BOB: 7}, group=5, mask=7, other=5))
    said = as_user(ALICE, lambda: [one.n for one in stores(root).journal.entries()])
    assert said == "[1]"


# --- user namespaces ---


@STRICT
def test_two_users_of_a_lab_save_in_turn_from_user_namespaces(root: Path, kind: str) -> None:
    file = lab_file(root, 0o664)
    for number, user in enumerate([ALICE, BOB, ALICE, BOB]):
        said = as_user(user, patching(root, f"n{number}", kind), namespace=True)
        assert said == "saved", (number, user)
        assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (user, LAB, 0o664)
    assert [entry.n for entry in stores(root).journal.entries()] == [4, 3, 2, 1]


@STRICT
def test_two_users_of_a_lab_save_at_the_same_time_from_user_namespaces(
    root: Path, kind: str
) -> None:
    file = lab_file(root, 0o664)

    def patching_often(user: int) -> Callable[[], str]:
        def patch() -> str:
            for number in range(20):
                open_stores(root, kind, 120.0, make=False).patch(f"{user}-{number}")  # type: ignore[arg-type]
            return "saved"

        return patch

    with ThreadPoolExecutor(2) as pool:
        saving = [pool.submit(as_user, one, patching_often(one), namespace=True) for one in USERS]
        assert [one.result() for one in saving] == ["saved"] * 2
    ids = {one["id"] for one in json.loads(file.read_bytes())}
    assert ids == {"a", *(f"{user}-{number}" for user in USERS for number in range(20))}


def test_acl_of_users_whom_the_namespace_lacks_leaves_the_group_its_own_rights(root: Path) -> None:
    file = lab_file(root, 0o640, owner=BOB)
    os.setxattr(file, ACCESS, acl({EVE: 6}, group=4))
    assert mode(file) == 0o660
    assert as_user(BOB, patching(root, "b"), namespace=True) == "saved"
    assert mode(file) == 0o640
    assert access(file) is None


def test_default_acl_of_the_directory_gives_the_file_its_acl_back_in_a_namespace(
    root: Path,
) -> None:
    file = lab_file(root, 0o640, owner=BOB)
    os.setxattr(file, ACCESS, acl({EVE: 6}, group=4))
    os.setxattr(file.parent, DEFAULT, acl({EVE: 6}, group=4))
    before = access(file)
    assert as_user(BOB, patching(root, "b"), namespace=True) == "saved"
    assert access(file) == before


def test_acl_entries_that_the_namespace_has_survive(root: Path) -> None:
    file = lab_file(root, 0o640, owner=BOB)
    os.setxattr(file, ACCESS, acl({BOB: 6, EVE: 6}, group=4))
    assert as_user(BOB, patching(root, "b"), namespace=True) == "saved"
    assert access(file) == acl({BOB: 6}, group=4)


@pytest.mark.parametrize(
    ("owner", "accepted"), [(BOB, True), (ALICE, True)], ids=["ours", "not-mapped"]
)
def test_companions_of_root_are_used_in_a_namespace_that_lacks_root(
    root: Path, owner: int, accepted: bool
) -> None:
    file = lab_file(root, 0o664, owner=BOB)
    stores(root).patch("b")  # as `docker run` does
    for companion in companions(file):
        os.chown(companion, 0, 0)
        companion.chmod(0o644)
    for directory in (file.parent, file.parent.parent):
        os.chown(directory, owner, OWN)
        directory.chmod(0o755)
    said = as_user(BOB, lambda: [one.n for one in stores(root).journal.entries()], namespace=True)
    assert (said == "[1]") is accepted, said
    if owner == BOB:
        assert as_user(BOB, patching(root, "c"), namespace=True) == "saved"


# --- what a shared directory permits ---


def putting(root: Path, kind: str = "flock", *, share: bool = True) -> Callable[[], str]:
    def put() -> str:
        name = replace(NAME, block=BlockName.parse("x7y7z7"))
        opened = open_stores(root, kind, 0.5, make=False, share=share)  # type: ignore[arg-type]
        opened.store.put(name, array(A, annotation(str(os.geteuid()))), ANN)
        return "saved"

    return put


@STRICT
def test_new_file_and_block_in_a_shared_directory_are_the_groups_too(root: Path, kind: str) -> None:
    block = lab(root).with_name("x7y7z7")
    assert as_user(ALICE, putting(root, kind)) == "saved"
    file = block / NAME.leaf
    assert (mode(block), block.stat().st_gid) == (0o2775, LAB)
    for path in (file, *companions(file)[:2]):
        assert (mode(path), path.stat().st_gid) == (0o664, LAB), path
    assert as_user(BOB, putting(root, kind)) == "saved"
    assert as_user(EVE, putting(root, kind)) == "saved"  # of the lab, too


def test_share_off_leaves_new_files_to_the_umask(root: Path) -> None:
    block = lab(root).with_name("x7y7z7")
    assert as_user(ALICE, putting(root, share=False)) == "saved"
    assert mode(block) == 0o2755
    for path in (block / NAME.leaf, *companions(block / NAME.leaf)[:2]):
        assert mode(path) == 0o644, path


@pytest.mark.parametrize("directory_mode", [0o775, 0o2755], ids=["no-setgid", "not-the-groups"])
def test_directory_that_is_not_shared_leaves_new_files_to_the_umask(
    root: Path, directory_mode: int
) -> None:
    block = lab(root, directory_mode).with_name("x7y7z7")
    assert as_user(ALICE, putting(root)) == "saved"
    assert mode(block / NAME.leaf) == 0o644
    assert mode(block) & 0o777 == 0o755


def test_group_without_a_right_of_its_own_gets_none_from_the_mask(root: Path) -> None:
    block = lab(root)
    os.setxattr(block.parent, ACCESS, acl({BOB: 7, ALICE: 7}, group=5, mask=7, other=5))
    assert as_user(ALICE, putting(root)) == "saved"
    assert mode(block.with_name("x7y7z7") / NAME.leaf) == 0o644


def test_default_acl_of_a_directory_is_left_to_the_kernel(root: Path) -> None:
    block = lab(root)
    os.setxattr(block.parent, DEFAULT, acl({BOB: 7}, group=5, mask=7))
    assert as_user(ALICE, putting(root)) == "saved"
    file = block.with_name("x7y7z7") / NAME.leaf
    for path in (file, *companions(file)[:2]):
        assert mode(path) == 0o660, path
        assert b"".join([struct.pack("<HHI", USER, 7, BOB)]) in (access(path) or b""), path
    assert as_user(BOB, putting(root)) == "saved"


@pytest.mark.long
def test_service_takes_share_off(root: Path, start_service: StartService) -> None:
    block = lab(root, owner=0)
    for options, expected in ((("--share", "off"), 0o644), ((), 0o664)):
        before = os.umask(0o022)
        try:
            service = start_service(root, *options)
        finally:
            os.umask(before)
        url = f"{service.url}/brain/annotations/x0y0z0/new-{expected}.json"
        assert requests.put(url, array(A), timeout=30).status_code == 201
        service.stop()
        assert mode(block / f"new-{expected}.json") == expected


# --- file systems that keep less ---


@pytest.fixture
def mount_image(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make and mount a file system in a file."""
    mounted = []

    def mount(make: list[str], mount: list[str]) -> Path:
        if shutil.which(make[0]) is None:
            pytest.skip(f"there is no {make[0]} here")
        image, point = tmp_path / "image", tmp_path / "mounted"
        image.touch()
        os.truncate(image, 32 * 2**20)
        subprocess.run([*make, image], check=True, capture_output=True)
        point.mkdir()
        done = subprocess.run([*mount, image, point], capture_output=True)
        if done.returncode:
            pytest.skip(f"it cannot be mounted here: {done.stderr!r}")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        unmount(point)


@pytest.mark.long
def test_ext4_of_small_inodes_keeps_acl_and_attributes(
    mount_image: Callable[..., Path],
) -> None:
    point = mount_image(["mkfs.ext4", "-q", "-I", "128"], ["mount", "-o", "loop"])
    root = point / "data"
    root.mkdir()
    file = lab_file(root, 0o600)
    os.setxattr(file, ACCESS, acl({BOB: 6}))
    os.setxattr(file, "user.project", b"x" * 512)
    before = access(file)
    for id_ in "bcd":
        stores(root).patch(id_)
    assert access(file) == before
    assert os.getxattr(file, "user.project") == b"x" * 512
    for companion in companions(file)[:2]:
        assert access(companion) == before


@pytest.mark.long
def test_file_system_that_has_no_owners_and_modes_does_not_refuse_a_save(
    mount_image: Callable[..., Path],
) -> None:
    as_mounted = f"uid={ALICE},gid={LAB},umask=002"
    point = mount_image(["mkntfs", "--quick", "--force"], ["ntfs-3g", "-o", as_mounted])
    block = point / "brain" / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / NAME.leaf).write_bytes(array(A))
    for id_ in "bcd":
        stores(point).patch(id_)
    assert [entry.n for entry in stores(point).journal.entries()] == [3, 2, 1]
