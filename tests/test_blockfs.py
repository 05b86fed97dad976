"""Chunks of blockfs, and the files of zarr, as precomputed-tif writes both."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import requests
import tensorstore
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.chunks.store import Chunks
from neurotrale.cli import main
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredDirectory, StoredFile
from neurotrale.storage.names import METADATA_NAMES, ChunkPath
from tests.blockfs import NAME, directory_file, tool_levels, unpack, write_blockfs, write_volume
from tests.conftest import Service, StartService
from tests.datasets import boxes, gradient, wait_until_settled

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.test_clients import CLIENTS, read

FIRST = "0-16_0-16_0-16"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service with the datasets that precomputed-tif wrote, moved to another directory."""
    return start_service(unpack(tmp_path_factory.mktemp("tool")))


# --- what the tool wrote ---


@pytest.mark.clients
@pytest.mark.parametrize("client", CLIENTS)
def test_client_reads_every_voxel_of_blockfs_that_the_tool_wrote(
    service: Service, client: str
) -> None:
    for number, expected in enumerate(tool_levels()):
        found = read(CLIENTS[client](f"{service.url}/blockfs", number))
        assert np.array_equal(found, expected[np.newaxis]), f"level {number}"


@pytest.mark.clients
@pytest.mark.parametrize(
    "array", ["zarr/1_1_1", "zarr/2_2_2", "ngff/0"], ids=["zarr", "coarse", "ngff"]
)
def test_client_reads_every_voxel_of_zarr_that_the_tool_wrote(service: Service, array: str) -> None:
    spec = {"driver": "zarr", "kvstore": f"{service.url}/{array}/"}
    found = np.asarray(tensorstore.open(spec, read=True, open=True).result().read().result())
    expected = tool_levels()[array == "zarr/2_2_2"]
    assert np.array_equal(found.reshape(expected.shape), expected)


def test_chunk_of_blockfs_is_cached_until_it_changes(tmp_path: Path, service: Service) -> None:
    dataset = write_volume(service.root / "changing", gradient((16, 16, 16)), 16)
    url = f"{service.url}/changing/1_1_1/{FIRST}"
    wait_until_settled(dataset)
    first = requests.get(url)
    assert first.content == gradient((16, 16, 16)).tobytes()
    again = requests.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    write_blockfs(dataset / "1_1_1", gradient((16, 16, 16)) + 1, (16, 16, 16))
    changed = requests.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.content == (gradient((16, 16, 16)) + 1).tobytes()


def test_absent_chunk_names_the_layout(service: Service) -> None:
    chunk = "0-64_0-64_0-64"
    for path, layout in (("zarr/1_1_1", "zarr version 2"), ("ngff/1_1_1", "OME-NGFF")):
        answer = requests.get(f"{service.url}/{path}/{chunk}")
        assert answer.status_code == 404
        assert layout in answer.json()["description"]
        assert "neurotrale ingest" in answer.json()["description"]
        assert layout in service.log()
    answer = requests.get(f"{service.url}/blockfs/1_1_1/0-64_0-64_128-192")
    assert answer.status_code == 404
    assert "blockfs" in answer.json()["description"]


def test_page_and_api_name_the_layout(service: Service) -> None:
    def layouts(dataset: str) -> list[str]:
        about = requests.get(f"{service.url}/api/datasets/{dataset}").json()
        return [level["layout"] for level in about["volume"]["levels"]]

    assert layouts("blockfs") == ["blockfs, which precomputed-tif writes"] * 2
    assert layouts("zarr") == ["zarr version 2"] * 2
    assert layouts("ngff") == ["zarr version 2, as OME-NGFF has it"] * 2


def test_preview_of_blockfs_is_drawn(service: Service) -> None:
    answer = requests.get(f"{service.url}/api/datasets/blockfs/preview.png")
    assert imagecodecs.png_decode(answer.content).std() > 10


# --- names with a dot ---


