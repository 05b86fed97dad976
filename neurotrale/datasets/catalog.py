"""The catalog of datasets: their summaries, thumbnails and first annotation files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from neurotrale.annotations.files.activity import ActivityLog
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.dataset_ids import DatasetIds
from neurotrale.datasets.review_progress import ReviewProgress
from neurotrale.datasets.sample import coarsest
from neurotrale.datasets.thumbnail import Rendering, Thumbnails
from neurotrale.datasets.viewer_state import State, viewer_state
from neurotrale.errors import (
    BusyError,
    ConflictError,
    DamagedError,
    MissingError,
    NameTooLongError,
)
from neurotrale.precomputed.info import Info, Scale, in_voxels
from neurotrale.storage.files import StoredFile
from neurotrale.storage.names import AnnotationUrl, BlockName, Parts, split_path
from neurotrale.storage.shared_files import SharedFiles

Json = dict[str, object]


def volume_summary(info: Info, layout_of: Callable[[Scale], str]) -> Json:
    """Return the facts of a volume for JSON: sizes in voxels and mm, voxels in nm; (x, y, z).

    Args:
        info: The `info` of the volume.
        layout_of: Returns the layout of a scale if it is not one of files of chunks, else "".
    """
    summary: Json = {
        "type": info.type,
        "data_type": info.data_type,
        "channels": info.num_channels,
        "levels": [_level(scale) | {"layout": layout_of(scale)} for scale in info.scales],
    }
    if info.scales:
        finest = info.scales[0]
        extent = zip(finest.size, finest.resolution, strict=True)
        summary["size_vx"] = list(finest.size)
        summary["size_mm"] = [round(n * nm / 1e6, 6) for n, nm in extent]
        summary["voxel_nm"] = list(finest.resolution)
    return summary


def _level(scale: Scale) -> Json:
    return {
        "key": scale.key,
        "size_vx": list(scale.size),
        "voxel_nm": list(scale.resolution),
        "chunk_vx": list(scale.chunk_sizes[0]) if scale.chunk_sizes else [],
        "encoding": scale.encoding,
        "sharded": scale.sharding is not None,
    }


FIRST_BLOCK = BlockName.parse("x0y0z0")
PREVIEW = "preview.png"
"""Name of the picture that a dataset may bring along."""


class Catalog:
    """Describes datasets: what they contain, how they look, how far their review is.

    Args:
        chunks: The chunks of all datasets.
        annotation_files: Finds annotation files.
        ids: The identities of the datasets.
        shared: Where the processes of the service share counts.
    """

    def __init__(
        self,
        chunks: Chunks,
        annotation_files: AnnotationFiles,
        ids: DatasetIds,
        shared: SharedFiles,
    ) -> None:
        self.ids = ids
        self.files = chunks.files
        self.data_root = chunks.files.data_root
        self.infos = chunks.infos
        self.thumbnails = Thumbnails(chunks)
        self._layouts = chunks.layouts
        self.review_progress = ReviewProgress(annotation_files, shared)
        self.activity = ActivityLog(annotation_files)

    def summary(self, dataset: Parts) -> Json:
        """Return the facts of a dataset for JSON.

        Raises:
            MissingError: There is no such dataset.
            DamagedError: Its `info` is malformed.
            ReadOnlyError, BusyError: A file cannot be read.
        """
        info = self._info(dataset)
        counts = self.review_progress.of_dataset(dataset)
        return {
            "name": "/".join(dataset),
            "identity": self.ids.of(dataset).summary(),
            "volume": self._volume(dataset, info) if info is not None else None,
            "annotations": counts.summary() if counts is not None else None,
            "preview": self.preview_file(dataset) is not None
            or (info is not None and coarsest(info) is not None),
        }

    def _volume(self, dataset: Parts, info: Info) -> Json:
        return volume_summary(info, lambda scale: self._layout(dataset, scale))

    def _layout(self, dataset: Parts, scale: Scale) -> str:
        try:
            return self._layouts.of_scale((*dataset, *split_path(scale.key)))
        except (MissingError, NameTooLongError):  # the key is a name that is never served
            return ""

    def preview_file(self, dataset: Parts) -> StoredFile | None:
        """Find the `preview.png` of a dataset; None if it has none."""
        file = self.files.find_exact((*dataset, PREVIEW))
        return file if isinstance(file, StoredFile) else None

    def annotation_files(self, dataset: Parts) -> Iterator[tuple[str, str]]:
        """Yield the block and the leaf of each annotation file of a dataset, in order.

        Raises:
            MissingError: There is no such dataset, or it has no annotations.
        """
        self._info(dataset)
        return self.review_progress.files(dataset)

    def thumbnail(self, dataset: Parts) -> Rendering:
        """Render the volume of a dataset.

        Raises:
            MissingError: There is no such dataset, or its chunks cannot be read here.
            DamagedError: Its `info` or a chunk is malformed.
            BusyError: Other datasets are being rendered.
        """
        info = self._info(dataset)
        rendering = self.thumbnails.of(dataset, info) if info is not None else None
        if rendering is None:
            raise MissingError("The dataset has no volume that can be rendered.")
        return rendering

    def viewer_state(
        self,
        dataset: Parts,
        *,
        annotations: bool = True,
        voxels: bool = False,
        plain: bool = False,
    ) -> State:
        """Compose the viewer state that shows a dataset.

        Args:
            dataset: The dataset.
            annotations: Whether to show its annotations.
            voxels: Whether the viewer sees voxels of 1 nm; see `in_voxels`.
            plain: Use only what every release of the viewer understands.

        Raises:
            MissingError: There is no such dataset.
            DamagedError: Its `info` is malformed.
            ReadOnlyError, BusyError: A file cannot be read.
        """
        info = self._info(dataset)
        try:
            rendering = self.thumbnails.of(dataset, info) if info is not None else None
        except (BusyError, DamagedError):  # the viewer opens anyway, with its own contrast
            rendering = None
        counts = self.review_progress.of_dataset(dataset) if annotations else None
        types = {type_ for _, type_ in counts.counts} if counts is not None else set()
        contrast = rendering.contrast if rendering is not None else None
        if info is not None and voxels:
            info = in_voxels(info)
        return viewer_state(dataset, info, contrast, types, plain=plain)

    def first_annotation_files(self, dataset: Parts) -> list[AnnotationUrl]:
        """Return the annotation files that the user interface of NeuroTrALE asks for first.

        It shows a layer for each that is there, and none for a dataset without them: those of the
        first block, and the contours of the slice in the middle, where a dataset is opened.

        Raises:
            MissingError: There is no such dataset.
            ConflictError: The dataset has annotation files.
            DamagedError: Its `info` is malformed.
        """
        info = self._info(dataset)
        with suppress(MissingError):
            if any(True for _ in self.review_progress.files(dataset)):
                raise ConflictError(
                    "The dataset has annotation files; nothing was changed. Open them."
                )
        z = 0
        if info is not None and info.scales:
            scale = info.scales[0]
            z = max(scale.voxel_offset[2] + scale.size[2] // 2, 0)
        leaves = ("fibers.json", "centroids.json", f"z-{z % 10_000:04d}.json")
        return [AnnotationUrl(dataset, FIRST_BLOCK, leaf) for leaf in leaves]

    def _info(self, dataset: Parts) -> Info | None:
        if not self.data_root.is_dataset(dataset):
            raise MissingError(
                f"There is no dataset {'/'.join(dataset)!r}: it needs an 'info' file or an"
                " 'annotations' directory."
            )
        return self.infos.of(dataset)
