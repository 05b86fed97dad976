"""The counts of datasets, small and large: those of the files, whoever changes them and how."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import falcon.testing
import msgspec
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.datasets import background_count, count_index
from neurotrale.datasets.annotation_counts import AnnotationCounts
from neurotrale.datasets.count_index import CountIndex, decode_total, encode_total, update
from neurotrale.datasets.review_progress import ReviewProgress
from neurotrale.errors import MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.shared_files import SharedFiles
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from tests.conftest import StartService
from tests.examples import examples
from tests.processes import eventually
from tests.stores import IN_MEMORY

DATASET = ("brain",)
BLOCKS = ("x0y0z0", "x0y0z1", "x0y0z10", "x1y0z0")
LEAVES = ("fibers.json", "z-0001.json")
KINDS = ("neuron", "glia", "")


def annotations_of(root: Path) -> Path:
    return root / "brain" / "annotations"


def content(numbers: list[int]) -> bytes:
    """Annotations of several kinds, some reviewed."""
    return json.dumps(
        [
            {"id": f"a{n}", "type": "point", "anntype": KINDS[n % 3], "reviewed": n % 2 == 0}
            | {"point": [n, 1, 2]}
            for n in numbers
        ]
    ).encode()


def from_scratch(root: Path) -> dict[str, object]:
    """What a service counts that knows nothing yet."""
    index = CountIndex("brain/annotations")
    for _ in update(index, AnnotationFiles(DataRoot(root)).listing(DATASET)):
        pass
    return plain(index.total.summary())


def plain(told: dict[str, Any]) -> dict[str, object]:
    """Counts without what says when they were made."""
    return {key: value for key, value in told.items() if key not in ("checked", "counting")}


def by_hand(root: Path) -> tuple[int, int, int]:
    """The files, the annotations and the reviewed ones, counted in the plainest way."""
    files = count = reviewed = 0
    for path in annotations_of(root).glob("*/[!.]*.json"):
        files += 1
        try:
            rows = json.loads(path.read_bytes())
        except ValueError:
            continue
        count += len(rows)
        reviewed += sum(row.get("reviewed", False) for row in rows)
    return files, count, reviewed


# --- changes, by the service and by others -------------------------------------------------------


@dataclass
class Lab:
    """A data root and a service in this process."""

    root: Path
    client: falcon.testing.TestClient

    def ask(self) -> dict[str, Any] | None:
        answer = self.client.simulate_get("/api/datasets/brain")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] | None = answer.json["annotations"]
        return told


@dataclass(frozen=True)
class Step:
    """A change of one file or block.

    Attributes:
        how: Name of a way in `SERVICE` or `OTHERS`.
        block: The block.
        leaf: The file.
        numbers: The annotations that it is about.
    """

    how: str
    block: str
    leaf: str
    numbers: list[int]

    @property
    def url(self) -> str:
        return f"/brain/annotations/{self.block}/{self.leaf}"


HEADERS = {"Content-Type": "application/json"}


def put(lab: Lab, step: Step) -> None:
    body = content(step.numbers)
    assert lab.client.simulate_put(step.url, body=body, headers=HEADERS).status_code < 300


def patch(lab: Lab, step: Step) -> None:
    for item in json.loads(content(step.numbers)):
        answer = lab.client.simulate_patch(
            step.url, params={"id": item["id"]}, body=json.dumps(item), headers=HEADERS
        )
        assert answer.status_code in (200, 201, 404, 500)  # there is no such file, or it is damaged


def delete(lab: Lab, step: Step) -> None:
    for number in step.numbers:
        answer = lab.client.simulate_delete(step.url, params={"id": f"a{number}"})
        assert answer.status_code in (200, 204, 404, 500)


def path_of(lab: Lab, step: Step) -> Path:
    return annotations_of(lab.root) / step.block / step.leaf


def write(lab: Lab, step: Step) -> None:
    path_of(lab, step).parent.mkdir(exist_ok=True)
    path_of(lab, step).write_bytes(content(step.numbers))


def rename_over(lab: Lab, step: Step) -> None:
    write(lab, Step("", step.block, "new.tmp", step.numbers))
    os.replace(path_of(lab, step).with_name("new.tmp"), path_of(lab, step))


def keep_the_times(lab: Lab, step: Step) -> None:
    write(lab, step)
    os.utime(path_of(lab, step), (10**9, 10**9))


def damage(lab: Lab, step: Step) -> None:
    write(lab, step)
    path_of(lab, step).write_bytes(b"[1" + b" " * len(step.numbers))


def unlink(lab: Lab, step: Step) -> None:
    path_of(lab, step).unlink(missing_ok=True)


def remove_block(lab: Lab, step: Step) -> None:
    shutil.rmtree(path_of(lab, step).parent, ignore_errors=True)


def swap_blocks(lab: Lab, step: Step) -> None:
    block = path_of(lab, step).parent
    other = annotations_of(lab.root) / BLOCKS[0]
    if block.exists() and other.exists() and block != other:
        aside = block.with_name(".aside")
        block.rename(aside)
        other.rename(block)
        aside.rename(other)


SERVICE: dict[str, Callable[[Lab, Step], None]] = {"put": put, "patch": patch, "delete": delete}
OTHERS: dict[str, Callable[[Lab, Step], None]] = {
    "write": write,
    "rename over": rename_over,
    "keep the times": keep_the_times,
    "damage": damage,
    "unlink": unlink,
    "remove the block": remove_block,
    "swap blocks": swap_blocks,
}
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([*SERVICE, *OTHERS]),
        st.sampled_from(BLOCKS),
        st.sampled_from(LEAVES),
        st.lists(st.integers(0, 5), unique=True, max_size=4),
    ),
    max_size=12,
)


@contextmanager
def counted_as(size: str) -> Iterator[None]:
    """Have datasets of a few blocks counted as large ones, which are compared all the time."""
    with pytest.MonkeyPatch.context() as patched:
        if size == "large":
            patched.setattr(background_count, "LARGE_BLOCKS", -1)
            patched.setattr(background_count, "LEAST_REST_S", 0.0)
            patched.setattr(background_count, "REST_RATIO", 0.0)
        yield
        for thread in threading.enumerate():
            if thread.name == "count-annotations":
                thread.join()


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest) -> Iterator[str]:
    with counted_as(request.param):
        yield request.param


@pytest.mark.parametrize("size", ["small", "large"])
@given(STEPS, st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_counts_are_those_of_the_files_after_changes_by_the_service_and_by_others(
    size: str, steps: list[Step], shared: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, counted_as(size):
        root, shelf = Path(name) / "data", Path(name) / "shelf"
        annotations_of(root).mkdir(parents=True)
        shelf.mkdir()
        app_settings = AppSettings(root, guard="off", shelf=shelf if shared else None)
        lab = Lab(root, falcon.testing.TestClient(create_app(app_settings)))

        def agrees() -> bool:
            told = lab.ask()
            assert told is not None
            return not told["counting"] and plain(told) == from_scratch(root)

        eventually(agrees, "a first count")
        for step in steps:
            if step.how in SERVICE:
                SERVICE[step.how](lab, step)
                assert agrees(), step  # at once, however large the dataset is
            else:
                OTHERS[step.how](lab, step)
                if size == "small":
                    assert agrees(), step
                else:
                    eventually(agrees, f"counts after {step}")
            told = lab.ask()
            assert told is not None
            assert (told["files"], told["count"], told["reviewed"]) == by_hand(root)


@pytest.mark.parametrize("linked", ["block", "file"])
def test_what_is_linked_counts_and_what_is_behind_it_may_change(
    tmp_path: Path, size: str, linked: str
) -> None:
    blocks = annotations_of(tmp_path)
    (blocks / "x0y0z0").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "fibers.json"
    target.write_bytes(content([1, 2, 3]))
    if linked == "block":
        (blocks / "x9y9z9").symlink_to("../../elsewhere")
    else:
        (blocks / "x0y0z0" / "fibers.json").symlink_to("../../../elsewhere/fibers.json")
    (blocks / "x1y1z1").symlink_to("/etc")
    (blocks / "x2y2z2").symlink_to("nowhere")
    (blocks / "x0y0z0" / "out.json").symlink_to("/etc/passwd")
    os.mkfifo(blocks / "x0y0z0" / "pipe.json")
    lab = Lab(tmp_path, falcon.testing.TestClient(create_app(AppSettings(tmp_path))))

    def count() -> tuple[int, int]:
        told = lab.ask()
        assert told is not None
        return told["files"], told["count"]

    eventually(lambda: count() == (1, 3), "three annotations")
    target.write_bytes(content([1, 2, 3, 4]))
    eventually(lambda: count() == (1, 4), "four annotations")


def test_large_dataset_that_is_removed_and_made_again_is_counted_anew(
    tmp_path: Path, size: str
) -> None:
    (tmp_path / "brain").mkdir()
    (tmp_path / "brain" / "info").write_text(
        '{"type": "image", "data_type": "uint8", "num_channels": 1, "scales": []}'
    )
    lab = Lab(tmp_path, falcon.testing.TestClient(create_app(AppSettings(tmp_path))))
    assert lab.ask() is None
    for numbers in ([1], [1, 2]):
        (annotations_of(tmp_path) / "x0y0z0").mkdir(parents=True)
        (annotations_of(tmp_path) / "x0y0z0" / "fibers.json").write_bytes(content(numbers))
        expected = by_hand(tmp_path)[1]
        eventually(lambda: (lab.ask() or {}).get("count") == expected, "the new count")  # noqa: B023
        shutil.rmtree(annotations_of(tmp_path))
        assert lab.ask() is None


# --- progress ------------------------------------------------------------------------------------


def write_blocks(root: Path, count: int) -> None:
    for number in range(count):
        block = annotations_of(root) / f"x{number}y0z0"
        block.mkdir(parents=True)
        (block / "fibers.json").write_bytes(content(list(range(number % 4))))


def test_count_tells_how_far_it_is_and_how_many_it_has_counted(tmp_path: Path) -> None:
    blocks = 3 * count_index.BATCH - 10
    write_blocks(tmp_path, blocks)
    index = CountIndex("brain/annotations")
    told = []
    for done, of in update(index, AnnotationFiles(DataRoot(tmp_path)).listing(DATASET)):
        assert of == blocks
        assert index.total.files == done == len(index.blocks)
        told.append(done)
    assert told == [0, count_index.BATCH, 2 * count_index.BATCH, blocks]


def test_while_another_process_counts_the_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_count, "LARGE_BLOCKS", 2)
    write_blocks(tmp_path / "data", 5)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    files = AnnotationFiles(DataRoot(tmp_path / "data"))
    known = ReviewProgress(files, SharedFiles(shelf)).of_dataset(DATASET)
    assert known is not None
    (claim,) = (path.name for path in shelf.iterdir() if path.suffix == ".claim")

    def counts() -> AnnotationCounts:
        found = ReviewProgress(files, SharedFiles(shelf)).of_dataset(DATASET)
        assert found is not None
        return found

    eventually(lambda: counts().progress is None, "a complete count")
    (path,) = (path for path in shelf.iterdir() if path.suffix == ".total")
    with SharedFiles(shelf).claimed(claim, wait=True) as is_held:
        assert is_held
        path.unlink()  # as if this process had just begun
        progress = counts().progress
        assert progress is not None
        assert counts().summary()["counting"] == {"blocks": progress.blocks, "of": progress.of}
    eventually(lambda: counts().progress is None, "a complete count")
    assert counts().files == 5
    assert counts().checked


@pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2, 3]], ids=len)
def test_counts_travel_between_processes_as_they_are(tmp_path: Path, numbers: list[int]) -> None:
    write_blocks(tmp_path, 5)
    (annotations_of(tmp_path) / "x0y0z0" / "more.json").write_bytes(content(numbers) + b" ")
    (annotations_of(tmp_path) / "x0y0z0" / "broken.json").write_bytes(b"[")
    index = CountIndex("brain/annotations")
    listing = AnnotationFiles(DataRoot(tmp_path)).listing(DATASET)
    for _ in update(index, listing):
        pass
    again = CountIndex.decode(index.path, b"".join(index.encode()))
    assert again == index
    assert decode_total(encode_total(index.total)) == index.total
    with pytest.raises(msgspec.DecodeError):
        CountIndex.decode(index.path, b"".join(index.encode())[:-1])
    for _ in update(again, listing):
        pass
    assert again.total == index.total


def test_many_threads_count_the_same_where_a_file_system_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blocks(tmp_path, 2 * count_index.BATCH + 50)
    listing = AnnotationFiles(DataRoot(tmp_path)).listing(DATASET)
    one, many = (CountIndex("brain/annotations") for _ in range(2))
    for _ in update(one, listing):
        pass
    monkeypatch.setattr(count_index, "SLOW_BLOCK_S", -1.0)
    monkeypatch.setattr(count_index, "SLOW_RATIO", -1.0)
    for _ in update(many, listing):
        pass
    assert many.total == one.total
    assert list(many.blocks) == list(one.blocks)


def test_dataset_that_is_not_there_has_no_counts(tmp_path: Path) -> None:
    files = AnnotationFiles(DataRoot(tmp_path))
    assert ReviewProgress(files, SharedFiles(None)).of_dataset(DATASET) is None
    with pytest.raises(MissingError):
        files.listing(DATASET).names()


# --- a real service ------------------------------------------------------------------------------


@pytest.mark.long
def test_workers_share_the_counts_of_a_large_dataset_and_each_change_at_once(
    tmp_path: Path, start_service: StartService
) -> None:
    blocks = background_count.LARGE_BLOCKS + 300
    write_blocks(tmp_path / "data", blocks)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    service = start_service(tmp_path / "data", "--workers", "3", env={"TMPDIR": str(temporary)})

    def ask(_: int = 0) -> dict[str, Any]:
        told: dict[str, Any] = requests.get(
            f"{service.url}/api/datasets/brain", headers={"Connection": "close"}, timeout=60
        ).json()["annotations"]
        return told

    def counted(_: int = 0) -> int:
        told = ask()
        assert told["counting"] is None
        count: int = told["count"]
        return count

    eventually(lambda: ask()["counting"] is None, "a complete count")
    _, expected, _ = by_hand(tmp_path / "data")
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(counted, range(24))) == {expected}
        for number in range(5):
            url = f"{service.url}/brain/annotations/x{number}y0z0/fibers.json"
            new = {"type": "point", "point": [1, 2, 3]}
            assert requests.patch(url, params={"id": "new"}, json=new, timeout=60).ok
            assert set(pool.map(counted, range(12))) == {expected + number + 1}
    shutil.rmtree(annotations_of(tmp_path / "data") / "x3y0z0")
    _, expected, _ = by_hand(tmp_path / "data")
    eventually(lambda: counted() == expected, "the removal by another program")
    assert service.stop() == 0
    assert list(temporary.iterdir()) == []
