"""What a client wants of a write besides its body: who it is, and on what condition."""

from __future__ import annotations

from dataclasses import dataclass, field

from neurotrale.annotations.author import Author
from neurotrale.annotations.change import Before
from neurotrale.annotations.content import etag_of
from neurotrale.errors import ChangedError


@dataclass(frozen=True, slots=True)
class Condition:
    """What the client demands of the file before it is changed.

    Attributes:
        match: Etags of which one must be the file's, or the annotation's; ``*`` is any file.
        absent: The file must not exist.
    """

    match: tuple[str, ...] = ()
    absent: bool = False

    def check(self, before: Before, annotation: bytes | None = None) -> None:
        """Refuse a change of a file that is not the one the client takes it for.

        Raises:
            ChangedError: It is not.
        """
        content = before.content
        if self.absent and content is not None:
            raise ChangedError(
                "The file exists already, and If-None-Match: * asks not to overwrite it. Nothing"
                " was changed."
            )
        if not self.match:
            return
        if content is None:
            raise ChangedError("There is no file, and If-Match names one. Nothing was written.")
        current = {content.etag, "*"}
        if annotation is not None:
            current.add(etag_of(annotation))
        if current.isdisjoint(self.match):
            raise ChangedError(
                "The file has changed since the version that If-Match names; nothing was written."
                f' Get it again (its ETag is now "{content.etag}"), make the change, and save.'
            )


@dataclass(frozen=True, slots=True)
class Wish:
    """How a client wants to write.

    Attributes:
        author: Who it is.
        condition: What it demands of the file before.
        guarded: Whether a PUT that removes several annotations is merged.
    """

    author: Author = field(default_factory=Author)
    condition: Condition = field(default_factory=Condition)
    guarded: bool = False
