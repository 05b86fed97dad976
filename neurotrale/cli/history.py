"""``neurotrale history``, ``restore``, ``held`` and ``corrections``: use the journals of files."""

from __future__ import annotations

import getpass
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.documents.index import id_of
from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.history import AnnotationHistory
from neurotrale.annotations.journals.changes import Author, WriteContext, parse_time
from neurotrale.annotations.journals.corrections import corrections as corrections_of
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import JournalEntry
from neurotrale.annotations.journals.revisions import ChangeFilter, touched
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.writes import FileWriter
from neurotrale.cli.declared import declared
from neurotrale.cli.output import say, write_data
from neurotrale.errors import MissingError, one_word, printable, reading
from neurotrale.locking.locks import Locks
from neurotrale.locking.writers import WriterClaims

IDS_NAMED = 3
# The lengths to which a long id is shortened: its beginning and its end are shown, since some ids
# differ only there. Ids that look alike are shown at the next length.
WIDTHS = (12, 20, 32, 48, 64)


def lines_of(changes: Sequence[tuple[JournalEntry, bool]]) -> list[str]:
    """Format changes, each with whether it took effect, as one line each.

    Ids are shortened so that no two of them look alike.
    """
    short = shortened(id_ for entry, _ in changes for id_ in _named(entry)[:IDS_NAMED])
    return [_line(entry, applied, short) for entry, applied in changes]


def shortened(ids: Iterable[str]) -> dict[str, str]:
    """Shorten ids so that their short forms are unique.

    Returns:
        For each id, its short form: the whole id if it is short, else its beginning and its end.
    """
    left = set(ids)
    forms: dict[str, str] = {}
    for width in WIDTHS:
        alike = defaultdict(list)
        for id_ in left:
            alike[_cut(id_, width)].append(id_)
        taken = set(forms.values())
        forms |= {
            same[0]: form for form, same in alike.items() if len(same) == 1 and form not in taken
        }
        left -= forms.keys()
    return forms | {id_: one_word(id_) for id_ in left}


def _cut(id_: str, width: int) -> str:
    if len(id_) <= width + 3:
        return one_word(id_)
    half = width // 2
    return f"{one_word(id_[:half])}...{one_word(id_[-half:])}"


def _named(entry: JournalEntry) -> list[str]:
    return touched(entry) or entry.save.navigated


def _line(entry: JournalEntry, applied: bool, short: dict[str, str]) -> str:
    counts = [("+", entry.added), ("~", entry.changed), ("-", entry.removed)]
    summary = " ".join(f"{sign}{len(ids)}" for sign, ids in counts if ids) or "="
    ids = _named(entry)
    named = [short[id_] for id_ in ids[:IDS_NAMED]] + (["..."] if len(ids) > IDS_NAMED else [])
    notes = [f"of {entry.target}"] if entry.op == "restore" and entry.target else []
    notes += [f"held back {entry.newly_held}"] if entry.newly_held else []
    notes += [f"ignored {len(entry.save.navigated)}"] if entry.save.navigated else []
    notes += [f"{entry.saves} saves in {_duration(entry)}"] if entry.saves > 1 else []
    notes += [] if applied else ["not applied"]
    note = f" ({', '.join(notes)})" if notes else ""
    by = entry.by or "another program"
    places = [entry.source] if entry.source not in ("", entry.by, COMMAND_LINE) else []
    places += [f"session {entry.save.session}"] if entry.save.session else []
    by += f" ({', '.join(places)})" if places else ""
    line = f"{entry.n:>6}  {entry.at}  {by}  {entry.op}{note}  {summary}  {' '.join(named)}"
    return printable(line.rstrip())


def _duration(entry: JournalEntry) -> str:
    try:
        took = datetime.fromisoformat(entry.at) - datetime.fromisoformat(entry.began)
    except ValueError:
        return "? s"
    return f"{took.total_seconds():.1f} s"


COMMAND_LINE = "command line"
"""The source of a change that a command makes."""

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


def _history(lock: Any = "auto", share: str = "auto") -> AnnotationHistory:
    contents, shares, claims = Contents(), share == "auto", WriterClaims()
    click.get_current_context().call_on_close(claims.remove)
    changes = FileChanges(Locks(lock, share=shares, claims=claims), contents, share=shares)
    return AnnotationHistory(contents, FileWriter(changes))


