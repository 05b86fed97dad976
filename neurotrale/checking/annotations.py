"""Annotation files: whether they can be read, follow the rules, and have ids of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from neurotrale.annotations.check import check_each
from neurotrale.annotations.document import Document, NotAnArrayError
from neurotrale.checking.ids import Ids
from neurotrale.checking.look import Item, Look
from neurotrale.checking.request import Tally
from neurotrale.many import each

_NEVER_ASKED = re.compile(r"z-(?!\d{4}\.)\d+\.json", re.ASCII)
_SHOWN = 3
_decode = msgspec.json.Decoder().decode


class AnnotationCheck:
    """Checks annotation files; only one of them is in memory for each thread.

    Args:
        look: The data set.
        files: Its annotation files.
        tally: Counts what was looked at.
        jobs: Threads to use.
        most_places: How many ids that stand in several files are named.
    """

    def __init__(
        self, look: Look, files: Sequence[Item], tally: Tally, jobs: int, most_places: int
    ) -> None:
        self._look = look
        self._findings = look.findings
        self._files = files
        self._tally = tally
        self._jobs = jobs
        self._most = most_places
        self._ids = Ids()

    def check(self) -> None:
        """Read every file; what is wrong becomes a finding."""
        each(enumerate(self._files), self._check, self._jobs)
        self._tell_ids_elsewhere()

    def _check(self, numbered: tuple[int, Item]) -> None:
        number, item = numbered
        if _NEVER_ASKED.fullmatch(item.name):
            self._findings.add("slice-name", item.place)
        document = self._document(item)
        if document is not None:
            self._ids.add(number, document.index.ids)
            for id_, places in sorted(document.index.repeated.items()):
                where = ", ".join(f"[{place}]" for place in places[:_SHOWN])
                more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
                self._findings.add("id-repeated", item.place, f"{id_!r} at {where}{more}")
            self._check_rules(item, document)
        self._tally.read(0 if document is None else len(document.index))

    def _document(self, item: Item) -> Document | None:
        try:
            with open(item.path, "rb") as file:
                content = file.read()
            if not content.strip():
                what = f"{len(content)} bytes" if content else "0 bytes"
                self._findings.add("annotations-empty", item.place, what)
                return None
            return Document.parse(content)
        except FileNotFoundError:  # it was removed while we were looking
            return None
        except OSError as error:
            self._look.unreadable(item.place, error)
        except NotAnArrayError as error:
            self._findings.add("annotations-broken", item.place, str(error))
        return None

    def _check_rules(self, item: Item, document: Document) -> None:
        try:
            report = check_each(map(_decode, document.items()))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._findings.add("annotations-broken", item.place, str(error))
            return
        for kind, sentences in (
            ("annotation-malformed", report.problems),
            ("annotation-odd", report.warnings),
        ):
            if sentences:
                self._findings.add(kind, item.place, "; ".join(_first(sentences)))

    def _tell_ids_elsewhere(self) -> None:
        count, suspects = self._ids.elsewhere(self._most)
        for number, others in suspects:
            place = self._files[number].place
            document = self._document(self._files[number])
            for id_ in document.index.ids if document is not None else ():
                for other in others.get(self._ids.hashed(id_), ())[:1]:
                    detail = f"{id_!r} is also in {self._files[other].place}"
                    self._findings.add("id-elsewhere", place, detail)
                    count -= 1
        self._findings.add_many("id-elsewhere", max(count, 0), [])


def _first(sentences: Sequence[str]) -> Iterator[str]:
    """Give the first sentences, and how many there are besides; the last may be a count."""
    yield from sentences[:_SHOWN]
    if len(sentences) > _SHOWN:
        counted = re.fullmatch(r"and (\d+) more", sentences[-1])
        more = len(sentences) - _SHOWN + (int(counted[1]) - 1 if counted else 0)
        yield f"and {more} more"
