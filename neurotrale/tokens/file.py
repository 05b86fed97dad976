"""The token file, which may change while the service runs."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from hmac import compare_digest
from pathlib import Path

from neurotrale.errors import StartError
from neurotrale.tokens.lines import FORM, Token, digest_of, parse_tokens

log = logging.getLogger(__name__)

MOST_FILE_BYTES = 2**20
# A stalled network file system is asked once in this time, not for every chunk.
LOOK_AGAIN_S = 1.0

Stamp = tuple[int, int, int, int]


def read_tokens(path: Path) -> tuple[tuple[Token, ...], Stamp]:
    """Read a token file that only its owner can read.

    Returns:
        The tokens, perhaps none, and the stamp of the version that was read.

    Raises:
        StartError: The file is not there, is open to others, or is malformed.
    """
    try:
        # A pipe would neither open nor be there to read again.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise StartError(f"{path} is no regular file; a token file is read again and again")
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise StartError(f"The token file {path} cannot be read: {error.strerror}") from error
    if status.st_mode & 0o077:
        raise StartError(
            f"Other users of this machine may read or change the tokens in {path}. Make it yours"
            f" alone: chmod 600 {path}"
        )
    if len(content) > MOST_FILE_BYTES:
        raise StartError(f"{path} is larger than 1 MiB; is it a token file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        # Not chained: the error holds the whole content.
        raise StartError(f"{path}:{line}: not UTF-8; {FORM}") from None
    return parse_tokens(text, str(path)), _stamp(status)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class TokenFile:
    """The tokens of a file, as it is now.

    A new version that cannot be used changes nothing: the tokens of the last good one stay, and
    the log says why.

    Args:
        path: The file.

    Raises:
        StartError: The file cannot be used, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens, self._seen = self._read()
        self._looked_at = time.monotonic()
        self._looking = threading.Lock()

    def find(self, secret: str) -> Token | None:
        """Find the token that this is; takes as long for one that is not there."""
        if time.monotonic() - self._looked_at > LOOK_AGAIN_S:
            self._look_again()
        digest = digest_of(secret)
        found = None
        for token in self._tokens:
            if compare_digest(token.digest, digest):
                found = token
        return found

    def _read(self) -> tuple[tuple[Token, ...], Stamp | None]:
        tokens, stamp = read_tokens(self.path)
        if not tokens:
            raise StartError(
                f"{self.path} holds no token; 'neurotrale token --name NAME --append {self.path}'"
                " adds one"
            )
        return tokens, stamp

    def _look_again(self) -> None:
        if not self._looking.acquire(blocking=False):
            return  # another thread does it
        try:
            now = self._stamp_now()
            if now != self._seen:
                self._seen = now  # a broken version is complained about once
                self._tokens, self._seen = self._read()
                log.info("%s has changed: %d tokens now", self.path, len(self._tokens))
        except StartError as error:
            log.warning("%s. The tokens from before stay valid.", str(error).rstrip("."))
        finally:
            self._looked_at = time.monotonic()
            self._looking.release()

    def _stamp_now(self) -> Stamp | None:
        try:
            return _stamp(os.stat(self.path))
        except OSError:
            return None


def check_not_served(path: Path, root: Path) -> None:
    """Refuse a token file that every holder of a token could download.

    Raises:
        StartError: It lies in the data root, under a name that is served.
    """
    real, root = path.resolve(), root.resolve()
    if real.is_relative_to(root):
        inside = real.relative_to(root)
        if not any(part.startswith(".") for part in inside.parts):
            raise StartError(
                f"The token file {path} lies below the data root {root}, where it would be served"
                " like any other file. Move it elsewhere."
            )
