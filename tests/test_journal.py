"""The journal beside an annotation file: what is in it, and what survives which mishap."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.contents import Content, Contents, etag_of
from neurotrale.annotations.files.paths import AnnotationFile
from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.corrections import corrections
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import FORMAT
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.regular import BLOCK_BYTES
from tests.stores import ANN, NAME, ORDINARY, Stores, annotation, array, open_stores

A, B, C = (annotation(id_) for id_ in "abc")
VIEWER = WriteContext(Author("bob", "10.0.0.7"), viewer=Viewer("bob", "v"), guarded=True)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return open_stores(tmp_path / "data")


def lines(stores: Stores) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stores.journal.path.read_bytes().splitlines()]


def listed(stores: Stores) -> list[tuple[int, str, bool]]:
    changes = stores.past.page(stores.place, ChangeFilter(), 100).changes
    return [(entry.n, entry.op, applied) for entry, applied in changes]


def reopened(stores: Stores) -> Stores:
    return open_stores(stores.root)


def state(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "hash": etag_of(content)}


def names(stores: Stores) -> list[str]:
    return sorted(os.listdir(stores.file.parent))


# --- what a record says ---


def test_record_of_a_new_file_has_no_content_before(stores: Stores) -> None:
    body = array(A, B)
    stores.put(body)
    (record,) = lines(stores)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("at"))
    assert record == {
        "n": 1,
        "op": "put",
        "by": "ann",
        "source": "127.0.0.1",
        "new": state(body),
        "added": ["a", "b"],
        "format": FORMAT,
        "hunks": [[0, "", body.decode()]],
    }


def recorded_put(stores: Stores) -> tuple[bytes, dict[str, Any]]:
    stores.put(array(C, annotation("a", reviewed=True)))
    return stores.file.read_bytes(), {"op": "put", "added": ["c"], "changed": ["a"],
                                      "removed": ["b"]}  # fmt: skip


def recorded_guarded_put(stores: Stores) -> tuple[bytes, dict[str, Any]]:
    stores.put(array(C), VIEWER)
    return stores.file.read_bytes(), {"op": "put", "added": ["c"], "held": ["a", "b"], "kept": 2,
                                      "by": "bob", "source": "10.0.0.7"}  # fmt: skip


def recorded_patch(stores: Stores) -> tuple[bytes, dict[str, Any]]:
    stores.patch("a", reviewed=True)
    return array(annotation("a", reviewed=True), B), {"op": "patch", "changed": ["a"]}


def recorded_adding_patch(stores: Stores) -> tuple[bytes, dict[str, Any]]:
    stores.patch("c")
    return array(A, B, C), {"op": "patch", "added": ["c"]}


def recorded_delete(stores: Stores) -> tuple[bytes, dict[str, Any]]:
    stores.delete("a")
    return array(B), {"op": "delete", "removed": ["a"]}


@pytest.mark.parametrize(
    "write",
    [recorded_put, recorded_guarded_put, recorded_patch, recorded_adding_patch, recorded_delete],
    ids=["put", "guarded put", "patch", "patch that adds", "delete"],
)
def test_record_of_a_change_names_the_ids_and_both_contents(
    stores: Stores, write: Callable[[Stores], tuple[bytes, dict[str, Any]]]
) -> None:
    before = array(A, B)
    stores.file.write_bytes(before)
    after, expected = write(stores)
    assert stores.file.read_bytes() == after
    (record,) = lines(stores)
    for key in ("at", "hunks", "stamp"):
        del record[key]
    about = {"n": 1, "by": "ann", "source": "127.0.0.1", "old": state(before), "new": state(after)}
    assert record == about | {"format": FORMAT} | expected


def test_record_of_a_restoring_names_the_revision_it_restores(stores: Stores) -> None:
    stores.put(array(A))
    stores.put(array(B))
    stores.past.restore(stores.place, 1, ANN)
    record = lines(stores)[-1]
    assert (record["op"], record["of"]) == ("restore", 1)
    assert (record["added"], record["removed"]) == (["a"], ["b"])


def test_record_of_a_confirmed_removal_is_a_confirm(stores: Stores) -> None:
    stores.put(array(A, B))
    stores.put(b"[]", VIEWER)
    stores.past.confirm(stores.place, ["a"], ANN)
    record = lines(stores)[-1]
    assert (record["op"], record["removed"], record["held"]) == ("confirm", ["a"], ["b"])


def test_record_of_a_moved_or_respelled_annotation_counts_it_as_unchanged(stores: Stores) -> None:
    stores.put(array(A, B))
    stores.put(json.dumps([json.loads(B), json.loads(A)], indent=2).encode())
    assert lines(stores)[-1].keys().isdisjoint({"added", "changed", "removed"})
    assert stores.past.revision(stores.place, 1) == array(A, B)


def test_record_with_keys_of_a_later_version_is_read(stores: Stores) -> None:
    stores.put(array(A))
    line = lines(stores)[0] | {"signature": {"key": "new"}, "at": "2031-01-01T00:00:00.000Z"}
    stores.journal.path.write_text(json.dumps(line) + "\n")
    assert listed(stores) == [(1, "put", True)]


def test_journal_lists_as_many_lines_as_changes_whatever_annotations_contain(
    stores: Stores,
) -> None:
    odd = annotation("new\nline", description="\u2028 \x0b \x00 \r\n ü 🧠")
    stores.put(array(odd))
    stores.patch("new\nline", description="\n\n")
    assert stores.journal.path.read_bytes().count(b"\n") == 2
    assert stores.past.revision(stores.place, 1) == array(odd)


def test_journal_has_the_mode_of_its_file(stores: Stores) -> None:
    stores.file.write_bytes(array(A))
    stores.file.chmod(0o664)
    stores.patch("b")
    assert stat.S_IMODE(stores.journal.path.stat().st_mode) == 0o664


# --- reading it from its end ---


@pytest.mark.parametrize("last_newline", [True, False], ids=["whole", "without a last newline"])
@pytest.mark.parametrize(
    "lengths",
    [
        [200, BLOCK_BYTES - 1],
        [200, BLOCK_BYTES],
        [200, BLOCK_BYTES + 1],
        [BLOCK_BYTES - 1, BLOCK_BYTES - 1],
        [BLOCK_BYTES, BLOCK_BYTES, BLOCK_BYTES],
        [200, 3 * BLOCK_BYTES + 7, 200],
        [5 * BLOCK_BYTES],
        [200] * 1000,
    ],
    ids=["one less", "exact", "one more", "two less", "all exact", "long", "one long", "many"],
)
def test_journal_backwards_over_block_borders_is_the_journal_forwards_reversed(
    tmp_path: Path, lengths: list[int], last_newline: bool
) -> None:
    journal = write_journal(tmp_path, lengths, last_newline)
    check_both_ways(journal, list(range(1, len(lengths) + 1)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(
        st.integers(150, 300) | st.integers(BLOCK_BYTES - 300, BLOCK_BYTES + 300), max_size=6
    ),
    last_newline=st.booleans(),
)
def test_journal_backwards_with_any_lengths_is_the_journal_forwards_reversed(
    tmp_path: Path, lengths: list[int], last_newline: bool
) -> None:
    journal = write_journal(tmp_path, lengths, last_newline)
    check_both_ways(journal, list(range(1, len(lengths) + 1)))


def write_journal(directory: Path, lengths: list[int], last_newline: bool) -> Journal:
    """Write records whose lines, newline included, have the given lengths in bytes."""
    journal = Journal(directory / "fibers.json")
    whole = []
    for n, length in enumerate(lengths, 1):
        record = {"n": n, "at": "2026-01-01T00:00:00.000Z", "op": "put", "by": ""}
        rest = length - len(json.dumps(record)) - 1
        whole.append(json.dumps(record | {"by": "x" * rest}) + "\n")
    text = "".join(whole)
    journal.path.write_text(text if last_newline else text[:-1])
    return journal


def check_both_ways(journal: Journal, expected: list[int]) -> None:
    assert [record.n for record in journal.records_forward()] == expected
    assert [record.n for record in journal.records()] == expected[::-1]
    assert [entry.n for entry in journal.entries()] == expected[::-1]


def test_journal_standing_reads_only_the_end_of_a_long_journal(tmp_path: Path) -> None:
    journal = write_journal(tmp_path, [1000] * 20_000, True)
    before = bytes_read()
    last, applied = journal.tail()
    assert bytes_read() - before < 4 * BLOCK_BYTES
    assert last is applied
    assert last is not None
    assert last.n == 20_000


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_journal_that_is_absent_or_empty_has_no_entries(stores: Stores) -> None:
    assert listed(stores) == []
    stores.journal.path.touch()
    assert listed(stores) == []
    assert stores.journal.tail() == (None, None)


# --- what a crash leaves ---


class Torn:
    """A file with two recorded changes, of which the last can be undone as by a crash."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.before = array(A, B)
        self.after = array(A, annotation("b", reviewed=True))
        stores.put(array(A))
        stores.put(self.before)
        self.old = stores.file.with_name("old")
        os.link(stores.file, self.old)
        self.start = stores.journal.path.stat().st_size
        stores.put(self.after)
        self.new = stores.file.with_name("new")
        os.link(stores.file, self.new)
        self.journal = stores.journal.path.read_bytes()

    def cuts(self, every: int) -> list[int]:
        """Return lengths of the journal: at every nth byte of its last record, and at its end."""
        end = len(self.journal)
        return sorted({*range(self.start, end, every), end - 2, end - 1, end})

    def again(self, journal: bytes, *, replaced: bool) -> Stores:
        """Go back to the crash: the journal as far as it got, the file replaced or not yet."""
        stores = reopened(self.stores)
        stores.file.unlink()
        os.link(self.new if replaced else self.old, stores.file)
        stores.journal.path.write_bytes(journal)
        if not replaced:
            temporary_path(stores.file).write_bytes(self.after)
        return stores


