"""``neurotrale check`` of sharded volumes, which tensorstore and cloud-volume wrote."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tensorstore
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

from neurotrale.precomputed.sharding import Sharding
from tests.datasets import gradient
from tests.test_check import check, counts, places

SIZE = (70, 45, 33)
CHUNK = (8, 8, 8)
CHUNKS = 9 * 6 * 5
HASHES = ("identity", "murmurhash3_x86_128")


def sharding_of(**fields: Any) -> dict[str, Any]:
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "hash": "identity",
        "minishard_bits": 3,
        "shard_bits": 2,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
        **fields,
    }


def write_sharded(path: Path, encoding: str = "raw", **fields: Any) -> Path:
    """Write a sharded volume with tensorstore."""
    voxels = gradient(SIZE[::-1], "uint8" if encoding == "jpeg" else "uint16").transpose(2, 1, 0)
    scale = {
        "key": "1_1_1",
        "size": SIZE,
        "chunk_size": CHUNK,
        "encoding": encoding,
        "resolution": [1000, 1000, 2000],
        "sharding": sharding_of(**fields),
    }
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {
                "type": "image", "data_type": voxels.dtype.name, "num_channels": 1
            },
            "scale_metadata": scale,
            "create": True,
        }
    ).result()  # fmt: skip
    store[..., 0].write(voxels).result()
    return path


def shards_of(dataset: Path) -> list[Path]:
    return sorted((dataset / "1_1_1").glob("*.shard"))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hash": "murmurhash3_x86_128"},
        {"data_encoding": "raw"},
        {"minishard_index_encoding": "raw"},
        {"minishard_bits": 0, "shard_bits": 5, "preshift_bits": 0},
        {"minishard_bits": 9, "preshift_bits": 0, "shard_bits": 0},
    ],
    ids=str,
)
def test_check_sharded_volume_finds_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    report = check(write_sharded(tmp_path / "brain", **fields), code=0)
    assert report["findings"] == []
    assert report["checked"]["chunks_opened"] == CHUNKS


def test_check_sharded_volume_of_another_encoding_says_what_it_cannot_judge(
    tmp_path: Path,
) -> None:
    report = check(write_sharded(tmp_path / "brain", "jpeg"), code=0)
    assert counts(report) == {"not-looked-into": 1}
    assert places(report, "not-looked-into")[0][0] == "1_1_1"


def test_check_sample_of_a_sharded_volume_opens_that_many(tmp_path: Path) -> None:
    report = check(write_sharded(tmp_path / "brain"), "--sample", "10", code=0)
    assert report["checked"]["chunks_opened"] == 10
    assert report["checked"]["chunks_found"] == CHUNKS


def test_check_shard_that_is_gone_gives_its_chunks_as_missing(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    shards_of(dataset)[1].unlink()
    report = check(dataset, code=1)
    found = report["checked"]["chunks_found"]
    assert counts(report) == {"chunk-missing": CHUNKS - found}
    assert 0 < found < CHUNKS


def test_check_shard_cut_off_is_found(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    shard = shards_of(dataset)[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    report = check(dataset, "--sparse", code=1)
    assert places(report, "shard-damaged") == [
        ("1_1_1/0.shard", "expected an index of 128 bytes, found a file of 100")
    ]
    shard.write_bytes(content[:-1])
    report = check(dataset, "--sparse", code=1)
    assert counts(report) == {"shard-damaged": 1}
    assert f"the file has {len(content) - 1} bytes" in places(report, "shard-damaged")[0][1]


def test_check_chunk_damaged_in_a_shard_is_found(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    shard = shards_of(dataset)[0]
    content = bytearray(shard.read_bytes())
    content[8 * 16 + 30] ^= 0xFF  # in the first chunk, which follows the index
    shard.write_bytes(content)
    report = check(dataset, code=1)
    assert counts(report) == {"chunk-damaged": 1}
    assert places(report, "chunk-damaged")[0][0].startswith("1_1_1/0.shard, ")


def test_check_index_of_a_minishard_that_is_damaged_is_found(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    shard = shards_of(dataset)[0]
    content = bytearray(shard.read_bytes())
    start, _ = struct.unpack_from("<QQ", content)
    content[8 * 16 + start] ^= 0xFF
    shard.write_bytes(content)
    report = check(dataset, "--sparse", code=1)
    assert counts(report) == {"shard-damaged": 1}
    assert "minishard 0" in places(report, "shard-damaged")[0][1]


def test_check_chunks_in_the_wrong_shard_are_found(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    first, second = shards_of(dataset)[:2]
    second.write_bytes(first.read_bytes())
    report = check(dataset, "--sparse", code=1)
    assert list(counts(report)) == ["shard-misplaced"]
    assert "belongs in 0.shard" in places(report, "shard-misplaced")[0][1]


def test_check_chunks_outside_the_grid_are_found(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    info = json.loads((dataset / "info").read_text())
    info["scales"][0]["size"] = [65, 33, 33]  # the same bits of the code, fewer chunks along y
    (dataset / "info").write_text(json.dumps(info))
    report = check(dataset, "--sparse", code=1)
    assert counts(report)["shard-misplaced"] == 9 * 1 * 5
    assert "outside the grid" in places(report, "shard-misplaced")[0][1]


def test_check_file_among_shards_is_a_note(tmp_path: Path) -> None:
    dataset = write_sharded(tmp_path / "brain")
    for name in ("4.shard", "00.shard", "notes.txt"):
        (dataset / "1_1_1" / name).write_text("")
    assert counts(check(dataset, code=0)) == {"stray": 3}


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"hash": "md5"}, "info-broken", "'sharding'"),
        ({"minishard_bits": -1}, "scale-broken", "bits"),
        ({"minishard_bits": 60, "shard_bits": 9}, "scale-broken", "bits"),
    ],
    ids=str,
)
def test_check_sharding_that_cannot_be_is_found(
    tmp_path: Path, fields: dict[str, Any], kind: str, says: str
) -> None:
    dataset = write_sharded(tmp_path / "brain")
    info = json.loads((dataset / "info").read_text())
    info["scales"][0]["sharding"].update(fields)
    (dataset / "info").write_text(json.dumps(info))
    ((_, detail),) = places(check(dataset, code=1), kind)
    assert says in detail


@pytest.mark.parametrize("hashed", HASHES)
def test_sharding_locates_chunks_as_cloud_volume_does(hashed: str) -> None:
    fields = sharding_of(hash=hashed, minishard_bits=7, shard_bits=11, preshift_bits=3)
    theirs = ShardingSpecification.from_dict(fields)
    mine = Sharding(**{key.replace("@", ""): value for key, value in fields.items()})
    random = Random(2)
    ids = [random.randrange(2 ** random.randrange(1, 64)) for _ in range(300)]
    shards, minishards = mine.locate(np.array(ids, np.uint64))
    for id_, shard, minishard in zip(ids, shards.tolist(), minishards.tolist(), strict=True):
        place = theirs.compute_shard_location(id_)
        assert (mine.shard_name(shard), minishard) == (
            f"{place.shard_number}.shard",
            int(place.minishard_number),
        )
