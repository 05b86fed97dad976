"""What a client saw or sent of a file: annotations by id, in memory only while they are needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.documents.spelling import Parsed

PARSED_BYTES = 4 * 2**20  # kept of each content; parsed, they are several times as large


class Texts(Mapping[str, bytes]):
    """The bytes of the annotations of a content, by id; each is a copy that is made when needed.

    Args:
        document: The content; None for one without annotations.
        load: Returns the content again after `release`; None if that keeps it.
    """

    def __init__(self, document: Document | None, load: Callable[[], bytes] | None = None) -> None:
        self._content = None if document is None else document.content
        self._load = load
        self._index = None if document is None else document.index
        self._positions: Mapping[str, int] = {} if document is None else document.ids
        self._others: Mapping[str, bytes] = {}
        self._is_blended = False

    def __getitem__(self, id_: str) -> bytes:
        others = self._others
        if id_ in others:
            return others[id_]
        position = self._positions[id_]
        content = self._content
        if content is None:
            assert self._load is not None
            content = self._content = self._load()
        assert self._index is not None
        start, stop = self._index.span(position)
        return content[start:stop]

    def __contains__(self, id_: object) -> bool:
        return id_ in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def blended(self, others: Mapping[str, bytes]) -> Texts:
        """Return a copy with other bytes under some ids."""
        copy = Texts(None, self._load)
        copy._content, copy._index = self._content, self._index
        copy._positions = {**self._positions, **dict.fromkeys(others, -1)}
        copy._others, copy._is_blended = {**self._others, **others}, True
        return copy

    def position(self, id_: str) -> int:
        """Return the position of an annotation in the file."""
        return self._positions[id_]

    def pin(self, ids: Iterable[str]) -> None:
        """Keep the bytes of only these annotations at hand while the content is not."""
        if self._load is not None:
            self._others = {id_: self[id_] for id_ in ids if id_ in self._positions}

    @property
    def document(self) -> Document | None:
        """The content with its index; None while it is not in memory, or if it is blended."""
        if self._content is None or self._index is None or self._is_blended:
            return None
        return Document(self._content, self._index)

    def release(self) -> bool:
        """Free the content until it is needed again; return whether it can be loaded again."""
        if self._load is not None:
            self._content = None
        return self._load is not None


class Seen(dict[str, Parsed]):
    """What a client saw or sent: annotations by id, parsed when they are needed.

    Args:
        document: What it is; None for nothing.
        load: See `Texts`.
        etag: Its hash; empty if that is not known.
        parent: Hash of a content with the same ids in the same order; empty for none.
        since: The ids of all annotations that have other bytes there.
    """

    def __init__(
        self,
        document: Document | None,
        load: Callable[[], bytes] | None = None,
        *,
        etag: str = "",
        parent: str = "",
        since: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.texts, self.load = Texts(document, load), load
        self.etag, self.parent, self.since = etag, parent, since
        self._kept_bytes = 0

    def __missing__(self, id_: str) -> Parsed:
        text = self.texts[id_]
        parsed = Parsed.of(text)
        self._kept_bytes += len(text)
        if self._kept_bytes < PARSED_BYTES:
            self[id_] = parsed
        return parsed

    @property
    def document(self) -> Document | None:
        """What it is, if that is in memory."""
        return self.texts.document

    @property
    def ids(self) -> Collection[str]:
        """The ids, in the order of the file."""
        return self.texts.keys()

    def blended(self, others: Mapping[str, bytes]) -> Seen:
        """Return a copy with other annotations under some ids."""
        copy = Seen(None)
        copy.texts = self.texts.blended(others)
        return copy

    def release(self) -> None:
        """Free what can be loaded again, until it is needed again."""
        if self.texts.release():
            self.clear()
            self._kept_bytes = 0