def test_only_metadata_of_zarr_is_served_among_names_with_a_dot(service: Service) -> None:
    directory = service.root / "dots"
    directory.mkdir()
    others = [".zarrays", ".zarray.gz", ".ZARRAY", ".zarray~", ".git", ".fibers.json.journal"]
    for name in [*METADATA_NAMES, *others]:
        (directory / name).write_text("{}")
    listed = requests.get(f"{service.url}/dots/").text
    for name in METADATA_NAMES:
        answer = requests.get(f"{service.url}/dots/{name}")
        assert (answer.status_code, answer.text) == (200, "{}")
        assert answer.headers["Content-Type"] == "application/json"
        assert f'"./{name}"' in listed or f'"{name}"' in listed
    for name in others:
        assert requests.get(f"{service.url}/dots/{name}").status_code == 404
        assert f'{name}"' not in listed
    assert requests.get(f"{service.url}/dots/.zmetadata/").status_code == 404


@pytest.mark.parametrize("name", sorted(METADATA_NAMES))
def test_directory_with_the_name_of_metadata_is_hidden(service: Service, name: str) -> None:
    directory = service.root / "hidden" / name / "annotations" / "x0y0z0"
    directory.mkdir(parents=True)
    (directory / "fibers.json").write_text("[]")
    url = f"{service.url}/hidden/{name}"
    for path in ("", "/", "/annotations/x0y0z0/fibers.json", "/annotations/"):
        assert requests.get(url + path, allow_redirects=False).status_code == 404
    assert requests.put(f"{url}/annotations/x0y0z0/fibers.json", data="[]").status_code == 404
    assert f'{name}/"' not in requests.get(f"{service.url}/hidden/").text
    blocks = service.root / "hidden" / "annotations"
    blocks.mkdir(exist_ok=True)
    put = requests.put(f"{service.url}/hidden/annotations/{name}/fibers.json", data="[]")
    assert put.status_code == 404
    assert list(blocks.iterdir()) == []


