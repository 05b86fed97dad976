"""The data root and the wall around it: paths, entries, datasets, the check at start-up."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest

from neurotrale.errors import BusyError, MissingError, NameTooLongError, StartError
from neurotrale.storage.data_root import (
    DATASET_SEARCH_DEPTH,
    DATASET_SEARCH_DIRECTORIES,
    DataRoot,
    DirectoryEntry,
)
from neurotrale.storage.links import parts_below

START_TIMEOUT_S = 60

# From <linux/prctl.h> and <linux/capability.h>.
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

T = TypeVar("T")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the root whose path begins with the root's."""
    outside = tmp_path / "data-of-others"
    (outside / "annotations").mkdir(parents=True)
    (outside / "info").write_text("{}")
    (outside / "secret.txt").write_text("secret")
    return outside


def names(root: Path, *parts: str) -> set[str]:
    return {entry.name for entry in DataRoot(root).entries(parts)}


def without_root_powers(call: Callable[[], T]) -> T:
    """Call in a thread whose child processes obey file permissions, even when root runs the tests.

    What a process may do at most (its capability bounding set) belongs to each thread, and passes
    to the programs that the thread starts.
    """
    if os.geteuid() != 0:
        return call()

    def in_thread() -> T:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                pytest.skip("root runs the tests and may not give up powers")
        return call()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(in_thread).result()


# --- Start-up ---


def test_check_of_a_directory_passes(root: Path) -> None:
    DataRoot(root).check()


def test_check_of_a_missing_root_names_it_and_the_mend(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="neurotrale serve") as caught:
        DataRoot(tmp_path / "none").check()
    assert str(tmp_path / "none") in str(caught.value)


def test_check_of_a_file_names_it(tmp_path: Path) -> None:
    file = tmp_path / "info"
    file.write_text("{}")
    with pytest.raises(StartError) as caught:
        DataRoot(file).check()
    assert str(file) in str(caught.value)


