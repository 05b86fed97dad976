"""What workers leave for each other: big sources, made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from neurotrale.layers import stored_sources
from neurotrale.layers.stored_sources import SharedCache
from neurotrale.storage.shared_files import Piece, SharedFiles
from tests.conftest import StartService
from tests.datasets import write_dataset
from tests.shapes import Reader, make_many, write


@dataclass(frozen=True)
class Thing:
    etag: str
    content: bytes = b""


def cache(directory: Path | None) -> SharedCache[Thing]:
    """A cache with descriptors of its own, as each process has: what excludes them is the lock."""
    return SharedCache(SharedFiles(directory), "thing 1", encode, decode)


def encode(thing: Thing) -> list[Piece]:
    return [thing.etag.encode(), b"\n", thing.content]


def decode(content: Piece) -> Thing:
    etag, _, rest = bytes(content).partition(b"\n")
    return Thing(etag.decode(), rest)


class Maker:
    """Makes things and counts them."""

    def __init__(self, etag: str = "1", content: bytes = b"") -> None:
        self.made = 0
        self.thing = Thing(etag, content)

    def __call__(self) -> Thing:
        self.made += 1
        return self.thing


def test_thing_is_made_once_for_all_processes(tmp_path: Path) -> None:
    maker = Maker()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache(tmp_path).get("a", "1", maker), range(40)))
    assert found == [maker.thing] * 40
    assert maker.made == 1


def test_other_names_and_versions_are_other_things(tmp_path: Path) -> None:
    shelf, makers = cache(tmp_path), [Maker("1"), Maker("2"), Maker("1")]
    for (key, etag), maker in zip([("a", "1"), ("a", "2"), ("b", "1")], makers, strict=True):
        assert shelf.get(key, etag, maker) == maker.thing
    assert [maker.made for maker in makers] == [1, 1, 1]


def test_thing_of_another_version_in_the_end_is_not_kept(tmp_path: Path) -> None:
    shelf, maker = cache(tmp_path), Maker("2")
    assert shelf.get("a", "1", maker).etag == "2"
    assert shelf.get("a", "1", maker).etag == "2"
    assert maker.made == 2


def shortened(stored: bytes) -> bytes:
    return stored[:-1]


def altered(stored: bytes) -> bytes:
    return stored[:-1] + bytes([stored[-1] ^ 1])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda stored: b"",
    "shorter than its header": lambda stored: stored[:20],
    "shortened": shortened,
    "longer": lambda stored: stored + b"x",
    "altered": altered,
    "of another program": lambda stored: b"\x80\x05" + stored,
    "of another format": lambda stored: stored.replace(b"thing 1", b"thing 2", 1),
    "altered in its header": lambda stored: stored[:40] + altered(stored[:41])[40:] + stored[41:],
}


@pytest.mark.parametrize("size", [0, 1000, 100_000], ids=["tiny", "read", "mapped"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_thing_is_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], size: int
) -> None:
    shelf, maker = cache(tmp_path), Maker(content=b"a" * size)
    shelf.get("a", "1", maker)
    (file,) = (path for path in tmp_path.iterdir() if not path.suffix)
    content = damage(file.read_bytes())
    file.unlink()
    file.write_bytes(content)
    assert shelf.get("a", "1", maker) == maker.thing
    assert shelf.get("a", "1", maker) == maker.thing
    assert maker.made == 2


def test_link_in_place_of_a_thing_is_not_followed(tmp_path: Path) -> None:
    shelf, maker = cache(tmp_path), Maker()
    shelf.get("a", "1", maker)
    (file,) = (path for path in tmp_path.iterdir() if not path.suffix)
    file.rename(tmp_path / "elsewhere.x")
    file.symlink_to("elsewhere.x")
    assert shelf.get("a", "1", maker) == maker.thing
    assert maker.made == 2
    assert not file.is_symlink()


@pytest.mark.parametrize("directory", [None, Path("/nowhere/at/all")])
def test_without_a_directory_things_are_made_each_time(directory: Path | None) -> None:
    shelf, maker = cache(directory), Maker()
    assert [shelf.get("a", "1", maker) for _ in range(2)] == [maker.thing] * 2
    assert maker.made == 2


def test_oldest_things_go_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_sources, "MAX_SHARED_BYTES", 3500)
    shelf, makers = cache(tmp_path), [Maker(content=bytes(1000)) for _ in range(6)]
    for number, maker in enumerate(makers):
        shelf.get(f"{number}", "1", maker)
        os.utime(max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns))
    assert len([path for path in tmp_path.iterdir() if not path.suffix]) == 3
    shelf.get("5", "1", makers[5])
    shelf.get("0", "1", makers[0])
    assert [maker.made for maker in makers] == [2, 1, 1, 1, 1, 1]


@pytest.mark.long
def test_workers_agree_and_see_edits_and_leave_nothing_behind(
    tmp_path: Path, start_service: StartService
) -> None:
    dataset = write_dataset(tmp_path / "data" / "brain")
    write(dataset / "annotations/x0y0z0/fibers.json", make_many("point", 2000, (100, 90, 70)))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    service = start_service(dataset.parent, "--workers", "3", env={"TMPDIR": str(temporary)})
    file = f"{service.url}/brain/annotations/x0y0z0/fibers.json"

    def look(_: int) -> int:
        return len(Reader(f"{file}/layers/points").everything())

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(look, range(24))) == {2000}
    new = {"type": "point", "point": [1, 2, 3]}
    assert requests.patch(file, params={"id": "new"}, json=new).status_code == 201
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(look, range(24))) == {2001}
    (shelf,) = temporary.iterdir()
    assert shelf.stat().st_mode & 0o077 == 0
    assert len([path for path in shelf.iterdir() if path.is_file() and not path.suffix]) == 2
    assert service.stop() == 0
    assert list(temporary.iterdir()) == []
