"""The options of the commands for annotation files, locks and tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from neurotrale.settings.service import MAX_BODY_MB, SPOOL
from neurotrale.settings.setting import (
    Command,
    FilePath,
    Flag,
    Integer,
    OneOf,
    Setting,
    Text,
    excludes,
    requires,
)
from neurotrale.settings.shared import LOCK, LOG_LEVEL

EXPORT_FORMATS = ("json", "jsonl", "csv", "swc")

# fmt: off
EXPORT: tuple[Setting[Any], ...] = (
    Setting(
        "format", "jsonl", OneOf(EXPORT_FORMATS),
        "Output format; swc has only line strings, in micrometres, the others all annotations.",
        "JSON Lines loses nothing.",
    ),
    Setting[str | None](
        "bbox", None, Text(), "Only annotations that touch this box: x0,y0,z0,x1,y1,z1 in voxels.",
        default_text="all",
    ),
    Setting[tuple[str, ...]](
        "anntype", (), Text(), "Only annotations of this type, such as neuron; may be repeated.",
        default_text="all", repeated=True,
    ),
    Setting[tuple[str, ...]](
        "type", (), Text(), "Only annotations of this geometry, such as point; may be repeated.",
        default_text="all", repeated=True,
    ),
    Setting[bool | None](
        "reviewed", None, Flag(off="not-reviewed"),
        "Only annotations that were, or were not, reviewed.",
        default_text="all",
    ),
    Setting(
        "output",
        Path("-"),
        FilePath("file", dash=True),
        "Write to this file, atomically.",
        letter="o", default_text="standard output",
    ),
    LOG_LEVEL,
)
LOCKS: tuple[Setting[Any], ...] = (
    replace(LOCK, help="The kind of lock to try; auto chooses by file system."),
    Setting(
        "prove", False, Flag(),
        "Change and read a file as the service does, and check all that was seen.",
        "Before several nodes write the same data: it runs longer and finds more.",
    ),
    Setting(
        "seconds", 20, Integer(1, 40), "Duration of --prove.",
        "With the check, it ends within a minute.",
    ),
    Setting[Path | None](
        "evidence", None, FilePath("file"), "Write what --prove saw to this file, as JSON.",
        default_text="lock-proof-TIME.json in the current directory",
    ),
    Setting[str | None]("break", None, Text("CLAIM"), "Remove the claim of a writer that died."),
    LOG_LEVEL,
)
DOCTOR: tuple[Setting[Any], ...] = (
    replace(LOCK, help="The kind of lock to try; auto chooses by file system."),
    MAX_BODY_MB,
    replace(SPOOL, kind=FilePath("directory", exists=True)),
    Setting("json", False, Flag(), "Print the findings as JSON."),
    LOG_LEVEL,
)
TOKEN: tuple[Setting[Any], ...] = (
    Setting(
        "name", None, Text(), "Name of the holder; recorded in the journal and the access log.",
        required=True,
    ),
    Setting(
        "rw", False, Flag(off="ro"), "Whether the token allows changes, or only reading.",
        "Reading is the safer choice.",
        default_text="ro",
    ),
    Setting[Path | None](
        "append", None, FilePath("file"),
        "Append the line to this token file, which is created, if needed, readable only by you.",
        default_text="print the line",
    ),
    LOG_LEVEL,
)
# fmt: on

COMMANDS = (
    Command(
        "export",
        "Export annotations as JSON, JSON Lines, CSV or SWC.",
        EXPORT,
        (
            "neurotrale export /data/brain --format csv -o annotations.csv",
            "neurotrale export /data/brain --anntype neuron --reviewed",
        ),
    ),
    Command(
        "locks",
        "Show which kind of lock writers use here, and test it.",
        LOCKS,
        (
            "neurotrale locks /data",
            "srun -N2 neurotrale locks /data",
            "srun -N2 neurotrale locks --prove /data",
        ),
        (
            excludes(
                "break",
                ("lock", "prove"),
                "--break removes a claim and tests no lock: leave out --lock and --prove.",
            ),
            requires("seconds", "prove", "--seconds is the duration of --prove: add --prove."),
            requires("evidence", "prove", "--evidence is written by --prove: add --prove."),
        ),
    ),
    Command(
        "doctor",
        "Examine a data directory and this machine, and say what to do.",
        DOCTOR,
        ("neurotrale doctor /data", "neurotrale doctor /data --json"),
    ),
    Command(
        "token",
        "Create a random token, as a line of a token file.",
        TOKEN,
        ("neurotrale token --name anna --rw --append tokens",),
    ),
)
