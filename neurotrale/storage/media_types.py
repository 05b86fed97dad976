"""Media types of files, by their names.

The types are the same on every machine: none is read from the system's own tables.
"""

from __future__ import annotations

import mimetypes

from neurotrale.storage.names import METADATA_NAMES

_TYPES = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".json": "application/json",
    ".csv": "text/csv",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".swc": "text/plain",
    ".log": "text/plain",
    ".md": "text/plain",
    ".nii": "application/octet-stream",
}.items():
    _TYPES.add_type(_type, _suffix)


def media_type(name: str) -> str:
    """Return the media type for a file name; ``info`` and the metadata of zarr are JSON."""
    last = name.rpartition("/")[2]
    if last == "info" or last in METADATA_NAMES:
        return "application/json"
    # Without the slash, a name with a colon would be parsed as a URL.
    guessed, compressed = _TYPES.guess_type(f"/{name}", strict=False)
    if guessed is None or compressed is not None:  # it is the type of the content
        guessed = "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
