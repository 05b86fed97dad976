"""The options of the commands for the history of annotation files."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from neurotrale.settings.setting import (
    Command,
    Flag,
    Integer,
    Parsed,
    Setting,
    Text,
    any_of,
    excludes,
    requires,
)
from neurotrale.settings.shared import LOCK, LOG_LEVEL, SHARE, SINCE, parse_span

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
COMPACT: tuple[Setting[Any], ...] = (
    Setting[str | None](
        "before", None, Text("TIME"),
        "Move records from before this time (ISO 8601; UTC unless it has an offset).",
        default_text="as --keep says",
    ),
    Setting(
        "keep", timedelta(days=90), Parsed("SPAN", parse_span),
        "Leave records of this last span of time where they are, such as 90d, 12w or 48h.",
        "What people look up is mostly recent; the rest is only slower to reach.",
        default_text="90d",
    ),
    Setting("dry-run", False, Flag(), "Show what would be moved, and change nothing."),
    Setting(
        "discard", False, Flag(),
        "Delete archives whose records are all older; needs --confirm.",
        "Corrections stay as they are, but older revisions are gone for good.",
    ),
    Setting[str | None](
        "confirm", None, Text("NAME"), "The name of the dataset, to confirm --discard.",
    ),
    LOCK,
    SHARE,
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
        "compact",
        "Compress the older history of annotation files.",
        COMPACT,
        (
            "neurotrale compact /data --dry-run",
            "neurotrale compact /data/brain --keep 90d",
            "neurotrale compact /data/brain --before 2026-01-01 --discard --confirm brain",
        ),
        (
            excludes("before", ("keep",), "--before and --keep both say when: leave out one."),
            excludes(
                "discard",
                ("dry_run",),
                "--dry-run shows what would be moved; with --discard, all of that and the archives"
                " from before would be deleted. Leave out one of them.",
            ),
            requires("discard", "confirm", "--discard needs --confirm with the dataset's name."),
            requires("confirm", "discard", "--confirm confirms --discard: add --discard."),
        ),
    ),
)
