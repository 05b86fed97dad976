"""``neurotrale history``, ``restore``, ``held`` and ``corrections``: the journals, on the files."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from neurotrale.annotations.author import Author
from neurotrale.annotations.change import FileChanges
from neurotrale.annotations.content import Contents
from neurotrale.annotations.corrections import corrections as corrections_of
from neurotrale.annotations.document import id_of
from neurotrale.annotations.history import Filter
from neurotrale.annotations.journal import Entry, Journal
from neurotrale.annotations.locks import Locks
from neurotrale.annotations.past import Past
from neurotrale.annotations.places import Place
from neurotrale.annotations.wishes import Wish
from neurotrale.cli.failing import failing_clearly
from neurotrale.errors import MissingError
from neurotrale.faults import reading
from neurotrale.times import parse_time

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_SINCE = click.option("--since", help="Only at or after this time (ISO 8601, UTC if not said).")
_ID = click.option("--id", "id_", help="Only this annotation.")
_LOCK = click.option(
    "--lock",
    envvar="NEUROTRALE_LOCK",
    type=click.Choice(("auto", "flock", "strict", "none")),
    default="auto",
    show_default=True,
    show_envvar=True,
    help="How writers are kept apart; the same as the service's.",
)


def _past(lock: Any = "auto") -> Past:
    contents = Contents()
    return Past(contents, FileChanges(Locks(lock), contents))


def _place(file: Path) -> Place:
    with reading(str(file)):
        found = file.is_file() or Journal(file).path.is_file()
    if not found:
        raise MissingError(f"There is neither {file} nor a journal of it.")
    # Its journal and lock lie beside the name that the service knows, also when that is a link.
    return Place(file.parent.resolve() / file.name, str(file))


def _wish() -> Wish:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have a number only
        name = f"uid {os.getuid()}"
    return Wish(Author(name, "command line"))


def _one_line(annotation: bytes) -> bytes:
    return msgspec.json.format(annotation, indent=-1)


@click.command()
@_FILE
@_ID
@_SINCE
@click.option("--until", help="Only before this time.")
@click.option("--by", help="Only by this name.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@click.option("--show", type=click.IntRange(0), help="Print the file as it was at this revision.")
@failing_clearly
def history(
    file: Path,
    id_: str | None,
    since: str | None,
    until: str | None,
    by: str | None,
    limit: int,
    show: int | None,
) -> None:
    """List the changes of an annotation FILE, a line each, newest first."""
    past, place = _past(), _place(file)
    if show is not None:
        if id_ is None:
            click.echo(past.revision(place, show), nl=False)
        else:
            click.echo(past.annotation(place, show, id_))
        return
    wanted = Filter(
        id_=id_,
        since=parse_time(since, "--since") if since else None,
        until=parse_time(until, "--until") if until else None,
        by=by,
    )
    for entry, applied in past.page(place, wanted, limit).changes:
        click.echo(_line(entry, applied))


def _line(entry: Entry, applied: bool) -> str:
    counts = [("+", entry.added), ("~", entry.changed), ("-", entry.removed)]
    what = " ".join(f"{sign}{len(ids)}" for sign, ids in counts if ids) or "="
    touched = [*entry.added, *entry.changed, *entry.removed]
    ids = " ".join(id_[:12] for id_ in touched[:3]) + (" ..." if len(touched) > 3 else "")
    notes = [f"of {entry.of}"] if entry.op == "restore" and entry.of else []
    notes += [f"held back {entry.kept}"] if entry.kept else []
    notes += [] if applied else ["never made"]
    note = f" ({', '.join(notes)})" if notes else ""
    by = entry.by or "another program"
    return f"{entry.n:>6}  {entry.at}  {by}  {entry.op}{note}  {what}  {ids}".rstrip()


@click.command()
@_FILE
@click.option("--revision", type=click.IntRange(0), help="As after this change; 0: before any.")
@click.option("--id", "id_", help="Only this annotation; without --revision, its last change.")
@click.option("--removed", is_flag=True, help="All that was removed; what is there now stays.")
@_SINCE
@_LOCK
@failing_clearly
def restore(
    file: Path, revision: int | None, id_: str | None, removed: bool, since: str | None, lock: str
) -> None:
    """Bring back what was in an annotation FILE: a revision, an annotation, or all removed ones.

    The service may be running; the restoring is itself a recorded change.
    """
    if removed and not (id_ is None and revision is None):
        raise click.UsageError("--removed goes with --since only, not with --id or --revision.")
    if since and not removed:
        raise click.UsageError("--since goes with --removed only.")
    if not removed and id_ is None and revision is None:
        raise click.UsageError("Say what to restore: --revision N, --id ID, or --removed.")
    past, place, wish = _past(lock), _place(file), _wish()
    if removed:
        after = parse_time(since, "--since") if since else None
        written = past.restore_removed(place, after, wish)
    elif id_ is not None:
        written = past.restore_annotation(place, id_, revision, wish)
    else:
        assert revision is not None
        written = past.restore(place, revision, wish)
    if not written.changed:
        click.echo("nothing to bring back: the file has it already")
        return
    for entry, applied in past.page(place, Filter(), 1).changes:
        click.echo(_line(entry, applied))


@click.command()
@_FILE
@_ID
@click.option("--confirm", is_flag=True, help="Really remove them.")
@_LOCK
@failing_clearly
def held(file: Path, id_: str | None, confirm: bool, lock: str) -> None:
    """List the annotations of a FILE whose removal was held back, a line of JSON each."""
    past, place = _past(lock), _place(file)
    if confirm:
        past.confirm(place, [] if id_ is None else [id_], _wish())
    for annotation in past.held(place):
        if confirm or id_ is None or id_of(annotation) == id_:
            click.echo(_one_line(annotation))


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False))
@_SINCE
@click.option("--by", help="Only by this name.")
@failing_clearly
def corrections(dataset: Path, since: str | None, by: str | None) -> None:
    """Export what people changed in a DATASET's annotations, as JSON Lines.

    One line for each annotation that was added, changed, removed or reviewed, all its changes
    folded into one: for training the next model.
    """
    directory = dataset / "annotations"
    if not directory.is_dir():
        raise MissingError(f"{dataset} has no 'annotations' directory.")
    after = parse_time(since, "--since") if since else None
    with reading(str(directory)):
        for found in corrections_of(directory, after, by):
            sys.stdout.buffer.write(found.line())