@pytest.mark.thorough
@pytest.mark.long
def test_journal_cut_anywhere_in_its_last_record_loses_nothing_when_the_file_is_the_old_one(
    pytestconfig: pytest.Config, stores: Stores
) -> None:
    torn = Torn(stores)
    for cut in torn.cuts(pytestconfig.option.crash_every):
        stores = torn.again(torn.journal[:cut], replaced=False)
        whole = cut >= len(torn.journal) - 1
        never_made = [(3, "put", False)] if whole else []
        assert listed(stores) == [*never_made, (2, "put", True), (1, "put", True)], cut
        assert stores.past.revision(stores.place, 2) == torn.before, cut

        stores.patch("c")
        n = 5 if whole else 3
        after = [(n, "patch", True), *never_made, (2, "put", True), (1, "put", True)]
        assert listed(stores) == after, cut
        assert stores.file.read_bytes() == array(A, B, C), cut
        check_revisions(stores, {1: array(A), 2: torn.before, n: array(A, B, C)})
        assert stores.journal.path.read_bytes()[:cut] == torn.journal[:cut], cut
        assert not temporary_path(stores.file).exists()


@pytest.mark.thorough
def test_journal_cut_anywhere_in_its_last_record_loses_nothing_when_the_file_is_the_new_one(
    pytestconfig: pytest.Config, stores: Stores
) -> None:
    torn = Torn(stores)
    for cut in torn.cuts(pytestconfig.option.crash_every):
        stores = torn.again(torn.journal[:cut], replaced=True)
        whole = cut >= len(torn.journal) - 1
        third = (3, "put" if whole else "outside", True)
        stores.patch("c")
        first = [(2, "put", True), (1, "put", True)]
        assert listed(stores) == [(4, "patch", True), third, *first], cut
        after = array(A, annotation("b", reviewed=True), C)
        assert stores.file.read_bytes() == after, cut
        check_revisions(stores, {1: array(A), 2: torn.before, 3: torn.after, 4: after})


