"""All that is told of a data set, gathered from its parts."""

from __future__ import annotations

from collections.abc import Iterator

from neurotrale.annotations.places import Places
from neurotrale.chunks.info import Info
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.looks import Look, Looks
from neurotrale.datasets.sample import coarsest
from neurotrale.datasets.scene import State, scene
from neurotrale.datasets.summary import Json, volume_summary
from neurotrale.datasets.tally import Tallies
from neurotrale.errors import BusyError, DamagedError, MissingError
from neurotrale.files import Found
from neurotrale.names import Parts

PICTURE = "preview.png"
"""The file of a data set that is its picture, if it has one."""


class Catalog:
    """What data sets are, how they look, and how far their review is.

    Args:
        chunks: The chunks of all data sets.
        places: Where annotation files are.
    """

    def __init__(self, chunks: Chunks, places: Places) -> None:
        self.files = chunks.files
        self.tree = chunks.files.tree
        self.infos = chunks.infos
        self.looks = Looks(chunks)
        self.tallies = Tallies(places)

    def summary(self, dataset: Parts) -> Json:
        """Describe a data set for JSON.

        Raises:
            MissingError: It is no data set.
            DamagedError: Its `info` cannot be understood.
            BusyError: It takes a moment.
        """
        info = self._info(dataset)
        tally = self.tallies.of_dataset(dataset)
        return {
            "name": "/".join(dataset),
            "volume": volume_summary(info) if info is not None else None,
            "annotations": tally.summary() if tally is not None else None,
            "preview": self.picture(dataset) is not None
            or (info is not None and coarsest(info) is not None),
        }

    def picture(self, dataset: Parts) -> Found | None:
        """Find the picture that a data set brings itself."""
        found = self.files.find_exact((*dataset, PICTURE))
        return found if isinstance(found, Found) else None

    def annotation_files(self, dataset: Parts) -> Iterator[tuple[str, str]]:
        """Find the annotation files of a data set: block and leaf, in order.

        Raises:
            MissingError: It is no data set.
        """
        self._info(dataset)
        return self.tallies.files(dataset)

    def look(self, dataset: Parts) -> Look:
        """Look at the volume of a data set.

        Raises:
            MissingError: It is no data set, or has no volume whose chunks can be read here.
            DamagedError: Its `info` or a chunk is not as it should be.
            BusyError: Others are being looked at.
        """
        info = self._info(dataset)
        look = self.looks.of(dataset, info) if info is not None else None
        if look is None:
            raise MissingError("The data set has no volume that a picture can be made of.")
        return look

    def scene(self, dataset: Parts, *, annotations: bool = True) -> State:
        """Compose what the viewer shows when a data set is opened.

        Args:
            dataset: The data set.
            annotations: Whether to show its annotations, where they have sources.

        Raises:
            MissingError: It is no data set.
            DamagedError: Its `info` cannot be understood.
            BusyError: It takes a moment.
        """
        info = self._info(dataset)
        try:
            look = self.looks.of(dataset, info) if info is not None else None
        except (BusyError, DamagedError):  # it opens all the same, without a contrast of its own
            look = None
        tally = self.tallies.of_dataset(dataset) if annotations else None
        types = {kind.type for kind in tally.counts} if tally is not None else set()
        return scene(dataset, info, look.contrast if look is not None else None, types)

    def _info(self, dataset: Parts) -> Info | None:
        if not self.tree.is_dataset(dataset):
            raise MissingError(
                f"There is no data set {'/'.join(dataset)!r}: it needs an 'info' file or an"
                " 'annotations' directory."
            )
        return self.infos.of(dataset)
