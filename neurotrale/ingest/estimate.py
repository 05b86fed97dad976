"""How large the files will be, and how long it will take: from a sample of the source."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod

import numpy as np

from neurotrale.chunks.write import encode_chunk
from neurotrale.ingest.plan import Plan

_SAMPLES = 3
# To shrink and copy voxels, and to put a file into its place, roughly.
_BYTES_PER_S = 5e8
_PLACE_S = 0.3e-3


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan will cost.

    Attributes:
        file_bytes: Size of all chunks.
        seconds: Of work, on this machine, by one thread.
    """

    file_bytes: int
    seconds: float


def estimate(plan: Plan) -> Estimate:
    """Read and encode a little of the source, and multiply."""
    depth = plan.source.shape_zyx[0]
    chunk_vx = prod(plan.request.chunk_vx)
    read_s, encode_s, ratio = [], [], []
    for number in range(_SAMPLES):
        started = time.perf_counter()
        z = (2 * number + 1) * depth // (2 * _SAMPLES)
        rows = [piece for _, piece in plan.source.pieces(z)]
        read = time.perf_counter()
        # A chunk would need as many planes as it is deep; rows of one plane compress alike.
        block = np.resize(rows[len(rows) // 2], (1, 1, chunk_vx))
        started_to_encode = time.perf_counter()
        content = encode_chunk(block, "single", plan.request.compression)
        encode_s.append((time.perf_counter() - started_to_encode) / block.nbytes)
        read_s.append(read - started)
        ratio.append(len(content) / block.nbytes)
    raw = plan.raw_bytes
    chunks = sum(level.chunks for level in plan.levels)
    seconds = depth * float(np.median(read_s))
    seconds += raw * (float(np.median(encode_s)) + 1 / _BYTES_PER_S) + chunks * _PLACE_S
    return Estimate(int(raw * float(np.mean(ratio))), seconds)
