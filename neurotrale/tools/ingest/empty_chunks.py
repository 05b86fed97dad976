"""Chunks of a single value that an ingest left out of a dataset.

They are recorded beside the progress of each part, in ``.ingest/1-of-4.empty``: for each level, a
bit per chunk of the grid (x fastest), compressed. So a chunk that is left out can be told from one
that is lost.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurotrale.precomputed.grid import ChunkBox
from neurotrale.storage.atomic import replace_file
from neurotrale.tools.ingest.levels import PyramidLevel

HIDDEN, SUFFIX = ".ingest", ".empty"
Bits = dict[str, NDArray[np.bool_]]


class EmptyChunks:
    """Decides which chunks of a part are left out, and remembers them.

    Args:
        value: The value of the chunks to leave out.
        levels: The levels of the dataset.
        path: The record of the part.
        others: The records of other parts, whose chunks this part may read.
    """

    def __init__(
        self,
        value: float,
        levels: Sequence[PyramidLevel],
        path: Path,
        others: Iterable[Path] = (),
    ) -> None:
        self.value = value
        self._path = path
        self._own: Bits = {level.key: np.zeros(level.chunks, bool) for level in levels}
        self._all: Bits = {level.key: np.zeros(level.chunks, bool) for level in levels}
        for record in (path, *others):
            for key, bits in _read(record).items():
                if key in self._all and len(bits) >= len(self._all[key]):
                    self._all[key] |= bits[: len(self._all[key])]
                    if record == path:
                        self._own[key] |= bits[: len(self._own[key])]

    def leaves_out(self, level: PyramidLevel, box: ChunkBox, voxels: NDArray[Any]) -> bool:
        """Decide whether to leave out a chunk, and remember it."""
        is_empty = bool(voxels.flat[0] == self.value and (voxels == self.value).all())
        at = _position(level, box)
        self._own[level.key][at] = self._all[level.key][at] = is_empty
        return is_empty

    def has(self, level: PyramidLevel, box: ChunkBox) -> bool:
        """Return whether a chunk was left out."""
        return bool(self._all[level.key][_position(level, box)])

    def save(self) -> None:
        """Record the chunks that this part has left out."""
        content = {
            key: b64encode(zlib.compress(np.packbits(bits).tobytes())).decode()
            for key, bits in self._own.items()
            if bits.any()
        }
        replace_file(self._path, [json.dumps(content).encode() + b"\n"])


def left_out_chunks(dataset: Path, key: str, count: int) -> list[int]:
    """Return the positions in the grid of a level of the chunks that ingest left out.

    Args:
        dataset: The dataset.
        key: The name of the level's directory.
        count: The number of chunks of the level; a record of another number is ignored.
    """
    bits = np.zeros(count, bool)
    for record in sorted((dataset / HIDDEN).glob(f"*{SUFFIX}")):
        recorded = _read(record).get(key)
        if recorded is not None and len(recorded) == -(-count // 8) * 8:
            bits |= recorded[:count]
    return [int(at) for at in np.flatnonzero(bits)]


def empty_value(dataset: Path) -> float:
    """Return the value of the chunks that ingest left out of a dataset; 0 if it is not recorded."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return float(json.loads((dataset / HIDDEN / "plan.json").read_bytes())["--skip-empty"])
    return 0.0


def _position(level: PyramidLevel, box: ChunkBox) -> int:
    i, j, k = (span[0] // chunk for span, chunk in zip(box, level.chunk_vx, strict=True))
    x, y, _ = level.grid
    return (k * y + j) * x + i


def _read(path: Path) -> Bits:
    with suppress(OSError, ValueError, zlib.error, AttributeError):
        content = json.loads(path.read_bytes())
        return {
            key: np.unpackbits(np.frombuffer(zlib.decompress(b64decode(text)), np.uint8)).view(bool)
            for key, text in content.items()
        }
    return {}
