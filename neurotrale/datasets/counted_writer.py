"""Notes which blocks the service changes, so that their counts are known to be old.

The notes of a dataset are a list of names of blocks, which exists once somebody counts it in the
background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xxhash

from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest, Written
from neurotrale.annotations.writes import FileWriter
from neurotrale.storage.shared_files import SharedFiles


def counts_name(blocks: str) -> str:
    """Return the name, without a suffix, of the shared files with the counts of a dataset.

    Args:
        blocks: Path of the directory of its blocks, relative to the data root.
    """
    return f"counts-{xxhash.xxh3_128_hexdigest(blocks.encode(errors='surrogateescape'))}"


def noted_name(blocks: str) -> str:
    """Return the name of the list of changed blocks of a dataset; see `counts_name`."""
    return f"{counts_name(blocks)}.noted"


class CountedWriter(FileWriter):
    """Applies writes in this process, and notes each changed file for those who count.

    Args:
        changes: Changes files.
        views: What clients saw of them.
        before: Called with the path of a file, relative to the data root, before it is changed.
        shared: Where the processes of the service share counts.
    """

    def __init__(
        self,
        changes: FileChanges,
        views: Views,
        before: Callable[[str], None],
        shared: SharedFiles,
    ) -> None:
        super().__init__(changes, views, before)
        self._shared = shared

    def write_together(
        self, requests: Sequence[WriteRequest], wanted: Sequence[Callable[[], bool]] = ()
    ) -> list[Written | Exception]:
        """Apply writes of one file; see `FileWriter.write_together`."""
        try:
            return super().write_together(requests, wanted)
        finally:  # even one that failed may have been made
            blocks, block, _ = requests[0].file.display_path.rsplit("/", 2)
            self._shared.append(noted_name(blocks), block.encode() + b"\n")