@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["open", "closed"])
@pytest.mark.parametrize("kept", [0, 1, 70], ids=["all zeros", "a byte", "the beginning"])
@pytest.mark.parametrize("zeros", [1, 4096, 3 * BLOCK_BYTES + 5])
def test_journal_with_a_zero_filled_tail_is_read_up_to_it_and_goes_on_behind_it(
    stores: Stores, zeros: int, kept: int, newline: bytes
) -> None:
    torn = Torn(stores)
    tail = torn.journal[torn.start :][:kept] + b"\0" * zeros + newline
    stores = torn.again(torn.journal[: torn.start] + tail, replaced=False)
    assert listed(stores) == [(2, "put", True), (1, "put", True)]
    stores.patch("c")
    assert listed(stores) == [(3, "patch", True), (2, "put", True), (1, "put", True)]
    check_revisions(stores, {1: array(A), 2: torn.before, 3: array(A, B, C)})


def check_revisions(stores: Stores, expected: dict[int, bytes]) -> None:
    """Every revision is the same from the first content and from the present one."""
    now: Content | None = None
    if stores.file.exists():
        now = Contents().read(stores.file)
    for revision, content in expected.items():
        assert content_at(stores.journal, revision, now) == content
        assert content_at(stores.journal, revision, None) == content


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "without a change"])
def test_leftover_of_a_dead_writer_goes_even_with_a_write_that_writes_nothing(
    stores: Stores, refused: bool
) -> None:
    stores.put(array(A))
    temporary_path(stores.file).write_bytes(b"[")
    if refused:
        with pytest.raises(MissingError):
            stores.delete("b")
    else:
        stores.put(array(A))
    assert names(stores) == [".fibers.json.journal", ".fibers.json.lock", "fibers.json"]


