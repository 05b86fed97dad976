"""The options of the commands that create, check and rewrite datasets."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from neurotrale.settings.setting import (
    Command,
    FilePath,
    Flag,
    Integer,
    OneOf,
    Parsed,
    Setting,
    Text,
    excludes,
)
from neurotrale.settings.shared import (
    COMPRESSION,
    DRY_RUN,
    JOBS,
    LAYOUT,
    LOG_LEVEL,
    Layout,
    parse_shard,
    parse_size,
    triple_parser,
)

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
SEVERITIES = ("error", "warning", "note")


def _parse_value(text: str) -> float:
    """Parse the value of a voxel; a whole number is an integer."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text!r}: expected a finite number.")
    return value


# fmt: off
CHUNK_SIZE = Setting(
    "chunk-size", (64, 64, 64), Parsed("X,Y,Z", triple_parser(int)), "Size of a chunk in voxels.",
    "Viewers load chunks of this size about as fast as they draw them.",
    default_text="64,64,64",
)
INGEST_LAYOUT = Setting[Layout](
    "layout", "single", LAYOUT,
    "How a chunk is stored: as a single tile, or as pages, one per plane.",
    "A single tile is served fastest; pages can be opened in Fiji and ImageJ.",
)
INGEST: tuple[Setting[Any], ...] = (
    Setting[tuple[str, ...]](
        "source", (), Text("PATTERN"),
        "The planes: a quoted pattern such as 'planes/*.tif', a directory of them, one multi-page"
        " file (also BigTIFF, OME-TIFF or an ImageJ hyperstack), or a dataset (also blockfs, zarr"
        " version 2 or OME-NGFF). Once for each channel, if they are in files of their own.",
        required=True, repeated=True,
    ),
    Setting("dest", None, FilePath(), "Directory of the new dataset.", required=True),
    Setting(
        "voxel-size", None, Parsed("X,Y,Z", triple_parser(float)),
        "Size of a voxel in micrometres, such as 1.8,1.8,2.0.",
        "Files may state it in OME or ImageJ metadata or their resolution; precomputed-tif"
        " assumes 1.8,1.8,2.0.",
        default_text="that which the source states, else 1.8,1.8,2.0",
    ),
    Setting(
        "levels", None, Integer(1, 24), "Number of resolutions.",
        "Viewers show the whole volume at once with the coarsest one.",
        default_text="until the volume fits into one chunk",
    ),
    CHUNK_SIZE,
    Setting(
        "segmentation", False, Flag(),
        "The voxels are labels: coarser levels take the most frequent label, not the mean.",
    ),
    Setting(
        "to", None, OneOf(DTYPES),
        "Convert voxels to this data type; values outside of it become its nearest value, and are"
        " counted.",
        "For types that no single type of the format holds, such as float64.",
        default_text="that of the source, or one that holds all its values",
    ),
    Setting(
        "isotropic", False, Flag(),
        "Halve only the axes with the smaller voxel size, until the voxels are isotropic.",
    ),
    Setting(
        "channel", None, Integer(), "Take only this channel, from 0; also a sample of RGB.",
        default_text="all channels",
    ),
    Setting("time", None, Integer(), "The time point of a file with several, from 0."),
    Setting(
        "series", None, Integer(), "The image of a file that holds several, from 0.",
        "When the plan says that a file holds several, and another than the first is wanted.",
        default_text="the first that is not a thumbnail, a reduced copy or a mask",
    ),
    Setting(
        "order", None, Text("NAME|NUMBER|FILE"),
        "The order of planes: by NAME, from left to right; by NUMBER, the last number first, with"
        " signs and decimals; or as in a text FILE of names, one a line.",
        "When a run was refused because the names can be read in two ways.",
        default_text="what the names show",
    ),
    INGEST_LAYOUT,
    COMPRESSION,
    Setting(
        "skip-empty", None, Parsed("[VALUE]", _parse_value),
        "Leave out chunks that hold only this value, 0 if none is given; 'check' knows them.",
        "To save files, as much of a brain's volume is empty. Viewers show missing chunks as 0, but"
        " cloud-volume reads them only with fill_missing.",
        default_text="write all chunks", bare="0",
    ),
    Setting(
        "format", "tiff", OneOf(("tiff",)),
        "Format of the chunk files, for compatibility with precomputed-tif.",
    ),
    JOBS,
    Setting(
        "memory", None, Parsed("SIZE", parse_size), "Most memory to use, such as 8G.",
        "Data that does not fit is kept in a scratch file beside the dataset.",
        default_text="a little more than half of the memory of the machine, cgroup or Slurm job",
    ),
    Setting(
        "shard", None, Parsed("I/N", parse_shard),
        "Process only one part of the volume, such as 3/8; run --finish after all parts.",
        "To use several machines at once.",
    ),
    Setting("finish", False, Flag(), "Write what the shards share, after all of them are done."),
    Setting(
        "again", False, Flag(),
        "Rewrite the chunks of planes that have changed since an earlier run.",
        "When a run was refused because planes differ from those that the dataset was made from.",
    ),
    Setting(
        "force-check", False, Flag(),
        "Compare the content of all planes with an earlier run, even if size and modification time"
        " are the same.",
        "When a program rewrote planes and kept their modification times.",
    ),
    DRY_RUN,
    LOG_LEVEL,
)
_REPACK_LAYOUT = Setting[Layout | None](
    "layout", None, LAYOUT,
    "How to store a chunk: as a single tile, or as pages, one per plane.",
    "A single tile is served fastest; pages can be opened in Fiji and ImageJ.",
    required=True,
)
REPACK: tuple[Setting[Any], ...] = (
    _REPACK_LAYOUT,
    COMPRESSION,
    Setting[tuple[str, ...]](
        "scale", (), Text("KEY"), "Only this scale, such as 1_1_1; may be repeated.",
        default_text="all", repeated=True,
    ),
    JOBS,
    replace(DRY_RUN, help="Estimate from a few chunks what would be done, and do nothing."),
    LOG_LEVEL,
)
PLACES = Setting(
    "places", 5, Integer(1), "Number of examples printed for each kind of finding.",
    "Enough for a person; use more for a program that fixes them.",
)
CHECK: tuple[Setting[Any], ...] = (
    Setting(
        "sample", None, Integer(),
        "Open only this many random chunks of each scale; all file names are checked.",
        "For a quick check of a large volume.",
        default_text="all",
    ),
    Setting(
        "part", None, Parsed("I/N", parse_shard),
        "Open only one part of the chunks, such as 3/8; all file names are checked.",
        "For a large volume: eight runs, on as many days or machines, open every chunk once.",
        default_text="all",
    ),
    Setting("sparse", False, Flag(), "Missing chunks are not errors: they are empty on purpose."),
    Setting[Path | None](
        "root", None, FilePath("directory", exists=True),
        "The data root that the dataset is served from; decides about symbolic links.",
        default_text="the parent directory of the dataset",
    ),
    Setting(
        "follow-symlinks", False, Flag(),
        "Symbolic links may leave the data root, as with this option of 'serve'.",
    ),
    JOBS,
    PLACES,
    Setting(
        "fail-on", "warning", OneOf(SEVERITIES),
        "Lowest severity for which the exit code is 1.",
        "Notes need no action.",
    ),
    Setting("json", False, Flag(), "Print the report as JSON."),
    LOG_LEVEL,
)
# fmt: on

_INGEST = "neurotrale ingest --source 'planes/*.tif' --dest /data/mouse-3 --voxel-size 1.8,1.8,2.0"

COMMANDS = (
    Command(
        "ingest",
        "Create a dataset from a stack of TIFF planes.",
        INGEST,
        (
            f"{_INGEST} --dry-run",
            _INGEST,
        ),
        (
            excludes(
                "finish",
                ("shard", "dry_run"),
                "--finish cannot be combined with --shard or --dry-run: run it after all shards.",
            ),
        ),
    ),
    Command(
        "check",
        "Check a dataset for problems; change nothing.",
        CHECK,
        ("neurotrale check /data/brain", "neurotrale check /data/brain --sample 1000 --json"),
    ),
    Command(
        "repack",
        "Rewrite the TIFF chunks of a dataset in another layout.",
        REPACK,
        (
            "neurotrale repack /data/brain --layout single --dry-run",
            "neurotrale repack /data/brain --layout pages --scale 1_1_1",
        ),
    ),
)
