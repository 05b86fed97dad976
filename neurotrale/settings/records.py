"""The options of the commands for annotation files, their history, locks and tokens."""

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
    any_of,
    excludes,
    requires,
)
from neurotrale.settings.shared import LOCK, LOG_LEVEL, SHARE, SINCE

EXPORT_FORMATS = ("json", "jsonl", "csv", "swc")
_FILE = "/data/brain/annotations/x0y0z0/fibers.json"
_LIMITS = ("since", "until", "by", "navigation", "limit", "all")
_MANY = ("removed", "reverted", "by", "session")  # ways to restore many annotations

# fmt: off
_ID = Setting[str | None]("id", None, Text(), "Only the annotation with this id.")
_BY = Setting[str | None]("by", None, Text("NAME"), "Only changes made under this name.")
LIMIT = Setting(
    "limit", 50, Integer(1), "Most changes to list; the number of further ones is printed.",
    "A file that is edited in a viewer gets hundreds of changes a day.",
)
HISTORY: tuple[Setting[Any], ...] = (
    _ID,
    SINCE,
    Setting[str | None]("until", None, Text("TIME"), "Only changes before this time."),
    _BY,
    Setting(
        "navigation", False, Flag(),
        "Only saves that were ignored because their viewer left the slice.",
    ),
    LIMIT,
    Setting("all", False, Flag(), "List all changes."),
    Setting("show", None, Integer(), "Print the file at this revision."),
    LOG_LEVEL,
)
RESTORE: tuple[Setting[Any], ...] = (
    Setting(
        "revision", None, Integer(),
        "Restore the state after this change; 0 for the state before any change.",
    ),
    replace(_ID, help="Restore only this annotation, by default to before its last change."),
    Setting("removed", False, Flag(), "Restore all removed annotations; the present ones stay."),
    Setting("reverted", False, Flag(), "Bring back changes that saves of old copies have undone."),
    replace(_BY, help="Undo what was done under this name; what others did stays."),
    Setting[str | None](
        "session", None, Text("LABEL"),
        "Undo what the viewer with this label did, as the history shows it.",
    ),
    SINCE,
    LOCK,
    SHARE,
    LOG_LEVEL,
)
HELD: tuple[Setting[Any], ...] = (
    _ID,
    Setting[int | None](
        "navigation", None, Integer(1),
        "Instead, what this change dropped, which was ignored as leaving a slice.",
        "See 'neurotrale history FILE --navigation' for such changes.",
    ),
    Setting("confirm", False, Flag(), "Confirm these removals, and apply them to the file."),
    LOCK,
    LOG_LEVEL,
)
CORRECTIONS: tuple[Setting[Any], ...] = (SINCE, _BY, LOG_LEVEL)
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
        "history",
        "List the changes of an annotation file, newest first.",
        HISTORY,
        (f"neurotrale history {_FILE}", f"neurotrale history {_FILE} --show 3"),
        (
            excludes("all", ("limit",), "--all lists every change: leave out --limit."),
            excludes(
                "show",
                _LIMITS,
                "--show prints the file at one revision: leave out"
                f" {', '.join(f'--{key}' for key in _LIMITS)}.",
            ),
        ),
    ),
    Command(
        "restore",
        "Restore an earlier state of an annotation file.",
        RESTORE,
        (
            f"neurotrale restore {_FILE} --removed",
            f"neurotrale restore {_FILE} --revision 3",
            f"neurotrale restore {_FILE} --by ann --since 2026-11-22T09:00",
        ),
        (
            excludes(
                "removed",
                ("id", "revision", "reverted", "by", "session"),
                "--removed cannot be combined with --id, --revision, --reverted, --by or --session,"
                " only with --since.",
            ),
            excludes(
                "reverted",
                ("id", "revision", "by", "session"),
                "--reverted cannot be combined with --id, --revision, --by or --session, only with"
                " --since.",
            ),
            *(
                excludes(
                    key,
                    ("id", "revision"),
                    f"--{key} cannot be combined with --id or --revision, only with --since.",
                )
                for key in ("by", "session")
            ),
            *(
                requires(key, "since", f"--{key} needs --since: from when on to undo.")
                for key in ("by", "session")
            ),
            *(
                excludes(
                    "since", (key,), f"--since needs --{', --'.join(_MANY[:-1])} or --{_MANY[-1]}."
                )
                for key in ("id", "revision")
            ),
            any_of(
                ("revision", "id", *_MANY),
                "Choose what to restore: --revision N, --id ID, --removed, --reverted, or --by NAME"
                " or --session LABEL with --since TIME.",
            ),
        ),
    ),
    Command(
        "held",
        "List removals that the service held back, or confirm them.",
        HELD,
        (
            f"neurotrale held {_FILE}",
            f"neurotrale held {_FILE} --confirm",
            f"neurotrale held {_FILE} --navigation 7 --confirm",
        ),
    ),
    Command(
        "corrections",
        "Export the corrections that people made, to train the next model.",
        CORRECTIONS,
        ("neurotrale corrections /data/brain --since 2026-11-01 --by ann",),
    ),
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