def test_check_of_a_broken_link_fails(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "none")
    with pytest.raises(StartError):
        DataRoot(link).check()


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["none", "file", "locked"])
def test_start_on_a_wrong_root_ends_at_once_with_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "locked").mkdir(mode=0o000)
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "neurotrale", "serve", str(tmp_path / name), "--port", "0"]
    run = without_root_powers(
        lambda: subprocess.run(
            [*command, "--ready-file", str(ready)],
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    )
    assert run.returncode != 0
    assert str(tmp_path / name) in run.stderr
    assert "Traceback" not in run.stderr
    assert not ready.exists()


def test_root_that_is_a_link_is_what_it_points_to(root: Path, tmp_path: Path) -> None:
    (root / "a.txt").write_text("a")
    link = tmp_path / "link"
    link.symlink_to(root)
    tree = DataRoot(link)
    tree.check()
    assert tree.path(("a.txt",)).read_text() == "a"
    assert list(tree.entries(())) == [DirectoryEntry("a.txt", False)]


def test_health_is_good_while_the_root_can_be_read(root: Path) -> None:
    DataRoot(root).check_readable()


def test_health_is_bad_once_the_root_is_gone(root: Path) -> None:
    tree = DataRoot(root)
    root.rmdir()
    with pytest.raises(BusyError):
        tree.check_readable()


# --- Paths ---


def test_path_is_below_the_root_whether_or_not_it_exists(root: Path) -> None:
    tree = DataRoot(root)
    assert tree.path(()) == root
    assert tree.path(("brain", "info")) == root / "brain" / "info"
    assert tree.relative(root / "brain" / "info") == "brain/info"


@pytest.mark.parametrize(
    "part",
    ["..", ".", ".hidden", "a/b", "/etc", "../x", "a\0", "a\\b", "a\nb", "a\udcff"],
    ids=[
        "dot-dot",
        "dot",
        "hidden",
        "slash",
        "absolute",
        "climb",
        "nul",
        "backslash",
        "newline",
        "surrogate",
    ],
)
@pytest.mark.parametrize("position", ["first", "last"])
def test_path_takes_only_checked_names(root: Path, part: str, position: str) -> None:
    parts = (part, "info") if position == "first" else ("brain", part)
    with pytest.raises(MissingError):
        DataRoot(root).path(parts)


def test_path_with_a_name_too_long_is_refused(root: Path) -> None:
    with pytest.raises(NameTooLongError):
        DataRoot(root).path(("n" * 256,))


LINKS = {
    "file": ("secret.txt", ("link",)),
    "absent-file": ("none", ("link",)),
    "directory": (".", ("link",)),
    "below-a-directory": (".", ("link", "secret.txt")),
    "absent-below-a-directory": (".", ("link", "a", "b", "c")),
    "parent-of-the-root": ("..", ("link",)),
    "beside-the-root": ("..", ("link", "data-of-others", "info")),
}


@pytest.mark.parametrize("other_name", ["", "/proc/self/root"], ids=["its name", "another name"])
@pytest.mark.parametrize(
    ("below", "parts"),
    [
        ("", ()),
        ("/brain/info", ("brain", "info")),
        ("/brain/no/such", ("brain", "no", "such")),
        ("/..", None),
        ("/../outside", None),
        ("x", None),
    ],
    ids=["the root", "a file", "what is not there", "above", "beside", "a longer name"],
)
def test_names_below_a_root_are_found_by_each_of_its_names(
    root: Path, other_name: str, below: str, parts: tuple[str, ...] | None
) -> None:
    (root / "brain").mkdir(exist_ok=True)
    path = os.path.normpath(f"{root}{below}")
    assert parts_below(str(root), f"{other_name}{path}") == parts
    assert parts_below("/", path) == tuple(Path(path).parts[1:])


@pytest.mark.parametrize("follow", [False, True], ids=["refused", "followed"])
def test_link_to_what_does_not_exist_is_logged_as_such(
    root: Path, caplog: pytest.LogCaptureFixture, follow: bool
) -> None:
    (root / "link").symlink_to("/no/such/place")
    data_root = DataRoot(root, follow_symlinks=follow)
    with caplog.at_level(logging.WARNING):
        if follow:
            assert data_root.status(("link", "info")) is None
        else:
            with pytest.raises(MissingError):
                data_root.status(("link", "info"))
    assert f"{root}/link" in caplog.text
    assert "/no/such/place, which does not exist" in caplog.text
    assert "404" in caplog.text


@pytest.mark.parametrize("kind", ["absolute", "relative", "chained"])
@pytest.mark.parametrize(
    ("target", "parts"), [pytest.param(*values, id=id_) for id_, values in LINKS.items()]
)
def test_path_through_a_link_out_of_the_root_is_missing_and_logged(
    root: Path,
    outside: Path,
    caplog: pytest.LogCaptureFixture,
    target: str,
    parts: tuple[str, ...],
    kind: str,
) -> None:
    link = root / "link"
    if kind == "absolute":
        link.symlink_to(outside / target)
    elif kind == "relative":
        link.symlink_to(Path("..", outside.name, target))
    else:
        (root / "second").symlink_to(outside / target)
        link.symlink_to("second")
    with caplog.at_level(logging.WARNING), pytest.raises(MissingError):
        DataRoot(root).path(parts)
    assert str(link) in caplog.text
    assert "--follow-symlinks" in caplog.text
    assert DataRoot(root, follow_symlinks=True).path(parts) == root.joinpath(*parts)


def test_path_through_a_link_to_a_hidden_name_is_open_only_when_links_are_followed(
    root: Path,
) -> None:
    (root / ".store").mkdir()
    (root / ".store" / "a.txt").write_text("a")
    (root / "link").symlink_to(".store")
    assert names(root) == set()
    with pytest.raises(MissingError):
        DataRoot(root).path(("link", "a.txt"))
    following = DataRoot(root, follow_symlinks=True)
    assert following.path(("link", "a.txt")).read_text() == "a"
    assert list(following.entries(("link",))) == [DirectoryEntry("a.txt", False)]


@pytest.mark.parametrize("kind", ["absolute", "relative", "chained"])
def test_path_through_a_link_that_stays_inside_is_open(root: Path, kind: str) -> None:
    store = root / "store"
    store.mkdir()
    (store / "a.txt").write_text("a")
    link = root / "link"
    if kind == "chained":
        (root / "second").symlink_to(store)
        link.symlink_to("second")
    else:
        link.symlink_to(store if kind == "absolute" else store.name)
    tree = DataRoot(root)
    assert tree.path(("link", "a.txt")).read_text() == "a"
    assert DirectoryEntry("link", True) in list(tree.entries(()))
    assert list(tree.entries(("link",))) == [DirectoryEntry("a.txt", False)]


def test_path_through_a_link_in_circles_ends(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(MissingError):
        DataRoot(root).entries(("one",))
    assert names(root) == set()


def test_following_links_does_not_open_other_ways_out(root: Path) -> None:
    for part in ("..", ".hidden", "a/b", "a\0"):
        with pytest.raises(MissingError):
            DataRoot(root, follow_symlinks=True).path((part,))


# --- Entries ---


def test_entries_are_files_and_directories(root: Path) -> None:
    (root / "file").write_text("")
    (root / "directory").mkdir()
    assert set(DataRoot(root).entries(())) == {
        DirectoryEntry("file", False),
        DirectoryEntry("directory", True),
    }


def test_entries_leave_out_what_is_never_served(root: Path, outside: Path) -> None:
    (root / "seen").write_text("")
    (root / ".hidden").write_text("")
    (root / ".fibers.json.lock").write_text("")
    (root / ".tmp-1-0-fibers.json").write_text("")
    for name in ("new\nline", "tab\t", "back\\slash", "escape\x1b[2J", "delete\x7f"):
        (root / name).write_text("")
    Path(os.fsdecode(bytes(root) + b"/not-utf-8-\xff")).write_text("")
    os.mkfifo(root / "pipe")
    (root / "broken").symlink_to("none")
    (root / "to-pipe").symlink_to("pipe")
    (root / "to-file-outside").symlink_to(outside / "secret.txt")
    (root / "to-directory-outside").symlink_to(outside)
    (root / "chained").symlink_to("to-directory-outside")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        assert names(root) == {"seen"}


def test_entries_of_links_out_of_the_root_are_there_when_followed(
    root: Path, outside: Path
) -> None:
    (root / "file").symlink_to(outside / "secret.txt")
    (root / "directory").symlink_to(outside)
    entries = set(DataRoot(root, follow_symlinks=True).entries(()))
    assert entries == {DirectoryEntry("file", False), DirectoryEntry("directory", True)}


@pytest.mark.parametrize(
    "parts", [("none",), ("file",), ("file", "below")], ids=["absent", "file", "below-a-file"]
)
def test_entries_of_no_directory_are_missing_at_once(root: Path, parts: tuple[str, ...]) -> None:
    (root / "file").write_text("")
    with pytest.raises(MissingError):
        DataRoot(root).entries(parts)


def test_entries_come_as_they_are_read(root: Path) -> None:
    for number in range(50):
        (root / str(number)).write_text("")
    entries = DataRoot(root).entries(())
    assert len(list(islice(entries, 3))) == 3
    for path in root.iterdir():
        path.unlink()
    assert len(list(entries)) <= 47  # not looked at before they were asked for, and no error


# --- Datasets ---


def make_dataset(path: Path, marker: str = "info") -> None:
    path.mkdir(parents=True)
    if marker == "info":
        (path / "info").write_text("{}")
    else:
        (path / "annotations").mkdir()


@pytest.mark.parametrize("marker", ["info", "annotations"])
def test_dataset_has_an_info_file_or_an_annotations_directory(root: Path, marker: str) -> None:
    make_dataset(root / "brain", marker)
    tree = DataRoot(root)
    assert tree.datasets() == ["brain"]
    assert tree.is_dataset(("brain",))


@pytest.mark.parametrize("kind", ["empty", "info-directory", "annotations-file", "hidden", "pipe"])
def test_other_directories_are_no_datasets(root: Path, kind: str) -> None:
    directory = root / (".brain" if kind == "hidden" else "brain")
    directory.mkdir()
    if kind == "info-directory":
        (directory / "info").mkdir()
    elif kind == "annotations-file":
        (directory / "annotations").write_text("")
    elif kind == "hidden":
        (directory / "info").write_text("{}")
    elif kind == "pipe":
        os.mkfifo(directory / "info")
    tree = DataRoot(root)
    assert tree.datasets() == []
    if kind != "hidden":
        assert not tree.is_dataset(("brain",))


def test_absent_directory_is_no_dataset(root: Path) -> None:
    assert not DataRoot(root).is_dataset(("none",))


def test_datasets_are_found_at_any_depth_and_sorted(root: Path) -> None:
    for path in ("zebra", "lab/mouse-3", "lab/mouse-10", "lab/2024/rat", "a/b/c/deep"):
        make_dataset(root / path)
    assert DataRoot(root).datasets() == [
        "a/b/c/deep",
        "lab/2024/rat",
        "lab/mouse-10",
        "lab/mouse-3",
        "zebra",
    ]


def test_datasets_inside_a_dataset_are_not_searched_for(root: Path) -> None:
    make_dataset(root / "brain")
    make_dataset(root / "brain" / "derived")
    assert DataRoot(root).datasets() == ["brain"]


def test_root_may_be_a_dataset_itself(root: Path) -> None:
    (root / "info").write_text("{}")
    tree = DataRoot(root)
    assert tree.datasets() == [""]
    assert tree.is_dataset(())


def test_datasets_deeper_than_the_limit_are_left_out(root: Path) -> None:
    make_dataset(root.joinpath(*["d"] * DATASET_SEARCH_DEPTH))
    make_dataset(root.joinpath(*["e"] * (DATASET_SEARCH_DEPTH + 1)))
    assert DataRoot(root).datasets() == ["/".join(["d"] * DATASET_SEARCH_DEPTH)]


def test_search_for_datasets_ends_at_a_number_of_directories(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(root / "first")
    (root / "many").mkdir()
    for number in range(DATASET_SEARCH_DIRECTORIES):
        (root / "many" / f"{number:06d}").mkdir()
    with caplog.at_level(logging.WARNING):
        assert DataRoot(root).datasets() == ["first"]
    assert str(DATASET_SEARCH_DIRECTORIES) in caplog.text


def test_search_for_datasets_passes_by_what_cannot_be_listed(root: Path, outside: Path) -> None:
    make_dataset(root / "brain")
    (root / "to-outside").symlink_to(outside)
    (root / "circle").symlink_to("circle")
    (root / "broken").symlink_to("none")
    assert DataRoot(root).datasets() == ["brain"]


def test_search_for_datasets_ends_where_links_go_in_circles(root: Path) -> None:
    make_dataset(root / "lab" / "brain")
    (root / "lab" / "up").symlink_to(root)
    assert "lab/brain" in DataRoot(root).datasets()


def test_datasets_behind_links_are_found_when_followed(root: Path, outside: Path) -> None:
    (root / "linked").symlink_to(outside)
    assert DataRoot(root).datasets() == []
    assert DataRoot(root, follow_symlinks=True).datasets() == ["linked"]


def test_markers_that_leave_the_root_make_no_dataset(root: Path, outside: Path) -> None:
    (root / "brain").mkdir()
    (root / "brain" / "info").symlink_to(outside / "info")
    (root / "brain" / "annotations").symlink_to(outside / "annotations")
    assert DataRoot(root).datasets() == []
    assert not DataRoot(root).is_dataset(("brain",))
