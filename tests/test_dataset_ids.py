"""Every dataset has an id that stays with it, and that its copies do not share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests

from neurotrale.datasets.dataset_ids import ID_FILE, MOST_BYTES, DatasetId, DatasetIds
from neurotrale.errors import MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.fingerprint import DirectoryFingerprint
from tests.brains import point, succeed
from tests.conftest import Service, StartService
from tests.datasets import wait_until_settled, write_dataset
from tests.users import ALICE, BOB, EVE, LAB, as_user

PARTS = ("brain",)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data" / "brain")
    return tmp_path / "data"


def make_dataset(path: Path) -> Path:
    block = path / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / "fibers.json").write_text("[]")
    return path


def ids_of(root: Path, *, may_write: bool = True, share: bool = True) -> DatasetIds:
    return DatasetIds(DataRoot(root), may_write=may_write, share=share)


def id_of(root: Path, *dataset: str, may_write: bool = True) -> DatasetId:
    """The id as a service that has just started tells it."""
    return ids_of(root, may_write=may_write).of(dataset or PARTS)


def stored(root: Path, name: str = "brain") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / name / ID_FILE).read_bytes())
    return content


def hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


# --- it stays ------------------------------------------------------------------------------------


def test_id_is_made_once_and_stored(root: Path) -> None:
    first = id_of(root)
    assert re.fullmatch("[0-9a-f]{32}", first.id)
    assert (first.is_derived, first.copied_from) == (False, "")
    assert id_of(root) == id_of(root, may_write=False) == first
    path = root / "brain" / ID_FILE
    directory = (root / "brain").stat().st_ino
    assert stored(root) == {"id": first.id, "inode": path.stat().st_ino, "directory": directory}
    assert hidden(root / "brain") == [ID_FILE]


def test_datasets_have_different_ids_also_one_inside_another(root: Path) -> None:
    make_dataset(root / "brain" / "part")
    make_dataset(root / "other")
    found = {id_of(root, *parts).id for parts in (PARTS, ("brain", "part"), ("other",))}
    assert len(found) == 3
    assert id_of(root / "brain", "part").id in found


def test_root_that_is_a_dataset_has_an_id(root: Path) -> None:
    ids = ids_of(root / "brain")
    ids.keep("annotations/x0y0z0/fibers.json")
    assert ids.of(()).id == id_of(root).id


def test_moved_dataset_keeps_its_id(root: Path) -> None:
    first, ids = id_of(root), ids_of(root)
    assert ids.of(PARTS) == first
    (root / "lab").mkdir()
    (root / "brain").rename(root / "lab" / "mouse")
    assert ids.of(("lab", "mouse")) == first
    with pytest.raises(MissingError):
        ids.of(PARTS)


def test_dataset_whose_content_was_moved_keeps_its_id(root: Path) -> None:
    first = id_of(root)
    (root / "new").mkdir()
    for path in (root / "brain").iterdir():
        path.rename(root / "new" / path.name)
    assert id_of(root, "new") == first


def test_dataset_behind_a_link_has_the_id_of_its_directory(root: Path) -> None:
    (root / "link").symlink_to("brain")
    assert id_of(root, "link") == id_of(root)


# --- copies --------------------------------------------------------------------------------------


def copied_tree(root: Path) -> Path:
    return Path(shutil.copytree(root / "brain", root / "copy"))


def copied_by_cp(root: Path) -> Path:
    subprocess.run(["cp", "-a", root / "brain", root / "copy"], check=True)
    return root / "copy"


def copied_by_hard_links(root: Path) -> Path:
    subprocess.run(["cp", "-al", root / "brain", root / "copy"], check=True)
    return root / "copy"


WAYS: dict[str, Callable[[Path], Path]] = {
    "copytree": copied_tree,
    "cp -a": copied_by_cp,
    "cp -al": copied_by_hard_links,
}


@pytest.fixture(params=WAYS, ids=[name.replace(" ", "") for name in WAYS])
def copied(request: pytest.FixtureRequest, root: Path) -> DatasetId:
    """The id of a dataset that has been copied."""
    found = id_of(root)
    WAYS[request.param](root)
    return found


def test_copy_gets_its_own_id_and_records_the_old_one(root: Path, copied: DatasetId) -> None:
    copy = id_of(root, "copy")
    assert copy.id != copied.id
    assert (copy.is_derived, copy.copied_from) == (False, copied.id)
    assert id_of(root, "copy") == copy
    assert id_of(root) == copied
    assert hidden(root / "copy") == [ID_FILE]


def test_copy_that_cannot_be_written_has_a_derived_id(root: Path, copied: DatasetId) -> None:
    before = (root / "copy" / ID_FILE).read_bytes()
    copy = id_of(root, "copy", may_write=False)
    assert copy.id != copied.id
    assert (copy.is_derived, copy.copied_from) == (True, copied.id)
    assert id_of(root, "copy", may_write=False) == copy
    assert (root / "copy" / ID_FILE).read_bytes() == before


def test_copy_of_a_copy_and_second_copy_have_ids_of_their_own(root: Path) -> None:
    first = id_of(root)
    for name, source in (("one", "brain"), ("two", "brain"), ("three", "one")):
        shutil.copytree(root / source, root / name)
        if name == "one":
            id_of(root, "one")
    found = [id_of(root, name) for name in ("one", "two", "three")]
    assert len({first.id, *(one.id for one in found)}) == 4
    assert [one.copied_from for one in found] == [first.id, first.id, found[0].id]


def test_restored_backup_is_another_dataset(root: Path) -> None:
    first = id_of(root)
    shutil.copytree(root / "brain", root.parent / "backup")
    shutil.rmtree(root / "brain")
    shutil.copytree(root.parent / "backup", root / "brain")
    restored = id_of(root)
    # A file system may give the same number again; then nothing tells the two apart.
    if stored(root.parent, "backup")["inode"] != (root / "brain" / ID_FILE).stat().st_ino:
        assert restored.copied_from == first.id


# --- two services at once ------------------------------------------------------------------------

AT_ONCE = 8


def all_at_once(root: Path, *dataset: str) -> set[DatasetId]:
    """Ask as many services for an id in the same moment."""
    barrier = Barrier(AT_ONCE)

    def ask(number: int) -> DatasetId:
        ids = ids_of(root)
        barrier.wait()
        return ids.of(dataset or PARTS)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return set(pool.map(ask, range(AT_ONCE)))


def test_services_that_ask_at_once_agree(root: Path) -> None:
    for number in range(30):
        name = f"brain-{number}"
        make_dataset(root / name)
        (made,) = all_at_once(root, name)
        assert made == id_of(root, name)
        assert hidden(root / name) == [ID_FILE]
        shutil.copytree(root / name, root / f"copy-{number}")
        (copy,) = all_at_once(root, f"copy-{number}")
        assert copy == id_of(root, f"copy-{number}")
        assert (copy.is_derived, copy.copied_from) == (False, made.id)
        assert hidden(root / f"copy-{number}") == [ID_FILE]


def test_id_is_stored_where_there_are_no_hard_links(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT: the kernel refuses the link, and nothing else is different."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(os, "link", refuse)
    first = id_of(root)
    assert not first.is_derived
    monkeypatch.undo()
    assert id_of(root) == first
    assert hidden(root / "brain") == [ID_FILE]


# --- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda path: path.mkdir(), id="directory"),
        pytest.param(lambda path: os.mkfifo(path), id="pipe"),
        pytest.param(lambda path: path.symlink_to("../secret"), id="link"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b'{"id": "x", "inode": 1}'), id="no-id"),
        pytest.param(lambda path: path.write_bytes(b'{"id": "' + b"a" * 32), id="cut-off"),
        pytest.param(lambda path: path.write_bytes(b'["\xff"]'), id="not-text"),
        pytest.param(
            lambda path: path.write_bytes(
                b'{"id": "%s", "inode": 1}%s' % (b"a" * 32, b" " * MOST_BYTES)
            ),
            id="too-large",
        ),
    ],
)
def test_what_is_no_id_is_left_alone_and_told_once(
    root: Path, plant: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    (root / "secret").write_text(json.dumps({"id": "c" * 32, "inode": 1}))
    path = root / "brain" / ID_FILE
    plant(path)
    before = path.lstat()
    ids = ids_of(root)
    found = ids.of(PARTS)
    assert found == ids.of(PARTS) == id_of(root, may_write=False)
    assert (found.is_derived, found.copied_from) == (True, "")
    assert path.lstat() == before
    assert hidden(root / "brain") == [ID_FILE]
    told = [record.getMessage() for record in caplog.records if record.name.endswith("dataset_ids")]
    assert len(told) == 2  # one of each service
    assert str(path) in told[0]


def test_derived_ids_differ_from_dataset_to_dataset(root: Path) -> None:
    make_dataset(root / "other")
    one, other = (id_of(root, name, may_write=False) for name in ("brain", "other"))
    assert (one.is_derived, other.is_derived) == (True, True)
    assert one.id != other.id
    assert hidden(root / "brain") == []


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A data root with a dataset that other users reach, too."""
    with tempfile.TemporaryDirectory(prefix="ids-") as place:
        Path(place).chmod(0o755)
        make_dataset(Path(place) / "data" / "brain")
        yield Path(place) / "data"


