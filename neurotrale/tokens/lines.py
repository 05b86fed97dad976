"""The lines of a token file: what one says, and how a new one is made."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from neurotrale.errors import StartError

SHORTEST = 16
LONGEST = 256
RANDOM_BYTES = 32

NAME = re.compile(r"[\w.@+-]{1,64}")
# All of these stand for themselves in a URL.
_SECRET = re.compile(r"[A-Za-z0-9._~-]*")
FORM = "expected name:rw:token or name:ro:token, as 'neurotrale token --name NAME' prints it"


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
        raise StartError(f"{where}: {FORM}")
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
