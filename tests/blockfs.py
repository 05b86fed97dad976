"""Datasets in the formats of precomputed-tif: those that it wrote itself, and others like them."""

from __future__ import annotations

import json
import struct
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from tests.datasets import Voxels, info_of

WRITTEN_BY_THE_TOOL = Path(__file__).parent / "data" / "precomputed-tif.zip"
"""See the README in it."""

NAME = "precomputed.blockfs"


def unpack(directory: Path) -> Path:
    """Unpack the datasets `blockfs`, `zarr` and `ngff` that precomputed-tif wrote."""
    with zipfile.ZipFile(WRITTEN_BY_THE_TOOL) as archive:
        archive.extractall(directory)
    return directory


def tool_levels() -> list[Voxels]:
    """The voxels of the two levels of these datasets: means, rounded down, as the tool has it."""
    z, y, x = np.ogrid[:70, :75, :90]
    voxels = ((37 * z + 11 * y + 3 * x) % 4001 + (x * y * z) % 97).astype("uint16")
    coarse = np.zeros((35, 38, 45), "uint16")
    for i, j, k in product(*map(range, coarse.shape)):
        block = voxels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        coarse[i, j, k] = int(block.sum(dtype="uint64")) // block.size
    return [voxels, coarse]


def directory_file(metadata: dict[str, Any], entries: bytes) -> bytes:
    """Assemble a directory file."""
    text = json.dumps(metadata).encode()
    return struct.pack("<8sII", b"BlockFS\0", len(text), 16 + len(text)) + text + entries


def write_blockfs(
    scale: Path,
    voxels: Voxels,
    block_vx: tuple[int, int, int] = (64, 64, 64),
    *,
    shards: int = 1,
    absent: tuple[int, ...] = (),
    prefix: str = "/somewhere/else/",
    **more: Any,
) -> None:
    """Write a scale ``[z, y, x]`` in blocks of (x, y, z).

    Args:
        shards: Number of shards; block n is in shard n modulo this.
        absent: Indices of blocks that are not written.
        prefix: Before the names of the shards in the directory file.
        more: Members of the metadata to replace.
    """
    scale.mkdir(parents=True, exist_ok=True)
    size_vx = voxels.shape[::-1]
    counts = [-(-n // block) for n, block in zip(size_vx, block_vx, strict=True)]
    content = [bytearray(b"gap" * (number + 1)) for number in range(shards)]
    offset_bits, size_bits, table = 33, 27, bytearray()
    for index, (k, j, i) in enumerate(product(*(range(n) for n in reversed(counts)))):
        part = voxels[
            tuple(
                slice(at * n, at * n + n) for at, n in zip((k, j, i), block_vx[::-1], strict=True)
            )
        ]
        block = bytes(imagecodecs.blosc_encode(part.tobytes(), compressor="zstd", level=5))
        shard = content[index % shards]
        entry = 0 if index in absent else len(shard) | len(block) << offset_bits
        table += entry.to_bytes((offset_bits + size_bits + 7) // 8, "little")
        if index not in absent:
            shard += block
    metadata = {
        **dict(zip(("XBlockSize", "YBlockSize", "ZBlockSize"), block_vx, strict=True)),
        **dict(zip(("XExtent", "YExtent", "ZExtent"), size_vx, strict=True)),
        **dict(
            zip(
                ("XStride", "YStride", "ZStride"),
                (1, counts[0], counts[0] * counts[1]),
                strict=True,
            )
        ),
        "DType": voxels.dtype.name,
        "NOffsetBits": offset_bits,
        "NSizeBits": size_bits,
        "BlockFilenames": [f"{prefix}{NAME}.{number}" for number in range(shards)],
        "Compression": "zstd",
        "CompressionLvl": 5,
        "Version": "1.0.0",
        "Anything": ["else"],
        **more,
    }
    (scale / NAME).write_bytes(directory_file(metadata, bytes(table)))
    for number, shard in enumerate(content):
        (scale / f"{NAME}.{number}").write_bytes(shard)


def write_volume(dataset: Path, voxels: Voxels, chunk_vx: int = 64, **more: Any) -> Path:
    """Write a dataset of one scale in blockfs."""
    write_blockfs(dataset / "1_1_1", voxels, (chunk_vx,) * 3, **more)
    (dataset / "info").write_text(json.dumps(info_of(voxels, chunk_vx)))
    return dataset
