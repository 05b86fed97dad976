"""The records of a burst, and the one record that stands for all of them.

A viewer saves at every step of a drag. Such saves form a burst: one after the other, each changes
the same annotation as the one before it, and nothing else. Their records wait in a file of their
own (`neurotrale.annotations.journals.journal.Journal.burst_path`) until the burst has ended.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from neurotrale.annotations.documents.document import Hunk
from neurotrale.annotations.journals.journal_records import FORMAT, JournalEntry, NewRecord

FIRST_FORMAT = 3
"""Records of this format and later may begin a burst: versions that know no bursts refuse to write
after them."""


def continues(last: NewRecord, new: NewRecord) -> bool:
    """Return whether a record changes the same annotation as the one before it, and nothing else.

    Args:
        last: A record that took effect, or one that stands for a burst.
        new: The record that follows it.
    """
    return (
        new.entry.n == last.entry.n + 1
        and last.entry.format >= FIRST_FORMAT
        and _is_plain(last.entry)
        and _is_plain(new.entry)
        and _about(last.entry) == _about(new.entry)
        and last.entry.new == new.entry.old
        and len(last.hunks) == len(new.hunks) == 1
        and last.hunks[0].at == new.hunks[0].at
        and last.hunks[0].new == new.hunks[0].old
    )


def _is_plain(entry: JournalEntry) -> bool:
    return (
        entry.op == "put"
        and len(entry.changed) == 1
        and not (entry.added or entry.removed or entry.newly_held or entry.save.tells_more)
        and entry.save.session != ""
        and entry.old is not None
        and entry.new is not None
    )


def _about(entry: JournalEntry) -> tuple[object, ...]:
    return entry.changed, entry.by, entry.source, entry.save.session, entry.held_removals


def folded(
    start: NewRecord | None,
    burst: Sequence[NewRecord],
    aborted: Container[int] = (),
    seen: Container[str] = (),
) -> Iterator[NewRecord]:
    """Iterate over the records that stand for those of a burst file, in their order.

    Args:
        start: The last record of the journal, with which the burst began.
        burst: The records of the burst file that follow it.
        aborted: Numbers of those that never took effect; they stay as they are.
        seen: Hashes of contents that stay revisions, because somebody may still have one of them.
    """
    runs = [] if start is None else [[start]]
    for record in burst:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and continues(last, record)
            and record.entry.n not in aborted
            and (last.entry.new is None or last.entry.new.hash not in seen)
        ):
            runs[-1].append(record)
        else:
            runs.append([record])
    for run in runs:
        if len(run) > 1:
            yield _one_of(run)
        elif run[0] is not start:
            yield run[0] if run[0].entry.n in aborted else run[0].but(first=0)


def _one_of(run: Sequence[NewRecord]) -> NewRecord:
    first, last = run[0], run[-1]
    whole = last.but(
        covers=first.entry.first_covered,
        began=first.entry.began or first.entry.at,
        old=first.entry.old,
        stamp="",  # all of them took effect, so nobody needs to find out
        first=0,
        intent="",
        intents=[intent for record in run for intent in record.entry.all_intents],
        operations=[operation for record in run for operation in record.entry.operations],
        save=first.entry.save,
        format=FORMAT,
    )
    (before,), (after,) = first.hunks, last.hunks
    return NewRecord(whole.entry, [Hunk(before.at, before.old, after.new)])
