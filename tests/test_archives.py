"""Archives of journals: what was answered before is answered after, whatever dies in between."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xxhash
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Content, Contents, etag_of
from neurotrale.annotations.history import AnnotationHistory
from neurotrale.annotations.journals.changes import Author, Before, Change, WriteContext
from neurotrale.annotations.journals.compaction import Compaction
from neurotrale.annotations.journals.corrections import file_corrections
from neurotrale.annotations.journals.discarding import Discarding
from neurotrale.annotations.journals.earlier_contents import NoHistoryError, content_at
from neurotrale.annotations.journals.journal import HEAD_BYTES
from neurotrale.annotations.journals.journal_records import (
    FORMAT,
    ContentState,
    JournalEntry,
    number_of,
)
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.restore import (
    restored_annotation,
    restored_removals,
    restored_reverts,
    undone_changes,
)
from neurotrale.annotations.store import AnnotationStore
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.write_requests import WriteRequest
from neurotrale.annotations.writes import FileWriter
from neurotrale.errors import BadInputError, ConflictError, DamagedError, MissingError
from neurotrale.locking.locks import Locks
from neurotrale.storage import line_archive
from neurotrale.storage.line_archive import FRAME_BYTES, LineArchive, NumberedLine, pack_lines
from tests.examples import examples
from tests.stores import IN_MEMORY, Stores, annotation, array, open_stores
from tests.test_batches import killed_at

START = datetime(2026, 1, 1, tzinfo=UTC)
NEVER, ALWAYS = "0", "9"  # as times: nothing is older, everything is
PEOPLE = ("ann", "bob")
IDS = ("a", "b", "c", "é\\")


def clocked(root: Path) -> Stores:
    """Open the stores with a clock that goes on by a minute with every change, whenever opened."""
    stores = open_stores(root)

    def now() -> datetime:
        last, _ = stores.journal.tail()
        return START + timedelta(minutes=0 if last is None else last.n)

    contents = Contents()
    writer = FileWriter(FileChanges(Locks("flock"), contents, now))
    return Stores(
        root,
        AnnotationStore(stores.store.files, contents, writer),
        AnnotationHistory(contents, writer),
        stores.place,
        writer,
    )


@pytest.fixture
def root() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="neurotrale-archives-", dir=IN_MEMORY))
    yield directory
    shutil.rmtree(directory)


def compact(stores: Stores, before: str) -> Any:
    return Compaction(Locks("flock")).compact(stores.file, "fibers.json", before)


def discard(stores: Stores, before: str) -> Any:
    discarding = Discarding(Compaction(Locks("flock")), Contents())
    return discarding.discard(stores.file, "fibers.json", before, "2026-07-01T00:00:00.000Z", "eve")


def names(stores: Stores) -> set[str]:
    return {name.removeprefix(".fibers.json.") for name in os.listdir(stores.file.parent)}


# --- random histories ---


def by(name: str, *, viewer: bool = False) -> WriteContext:
    return WriteContext(
        Author(name, "127.0.0.1", name[:1] if viewer else ""),
        viewer=Viewer.of(name) if viewer else None,
        guarded=True,
    )


contents = st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), max_size=4).map(
    lambda found: array(*(annotation(id_, length=n) for id_, n in found.items()))
)
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PEOPLE), contents),
    st.tuples(st.just("viewer put"), st.sampled_from(PEOPLE), contents),
    st.tuples(st.just("patch"), st.sampled_from(PEOPLE), st.sampled_from(IDS), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.sampled_from(PEOPLE), st.sampled_from(IDS)),
    st.tuples(st.just("outside"), contents | st.just(b'[{"id": "a"}, \xff]')),
    st.tuples(st.just("removed")),
    st.tuples(st.just("tear"), st.sampled_from([b'{"n":', b"\0" * 9, b'{"n":1,"at":"2'])),
    st.tuples(st.just("void")),
)


def take(stores: Stores, step: tuple[Any, ...]) -> None:
    """Take a step of a history; what cannot be done leaves it as it is."""
    with suppress(MissingError, DamagedError):
        match step:
            case ("put", who, body):
                stores.put(body, by(who))
            case ("viewer put", who, body):
                stores.put(body, by(who, viewer=True))
            case ("patch", who, id_, length):
                stores.patch(id_, by(who), length=length)
            case ("delete", who, id_):
                stores.delete(id_, by(who))
            case ("outside", body):
                stores.file.write_bytes(body)
            case ("removed",):
                stores.file.unlink(missing_ok=True)
            case ("tear", rubbish):
                if stores.journal.exists:
                    with stores.journal.path.open("ab") as journal:
                        journal.write(rubbish)
            case ("void",):
                kept = stores.file.with_name("kept")
                if stores.file.exists():
                    os.link(stores.file, kept)
                    try:
                        stores.patch("v", by("ann"))
                    finally:
                        kept.replace(stores.file)  # as if its writer had died before that
                        kept.unlink(missing_ok=True)  # it is the same file if nothing was written
            case _:
                raise AssertionError(step)


def content_of(stores: Stores) -> Content | None:
    return Contents().read(stores.file) if stores.file.exists() else None


def attempt(work: Callable[[], object]) -> object:
    try:
        found = work()
        return replace(found, index=None) if isinstance(found, Change) else found
    except (MissingError, NoHistoryError, DamagedError) as error:
        return type(error)


def plain(entry: JournalEntry) -> JournalEntry:
    """A record without its format, which changes with the version that rewrites it."""
    return msgspec.structs.replace(entry, format=FORMAT)


def revisions(stores: Stores, numbers: range) -> dict[tuple[int, bool], object]:
    content, journal = content_of(stores), stores.journal
    return {
        (n, bool(now)): attempt(partial(content_at, journal, n, now))
        for n in numbers
        for now in (content, None)
    }


def corrections(stores: Stores, times: Sequence[str | None]) -> dict[object, object]:
    return {
        (since, who): list(file_corrections(stores.file, since, who))
        for since in times
        for who in (None, *PEOPLE)
    }


def answers(stores: Stores) -> dict[str, object]:
    """Everything that the history of a file answers."""
    journal = stores.journal
    last, _ = journal.tail()
    times = [None, NEVER, *sorted({entry.at for entry in journal.entries()}), ALWAYS]
    before = Before(content_of(stores), ())
    place = str(stores.file)
    return {
        "entries": [plain(entry) for entry in journal.entries()],
        "before": [[e.n for e in journal.entries(n)] for n in range(1 if last is None else last.n)],
        "records": [plain(record) for record in journal.records()],
        "forward": [plain(record) for record in journal.records_forward()],
        "numbers": [journal.numbers(one, other) for one in times for other in times],
        "page": [
            (plain(entry), applied)
            for entry, applied in stores.past.page(stores.place, ChangeFilter(), 1000).changes
        ],
        "by id": [
            [e.n for e, _ in stores.past.changes(stores.place, ChangeFilter(id_=id_))]
            for id_ in IDS
        ],
        "revisions": revisions(stores, range(0 if last is None else last.n + 2)),
        "corrections": corrections(stores, times),
        "removals": [attempt(partial(restored_removals, before, journal, place, t)) for t in times],
        "reverts": [attempt(partial(restored_reverts, before, journal, place, t)) for t in times],
        "undone": [
            attempt(partial(undone_changes, before, journal, place, who, None, since))
            for who in PEOPLE
            for since in times
        ],
        "annotations": [
            attempt(partial(restored_annotation, before, journal, place, id_, None)) for id_ in IDS
        ],
        "held": attempt(lambda: stores.past.held_removals(stores.place)),
    }


def draw_time(stores: Stores, data: st.DataObject) -> str:
    times = {entry.at for entry in stores.journal.entries()} | {ALWAYS}
    return data.draw(st.sampled_from(sorted(times)))


def histories(check: Callable[..., None]) -> Callable[[], None]:
    """Have a test tried on histories in parts, with what it draws itself."""
    given_parts = given(
        parts=st.lists(st.lists(steps, min_size=1, max_size=8), max_size=4), data=st.data()
    )
    return settings(
        max_examples=examples(120),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )(given_parts(check))


def parts_taken(stores: Stores, parts: list[list[tuple[Any, ...]]]) -> Iterator[None]:
    """Take a history part by part; a test looks at it after each."""
    for part in parts:
        for step in part:
            take(stores, step)
        yield


@pytest.mark.proof
@pytest.mark.thorough
def test_history_answers_the_same_after_its_records_moved_into_archives(root: Path) -> None:
    numbered = itertools.count()

    @histories
    def check(parts: list[list[tuple[Any, ...]]], data: st.DataObject) -> None:
        stores = clocked(root / str(next(numbered)))
        for _ in parts_taken(stores, parts):
            before = answers(stores)
            moved = compact(stores, draw_time(stores, data))
            assert answers(stores) == before
            if moved.last:
                _, applied = stores.journal.tail()
                assert applied is None or number_of(stores.journal.path.read_bytes()) <= applied.n
        shutil.rmtree(stores.root)

    check()


@pytest.mark.proof
@pytest.mark.thorough
def test_corrections_and_later_revisions_stay_when_archives_are_discarded(root: Path) -> None:
    numbered = itertools.count()

    @histories
    def check(parts: list[list[tuple[Any, ...]]], data: st.DataObject) -> None:
        stores = clocked(root / str(next(numbered)))
        for _ in parts_taken(stores, parts):
            if data.draw(st.booleans()):
                compact(stores, draw_time(stores, data))
            horizon = draw_time(stores, data)
            last, _ = stores.journal.tail()
            end = 0 if last is None else last.n + 1
            entries = [plain(entry) for entry in stores.journal.entries()]
            known = revisions(stores, range(end))
            folded = corrections(stores, [None, NEVER, ALWAYS])
            try:
                gone = discard(stores, horizon)
            except ConflictError:
                assert [plain(entry) for entry in stores.journal.entries()] == entries
                assert revisions(stores, range(end)) == known
                continue
            assert corrections(stores, [None, NEVER, ALWAYS]) == folded
            if not gone.last:
                assert [plain(entry) for entry in stores.journal.entries()] == entries
                continue
            left = [entry for entry in entries if entry.n > gone.last]
            assert [plain(entry) for entry in stores.journal.entries()] == left
            assert all(entry.at < horizon for entry in entries if entry.n <= gone.last)
            later = range(gone.last + 1, end)
            states = {entry.n: entry.new for entry in stores.journal.entries()}
            for key, found in revisions(stores, later).items():
                if found != known[key]:  # the new base leads where the old one did not
                    assert known[key] is NoHistoryError
                    assert isinstance(found, bytes)
                    assert states[key[0]] == ContentState(len(found), etag_of(found))
            assert set(revisions(stores, range(gone.last)).values()) <= {NoHistoryError}
            with pytest.raises(NoHistoryError, match=rf"Records 1-{gone.last} were discarded on"):
                content_at(stores.journal, gone.last - 1, None)
            assert not any(name.endswith((".1.zst", ".next", ".tmp")) for name in names(stores))
        shutil.rmtree(stores.root)

    check()


# --- killed ---


def a_day(stores: Stores, most: int = 12) -> None:
    stores.put(array(*map(annotation, "abc")))
    for n in range(2, most + 1):
        stores.patch("abc"[n % 3], by(PEOPLE[n % 2]), length=n)


def at(n: int) -> str:
    return f"2026-01-01T00:{n - 1:02d}:00.000Z"


def compacted_once(stores: Stores) -> None:
    a_day(stores)
    compact(stores, at(5))


def discarded_once(stores: Stores) -> None:
    compacted_once(stores)
    discard(stores, at(5))


STATES = {"no archive": a_day, "an archive": compacted_once, "a checkpoint": discarded_once}


@dataclass(frozen=True)
class Killed:
    """Copies of one history, in each of which something is killed a step later."""

    root: Path
    every: int

    def copy(self, name: str) -> Stores:
        shutil.copytree(self.root / "begin", self.root / name)
        return clocked(self.root / name)

    def each(self, work: Callable[[Stores], object]) -> Iterator[tuple[int, Stores]]:
        """Iterate over all that is left behind; what is the same as before is left out."""
        seen: dict[str, bytes] = {}
        number = 0
        for step in itertools.count(1, self.every):
            stores = self.copy(str(step))
            code = killed_at(step, partial(work, stores))
            assert code in (0, -signal.SIGKILL)
            left = {path.name: path.read_bytes() for path in stores.file.parent.iterdir()}
            if left != seen:
                number += 1
                yield number, stores
            seen = left
            shutil.rmtree(stores.root)
            if not code:
                return


@pytest.fixture(params=list(STATES.values()), ids=list(STATES))
def killed(request: pytest.FixtureRequest, root: Path, pytestconfig: pytest.Config) -> Killed:
    request.param(clocked(root / "begin"))
    return Killed(root, 4 * pytestconfig.option.crash_every)


@pytest.mark.proof
@pytest.mark.quick(1)
@pytest.mark.thorough
def test_compaction_killed_at_any_step_changes_no_answer_and_the_next_one_ends_it(
    killed: Killed,
) -> None:
    reference = killed.copy("reference")
    expected, before = answers(reference), names(reference)
    compact(reference, at(9))
    left = reference.journal.path.read_bytes()
    seen: set[tuple[bool, bool]] = set()
    for number, stores in killed.each(partial(compact, before=at(9))):
        assert answers(stores) == expected
        has_archive = any(name.endswith(".zst") for name in names(stores) - before)
        seen.add((has_archive, stores.journal.path.read_bytes() == left))
        if number % 2:  # somebody writes before the next one
            stores.patch("d")
        compact(stores, at(9))
        assert names(stores) == names(reference)
        if number % 2:
            listed = [entry.n for entry in reference.journal.entries()]
            assert [entry.n for entry in stores.journal.entries()] == [13, *listed]
            assert content_at(stores.journal, 12, None) == reference.file.read_bytes()
        else:
            assert answers(stores) == expected
            assert stores.journal.path.read_bytes() == left
    assert seen >= {(False, False), (True, True)}


@pytest.mark.proof
@pytest.mark.quick(1)
@pytest.mark.thorough
def test_discard_killed_at_any_step_is_done_or_not_begun_and_the_next_one_ends_it(
    killed: Killed,
) -> None:
    reference = killed.copy("reference")
    whole = answers(reference)
    discard(reference, at(9))
    later = answers(reference)
    ends: set[bool] = set()
    for _, stores in killed.each(partial(discard, before=at(9))):
        found = answers(stores)
        assert found in (whole, later)
        ends.add(found == later)
        discard(stores, at(9))
        assert answers(stores) == later
        assert names(stores) == names(reference)
        assert stores.journal.base() == reference.journal.base()
    assert ends == {False, True}


# --- what stays in the journal ---


def test_journal_keeps_its_last_change_and_the_archive_has_its_very_lines(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    before = stores.journal.path.read_bytes()
    moved = compact(stores, ALWAYS)
    assert (moved.first, moved.last) == (1, 11)
    archive = zstd.decompress(stores.journal.archives.path(1).read_bytes())
    assert archive + stores.journal.path.read_bytes() == before
    assert moved.bytes_moved == len(archive)
    assert not compact(stores, ALWAYS).last
    stores.patch("a")
    assert next(stores.journal.entries()).n == 13


def test_records_written_together_stay_together(root: Path) -> None:
    stores = clocked(root)
    a_day(stores, 3)
    requests = [
        WriteRequest(operation="delete", file=stores.place, context=by("ann"), id=id_)
        for id_ in "abc"
    ]
    writer = FileWriter(FileChanges(Locks("flock"), Contents()))
    writer.write_together(requests)
    assert compact(stores, ALWAYS).last == 3


def test_record_that_marks_others_as_aborted_stays_with_them(root: Path) -> None:
    stores = clocked(root)
    a_day(stores, 3)
    take(stores, ("void",))
    stores.patch("a")
    assert [entry.op for entry in stores.journal.entries()][:3] == ["patch", "void", "patch"]
    with stores.journal.path.open("rb") as journal:
        lines = journal.readlines()
    # The last change is the void's own now: what it marks must not be parted from it.
    stores.journal.path.write_bytes(b"".join(lines[:-1]))
    assert compact(stores, ALWAYS).last == 2
    assert [
        entry.n
        for entry, applied in stores.past.changes(stores.place, ChangeFilter())
        if not applied
    ] == [4]


def test_clock_that_was_set_back_moves_nothing_that_is_later_than_the_horizon(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    text = stores.journal.path.read_text().replace(at(4), at(30))
    stores.journal.path.write_text(text)
    assert compact(stores, at(20)).last == 3


def test_older_version_does_not_write_after_a_compaction(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    stores.journal.path.write_text(
        stores.journal.path.read_text().replace(f'"format":{FORMAT}', '"format":2')
    )
    before = answers(stores)
    compact(stores, at(5))
    last = stores.journal.path.read_bytes().splitlines()[-1]
    assert json.loads(last)["format"] == FORMAT
    assert answers(stores) == before


def test_journal_of_a_newer_version_is_left_as_it_is(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    text = stores.journal.path.read_text().replace(f'"format":{FORMAT}', '"format":99')
    stores.journal.path.write_text(text)
    with pytest.raises(ConflictError, match="newer version"):
        compact(stores, ALWAYS)
    assert stores.journal.path.read_text() == text


def test_backup_of_hard_links_keeps_the_whole_journal(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    backup = root / "backup"
    os.link(stores.journal.path, backup)
    before = backup.read_bytes()
    compact(stores, at(9))
    stores.patch("a")
    assert backup.read_bytes() == before


def test_journal_that_came_back_from_a_backup_counts_and_nothing_more_is_moved(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    compact(stores, at(9))
    lines = list(stores.journal.archives.lines(None))
    stores.journal.path.write_bytes(b"".join(line + b"\n" for line in lines[:5]))
    stores.patch("b", length=77)
    expected = [6 + 1 * (stores.journal.tail()[0].n > 6), *range(6, 0, -1)]  # type: ignore[union-attr]
    assert [entry.n for entry in stores.journal.entries()] == expected
    before = {path: path.read_bytes() for path in stores.file.parent.iterdir()}
    with pytest.raises(ConflictError, match="other records of the same numbers"):
        compact(stores, ALWAYS)
    assert before == {path: path.read_bytes() for path in before}


# --- large and damaged ---


def test_record_larger_than_a_frame_is_read_in_every_way(root: Path) -> None:
    stores = clocked(root)
    big = array(*(annotation(str(n), length=n, text="x" * 200) for n in range(15_000)))
    stores.put(array(annotation("a")))
    stores.put(big)
    stores.put(array(*map(annotation, "ab")))
    stores.patch("a", length=2)
    assert max(map(len, stores.journal.path.read_bytes().splitlines())) > FRAME_BYTES

    def found() -> list[object]:
        journal = stores.journal
        return [
            list(map(plain, journal.entries())),
            list(map(plain, journal.records())),
            list(map(plain, journal.records_forward())),
            revisions(stores, range(5)),
        ]

    before = found()
    assert compact(stores, ALWAYS).last == 3
    assert found() == before
    with stores.journal.archives.opened(1) as archive:
        assert [(frame.first, frame.last) for frame in archive.frames] == [(1, 1), (2, 2), (3, 3)]
        longest = max(map(len, archive.lines_backwards(HEAD_BYTES)))
        assert HEAD_BYTES < longest < 2 * HEAD_BYTES


@settings(max_examples=examples(300), deadline=None)
@given(
    sizes=st.lists(
        st.integers(1, 200) | st.integers(FRAME_BYTES // 3, FRAME_BYTES * 2), max_size=9
    ),
    numbered=st.lists(st.booleans(), min_size=9, max_size=9),
    around=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_packed_lines_are_found_by_number_from_both_ends(
    sizes: list[int], numbered: list[bool], around: tuple[int, int]
) -> None:
    lines = [b"%d" % n + b"-" * size + b"\n" for n, size in enumerate(sizes, 1)]
    numbers = [n if numbered[n - 1] else 0 for n in range(1, len(lines) + 1)]
    given_lines = [
        NumberedLine(n, len(line), [line[:7], line[7:]])
        for n, line in zip(numbers, lines, strict=True)
    ]
    packed = b"".join(pack_lines(given_lines, 0, len(lines) + 1))
    assert zstd.decompress(packed) == b"".join(lines)
    archive = LineArchive(io.BytesIO(packed), "archive")
    archive.check()
    plain_lines = [line[:-1] for line in lines]
    assert list(archive.lines()) == plain_lines
    assert list(archive.lines_backwards()) == plain_lines[::-1]
    after, before = around
    found = set(archive.lines(after, before))
    wanted = {line for n, line in zip(numbers, plain_lines, strict=True) if after < n < before}
    assert wanted <= found


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda packed: packed[:-1],
    "half": lambda packed: packed[: len(packed) // 2],
    "empty": lambda packed: b"",
    "its head": lambda packed: b"x" + packed[1:],
    "a byte of a frame": lambda packed: packed[:60] + bytes([packed[60] ^ 1]) + packed[61:],
    "a byte of its index": lambda packed: packed[:-70] + bytes([packed[-70] ^ 1]) + packed[-69:],
    "appended to": lambda packed: packed + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_archive_is_named_and_refuses_no_save(
    damage: Callable[[bytes], bytes], root: Path
) -> None:
    stores = clocked(root)
    a_day(stores)
    compact(stores, at(9))
    path = stores.journal.archives.path(1)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError, match=re.escape(f"x0y0z0/{path.name}: this archive")):
        list(stores.journal.records())
    with pytest.raises(DamagedError):
        list(file_corrections(stores.file))
    with pytest.raises(NoHistoryError, match="this archive is damaged"):
        content_at(stores.journal, 3, None)
    assert content_at(stores.journal, 10, content_of(stores))
    before = path.read_bytes()
    stores.patch("a", length=99)
    stores.put(array(annotation("z")), by("bob", viewer=True))
    stores.file.write_bytes(array(annotation("b")))
    stores.patch("b", length=98)
    assert path.read_bytes() == before
    with pytest.raises((DamagedError, ConflictError)):
        discard(stores, ALWAYS)
    assert path.read_bytes() == before


def test_archive_that_is_missing_is_named_by_its_records(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    for n in (3, 6, 9):
        compact(stores, at(n))
    away = root / "away"
    for number, missing in ((1, "1 to 2"), (2, "3 to 5"), (3, "6 to 8")):
        path = stores.journal.archives.path(number)
        path.rename(away)
        with pytest.raises(DamagedError, match=f"records {missing} of the history are missing"):
            list(stores.journal.records_forward())
        with pytest.raises(DamagedError, match=f"records {missing} of the history are missing"):
            list(stores.journal.entries())
        stores.patch("a", length=number)
        away.rename(path)
    assert [entry.n for entry in stores.journal.entries()] == list(range(15, 0, -1))


def test_archive_of_anything_else_is_never_followed_or_waited_for(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    compact(stores, at(9))
    path = stores.journal.archives.path(1)
    path.rename(root / "aside")
    for plant in (
        lambda: path.symlink_to(root / "aside"),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
    ):
        plant()
        with pytest.raises(DamagedError, match="expected a regular file"):
            list(stores.past.changes(stores.place, ChangeFilter()))
        stores.patch("a")
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_archives_have_the_permissions_of_the_annotation_file(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    stores.file.chmod(0o640)
    stores.patch("a")
    compact(stores, at(5))
    discard(stores, at(5))
    compact(stores, at(9))
    archives = stores.journal.archives
    paths = (archives.path(2), archives.checkpoint_path, stores.journal.path)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o640}
    stores.file.chmod(0o660)
    stores.patch("a", length=2)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o660}


def test_archive_of_a_file_that_was_deleted_has_the_permissions_of_its_journal(root: Path) -> None:
    stores = clocked(root)
    stores.put(array(annotation("a")))
    stores.file.chmod(0o640)
    a_day(stores, 3)
    stores.file.unlink()
    compact(stores, ALWAYS)
    assert stores.journal.archives.path(1).stat().st_mode & 0o777 == 0o640


# --- discarded ---


def test_corrections_since_a_time_that_was_discarded_in_part_are_refused(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    discard(stores, at(9))
    for since in (None, NEVER, at(1), at(9), ALWAYS):
        list(file_corrections(stores.file, since))
    for since in (at(2), at(8)):
        with pytest.raises(
            BadInputError, match=r"Records 1-8 were discarded on 2026-07-01.* by eve"
        ):
            list(file_corrections(stores.file, since))


def test_history_begins_where_records_were_discarded(root: Path) -> None:
    stores = clocked(root)
    a_day(stores)
    at_horizon = content_at(stores.journal, 8, None)
    discard(stores, at(9))
    assert stores.journal.base() == at_horizon
    assert content_at(stores.journal, 8, None) == at_horizon
    assert stores.past.revision(stores.place, 8) == at_horizon
    with pytest.raises(MissingError, match=r"There is no revision 0\. Records 1-8 were"):
        stores.past.revision(stores.place, 0)
    assert stores.past.discarded(stores.place) == (
        "Records 1-8 were discarded on 2026-07-01T00:00:00.000Z by eve."
    )
    stores.past.restore(stores.place, 8, by("ann"))
    assert stores.file.read_bytes() == at_horizon
    assert next(stores.journal.entries()).n == 13


# --- what a frame may unpack to ---


def forged(line: bytes, size: int, window_log: int) -> bytes:
    """An archive of one line whose frame does not keep to what its index says."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    frame = compressor.compress(line) + compressor.flush()
    row = line_archive.LineFrame(len(line_archive.ARCHIVE_HEAD), len(frame), size, 1, 1)
    digest = xxhash.xxh3_128_digest(line)
    return line_archive.ARCHIVE_HEAD + frame + line_archive._index([row], 0, 2, digest)


