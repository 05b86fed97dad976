"""Memory: what one client can make a worker, or the process that makes all changes, take."""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from math import prod
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import requests
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.annotations.documents import pieces
from neurotrale.annotations.documents.document import Document, Hunk
from neurotrale.annotations.journals.changes import apply_in_pieces
from neurotrale.annotations.journals.journal import HEAD_BYTES, Journal
from neurotrale.annotations.journals.journal_records import (
    JournalEntry,
    JournalRecord,
    NewRecord,
    parse_record,
)
from neurotrale.annotations.merging.chains import Chain
from neurotrale.annotations.merging.meanings import meaning_of
from neurotrale.annotations.merging.seen import Seen
from neurotrale.annotations.merging.views import Facts, Tip
from neurotrale.chunks.decode import Expected, decode_chunk
from neurotrale.chunks.image_headers import stated_voxels
from neurotrale.errors import DamagedError
from neurotrale.server.buffers import FileBuffer
from neurotrale.server.held_bodies import LARGE_BYTES, HeldBodies
from neurotrale.storage.compression import (
    ZSTD_BLOCK_BYTES,
    most_unpacked_bytes,
    pack,
    unpack,
)
from neurotrale.storage.ranges import LargeBytes
from tests.conftest import Service, StartService, answer, connect
from tests.datasets import write_dataset
from tests.processes import children, writer_of

MIB = 2**20
MOST_MIB = 400
LONG_S = 600.0
VIEWER = {"User-Agent": "Mozilla/5.0 (memory)"}


