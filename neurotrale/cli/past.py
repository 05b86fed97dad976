"""``neurotrale history``, ``restore``, ``held`` and ``corrections``: the journals, on the files."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import click

from neurotrale.annotations.change import Author, FileChanges
from neurotrale.annotations.content import Contents
from neurotrale.annotations.corrections import corrections as corrections_of
from neurotrale.annotations.history import Filter
from neurotrale.annotations.journal import Entry, Journal
from neurotrale.annotations.locks import Locks
from neurotrale.annotations.past import Past
from neurotrale.annotations.places import Place
from neurotrale.annotations.wishes import Wish
from neurotrale.cli.failing import failing_clearly
from neurotrale.errors import MissingError
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
    if not file.is_file() and not Journal(file).path.is_file():
        raise MissingError(f"There is neither {file} nor a journal of it.")
    return Place(file.resolve(), str(file))


def _wish() -> Wish:
    return Wish(Author(getpass.getuser(), "command line"))


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
        body = past.annotation(place, show, id_) if id_ else past.revision(place, show)
        click.echo(body, nl=False)
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
    if removed and (id_ or revision is not None):
        raise click.UsageError("--removed goes with --since only, not with --id or --revision.")
    if since and not removed:
        raise click.UsageError("--since goes with --removed only.")
    past, place, wish = _past(lock), _place(file), _wish()
    if removed:
        past.restore_removed(place, parse_time(since, "--since") if since else None, wish)
    elif id_:
        past.restore_annotation(place, id_, revision, wish)
    elif revision is not None:
        past.restore(place, revision, wish)
    else:
        raise click.UsageError("Say what to restore: --revision N, --id ID, or --removed.")
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
        past.confirm(place, [id_] if id_ else [], _wish())
    for annotation in past.held(place):
        click.echo(b" ".join(annotation.split()))


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
    for found in corrections_of(directory, parse_time(since, "--since") if since else None, by):
        sys.stdout.buffer.write(found.line())