@only_root
def test_id_of_another_user_counts_where_the_group_may_write(open_root: Path) -> None:
    root, path = open_root, open_root / "brain"
    os.chown(path, ALICE, LAB)
    path.chmod(0o2775)
    first = as_user(BOB, lambda: id_of(root).id)
    assert re.fullmatch("[0-9a-f]{32}", first)
    status = (path / ID_FILE).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (BOB, LAB, 0o664)
    assert as_user(ALICE, lambda: id_of(root).id) == as_user(EVE, lambda: id_of(root).id) == first


@only_root
def test_id_of_a_stranger_does_not_count(open_root: Path) -> None:
    """Eve may write in Alice's directory by an accident that is over."""
    root, path = open_root, open_root / "brain"
    os.chown(path, ALICE, LAB)
    path.chmod(0o755)
    file = path / ID_FILE
    content = {"id": "e" * 32, "inode": 0}
    file.write_text(json.dumps(content))
    file.write_text(json.dumps(content | {"inode": file.stat().st_ino}))
    for owner, expected in ((EVE, False), (ALICE, True)):
        os.chown(file, owner, LAB)
        told = as_user(BOB, lambda: id_of(root))
        assert ("e" * 32 in told) is expected, told
    os.chown(file, EVE, LAB)
    assert "is_derived=True" in as_user(ALICE, lambda: id_of(root))


