"""How the volumes of data sets look: pictures and contrasts, kept until a chunk changes."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from neurotrale.annotations.content import etag_of
from neurotrale.chunks.info import Info
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.contrast import Window, windows
from neurotrale.datasets.picture import draw
from neurotrale.datasets.sample import Sample, find_sample, read_pieces
from neurotrale.errors import BusyError
from neurotrale.kept import Kept
from neurotrale.names import Parts

# A picture has some 50 kB.
KEPT_LOOKS = 512
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """How a volume looks.

    Attributes:
        png: Its picture.
        contrast: A window for each channel; None where no chunk is there.
        etag: What tells this picture from others.
        mtime_s: When the last of its chunks was changed, in seconds since the epoch.
    """

    png: bytes
    contrast: list[Window] | None
    etag: str
    mtime_s: float


class Looks:
    """Looks at volumes, one at a time: chunks that viewers ask for come first.

    Args:
        chunks: The chunks of all data sets.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks
        self._kept: Kept[Look] = Kept(KEPT_LOOKS)
        self._looking = Lock()

    def of(self, dataset: Parts, info: Info) -> Look | None:
        """Look at a volume.

        Returns:
            None when it is stored in a way that cannot be read here.

        Raises:
            DamagedError: A chunk in its middle is not what `info` promises.
            BusyError: Others are being looked at.
        """
        sample = find_sample(self.chunks, dataset, info)
        if sample is None:
            return None
        version = (info.type, info.data_type, info.num_channels, sample.version)
        return self._kept.get(dataset, version, lambda: self._look(info, sample))

    def _look(self, info: Info, sample: Sample) -> Look:
        if not self._looking.acquire(timeout=PATIENCE_S):
            raise BusyError("Other data sets are being looked at.", 1)
        try:
            pieces = list(read_pieces(self.chunks, info, sample))
            contrast = windows(pieces, info.num_channels)
            shown = contrast or [(0.0, 1.0)] * info.num_channels
            png = draw(info, sample, pieces, shown)
        finally:
            self._looking.release()
        mtime_ns = max((piece.stamp.mtime_ns for piece in sample.pieces), default=0)
        return Look(png, contrast, etag_of(png), mtime_ns / 1e9)