def annotation_file(file: Path) -> AnnotationFile:
    """Return an annotation file that exists or has a journal.

    Raises:
        MissingError: Neither the file nor its journal exists.
    """
    with reading(str(file)):
        path = file.resolve()  # the service, too, locks and records the target of a link
        exists = path.is_file() or Journal(path).exists
    if not exists:
        raise MissingError(f"{file} does not exist, and there is no journal of it.")
    return AnnotationFile(path, str(file))


def user_name() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user may have no name
        return f"uid {os.getuid()}"


def _write_context() -> WriteContext:
    return WriteContext(Author(user_name(), COMMAND_LINE))


def _one_line(annotation: bytes) -> str:
    return printable(msgspec.json.format(annotation, indent=-1).decode())


@declared("history")
@_FILE
def history(
    file: Path,
    id_: str | None,
    since: str | None,
    until: str | None,
    by: str | None,
    navigation: bool,
    limit: int,
    all_: bool,
    show: int | None,
) -> None:
    """List the changes of an annotation FILE, newest first, one per line."""
    revisions, target = _history(), annotation_file(file)
    if show is not None:
        write_data(
            revisions.revision(target, show)
            if id_ is None
            else revisions.annotation(target, show, id_) + b"\n"
        )
        return
    filter_ = ChangeFilter(
        id_=id_,
        since=parse_time(since, "--since") if since else None,
        until=parse_time(until, "--until") if until else None,
        by=by,
        navigation=navigation,
    )
    changes = revisions.changes(target, filter_)
    listed = list(changes if all_ else islice(changes, limit))
    for line in lines_of(listed):
        say(line)
    more = sum(1 for _ in changes)
    if more:
        say(f"{more} more changes: list them with --limit {len(listed) + more} or --all", err=True)
    elif (discarded := revisions.discarded(target)) is not None:
        say(discarded)


@declared("restore")
@_FILE
def restore(
    file: Path,
    revision: int | None,
    id_: str | None,
    removed: bool,
    reverted: bool,
    by: str | None,
    session: str | None,
    since: str | None,
    lock: str,
    share: str,
) -> None:
    """Restore a revision of an annotation FILE, an annotation, or what was removed or undone.

    The service may be running. The restoration is recorded as a change, too.
    """
    revisions, target = _history(lock, share), annotation_file(file)
    context = _write_context()
    after = parse_time(since, "--since") if since else None
    if removed:
        written = revisions.restore_removed(target, after, context)
    elif reverted:
        written = revisions.restore_reverted(target, after, context)
    elif after is not None:
        written = revisions.undo(target, by, session, after, context)
    elif id_ is not None:
        written = revisions.restore_annotation(target, id_, revision, context)
    else:
        assert revision is not None
        written = revisions.restore(target, revision, context)
    if not written.changed:
        say("nothing to restore: the file already has this content")
        return
    for line in lines_of(list(islice(revisions.changes(target, ChangeFilter()), 1))):
        say(line)


@declared("held")
@_FILE
def held(file: Path, id_: str | None, navigation: int | None, confirm: bool, lock: str) -> None:
    """List the annotations of a FILE whose removal was held back, as JSON Lines."""
    revisions, target = _history(lock), annotation_file(file)
    if confirm:
        ids = [] if id_ is None else [id_]
        revisions.confirm(target, ids, _write_context(), navigation)
    for annotation in revisions.held_removals(target, navigation):
        if confirm or id_ is None or id_of(annotation) == id_:
            say(_one_line(annotation))


@declared("corrections")
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False))
def corrections(dataset: Path, since: str | None, by: str | None) -> None:
    """Export the corrections that people made to a DATASET's annotations, as JSON Lines.

    Prints one line for each annotation that was added, changed, removed or reviewed, with all its
    changes combined, for training the next model.
    """
    directory = dataset / "annotations"
    if not directory.is_dir():
        raise MissingError(f"{dataset} has no 'annotations' directory.")
    after = parse_time(since, "--since") if since else None
    with reading(str(directory)):
        for correction in corrections_of(directory, after, by):
            write_data(correction.line())