@only_root
def test_directory_that_may_not_be_written_has_a_derived_id(open_root: Path) -> None:
    root = open_root
    assert "is_derived=True" in as_user(ALICE, lambda: id_of(root))
    assert hidden(root / "brain") == []


@only_root
@pytest.mark.parametrize("share", [True, False], ids=["share", "off"])
def test_new_file_gets_what_its_directory_permits(open_root: Path, share: bool) -> None:
    root, path = open_root, open_root / "brain"
    os.chown(path, ALICE, LAB)
    path.chmod(0o2770)
    as_user(ALICE, lambda: ids_of(root, share=share).of(PARTS))
    assert (path / ID_FILE).stat().st_mode & 0o777 == (0o664 if share else 0o644)


# --- a service -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("ids"), "--workers", "10")


@pytest.fixture(scope="module")
def sealed(service: Service, start_service: StartService) -> Service:
    return start_service(service.root, "--read-only")


@pytest.fixture
def name(service: Service) -> str:
    name = f"brain-{len(list(service.root.iterdir()))}"
    make_dataset(service.root / name)
    return name


def told(service: Service, name: str) -> dict[str, Any]:
    answer = requests.get(f"{service.url}/api/datasets/{name}")
    assert answer.status_code == 200, answer.text
    identity: dict[str, Any] = answer.json()["identity"]
    return identity


def test_description_has_the_id_from_every_worker(
    service: Service, sealed: Service, name: str
) -> None:
    derived = told(sealed, name)
    assert derived["derived"] is True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: told(service, name), range(40)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == {"id": stored(service.root, name)["id"], "derived": False,
                          "copied_from": None}  # fmt: skip
    assert told(sealed, name) == answers[0] != derived


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda url: requests.put(url, json=[point("a")]), id="PUT"),
        pytest.param(
            lambda url: requests.patch(url, params={"id": "a"}, json=point("a")), id="PATCH"
        ),
    ],
)
def test_first_write_makes_the_id(
    service: Service, name: str, write: Callable[[str], requests.Response]
) -> None:
    assert hidden(service.root / name) == []
    answer = write(f"{service.url}/{name}/annotations/x0y0z0/fibers.json")
    assert answer.status_code in (200, 201), answer.text
    assert hidden(service.root / name) == [ID_FILE]
    assert told(service, name)["id"] == stored(service.root, name)["id"]


def test_write_succeeds_where_no_id_can_be_stored(service: Service, name: str) -> None:
    os.mkfifo(service.root / name / ID_FILE)
    url = f"{service.url}/{name}/annotations/x0y0z0/fibers.json"
    assert requests.put(url, json=[point("a")], timeout=30).status_code == 200
    assert told(service, name)["derived"] is True


def test_reading_makes_no_id(service: Service, name: str) -> None:
    for path in ("", "/annotations/x0y0z0/fibers.json", "/annotations/x0y0z0/fibers.json/changes"):
        requests.get(f"{service.url}/{name}{path}").raise_for_status()
    assert hidden(service.root / name) == []


def test_file_is_never_served_listed_or_written(service: Service, name: str) -> None:
    told(service, name)
    url = f"{service.url}/{name}/{ID_FILE}"
    assert requests.get(url).status_code == 404
    assert requests.put(url, data=b"[]").status_code in (404, 405)
    assert ID_FILE not in requests.get(f"{service.url}/{name}/").text
    assert told(service, name)["derived"] is False


def test_nothing_else_is_disturbed(service: Service) -> None:
    """Fingerprint, check, repack and the search for datasets find what they found before."""
    path = write_dataset(service.root / "volume")

    def found() -> tuple[object, ...]:
        annotations = path / "annotations"
        checked = succeed("check", path)[-1]
        assert succeed("repack", path, "--layout", "pages", "--dry-run")
        datasets = DataRoot(service.root).datasets()
        return DirectoryFingerprint.of(annotations, "").digest, checked, datasets

    wait_until_settled(service.root)
    before = found()
    assert told(service, "volume")["derived"] is False
    assert found() == before
