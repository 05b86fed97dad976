"""Atomic writes of a dataset's files, many at a time.

Unlike `neurotrale.storage.atomic`, which makes each file durable by itself, this writes thousands
of files and makes them durable together. Progress is recorded only after that, so whatever a
power failure undoes is written again.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.decode import Expected
from neurotrale.chunks.encode import Compression, Layout, encode_chunk
from neurotrale.chunks.reader import ChunkReader
from neurotrale.errors import reading, writing
from neurotrale.precomputed.grid import ChunkBox, chunk_name
from neurotrale.storage.cache import Stamp
from neurotrale.storage.files import StoredFile
from neurotrale.tools.ingest.empty_chunks import EmptyChunks
from neurotrale.tools.ingest.levels import (
    PyramidLevel,
    downsample_channels,
    downsample_mean,
    downsample_mode,
)
from neurotrale.tools.ingest.plan import IngestPlan
from neurotrale.tools.ingest.plane_source import PlaneSource
from neurotrale.tools.ingest.pyramid import Pyramid, split_channels
from neurotrale.tools.ingest.slab import MemorySlab, ScratchSlab, Slab
from neurotrale.tools.parallel import ProgressCallback

Voxels = NDArray[Any]


class ProgressCounter:
    """A thread-safe count of the voxels that were read and written.

    Args:
        total_bytes: The total amount of work, in bytes of voxels.
        done_bytes: How much of it earlier runs have done.
        on_progress: Called after every step.
        source_bytes: The size of the source, which is reported in proportion to the work; None
            to report the work.
    """

    def __init__(
        self,
        total_bytes: int,
        done_bytes: int,
        on_progress: ProgressCallback,
        source_bytes: int | None = None,
    ) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = done_bytes
        self._resumed_at_bytes = done_bytes
        self.files = 0
        self.left_out = 0
        self.file_bytes = 0
        self._on_progress = on_progress
        self._lock = Lock()
        self._source_bytes = total_bytes if source_bytes is None else source_bytes
        self._report()

    def _report(self) -> None:
        done = self.done_bytes * self._source_bytes // max(1, self.total_bytes)
        self._on_progress(done, self._source_bytes)

    @property
    def run_bytes(self) -> int:
        """The voxels that this run has read and written, in bytes."""
        return self.done_bytes - self._resumed_at_bytes

    def add_read(self, count: int) -> None:
        """Count voxels of the source, in bytes."""
        with self._lock:
            self.done_bytes += count
            self._report()

    def add_chunk(self, count: int, file_bytes: int) -> None:
        """Count the voxels of a chunk and the size of its file, in bytes; 0 for no file."""
        with self._lock:
            self.done_bytes += count
            self.files += file_bytes > 0
            self.left_out += file_bytes == 0
            self.file_bytes += file_bytes
            self._report()


class AtomicWriter:
    """Writes files of a dataset atomically; safe to use from several threads.

    Args:
        dest: The dataset.
        temp_directory: A directory on the same file system, used by no other process. Its
            contents are removed.
    """

    def __init__(self, dest: Path, temp_directory: Path) -> None:
        self.dest = dest
        self._temp_directory = temp_directory
        self._prefix = f"{os.uname().nodename}-{os.getpid()}"
        self._numbers = count()  # shared by threads: next() is atomic
        with writing(str(dest)):
            shutil.rmtree(temp_directory, ignore_errors=True)
            temp_directory.mkdir(parents=True, exist_ok=True)

    def write(self, relative: str, content: bytes) -> None:
        """Write a file under a temporary name and rename it.

        Args:
            relative: Path below the dataset; its directory must exist.
            content: The content of the file.

        Raises:
            DiskFullError: No space or quota is left.
            ReadOnlyError: Permission is denied.
        """
        temporary = self.scratch_path()
        with writing(str(self.dest / relative)):
            try:
                with temporary.open("xb", buffering=0) as file:
                    view = memoryview(content)
                    while view:
                        view = view[file.write(view) :]
                temporary.replace(self.dest / relative)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def remove(self, relative: str) -> None:
        """Remove a file that an earlier run has written, if there is one."""
        with writing(str(self.dest / relative)):
            (self.dest / relative).unlink(missing_ok=True)

    def scratch_path(self) -> Path:
        """Return the path of a new temporary file; it is not created."""
        return self._temp_directory / f"{self._prefix}-{next(self._numbers)}"

    def sync(self) -> None:
        """Make all files written so far durable."""
        with writing(str(self.dest)):
            _sync_file_system(self.dest)

    def close(self) -> None:
        """Remove the temporary directory."""
        shutil.rmtree(self._temp_directory, ignore_errors=True)


def _sync_file_system(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """Writes and reads the chunk files of a dataset.

    Attributes:
        writer: Writes the files.
        dtype: A numpy name of the data type.
        layout: Layout of the TIFF files.
        compression: Compression of their segments.
        channels: Number of channels.
        empty: The chunks that are left out; None if all are written.
    """

    writer: AtomicWriter
    dtype: str
    layout: Layout
    compression: Compression
    channels: int = 1
    empty: EmptyChunks | None = None

    def write(self, level: PyramidLevel, box: ChunkBox, voxels: Voxels) -> int:
        """Write a chunk, and return the size of the file in bytes; 0 if it is left out."""
        if self.empty is not None and self.empty.leaves_out(level, box, voxels):
            self.writer.remove(_relative_path(level, box))
            return 0
        content = encode_chunk(voxels, self.layout, self.compression)
        self.writer.write(_relative_path(level, box), content)
        return len(content)

    def read(self, level: PyramidLevel, y_vx: tuple[int, int], z_vx: tuple[int, int]) -> Voxels:
        """Read a range of rows and planes that starts at a chunk border.

        Returns:
            The voxels ``[z, y, x]``, with the channels side by side along x.

        Raises:
            MissingError, DamagedError: A chunk is missing or was changed.
        """
        shape = (z_vx[1] - z_vx[0], y_vx[1] - y_vx[0], self.channels * level.size_vx[0])
        voxels = np.empty(shape, self.dtype)
        by_channel = split_channels(voxels, self.channels)
        for box in level.boxes(y_vx, z_vx):
            (x0, x1), (y0, y1), (z0, z1) = box
            y, z = y_vx[0], z_vx[0]
            chunk = self.read_chunk(level, box)
            by_channel[:, z0 - z : z1 - z, y0 - y : y1 - y, x0:x1] = chunk
        return voxels

    def read_chunk(self, level: PyramidLevel, box: ChunkBox) -> Voxels:
        """Read one chunk, ``[channel, z, y, x]``.

        Raises:
            MissingError, DamagedError: The chunk is missing or was changed.
        """
        x, y, z = (stop - start for start, stop in box)
        if self.empty is not None and self.empty.has(level, box):
            return np.full((self.channels, z, y, x), self.empty.value, self.dtype)
        name = _relative_path(level, box)
        expected = Expected((x, y, z), self.dtype, self.channels)
        path = self.writer.dest / name
        with reading(name):
            stored = StoredFile(name, str(path), Stamp.of(path.stat()), "")
        content = ChunkReader().read(stored, expected, frozenset()).body
        dtype = np.dtype(self.dtype).newbyteorder("<")
        return np.frombuffer(content, dtype).reshape(self.channels, z, y, x)


def _relative_path(level: PyramidLevel, box: ChunkBox) -> str:
    return f"{level.key}/{chunk_name(box)}.tiff"


def chunk_files_for(
    plan: IngestPlan, writer: AtomicWriter, empty: EmptyChunks | None
) -> ChunkFiles:
    """Return the writer and reader of the chunks of a plan's dataset."""
    request, source = plan.request, plan.source
    return ChunkFiles(
        writer, source.dtype, request.layout, request.compression, source.channels, empty
    )