# --- changes that were recorded and never made ---


def test_change_that_was_never_made_is_marked_by_the_next_writer(stores: Stores) -> None:
    torn = Torn(stores)
    stores = torn.again(torn.journal, replaced=False)
    stores.patch("c")
    void, patch = lines(stores)[-2:]
    assert (void["n"], void["op"], void["of"]) == (4, "void", 3)
    assert void["old"] == void["new"] == state(torn.before)
    assert (patch["n"], patch["op"], patch["old"]) == (5, "patch", state(torn.before))


def test_change_that_was_never_made_can_be_looked_at_and_brought_back(stores: Stores) -> None:
    torn = Torn(stores)
    stores = torn.again(torn.journal, replaced=False)
    assert stores.past.revision(stores.place, 3) == torn.after
    stores.patch("c")
    assert stores.past.revision(stores.place, 3) == torn.after
    stores.past.restore(stores.place, 3, ANN)
    assert stores.file.read_bytes() == torn.after


def test_change_that_was_never_made_is_no_correction(stores: Stores) -> None:
    torn = Torn(stores)
    stores = torn.again(torn.journal, replaced=False)
    dataset = stores.root / "brain" / "annotations"
    assert {found.id: found.kind for found in corrections(dataset)} == {"a": "added", "b": "added"}
    stores.put(array(A))
    assert {found.id: found.kind for found in corrections(dataset)} == {"a": "added"}


def test_new_file_that_was_never_made_is_marked_by_the_next_writer(stores: Stores) -> None:
    stores.put(array(A))
    stores.file.rename(temporary_path(stores.file))  # as if the writer died before
    assert listed(stores) == [(1, "put", False)]
    stores = reopened(stores)
    stores.put(array(B))
    assert listed(stores) == [(3, "put", True), (1, "put", False)]
    assert stores.past.revision(stores.place, 1) == array(A)
    assert names(stores) == [".fibers.json.journal", ".fibers.json.lock", "fibers.json"]


def test_new_file_that_was_never_made_is_marked_by_a_writer_of_the_file_beside_it(
    stores: Stores,
) -> None:
    stores.put(array(A))
    stores.file.rename(temporary_path(stores.file))
    stores = reopened(stores)
    stores.store.put(replace(NAME, leaf="centroids.json"), array(C), ANN)
    assert not temporary_path(stores.file).exists()
    assert listed(stores) == [(1, "put", False)]


def test_first_change_that_was_never_made_leaves_a_base_that_is_made_anew(stores: Stores) -> None:
    before = array(A)
    stores.file.write_bytes(before)
    old = stores.file.with_name("old")
    os.link(stores.file, old)
    stores.patch("b")
    os.replace(old, stores.file)
    stores = reopened(stores)
    assert listed(stores) == [(1, "patch", False)]
    stores.file.write_bytes(array(C))  # another program, before the next writer
    stores.patch("a")
    assert stores.past.revision(stores.place, lines(stores)[-1]["n"]) == array(C, A)


