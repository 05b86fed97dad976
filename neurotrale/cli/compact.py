"""``neurotrale compact``: move old records of journals into archives, or discard archives."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.annotations.journals.changes import format_time, parse_time
from neurotrale.annotations.journals.compaction import CompactedJournal, Compaction
from neurotrale.annotations.journals.discarding import Discarding
from neurotrale.cli.declared import declared
from neurotrale.cli.history import annotation_file, user_name
from neurotrale.cli.output import say
from neurotrale.errors import (
    BadInputError,
    BusyError,
    ConflictError,
    DamagedError,
    DiskFullError,
    MissingError,
    NameTooLongError,
    ReadOnlyError,
)
from neurotrale.locking.locks import Locks
from neurotrale.locking.writers import WriterClaims
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.directories import directory_at

EXIT_UNCHANGED = 1
_PREFIX, _SUFFIX = ".", ".json.journal"
_UNCHANGED = (BusyError, ConflictError, DamagedError, DiskFullError, NameTooLongError)


@declared("compact")
@click.argument("path", type=click.Path(path_type=Path))
def compact(
    path: Path,
    before: str | None,
    keep: timedelta,
    dry_run: bool,
    discard: bool,
    confirm: str | None,
    lock: Any,
    share: str,
) -> None:
    """Compress the older history of PATH: a data root, a dataset or an annotation file.

    Records of changes move from the journals into compressed archives beside them. Nothing is lost:
    history, old revisions and corrections read both. The service may be running. With --discard,
    archives are deleted; the history then begins later. Exit code 1: some files could not be done,
    and are as they were.
    """
    horizon = parse_time(before, "--before") if before else _ago(keep)
    if discard:
        _check_confirmed(path, confirm)
    claims = WriterClaims()
    click.get_current_context().call_on_close(claims.remove)
    compaction = Compaction(Locks(lock, share=share == "auto", claims=claims))
    discarding = Discarding(compaction, Contents())
    done = failed = 0
    for file in _recorded_files(path):
        try:
            if discard:
                done += _discard(discarding, file, horizon)
            else:
                moved = compaction.compact(file.path, file.display_path, horizon, dry_run=dry_run)
                done += _report(file, moved, dry_run=dry_run)
        except (*_UNCHANGED, MissingError, ReadOnlyError) as error:
            failed += 1
            say(f"unchanged: {error}", err=True)
    if not done and not failed:
        say(f"nothing to do: no records from before {horizon}, besides those that stay")
    if failed:
        sys.exit(EXIT_UNCHANGED)


def _ago(keep: timedelta) -> str:
    try:
        return format_time(datetime.now(UTC) - keep)
    except OverflowError:
        raise BadInputError("--keep goes back to before the year 1.") from None


def _check_confirmed(path: Path, confirm: str | None) -> None:
    dataset = _dataset_of(path)
    if dataset is None:
        raise BadInputError(
            f"{path} is neither a dataset nor an annotation file of one: --discard works on one"
            " dataset at a time."
        )
    if confirm != dataset.name:
        raise BadInputError(
            "Nothing was discarded. Archives cannot be brought back once they are deleted; to"
            f" confirm, add --confirm with the name of the dataset, {dataset.name!r}."
        )


def _dataset_of(path: Path) -> Path | None:
    path = path.resolve()
    if path.is_dir():
        return path if (path / ANNOTATIONS).is_dir() else None
    above = path.parent.parent
    return above.parent if above.name == ANNOTATIONS else None


def _recorded_files(path: Path) -> Iterator[AnnotationFile]:
    """Iterate over the annotation files that have a journal."""
    if not path.is_dir():
        yield annotation_file(path)
        return
    data_root = DataRoot(Path(os.path.abspath(path)))
    names = (
        [()]
        if data_root.is_dataset(())
        else [tuple(name.split("/")) for name in data_root.datasets()]
    )
    if not names:
        raise MissingError(f"{path} is neither an annotation file nor a dataset, nor has it any.")
    files = AnnotationFiles(data_root)
    for dataset in names:
        with suppress(MissingError):  # it has no annotations
            for block in files.block_directories(dataset):
                yield from _in_block(data_root.path(block), "/".join(block))


def _in_block(block: Path, display_path: str) -> Iterator[AnnotationFile]:
    try:
        place = directory_at(block)
        names = place.names()
    except FileNotFoundError:  # the block was removed since it was listed
        return
    for name in sorted(names):
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
            leaf = name[len(_PREFIX) : -len(".journal")]
            with suppress(FileNotFoundError):
                if stat.S_ISREG(place.status(name).st_mode):
                    yield AnnotationFile(block / leaf, f"{display_path}/{leaf}")


def _report(file: AnnotationFile, moved: CompactedJournal, *, dry_run: bool) -> int:
    if not moved.last:
        return 0
    records = f"records {moved.first}-{moved.last}, {moved.bytes_moved:,} bytes"
    if dry_run:
        say(f"{file.display_path}: would move {records}; {moved.bytes_left:,} bytes would stay")
    else:
        say(
            f"{file.display_path}: moved {records}, into an archive of"
            f" {moved.bytes_packed:,} bytes; the journal has {moved.bytes_left:,} bytes left"
        )
    return 1


def _discard(discarding: Discarding, file: AnnotationFile, horizon: str) -> int:
    now = format_time(datetime.now(UTC))
    records = discarding.discard(file.path, file.display_path, horizon, now, user_name())
    if not records.last:
        return 0
    say(f"{file.display_path}: discarded records {records.first}-{records.last}")
    return 1