@pytest.mark.parametrize(
    ("stated", "window_log", "says"),
    [
        (2**20, 20, "have another size"),
        (2**26 + 1, 20, "have another size"),
        (2**26, 27, "cannot be unpacked"),
    ],
    ids=["more than stated", "less than stated", "window of 128 MiB"],
)
def test_frame_that_does_not_keep_to_its_index_is_damage_and_takes_no_memory(
    stated: int, window_log: int, says: str
) -> None:
    packed = forged(b"x" * (2**26 - 1) + b"\n", stated, window_log)
    archive = LineArchive(io.BytesIO(packed), "archive")
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match=says):
            list(archive.lines_backwards(HEAD_BYTES))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


# --- records that stand for several saves ---


def test_record_that_covers_another_one_stays_with_it_and_counts_alone(root: Path) -> None:
    stores = clocked(root)
    a_day(stores, 4)
    lines = stores.journal.path.read_bytes().splitlines()
    fourth = json.loads(lines[3])
    # As a burst leaves it: its first save is record 4, and 9 stands for 4 to 9.
    again = {**fourth, "n": 9, "at": at(9), "covers": 4}
    stores.journal.path.write_bytes(b"\n".join([*lines, json.dumps(again).encode()]) + b"\n")
    assert compact(stores, ALWAYS).last == 3
    stores.patch("a", length=100)
    assert compact(stores, ALWAYS).last == 9
    assert number_of(stores.journal.path.read_bytes()) == 10


def test_first_record_that_covers_numbers_which_are_nowhere_moves_by_itself(root: Path) -> None:
    stores = clocked(root)
    a_day(stores, 2)
    first, second = map(json.loads, stores.journal.path.read_bytes().splitlines())
    records = [{**first, "n": 5, "covers": 1}, {**second, "n": 9, "covers": 6}]
    text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    stores.journal.path.write_text(text)
    assert stores.journal.archives.begins(list(stores.journal.entries())[-1]) is None
    before = [plain(entry) for entry in stores.journal.entries()]
    assert compact(stores, ALWAYS).last == 5
    assert [plain(entry) for entry in stores.journal.entries()] == before
    assert next(stores.journal.records_forward()).n == 5
    assert stores.journal.archives.begins(next(stores.journal.entries())) is None
