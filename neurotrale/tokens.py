"""Tokens: who may look and who may change, from a file that may change while the service runs."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import threading
import time
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from urllib.parse import unquote

from neurotrale.errors import StartError

log = logging.getLogger(__name__)

SHORTEST = 16
LONGEST = 256
RANDOM_BYTES = 32
MOST_FILE_BYTES = 2**20
# A stalled network file system is asked once in this time, not for every chunk.
LOOK_AGAIN_S = 1.0
MOST_ENCODINGS = 4

NAME = re.compile(r"[\w.@+-]{1,64}")
# All of these stand for themselves in a URL.
_SECRET = re.compile(r"[A-Za-z0-9._~-]*")
_IN_URL = re.compile(r"([/?&;]token[/=]+)[^/?&;=]+", re.IGNORECASE)
_FORM = "expected name:rw:token or name:ro:token, as 'neurotrale token --name NAME' prints it"

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file.

    Attributes:
        name: Who holds it; stands in the journal and in the access log.
        may_write: Whether it allows changes.
        digest: SHA-256 of the token, which itself is not kept.
    """

    name: str
    may_write: bool
    digest: bytes = field(repr=False)


def digest_of(secret: str) -> bytes:
    """Give what is compared in place of a token."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_line(name: str, *, may_write: bool) -> str:
    """Make the line of a new, random token.

    Raises:
        ValueError: The name is none.
    """
    if NAME.fullmatch(name) is None:
        raise ValueError("a name has 1 to 64 letters, digits, or any of '.', '_', '-', '@' and '+'")
    return f"{name}:{'rw' if may_write else 'ro'}:{secrets.token_urlsafe(RANDOM_BYTES)}\n"


def parse_tokens(text: str, what: str) -> tuple[Token, ...]:
    """Read the lines ``name:rw|ro:token``; blank lines and those that begin with # are comments.

    Args:
        text: The content of the file.
        what: The file, for messages; those never hold any part of a line, as it may be a token.

    Raises:
        StartError: A line is malformed, or a name or a token stands there twice.
    """
    tokens: list[Token] = []
    lines: dict[str | bytes, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{what}:{number}"
        token = _parse_line(line.strip(), where)
        for key, kind in ((token.name, "name"), (token.digest, "token")):
            before = lines.setdefault(key, number)
            if before != number:
                raise StartError(
                    f"{where}: the same {kind} as in line {before}; give each person one of"
                    " their own"
                )
        tokens.append(token)
    return tuple(tokens)


def _parse_line(line: str, where: str) -> Token:
    name, first, rest = line.partition(":")
    access, second, secret = rest.partition(":")
    if not (first and second) or access not in ("rw", "ro") or NAME.fullmatch(name) is None:
        raise StartError(f"{where}: {_FORM}")
    if _SECRET.fullmatch(secret) is None:
        raise StartError(
            f"{where}: a token has only letters, digits, and any of '-', '.', '_' and '~';"
            " 'neurotrale token' makes one"
        )
    if not SHORTEST <= len(secret) <= LONGEST:
        raise StartError(
            f"{where}: a token has {SHORTEST} to {LONGEST} characters, this one {len(secret)};"
            " 'neurotrale token' makes one"
        )
    return Token(name, access == "rw", digest_of(secret))


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
        raise StartError(f"{path}:{line}: not UTF-8; {_FORM}") from None
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


def hide_tokens(text: str) -> str:
    """Put *** in place of what stands in a URL where a token does, however it is encoded.

    Args:
        text: A path, or a path with its query.
    """
    if "%" not in text and "token" not in text.lower():
        return text
    plain = text
    for _ in range(MOST_ENCODINGS):
        plain = unquote(plain, "latin-1")
    hidden = _IN_URL.sub(r"\1***", plain)
    return text if hidden == plain else hidden