@contextmanager
def open_pyramid(
    plan: IngestPlan,
    finer: PyramidLevel | None,
    outputs: Sequence[tuple[PyramidLevel, bool]],
    threads: int,
    files: ChunkFiles,
    counter: ProgressCounter,
) -> Iterator[Pyramid]:
    """Create a pyramid with its slabs and threads, and release them at the end.

    Args:
        plan: The plan; states the type of voxels and the format of chunks.
        finer: The level whose chunks are read back; None if planes come from the source.
        outputs: The levels that are made, and whether the slab of each is in memory.
        threads: Number of threads.
        files: Writes and reads the chunks.
        counter: Counts the chunks that are written.
    """

    def write(level: PyramidLevel, box: ChunkBox, voxels: NDArray[Any]) -> None:
        counter.add_chunk(voxels.nbytes, files.write(level, box, voxels))

    levels = [level for level, _ in outputs]
    slabs: list[Slab | None] = []
    if finer is not None:
        levels.insert(0, finer)
        slabs.append(None)
    with ExitStack() as stack:
        for level, in_memory in outputs:
            slab = _slab(level, plan.source, files.writer, in_memory)
            stack.callback(slab.close)
            slabs.append(slab)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        channels = plan.source.channels
        downsample = downsample_channels(
            downsample_mode if plan.request.segmentation else downsample_mean, channels
        )
        yield Pyramid(levels, slabs, downsample, write, files.read, pool, channels)


def _slab(level: PyramidLevel, source: PlaneSource, writer: AtomicWriter, in_memory: bool) -> Slab:
    x, y, z = level.size_vx
    shape = (min(level.slab_vx, z), y, source.channels * x)
    if in_memory:
        return MemorySlab(shape, source.dtype)
    return ScratchSlab(writer.scratch_path(), shape, source.dtype, level.band_vx)
