"""A search over all blocks sends what it finds at once, and reads a block when it is its turn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from neurotrale.annotations.files.block_listing import ListedFile
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.layers.spatial_index import CoordinateSpace
from neurotrale.queries.formats import FORMATS, buffered
from neurotrale.queries.query import EVERYTHING, AnnotationQuery, search_files
from neurotrale.storage.data_root import DataRoot
from tests.conftest import StartService

SPACE = CoordinateSpace((1000.0, 1000.0, 1000.0), True)


def fiber(id_: str, anntype: str, text: str = "") -> dict[str, Any]:
    points = [[1, 2, 3], [4, 5, 6]]
    return {"id": id_, "type": "linestring", "anntype": anntype, "points": points} | (
        {"description": text} if text else {}
    )


def write_blocks(root: Path, count: int, rows: Callable[[int], list[dict[str, Any]]]) -> None:
    for number in range(count):
        block = root / "brain" / "annotations" / f"x{number:03d}y0z0"
        block.mkdir(parents=True)
        (block / "fibers.json").write_text(json.dumps(rows(number)))


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "json"])
def test_what_is_found_in_the_first_file_comes_before_the_next_one_is_read(
    tmp_path: Path, form: str
) -> None:
    write_blocks(tmp_path, 20, lambda n: [fiber(f"a{n}", "axon" if n in (0, 10) else "glia")])
    taken: list[str] = []

    def files() -> Iterator[ListedFile]:
        for file in AnnotationFiles(DataRoot(tmp_path)).in_dataset(("brain",)):
            taken.append(file.display_path)
            yield file

    query = AnnotationQuery.parse(anntype=["axon"])
    pieces = buffered(FORMATS[form].write(search_files(files(), query), SPACE))
    sent = next(pieces)
    assert len(taken) == 1
    while b"a0" not in sent:  # a header may be a piece of its own
        sent += next(pieces)
    assert len(taken) <= 2
    assert b"a10" not in sent
    everything = sent + b"".join(pieces)
    assert b"a10" in everything
    assert len(taken) == 20
    assert all(pieces) or list(pieces) == []


@pytest.mark.parametrize("form", FORMATS)
def test_pauses_change_no_byte_of_the_answer(tmp_path: Path, form: str) -> None:
    write_blocks(tmp_path, 20, lambda n: [fiber(f"a{n}", "axon")] * (n % 3))
    files = AnnotationFiles(DataRoot(tmp_path))

    def answer(pause_s: float) -> list[bytes]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("neurotrale.queries.query.PAUSE_S", pause_s)
            hits = search_files(files.in_dataset(("brain",)), EVERYTHING)
            return list(buffered(FORMATS[form].write(hits, SPACE)))

    always, never = answer(-1.0), answer(1e9)
    assert b"".join(always) == b"".join(never)
    assert len(always) > len(never)
    assert all(always)
    assert all(never)


BLOCKS = 120
TEXT = "x" * 1000


def test_service_answers_with_the_first_block_before_it_has_read_the_last(
    tmp_path: Path, start_service: StartService
) -> None:
    """More than all buffers hold: the last block is removed once the first line is there."""
    write_blocks(tmp_path, 1, lambda _: [fiber(f"a{n}", "axon", TEXT) for n in range(600)])
    annotations = tmp_path / "brain" / "annotations"
    for number in range(1, BLOCKS):
        (annotations / f"x{number:03d}y0z0").mkdir()
        os.link(
            annotations / "x000y0z0" / "fibers.json",
            annotations / f"x{number:03d}y0z0" / "fibers.json",
        )
    service = start_service(tmp_path)
    url = f"{service.url}/brain/annotations/search"
    last = annotations / f"x{BLOCKS - 1:03d}y0z0" / "fibers.json"
    with requests.get(url, stream=True, timeout=60) as response:
        lines = response.iter_lines(2**16)
        assert json.loads(next(lines))["block"] == "x000y0z0"
        last.unlink()
        blocks = [line[:25] for line in lines]
    assert len(blocks) == 600 * (BLOCKS - 1) - 1
    assert blocks == sorted(blocks)
    assert not any(last.parent.name.encode() in block for block in blocks)
