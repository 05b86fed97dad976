"""Names the format of a file that is not a TIFF, and what to do with it."""

from __future__ import annotations

from pathlib import Path

_EXPORT = "export it as OME-TIFF"
_CONVERT = "convert it to TIFF"
# The first bytes of files, or those at an offset: the format, and what to do.
_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"ZISRAWFILE", "a CZI file (Zeiss)", _EXPORT),
    (0, b"\xda\xce\xbe\n", "an ND2 file (Nikon)", _EXPORT),
    (0, b"\x70\x00\x00\x00", "a LIF file (Leica)", _EXPORT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OIB or ZVI file (Olympus, Zeiss)", _EXPORT),
    (0, b"SIS\x00", "an ETS file (Olympus)", _EXPORT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (such as Imaris or BigDataViewer)", _EXPORT),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG file", _CONVERT),
    (0, b"\xff\xd8\xff", "a JPEG file", _CONVERT),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file", _CONVERT),
    (0, b"GIF8", "a GIF file", _CONVERT),
    (0, b"BM", "a BMP file", _CONVERT),
    (0, b"NRRD000", "an NRRD file", _CONVERT),
    (0, b"\x93NUMPY", "an array of numpy", "write it with tifffile"),
    (0, b"\x5c\x01\x00\x00", "a NIfTI file", _CONVERT),
    (344, b"n+1\x00", "a NIfTI file", _CONVERT),
    (128, b"DICM", "a DICOM file", _CONVERT),
    (208, b"MAP ", "an MRC file", _CONVERT),
    (0, b"\x1f\x8b", "a gzip file", "unpack it"),
    (0, b"BZh", "a bzip2 file", "unpack it"),
    (0, b"\xfd7zXZ\x00", "an xz file", "unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it"),
    (0, b"PK\x03\x04", "a ZIP file", "unpack it"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (0, b"/annex/objects/", "a pointer of git-annex", "fetch the file with git annex get"),
    (0, b"<!DOCTYPE", "a web page", "fetch the file itself"),
    (0, b"<html", "a web page", "fetch the file itself"),
)
_HEAD_BYTES = 352


def other_format(path: Path) -> str:
    """Return the format of a file that is not a TIFF, and what to do; "" if it is not known."""
    try:
        if path.is_dir():
            return "a directory: name the files in it"
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    if not head:
        return "an empty file: write it again"
    for offset, magic, name, advice in _FORMATS:
        if head[offset : offset + len(magic)] == magic:
            return f"{name}: {advice}"
    return ""
