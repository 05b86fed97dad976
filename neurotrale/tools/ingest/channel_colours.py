"""Names and colours of channels, as microscopes and ImageJ state them in TIFF files.

Sources of the metadata: OME-XML, "Channel" (`Color` is a signed 32-bit RGBA value); ImageJ's
lookup tables in TIFF.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile

from neurotrale.precomputed.info import ChannelStyle
from neurotrale.tools.ingest.dataset_source import DatasetSource
from neurotrale.tools.ingest.joined import JoinedSource
from neurotrale.tools.ingest.plane_source import PlaneSource
from neurotrale.tools.ingest.series import listed, ome_pixels

_WHITE = "#ffffff"  # what OME means where no colour is stated


def channel_styles(source: PlaneSource) -> list[ChannelStyle]:
    """Return the name and colour of each channel of a source; empty if its files state none."""
    if source.channels < 2:
        return []
    if isinstance(source, DatasetSource):
        return list(source.styles)
    if isinstance(source, JoinedSource) and source.along == "channel":
        parts = [_stated_by(part) for part in source.parts]
        if [part.channels for part in source.parts] != list(map(len, parts)):
            return []
        styles = [style for part in parts for style in part]
    else:
        styles = _stated_by(source)
    if len(styles) != source.channels or all(one.color in ("", _WHITE) for one in styles):
        return []
    return styles


def _stated_by(source: PlaneSource) -> list[ChannelStyle]:
    return styles_in_file(source.paths[0]) if source.paths else []


def styles_in_file(path: Path) -> list[ChannelStyle]:
    """Return the name and colour of each channel that a TIFF file states; empty for none."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return _in_ome(tiff) or _in_imagej(tiff)
    # Metadata may hold anything, and its parsers raise anything for it.
    except Exception:  # noqa: BLE001
        return []


def _in_ome(tiff: tifffile.TiffFile) -> list[ChannelStyle]:
    channels = (ome_pixels(tiff) or {}).get("Channel", [])
    return [ChannelStyle(str(one.get("Name", "")), _of_ome(one)) for one in listed(channels)]


def _of_ome(channel: dict[str, Any]) -> str:
    red, green, blue, _ = (int(channel.get("Color", -1)) % 2**32).to_bytes(4, "big")
    return f"#{red:02x}{green:02x}{blue:02x}"


def _in_imagej(tiff: tifffile.TiffFile) -> list[ChannelStyle]:
    metadata = tiff.imagej_metadata if tiff.is_imagej else None
    tables = (metadata or {}).get("LUTs", [])
    # The colour of the brightest voxel.
    return [
        ChannelStyle("", "#{:02x}{:02x}{:02x}".format(*(int(of[-1]) for of in table)))
        for table in tables
    ]