def test_metadata_that_links_out_of_the_root_is_not_served(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (service.root / "linked").mkdir()
    (service.root / "linked" / ".zattrs").symlink_to(tmp_path / "secret")
    assert requests.get(f"{service.url}/linked/.zattrs").status_code == 404
    assert ".zattrs" not in requests.get(f"{service.url}/linked/").text


# --- any volume ---


def chunks_below(root: Path) -> Chunks:
    return Chunks(Files(DataRoot(root)))


def read_chunk(chunks: Chunks, name: str, directory: tuple[str, ...] = ("brain", "1_1_1")) -> bytes:
    chunk = ChunkPath(directory, name)
    found = chunks.find(chunk)
    assert not isinstance(found, (StoredFile, StoredDirectory))
    return chunks.read(chunk, found, frozenset()).body


@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    block=st.tuples(*[st.integers(1, 24)] * 3),
    shards=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "int16", "uint32", "uint64", "float32"]),
)
def test_every_block_of_any_volume_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int, int],
    block: tuple[int, int, int],
    shards: int,
    dtype: str,
) -> None:
    block = tuple(max(b, n // 4) for b, n in zip(block, size, strict=True))  # type: ignore[assignment]
    root = tmp_path_factory.mktemp("any")
    voxels = gradient(size[::-1], dtype)
    write_blockfs(root / "brain" / "1_1_1", voxels, block, shards=shards)
    chunks = chunks_below(root)
    spans = [[(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(size, block, strict=True)]
    for x0, x1 in spans[0]:
        for y0, y1 in spans[1]:
            for z0, z1 in spans[2]:
                found = read_chunk(chunks, f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}")
                assert found == voxels[z0:z1, y0:y1, x0:x1].tobytes()


def test_scale_with_an_offset_is_read_from_its_corner(tmp_path: Path) -> None:
    voxels = gradient((20, 20, 20))
    dataset = write_volume(tmp_path / "brain", voxels, 16)
    info = json.loads((dataset / "info").read_text())
    info["scales"][0]["voxel_offset"] = [100, -7, 3]
    (dataset / "info").write_text(json.dumps(info))
    found = read_chunk(chunks_below(tmp_path), "116-120_-7-9_3-19")
    assert found == voxels[:16, :16, 16:].tobytes()


def test_block_that_was_never_written_is_absent(tmp_path: Path) -> None:
    write_volume(tmp_path / "brain", gradient((16, 16, 40)), 16, absent=(1,))
    chunks = chunks_below(tmp_path)
    read_chunk(chunks, FIRST)
    with pytest.raises(MissingError, match="blockfs"):
        read_chunk(chunks, "16-32_0-16_0-16")
    directory = tmp_path / "brain" / "1_1_1" / NAME
    directory.write_bytes(directory.read_bytes()[:-8])  # as if the last was not reached yet
    with pytest.raises(MissingError, match="blockfs"):
        read_chunk(chunks, "32-40_0-16_0-16")


@pytest.mark.parametrize(
    "name", ["0-15_0-16_0-16", "1-17_0-16_0-16", "0-32_0-16_0-16", "16-33_0-16_0-16"]
)
def test_box_that_is_no_block_is_absent(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / "brain", gradient((16, 16, 32)), 16)
    with pytest.raises(MissingError):
        read_chunk(chunks_below(tmp_path), name)


def test_file_of_a_chunk_comes_before_the_block(tmp_path: Path) -> None:
    dataset = write_volume(tmp_path / "brain", gradient((16, 16, 16)), 16)
    (dataset / "1_1_1" / FIRST).write_bytes(b"raw")
    assert isinstance(chunks_below(tmp_path).find(ChunkPath(("brain", "1_1_1"), FIRST)), StoredFile)


# --- damage ---


def metadata(scale: Path) -> tuple[dict[str, Any], bytes]:
    content = (scale / NAME).read_bytes()
    _, size, at = struct.unpack_from("<8sII", content)
    return json.loads(content[16 : 16 + size]), content[at:]


def changed(**members: Any) -> Callable[[Path], None]:
    def change(scale: Path) -> None:
        found, entries = metadata(scale)
        found.update(members)
        kept = {name: value for name, value in found.items() if value is not None}
        (scale / NAME).write_bytes(directory_file(kept, entries))

    return change


def entry(offset: int, size: int) -> Callable[[Path], None]:
    def change(scale: Path) -> None:
        found, _ = metadata(scale)
        number = offset | size << 33
        (scale / NAME).write_bytes(directory_file(found, number.to_bytes(8, "little")))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(scale: Path) -> None:
        (scale / name).write_bytes(content)

    return change


def lying_block(scale: Path) -> None:
    """A block whose header promises four gigabytes."""
    shard = scale / f"{NAME}.0"
    content = bytearray(shard.read_bytes())
    content[3 + 4 : 3 + 8] = (2**32 - 1).to_bytes(4, "little")
    shard.write_bytes(content)


def flipped_block(scale: Path) -> None:
    shard = scale / f"{NAME}.0"
    content = bytearray(shard.read_bytes())
    content[3 + 16 : 3 + 20] = b"\xff" * 4
    shard.write_bytes(content)


def link_out(scale: Path) -> None:
    outside = scale.parent.parent.parent / "outside"
    (scale / f"{NAME}.0").rename(outside)
    (scale / f"{NAME}.0").symlink_to(outside)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (write(NAME, b""), "directory file of blockfs"),
    "other file": (write(NAME, b"II*\0" * 100), "directory file of blockfs"),
    "header alone": (write(NAME, b"BlockFS\0"), "directory file of blockfs"),
    "endless JSON": (
        write(NAME, struct.pack("<8sII", b"BlockFS\0", 2**32 - 1, 16) + b"{}"),
        "bytes of JSON",
    ),
    "table in the JSON": (write(NAME, struct.pack("<8sII", b"BlockFS\0", 2, 3) + b"{}"), "JSON"),
    "no JSON": (write(NAME, struct.pack("<8sII", b"BlockFS\0", 2, 18) + b"{{"), "malformed"),
    "deep JSON": (
        write(NAME, struct.pack("<8sII", b"BlockFS\0", 2**20, 2**21) + b"[" * 2**20),
        "malformed",
    ),
    "no shards": (changed(BlockFilenames=[]), "BlockFilenames"),
    "shards that are no names": (changed(BlockFilenames=[1]), "BlockFilenames"),
    "no extent": (changed(XExtent=None), "XExtent"),
    "block of nothing": (changed(YBlockSize=0), "YBlockSize"),
    "huge block": (changed(XBlockSize=2**39, YBlockSize=2**39), "too large"),
    "negative stride": (changed(ZStride=-1), "ZStride"),
    "too many bits": (changed(NOffsetBits=10**9), "NOffsetBits"),
    "unknown type": (changed(DType="complex64"), "DType"),
    "type that info denies": (changed(DType="uint8"), "expected 16x16x16 voxels"),
    "same shard twice": (
        changed(BlockFilenames=[f"/a/{NAME}.0", f"/b/{NAME}.0"]),
        "the same name",
    ),
    "shard elsewhere": (changed(BlockFilenames=["/etc/passwd"]), "'passwd'"),
    "shard above": (changed(BlockFilenames=["../../../outside/../.."]), "'..'"),
    "shard without a name": (changed(BlockFilenames=["/data/"]), "''"),
    "hidden shard": (changed(BlockFilenames=["/data/.zarray"]), "'.zarray'"),
    "shard with a long name": (changed(BlockFilenames=["n" * 9999]), "no such file"),
    "shard that is gone": (lambda d: (d / f"{NAME}.0").unlink(), "copy it there"),
    "shard that is a link out of the root": (link_out, "no such file"),
    "shard that is a directory": (changed(BlockFilenames=["/x/1_1_1.d"]), "no such file"),
    "truncated shard": (write(f"{NAME}.0", b"short"), "truncated"),
    "empty shard": (write(f"{NAME}.0", b""), "truncated"),
    "offset beyond the shard": (entry(2**32, 9), "truncated"),
    "size beyond the shard": (entry(0, 2**26), "truncated"),
    "block of three bytes": (entry(0, 3), "not Blosc"),
    "block of another offset": (entry(1, 100), "its header"),
    "block that promises too much": (lying_block, "its header"),
    "block of other bytes": (flipped_block, "cannot be decoded"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_place(tmp_path: Path, damage: str) -> None:
    root = tmp_path / "root"
    voxels = gradient((16, 16, 16)) // 5000  # Blosc stores what it cannot compress
    dataset = write_volume(root / "brain", voxels, 16)
    (dataset / "1_1_1" / "1_1_1.d").mkdir()
    change, text = DAMAGE[damage]
    change(dataset / "1_1_1")
    with pytest.raises(DamagedError, match="brain/1_1_1/") as caught:
        read_chunk(chunks_below(root), FIRST)
    assert text in str(caught.value)


def test_damage_is_an_error_of_the_service(service: Service) -> None:
    dataset = write_volume(service.root / "damaged", gradient((16, 16, 16)), 16)
    (dataset / "1_1_1" / f"{NAME}.0").unlink()
    answer = requests.get(f"{service.url}/damaged/1_1_1/{FIRST}")
    assert answer.status_code == 500
    assert f"damaged/1_1_1/{NAME}" in answer.json()["description"]
    assert f"{NAME}.0" in answer.json()["description"]


@given(st.data())
def test_bytes_that_were_changed_give_voxels_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("changed")
    scale = write_volume(root / "brain", gradient((8, 8, 16)), 8, shards=2) / "1_1_1"
    for path in (scale / NAME, scale / f"{NAME}.0", scale / f"{NAME}.1"):
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    chunks = chunks_below(root)
    for name, _ in boxes((16, 8, 8), 8):
        with suppress(DamagedError, MissingError):
            assert len(read_chunk(chunks, name)) == 8 * 8 * 8 * 2


# --- check ---


def findings(dataset: Path) -> dict[str, tuple[int, str]]:
    """Run the command; give the number and the first path of each kind of finding."""
    result = CliRunner().invoke(main, ["check", str(dataset), "--json"])
    found = json.loads(result.stdout)["findings"]
    return {kind["kind"]: (kind["count"], kind["places"][0]["place"]) for kind in found}


def test_check_opens_every_block(tmp_path: Path) -> None:
    unpack(tmp_path)
    assert findings(tmp_path / "blockfs") == {"blockfs": (2, "1_1_1")}
    shard = tmp_path / "blockfs" / "1_1_1" / f"{NAME}.0"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert findings(tmp_path / "blockfs")["chunk-damaged"] == (1, "1_1_1/64-90_64-75_64-70")


def test_check_names_absent_blocks(tmp_path: Path) -> None:
    dataset = write_volume(tmp_path / "brain", gradient((16, 16, 40)), 16, absent=(1,))
    assert findings(dataset)["chunk-missing"] == (1, "1_1_1/16-32_0-16_0-16")


def test_check_names_the_layout_of_zarr(tmp_path: Path) -> None:
    unpack(tmp_path)
    assert findings(tmp_path / "zarr")["other-layout"] == (2, "1_1_1")
    assert "other-layout" in findings(tmp_path / "ngff")