# --- the first content ---


def test_base_is_a_hard_link_to_the_file_that_was_there(stores: Stores) -> None:
    stores.file.write_bytes(array(A))
    inode = stores.file.stat().st_ino
    stores.patch("b")
    stores.patch("c")
    base = stores.journal.base_path
    assert (base.stat().st_ino, base.stat().st_nlink) == (inode, 1)
    assert base.read_bytes() == array(A)
    assert stores.past.revision(stores.place, 0) == array(A)


def test_base_of_a_file_that_is_new_is_absent(stores: Stores) -> None:
    stores.put(array(A))
    stores.patch("b")
    assert not stores.journal.base_path.exists()
    with pytest.raises(MissingError):
        stores.past.revision(stores.place, 0)


def test_base_of_a_file_that_may_not_be_linked_is_a_copy(stores: Stores) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of somebody else's")
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1":
        pytest.skip("this system lets everybody link every file")
    stores.file.write_bytes(array(A))
    os.chown(stores.file, 12345, -1)
    script = (
        "import sys; from pathlib import Path; from tests.stores import open_stores\n"
        "open_stores(Path(sys.argv[1])).patch('b')"
    )
    command = [*ORDINARY, sys.executable, "-c", script, str(stores.root)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    base = stores.journal.base_path
    assert base.stat().st_uid == 0
    assert base.read_bytes() == array(A)
    assert stores.past.revision(stores.place, 0) == array(A)


def test_file_behind_a_link_is_what_is_written_and_recorded(stores: Stores) -> None:
    elsewhere = stores.file.with_name("elsewhere.json")
    elsewhere.write_bytes(array(A))
    stores.file.symlink_to(elsewhere)
    stores.patch("b")
    assert stores.file.is_symlink()
    behind = AnnotationFile(elsewhere, "elsewhere.json")
    assert not Journal(elsewhere).base_path.is_symlink()
    elsewhere.write_bytes(array(C))
    assert stores.past.revision(behind, 0) == array(A)
    assert not stores.journal.path.exists()


def test_revisions_of_a_file_that_lost_its_base_are_found_from_its_present_content(
    stores: Stores,
) -> None:
    stores.file.write_bytes(array(A))
    stores.patch("b")
    stores.patch("c")
    stores.journal.base_path.unlink()
    assert stores.past.revision(stores.place, 0) == array(A)
    assert stores.past.revision(stores.place, 1) == array(A, B)
    stores.file.write_bytes(b"[]")
    with pytest.raises(MissingError, match="first content is missing"):
        stores.past.revision(stores.place, 1)


# --- changes by other programs ---


def test_outside_change_is_recorded_at_the_next_write_with_its_ids(stores: Stores) -> None:
    stores.put(array(A, B))
    stores.file.write_bytes(array(annotation("b", length=7), C))
    assert listed(stores) == [(1, "put", True)]
    stores.patch("d")
    outside = lines(stores)[1]
    assert "by" not in outside
    assert {key: outside[key] for key in ("op", "added", "changed", "removed")} == {
        "op": "outside",
        "added": ["c"],
        "changed": ["b"],
        "removed": ["a"],
    }
    check_revisions(
        stores,
        {
            1: array(A, B),
            2: array(annotation("b", length=7), C),
            3: array(annotation("b", length=7), C, annotation("d")),
        },
    )


def test_outside_change_before_the_first_recorded_one_is_what_was_there_first(
    stores: Stores,
) -> None:
    stores.file.write_bytes(array(A))
    stores.file.write_bytes(array(B))
    stores.patch("c")
    assert listed(stores) == [(1, "patch", True)]
    assert stores.past.revision(stores.place, 0) == array(B)


def test_outside_change_that_brings_back_the_old_content_does_not_undo_the_history(
    stores: Stores,
) -> None:
    stores.file.write_bytes(array(A))
    stores.patch("a", reviewed=True)
    stores.file.write_bytes(array(A))  # the detector ran again, or a backup came back
    assert listed(stores) == [(1, "patch", True)]
    stores.patch("b")
    assert listed(stores) == [(3, "patch", True), (2, "outside", True), (1, "patch", True)]
    assert stores.past.revision(stores.place, 1) == array(annotation("a", reviewed=True))
    found = corrections(stores.root / "brain" / "annotations")
    assert {one.id: one.kind for one in found} == {"a": "reviewed", "b": "added"}


def test_outside_rewrite_of_the_same_content_is_no_change(stores: Stores) -> None:
    stores.put(array(A))
    copy = stores.file.with_name("copy")
    shutil.copyfile(stores.file, copy)
    copy.replace(stores.file)
    stores.patch("b")
    assert listed(stores) == [(2, "patch", True), (1, "put", True)]


def test_outside_changes_between_two_writes_are_one_record(stores: Stores) -> None:
    stores.put(array(A))
    for content in (array(B), b"", array(C)):
        stores.file.write_bytes(content)
    stores.patch("d")
    assert [op for _, op, _ in listed(stores)] == ["patch", "outside", "put"]


def test_outside_change_is_recorded_even_when_the_write_is_refused(stores: Stores) -> None:
    stores.put(array(A))
    stores.file.write_bytes(array(B))
    with pytest.raises(MissingError):
        stores.delete("a")
    assert listed(stores) == [(2, "outside", True), (1, "put", True)]


def test_outside_removal_of_a_held_annotation_ends_its_being_held(stores: Stores) -> None:
    stores.put(array(A, B, C))
    stores.put(array(C), VIEWER)
    stores.file.write_bytes(array(C, B))
    stores.patch("d")
    assert stores.past.held_removals(stores.place) == [B]


def test_file_deleted_on_disk_is_recorded_and_can_be_brought_back(stores: Stores) -> None:
    stores.put(array(A, B))
    stores.file.unlink()
    assert stores.past.revision(stores.place, 1) == array(A, B)
    with pytest.raises(MissingError):
        stores.patch("c")
    stores.past.restore(stores.place, 1, ANN)
    assert stores.file.read_bytes() == array(A, B)
    assert listed(stores) == [(3, "restore", True), (2, "outside", True), (1, "put", True)]
    assert lines(stores)[1]["removed"] == ["a", "b"]
    with pytest.raises(MissingError):
        stores.past.revision(stores.place, 2)


def test_file_deleted_on_disk_and_put_again_keeps_its_history(stores: Stores) -> None:
    stores.put(array(A))
    stores.file.unlink()
    stores.put(array(B))
    check_revisions(stores, {1: array(A), 3: array(B)})
    stores.past.restore_removed(stores.place, None, ANN)
    assert stores.file.read_bytes() == array(B, A)


BROKEN = {
    "empty": b"",
    "cut off": array(A, B)[:-20],
    "an object": b'{"annotations": []}',
    "not UTF-8": b'[{"id": "a", "type": "\xff"}, \xfe]',
    "zeros": b"\0" * 3000,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_file_broken_on_disk_is_mended_by_a_put_and_nothing_is_lost(
    stores: Stores, broken: bytes
) -> None:
    stores.put(array(A, B))
    stores.file.write_bytes(broken)
    with pytest.raises(DamagedError):
        stores.patch("c")
    stores.put(array(C))
    assert listed(stores) == [(3, "put", True), (2, "outside", True), (1, "put", True)]
    assert lines(stores)[1]["removed"] == ["a", "b"]
    check_revisions(stores, {1: array(A, B), 2: broken, 3: array(C)})
    stores.past.restore_removed(stores.place, None, ANN)
    assert stores.file.read_bytes() == array(C, A, B)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_file_broken_before_its_first_recorded_change_is_kept_as_it_was(
    stores: Stores, broken: bytes
) -> None:
    stores.file.write_bytes(broken)
    stores.put(array(C))
    assert stores.file.read_bytes() == array(C)
    check_revisions(stores, {0: broken, 1: array(C)})


# Valid as far as the index looks, which does not look into annotations.
UNREADABLE = {
    "a string that is no UTF-8": b'{"id": "a", "type": "\xff"}',
    "a number beyond all doubles": b'{"id": "a", "length": 1e999}',
    "a key that is no UTF-8": b'{"id": "a", "\xfe": 1}',
}


@pytest.mark.parametrize("odd", UNREADABLE.values(), ids=UNREADABLE)
def test_annotation_that_nobody_can_decode_is_replaced_recorded_and_brought_back(
    stores: Stores, odd: bytes
) -> None:
    before = array(odd, B)
    stores.file.write_bytes(before)
    stores.put(array(A, B))
    stores.patch("a", reviewed=True)
    stores.delete("a")
    assert [line.get("changed") for line in lines(stores)] == [["a"], ["a"], None]
    check_revisions(stores, {0: before, 1: array(A, B)})
    found = list(corrections(stores.root / "brain" / "annotations"))
    assert [(one.id, one.kind) for one in found] == [("a", "removed")]
    stores.past.restore(stores.place, 0, ANN)
    assert stores.file.read_bytes() == before


@pytest.mark.parametrize("odd", UNREADABLE.values(), ids=UNREADABLE)
def test_correction_of_an_annotation_that_nobody_can_decode_is_a_line_of_json(
    stores: Stores, odd: bytes
) -> None:
    stores.file.write_bytes(array(odd))
    stores.put(array(A))
    (found,) = corrections(stores.root / "brain" / "annotations")
    assert found.kind == "changed"
    line = found.line()
    assert line.count(b"\n") == 1
    assert json.loads(line)["last"] == json.loads(A)


# --- revisions ---


def test_revisions_forwards_and_backwards_are_the_same_for_every_kind_of_change(
    stores: Stores,
) -> None:
    expected = {0: array(A, B)}
    stores.file.write_bytes(expected[0])
    steps: list[Callable[[], object]] = [
        lambda: stores.patch("c"),
        lambda: stores.delete("a"),
        lambda: stores.put(array(*(annotation(f"n{i}") for i in range(9)))),
        lambda: stores.put(array(*(annotation(f"n{i}") for i in reversed(range(9))))),
        lambda: stores.put(array(*(annotation(f"n{i}") for i in range(10) if i != 3)), VIEWER),
        lambda: stores.past.confirm(stores.place, ["n3"], ANN),
        lambda: stores.past.restore_annotation(stores.place, "a", None, ANN),
        lambda: stores.past.restore_removed(stores.place, None, ANN),
        lambda: stores.past.restore(stores.place, 0, ANN),
        lambda: stores.put(b"[]"),
        lambda: stores.put(json.dumps([json.loads(A)] * 1, indent=3).encode()),
    ]
    for n, step in enumerate(steps, 1):
        step()
        expected[n] = stores.file.read_bytes()
    check_revisions(stores, expected)
    assert len(set(expected.values())) == len(expected) - 1


def test_revision_that_was_never_recorded_is_missing(stores: Stores) -> None:
    with pytest.raises(MissingError):
        stores.past.revision(stores.place, 0)
    stores.put(array(A))
    for revision in (2, 10**9):
        with pytest.raises(MissingError, match="no revision"):
            stores.past.revision(stores.place, revision)


def test_revision_behind_a_damaged_record_is_found_and_one_before_it_too(stores: Stores) -> None:
    stores.put(array(A))
    stores.patch("b")
    stores.patch("c")
    stores.patch("d")
    damaged = stores.journal.path.read_bytes().split(b"\n")
    damaged[1] = b"\0" * len(damaged[1])
    stores.journal.path.write_bytes(b"\n".join(damaged))
    assert stores.past.revision(stores.place, 1) == array(A)
    assert stores.past.revision(stores.place, 3) == array(A, B, C)
    with pytest.raises(MissingError):
        stores.past.revision(stores.place, 2)
    stores.patch("e")
    assert lines_of_whole_records(stores)[-1]["n"] == 5


def lines_of_whole_records(stores: Stores) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in stores.journal.path.read_bytes().splitlines()
        if line.startswith(b"{")
    ]


def test_removed_annotations_come_back_also_when_the_clock_was_put_back(stores: Stores) -> None:
    stores.put(array(A, B, C))
    stores.delete("a")
    stores.delete("b")
    earlier = lines(stores)
    earlier[1]["at"], earlier[2]["at"] = "2026-06-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z"
    stores.journal.path.write_text("".join(json.dumps(line) + "\n" for line in earlier))
    stores.past.restore_removed(stores.place, "2026-05-15T00:00:00.000Z", ANN)
    # Both removals follow the first change, which is later than that time.
    assert stores.file.read_bytes() == array(C, B, A)


# --- what it costs ---


@pytest.fixture(scope="module")
def big() -> list[bytes]:
    points = [[i * 1.25, i * 2.5, i * 0.125] for i in range(60)]
    return [annotation(f"{i:040x}", points=points) for i in range(4000)]


def edit_patch(stores: Stores, big: list[bytes]) -> None:
    stores.patch(f"{1750:040x}", reviewed=True)


def edit_delete(stores: Stores, big: list[bytes]) -> None:
    stores.delete(f"{1750:040x}")


def edit_put(stores: Stores, big: list[bytes]) -> None:
    stores.put(array(*big[:1750], annotation(f"{1750:040x}", reviewed=True), *big[1751:]))


def edit_restore(stores: Stores, big: list[bytes]) -> None:
    stores.past.restore_annotation(stores.place, f"{1:040x}", None, ANN)


@pytest.mark.parametrize(
    "edit",
    [edit_patch, edit_delete, edit_put, edit_restore],
    ids=["patch", "delete", "put", "restore"],
)
def test_journal_of_a_change_to_a_big_file_grows_by_the_change_only(
    stores: Stores, big: list[bytes], edit: Callable[[Stores, list[bytes]], None]
) -> None:
    stores.file.write_bytes(array(*big))
    assert stores.file.stat().st_size > 5_000_000
    stores.patch(f"{1:040x}", reviewed=True)  # so that there is something to restore
    before = stores.journal.path.stat().st_size
    assert before < 4000
    edit(stores, big)
    assert stores.journal.path.stat().st_size - before < 4000


def test_journal_of_a_regrouped_big_file_grows_by_what_moved_only(
    stores: Stores, big: list[bytes]
) -> None:
    stores.file.write_bytes(array(*big))
    moved = [*big[10:], *big[:10]]
    stores.put(array(*moved))
    assert stores.journal.path.stat().st_size < 2 * 10 * len(big[0]) + 6000
    assert stores.past.revision(stores.place, 0) == array(*big)


# --- writes that change nothing ---


def same_put(stores: Stores) -> None:
    stores.put(array(A, B))


def same_guarded_put(stores: Stores) -> None:
    stores.put(array(A, B), VIEWER)


def same_patch(stores: Stores) -> None:
    stores.patch("b")


def same_revision(stores: Stores) -> None:
    stores.past.restore(stores.place, 2, ANN)


def same_annotation(stores: Stores) -> None:
    stores.past.restore_annotation(stores.place, "b", 2, ANN)


def nothing_removed(stores: Stores) -> None:
    stores.past.restore_removed(stores.place, None, ANN)


def nothing_held(stores: Stores) -> None:
    stores.past.confirm(stores.place, [], ANN)


@pytest.mark.parametrize(
    "write",
    [
        same_put,
        same_guarded_put,
        same_patch,
        same_revision,
        same_annotation,
        nothing_removed,
        nothing_held,
    ],
    ids=lambda write: write.__name__.replace("_", " "),
)
def test_write_that_changes_nothing_records_nothing_and_leaves_the_file_alone(
    stores: Stores, write: Callable[[Stores], None]
) -> None:
    stores.put(array(A))
    stores.patch("b")
    assert stores.file.read_bytes() == array(A, B)
    before = stores.journal.path.read_bytes(), stores.file.stat()
    write(stores)
    after = stores.journal.path.read_bytes(), stores.file.stat()
    assert after[0] == before[0]
    assert (after[1].st_ino, after[1].st_mtime_ns) == (before[1].st_ino, before[1].st_mtime_ns)