def peaks_mib(service: Service) -> list[int]:
    """The most memory that each process of a service had: the writer and the workers."""
    pids = [writer_of(service.process.pid), *children(service.process.pid)]
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    found = [re.search(r"VmHWM:\s+(\d+) kB", status) for status in statuses]
    assert len(found) == 2
    return [int(one[1]) // 1024 for one in found if one is not None]


def float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def contours(mebibytes: float, seed: int = 0) -> list[dict[str, object]]:
    """Contours as people draw them; as JSON they have this size."""
    chance = random.Random(seed)
    made: list[dict[str, object]] = []
    while len(made) * 8400 < mebibytes * MIB:
        points = [[round(chance.uniform(0, 5000), 3) for _ in range(3)] for _ in range(300)]
        id_ = f"{chance.getrandbits(160):040x}"
        made.append(
            {"id": id_, "type": "polygon", "anntype": "contour", "length": 9.5, "points": points}
        )
    return made


def compact(annotations: list[dict[str, object]]) -> bytes:
    return json.dumps(annotations, separators=(",", ":")).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data" / "brain")
    return tmp_path / "data"


def url_of(service: Service) -> str:
    return f"{service.url}/brain/annotations/x0y0z0/large.json"


def put(service: Service, body: bytes, leaf: str = "large.json", **headers: str) -> int:
    url = f"{service.url}/brain/annotations/x0y0z0/{leaf}"
    return requests.put(url, data=body, headers=headers, timeout=LONG_S).status_code


# --- what a PUT takes ---


@pytest.mark.parametrize("mebibytes", [36, pytest.param(150, marks=pytest.mark.long)])
def test_put_of_millions_of_items_takes_at_most_four_times_its_body(
    root: Path, start_service: StartService, mebibytes: int
) -> None:
    service = start_service(root)
    assert put(service, b"[" + b"{}," * (mebibytes * MIB // 3) + b"{}]") == 422
    assert max(peaks_mib(service)) < 4 * mebibytes + 100
    service.stop()


@pytest.mark.parametrize("mebibytes", [12, pytest.param(61, marks=pytest.mark.long)])
def test_put_of_a_whole_file_takes_at_most_four_times_its_body(
    root: Path, start_service: StartService, mebibytes: int
) -> None:
    service = start_service(root)
    first, second = (compact(contours(mebibytes, seed)) for seed in (1, 2))
    assert put(service, first) == 201
    assert put(service, second) == 200  # nothing is as it was
    url = f"{service.url}/brain/annotations/x0y0z0/large.json"
    assert requests.patch(f"{url}?id=new", json={"id": "new"}, timeout=LONG_S).status_code == 201
    assert max(peaks_mib(service)) < 4 * len(second) / MIB + 100
    history = requests.get(f"{url}/history", timeout=LONG_S).json()
    assert len(history["changes"]) == 3
    service.stop()


def test_change_of_one_annotation_takes_no_memory_for_the_others(
    root: Path, start_service: StartService
) -> None:
    mebibytes = 96
    text = "x" * 2**14
    ids = [f"{number:08x}" for number in range(mebibytes * 2**6)]
    path = root / "brain/annotations/x0y0z0/large.json"
    path.write_text("[" + ",\n".join(f'{{"id":"{id_}","text":"{text}"}}' for id_ in ids) + "]")
    service = start_service(root)
    url = f"{url_of(service)}?id={ids[-1]}"
    assert requests.get(url, timeout=LONG_S).json() == {"id": ids[-1], "text": text}
    assert requests.patch(url, json={"id": ids[-1]}, timeout=LONG_S).status_code == 200
    service.stop()
    service = start_service(root)  # finds the index of the one before
    idle = peaks_mib(service)
    for id_ in ids[:3]:
        url = f"{url_of(service)}?id={id_}"
        assert requests.patch(url, json={"id": id_}, timeout=LONG_S).status_code == 200
        assert requests.get(url, timeout=LONG_S).json() == {"id": id_}
    grown = [now - was for now, was in zip(peaks_mib(service), idle, strict=True)]
    assert max(grown) < mebibytes / 2  # most of it for libraries
    service.stop()


@pytest.mark.long
def test_save_of_a_viewer_takes_at_most_four_times_its_body(
    root: Path, start_service: StartService
) -> None:
    annotations = contours(61)
    path = root / "brain/annotations/x0y0z0/large.json"
    path.write_bytes(compact(annotations))
    service = start_service(root)
    url = f"{service.url}/brain/annotations/x0y0z0/large.json"
    assert requests.get(url, headers=VIEWER, timeout=LONG_S).status_code == 200
    for one in annotations:  # as the viewer spells it
        points = one["points"]
        assert isinstance(points, list)
        one |= {"points": [[float32(x) for x in point] for point in points], "length": 9}
    for number in range(3):
        annotations[number]["reviewed"] = True
        body = compact(annotations)
        assert put(service, body, **VIEWER) == 200
    assert max(peaks_mib(service)) < 4 * len(body) / MIB + 100
    saved = json.loads(path.read_bytes())
    assert [one.get("reviewed") for one in saved[:4]] == [True, True, True, None]
    assert saved[5]["length"] == 9.5
    service.stop()


def test_save_that_any_of_many_views_explains_takes_one_view_at_a_time() -> None:
    annotations = contours(1)
    tips = []
    for number in range(12):
        annotations[5]["length"] = number
        view = compact(annotations)
        seen = Seen(Document.parse(view), partial(unpack, pack(view)))
        seen.release()
        tips.append(Tip(Chain(number + 1, str(number), number + 1, is_own=True), seen))
    annotations[5]["length"] = 99
    body = compact(annotations)
    new = Seen(Document.parse(body))
    tracemalloc.start()
    try:
        meaning = meaning_of(new, tips, Facts(arrived_ns=100), lambda _: None)
        (changed,) = meaning.edit.changed
        assert json.loads(meaning.base.texts[changed])["length"] == 11  # as in the nearest view
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


# --- what chunks take ---

ZEROS = zlib.compressobj(1, zlib.DEFLATED, -15)
PIECE = ZEROS.compress(bytes(16 * MIB)) + ZEROS.flush(zlib.Z_FULL_FLUSH)


def zlib_of_zeros(size: int) -> bytes:
    """A zlib stream of many zeros, made without packing them all."""
    adler = (size % 65521) << 16 | 1
    return b"\x78\x01" + PIECE * (size // (16 * MIB)) + b"\x03\x00" + struct.pack(">I", adler)


def tiff_of_zeros(width: int, height: int) -> bytes:
    """A TIFF of one strip of uint8."""
    data = zlib_of_zeros(width * height)
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: height,
            279: len(data), 339: 1}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiff_of_three_megabytes_that_promises_three_gibibytes_is_refused(
    root: Path, start_service: StartService
) -> None:
    side = 2**15
    scale = root / "brain" / "1_1_1"
    (scale / f"0-{3 * side}_0-{side}_0-1.tiff").write_bytes(tiff_of_zeros(3 * side, side))
    service = start_service(root)
    refused = requests.get(f"{service.url}/brain/1_1_1/0-{3 * side}_0-{side}_0-1", timeout=LONG_S)
    assert refused.status_code == 500
    assert "expected at most 128 MiB of voxels" in refused.json()["description"]
    assert max(peaks_mib(service)) < MOST_MIB
    service.stop()


def test_page_of_millions_of_strips_is_refused_at_once(tmp_path: Path) -> None:
    count = 10**6
    sizes = {256: 1, 257: count, 258: 8, 259: 8, 262: 1, 277: 1, 278: 1}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sizes.items()]
    lists = ((273, 1000), (279, 1000 + 4 * count))
    entries += [struct.pack("<HHII", tag, 4, count, at) for tag, at in lists]
    path = tmp_path / "chunk.tiff"
    with path.open("wb") as file:
        head = b"II*\0" + struct.pack("<IH", 8, len(entries))
        file.write(head + b"".join(sorted(entries)) + bytes(4))
        file.truncate(1000 + 8 * count)
    with pytest.raises(DamagedError, match="more than 65536 strips or tiles"):
        decode_chunk(path, "chunk", Expected((1, count, 1), "uint8", 1))


@pytest.mark.long
def test_largest_chunk_that_is_decoded_takes_little_more(
    root: Path, start_service: StartService
) -> None:
    width, height = 2**14, 2**13
    path = root / "brain" / "1_1_1" / f"0-{width}_0-{height}_0-1.tiff"
    path.write_bytes(tiff_of_zeros(width, height))
    info = json.loads((root / "brain/info").read_text())
    (root / "brain/info").write_text(json.dumps(info | {"data_type": "uint8"}))
    service = start_service(root)
    chunk = f"{service.url}/brain/1_1_1/{path.stem}"
    sent = requests.get(chunk, headers={"Accept-Encoding": "identity"}, timeout=LONG_S)
    assert sent.status_code == 200
    assert len(sent.content) == width * height
    assert max(peaks_mib(service)) < MOST_MIB
    service.stop()


IMAGES: dict[str, tuple[int, Callable[..., bytes | bytearray]]] = {
    "jpeg": (7, imagecodecs.jpeg_encode),
    "jpeg2000": (34712, imagecodecs.jpeg2k_encode),
    "jpeg2000-codestream": (34712, partial(imagecodecs.jpeg2k_encode, codecformat="j2k")),
    "jpegxl": (50002, imagecodecs.jpegxl_encode),
    "jpegxl-boxes": (50002, partial(imagecodecs.jpegxl_encode, usecontainer=True)),
    "jpegxr": (34934, imagecodecs.jpegxr_encode),
    "lerc": (34887, imagecodecs.lerc_encode),
    "png": (34933, imagecodecs.png_encode),
    "webp": (50001, partial(imagecodecs.webp_encode, lossless=True)),
    "webp-lossy": (50001, partial(imagecodecs.webp_encode, lossless=False)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_of_more_voxels_than_its_strip_has_room_for_is_not_decoded(
    tmp_path: Path, name: str
) -> None:
    compression, encode = IMAGES[name]
    colours = (3,) if name.startswith("webp") else ()
    for shape in ((600, 500), (256, 256), (8, 16), (300, 400), (1, 70_000), (70_000, 1)):
        if max(shape) > 2**14 and name.startswith(("webp", "jpeg")):
            continue
        data = bytes(encode(np.zeros((*shape, *colours), np.uint8)))
        assert stated_voxels(compression, data) == prod(shape)
        for size in range(0, min(len(data), 200), 7):
            with suppress(ValueError):
                stated_voxels(compression, data[:size])
        path = tmp_path / "chunk.tiff"
        tifffile.imwrite(
            path, iter([data]), shape=(5, 6, *colours), dtype="uint8", compression=compression,
            photometric="rgb" if colours else "minisblack",
        )  # fmt: skip
        with pytest.raises(DamagedError, match=rf"image of {prod(shape)} voxels, but room for"):
            decode_chunk(path, "chunk", Expected((6, 5, 1), "uint8", 3 if colours else 1))


@given(
    st.sampled_from([0, 1, 1000, 2**17, 2**17 + 1, 700_000]),
    st.sampled_from([1, 3, 19]),
    st.sampled_from([0, 1, 256]),
    st.integers(1, 3),
)
def test_bound_of_what_zstd_unpacks_to_is_close(
    size: int, level: int, different: int, frames: int
) -> None:
    content = bytes(random.Random(size).choices(range(max(1, different)), k=size))
    data = bytes(imagecodecs.zstd_encode(content, level)) * frames
    bound = most_unpacked_bytes(data, frames * size)
    assert frames * size <= bound <= frames * (size + ZSTD_BLOCK_BYTES)
    assert most_unpacked_bytes(data[:-1], frames * size) > frames * size + ZSTD_BLOCK_BYTES
    if size * frames > 2 * ZSTD_BLOCK_BYTES:
        assert most_unpacked_bytes(data, 1) > 1


def test_compressed_copy_of_a_chunk_is_sent_only_if_it_has_the_size_of_the_chunk(
    root: Path, start_service: StartService
) -> None:
    info = json.loads((root / "brain/info").read_text())
    size = 1000 * np.dtype(info["data_type"]).itemsize
    scale = root / "brain" / info["scales"][0]["key"]
    service = start_service(root)
    for suffix, coding, encode in (
        ("gz", "gzip", gzip.compress),
        ("br", "br", imagecodecs.brotli_encode),
    ):
        for number, (found, status) in enumerate(
            ((size, 200), (size - 1, 500), (size + 1, 500), (0, 500), (64 * MIB, 500))
        ):
            at = 10 * number + (200 if suffix == "br" else 100)
            name = f"{at}-{at + 10}_0-10_0-10"
            (scale / f"{name}.{suffix}").write_bytes(encode(bytes(found)))
            sent = requests.get(
                f"{service.url}/brain/{scale.name}/{name}",
                headers={"Accept-Encoding": coding},
                timeout=LONG_S,
            )
            assert sent.status_code == status
            if status == 500:
                assert f"{name}.{suffix}: expected " in sent.json()["description"]
                assert f"which are {size} bytes" in sent.json()["description"]
    assert max(peaks_mib(service)) < MOST_MIB
    service.stop()


# --- what clients take that do not read ---


@pytest.mark.long
def test_sixty_clients_that_do_not_read_take_little_memory(
    root: Path, start_service: StartService
) -> None:
    body = compact(contours(31))
    leaves = [f"large-{number}.json" for number in range(6)]
    for leaf in leaves:
        path = root / "brain/annotations/x0y0z0" / leaf
        path.write_bytes(b'[{"id":"%s"},' % leaf.encode() + body[1:])
    service = start_service(root, "--stall-timeout", "600")
    with ExitStack() as stack:
        for number in range(60 + len(leaves)):
            leaf = leaves[max(0, number - 60)]
            connection = stack.enter_context(closing(connect(service, receive_bytes=4096)))
            connection.sendall(
                f"GET /brain/annotations/x0y0z0/{leaf} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
        assert answer(connection).status == 200  # the last one
        assert requests.get(f"{service.url}/api/health", timeout=LONG_S).status_code == 200
        assert max(peaks_mib(service)) < MOST_MIB
        url = f"{service.url}/brain/annotations/x0y0z0/{leaves[-1]}"
        whole = requests.get(url, timeout=LONG_S).content
        assert whole == (root / "brain/annotations/x0y0z0" / leaves[-1]).read_bytes()
    service.stop()


def drained(buffer: object) -> bytes:
    assert hasattr(buffer, "get")
    taken = []
    until = time.monotonic() + LONG_S
    while len(buffer):  # type: ignore[arg-type]
        block = bytes(buffer.get(2**16))
        taken.append(block)
        buffer.skip(len(block), True)  # type: ignore[attr-defined]
        assert time.monotonic() < until
    return b"".join(taken)


def test_bodies_that_are_alike_are_held_once_and_others_beyond_the_room_in_files() -> None:
    bodies = [bytes([number]) * LARGE_BYTES + b"end" for number in range(3)]
    with ThreadPoolExecutor(2) as readers:
        held = HeldBodies(readers, most_bytes=2 * LARGE_BYTES)
        first, again, second, third = (
            held.buffer(bytes(bytearray(body)), 5, lambda: None)
            for body in (bodies[0], bodies[0], bodies[1], bodies[2])
        )
        assert first.get().obj is again.get().obj
        assert not isinstance(first, FileBuffer)
        assert isinstance(second, FileBuffer)
        assert isinstance(third, FileBuffer)
        for buffer, body in ((first, bodies[0]), (second, bodies[1]), (third, bodies[2])):
            assert drained(buffer) == body[5:]
            buffer.close()
        assert drained(again) == bodies[0][5:]
        again.close()
        after = held.buffer(bodies[1], 0, lambda: None)
        assert not isinstance(after, FileBuffer)  # there is room again
        after.close()


# --- pieces ---

SCALARS = st.integers(-9, 9) | st.text(',"}]{[ \\a', max_size=9) | st.none()
ITEMS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a},"), inner),
    max_leaves=9,
)


@given(st.lists(ITEMS, max_size=30), st.sampled_from([None, 1]), st.integers(1, 40))
def test_array_is_split_alike_in_pieces_of_any_size(
    values: list[object], indent: int | None, size: int
) -> None:
    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", size)
        split = [bytes(item) for part in pieces.split_in_pieces(content) for item in part]
        assert "".join(pieces.decoded_pieces(content)) == content.decode()
        pieces.check_utf8(content)
    assert split == [bytes(item) for item in pieces.split_items(content)]


@given(st.binary(max_size=60), st.integers(1, 9))
def test_bytes_that_are_no_text_are_found_where_they_are(content: bytes, size: int) -> None:
    def error_of(check: object) -> str:
        try:
            check(content)  # type: ignore[operator]
        except UnicodeDecodeError as error:
            return str(error)
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", size)
        found = error_of(pieces.check_utf8)
    assert found == error_of(bytes.decode)


def test_kept_content_is_what_it_was() -> None:
    for size in (0, 5, 40_000, 3 * MIB + 7):
        content = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
        assert unpack(pack(content)) == content
    with pytest.raises(ValueError, match=r".+"):
        unpack(pack(bytes(40_000))[:-3])


# --- records ---


def records() -> Iterator[NewRecord]:
    entry = JournalEntry(n=1, at="2026-11-22T00:00:00.000Z", op="put", added=["a"])
    yield NewRecord(entry)
    for new in (b'[{"id":"\xc3\xa9 \\" \\\\"}]', b"\xff\xfe", b"\\", b'"]]}' * 3):
        yield NewRecord(entry, [Hunk(0, b"", new), Hunk(3, b"old", b"")])
        yield NewRecord(entry, [Hunk(0, b"", b"x" * HEAD_BYTES * 6), Hunk(9, b"", new)])


def test_record_is_read_as_it_was_written() -> None:
    for record in records():
        read = parse_record(b"".join(record.line()))
        assert read is not None
        assert read.bytes_hunks() == list(record.hunks)
        assert isinstance(read, JournalRecord)
        assert read.added == record.entry.added


def test_head_of_a_large_record_is_read_unless_the_record_is_torn(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    journal = Journal(tmp_path / "a.json")
    first = NewRecord(JournalEntry(n=1, at="2026-11-22T00:00:00.000Z", op="patch"))
    for record in records():
        journal.append(first, record.but(n=2))
        assert journal.tail()[0] == record.but(n=2).entry
        whole = journal.path.read_bytes()
        size = len(b"".join(record.but(n=2).line()))
        for cut in (cut for cut in (2, 3, 4, 5, 6, 20, 300) if cut < size):
            journal.path.write_bytes(whole[:-cut])
            last, _ = journal.tail()
            assert last is not None
            assert last.n == 1
        journal.path.unlink()


def test_record_that_touches_very_many_annotations_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    journal = Journal(tmp_path / "a.json")
    ids = [f"{number:040x}" for number in range(HEAD_BYTES // 20)]
    entry = JournalEntry(n=2, at="2026-11-22T00:00:00.000Z", op="put", added=ids)
    hunk = Hunk(0, b"", b"x" * HEAD_BYTES * 3)
    first = NewRecord(JournalEntry(n=1, at=entry.at, op="patch"))
    last = NewRecord(JournalEntry(n=3, at=entry.at, op="patch"))
    journal.append(first, NewRecord(entry, [hunk]), last)
    assert [one.n for one in journal.entries()] == [3, 2, 1]
    assert [len(one.added) for one in journal.entries(before=3)] == [len(ids), 0]
    assert LargeBytes(apply_in_pieces(b"", [hunk]))[:] == hunk.new


def test_times_that_go_back_lose_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    journal = Journal(tmp_path / "a.json")
    hours = (5, 6, 9, 3, 4, 10)  # the clock was set back after the third
    for n, hour in enumerate(hours, 1):
        at = f"2026-11-22T{hour:02}:00:00.000Z"
        journal.append(NewRecord(JournalEntry(n=n, at=at, op="patch")))

    def within(since: int | None, until: int | None = None) -> list[int]:
        bounds = [None if one is None else f"2026-11-22T{one:02}" for one in (since, until)]
        numbers = journal.numbers(*bounds)
        return [n for n in range(1, 7) if n in numbers]

    assert within(None) == [1, 2, 3, 4, 5, 6]
    assert within(9) == [3, 4, 5, 6]
    assert within(10) == [6]
    assert within(11) == []
    assert within(None, 9) == [1, 2]
    assert within(9, 10) == [3, 4, 5]
    assert within(6, 6) == []
