"""Review progress: how many annotations of each kind there are, and how many are reviewed.

The counts of a small dataset are compared with its files for each request. Those of a large one are
made and compared in the background, by one worker for all; until they are complete, the answer says
how far they are. What the service itself writes counts at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from neurotrale.annotations.files.block_listing import BlockListing
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.datasets.annotation_counts import AnnotationCounts
from neurotrale.datasets.background_count import BackgroundCount
from neurotrale.errors import MissingError
from neurotrale.storage.cache import BoundedCache
from neurotrale.storage.names import Parts
from neurotrale.storage.shared_files import SharedFiles

CACHED_DATASETS = 1000
CACHED_BLOCKS = 200_000


class ReviewProgress:
    """Counts annotations; keeps the counts of each version of a file.

    Args:
        annotation_files: Finds annotation files.
        shared: Where the processes of the service share the counts of large datasets.
    """

    def __init__(self, annotation_files: AnnotationFiles, shared: SharedFiles) -> None:
        self.annotation_files = annotation_files
        self.shared = shared
        self._counts: BoundedCache[Parts, BackgroundCount] = BoundedCache(
            CACHED_DATASETS, CACHED_BLOCKS, lambda count: 1 + count.known_blocks
        )
        self._guard = Lock()

    def files(self, dataset: Parts) -> Iterator[tuple[str, str]]:
        """Yield the block and the leaf of each annotation file of a dataset, in order.

        Raises:
            MissingError: The dataset has no annotations.
        """
        listing = self.annotation_files.listing(dataset)
        return _files(listing, listing.names())

    def of_dataset(self, dataset: Parts) -> AnnotationCounts | None:
        """Return the counts of a dataset; None if it has no annotations directory.

        Raises:
            ReadOnlyError, BusyError: A file cannot be read.
        """
        with self._guard:
            count = self._counts.get(dataset)
            if count is None:
                listing = self.annotation_files.listing(dataset)
                count = BackgroundCount(listing, self.shared)
            self._counts[dataset] = count  # its size may have changed
        try:
            return count.counts()
        except MissingError:
            return None


def _files(listing: BlockListing, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        block = listing.block(name)
        if block is not None:
            for file in block.files:
                yield name, file.leaf
