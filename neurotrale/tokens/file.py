"""The token file: its lines, its messages, and hiding tokens in logs.

Messages name the file by its path to the operator, and by its name alone to clients.
"""

from __future__ import annotations

import codecs
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path, PurePath
from urllib.parse import unquote

from neurotrale.errors import StartError
from neurotrale.tokens.sessions import hide_sessions

UNFINISHED = (
    "{file}: the last line does not end with a newline and is ignored, because it may be"
    " incomplete; add a newline if it is complete"
)
EMPTY = (
    "{file} holds no token, so every request is refused; 'neurotrale token --name NAME --append"
    " {file}' adds one"
)


class TokenFileError(StartError):
    """A token file is unusable.

    Args:
        path: The file.
        reason: The problem and the fix, with ``{file}`` for the file; never a part of a line, which
            may be a token.

    Attributes:
        public: The message with the name of the file in place of its path, for clients, who must
            not learn the directories of this machine.
    """

    def __init__(self, path: PurePath, reason: str) -> None:
        super().__init__(name_file(reason, str(path)))
        self.public = name_file(reason, public_name(path))


def name_file(message: str, file: str) -> str:
    """Replace ``{file}`` in a message by the name or path of the file."""
    return message.replace("{file}", file)


def public_name(path: PurePath) -> str:
    """Return the name of a file without its directories, as one line in any encoding."""
    return " ".join(path.name.encode(errors="backslashreplace").decode().split())


MOST_ENCODINGS = 4
_IN_URL = re.compile(r"([/?&;]token[/=]+)[^/?&;=]+", re.IGNORECASE)


def hide_tokens(text: str) -> str:
    """Replace the token in a URL by ``***``, and a session by its label, however encoded.

    Args:
        text: A path, or a path with its query.
    """
    if "%" not in text and "/as/" not in text and "token" not in text.lower():
        return text
    plain = text
    for _ in range(MOST_ENCODINGS):
        plain = unquote(plain, "latin-1")
    hidden = _IN_URL.sub(r"\1***", hide_sessions(plain))
    return text if hidden == plain else hidden


MOST_FILE_BYTES = 2**20


def read_token_file(path: Path) -> bytes:
    """Read a token file that only its owner can read.

    Returns:
        The content of the file.

    Raises:
        TokenFileError: The file is missing, accessible to others, or not a token file.
    """
    try:
        # O_NONBLOCK: opening a pipe would block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TokenFileError(
                    path,
                    "{file} is not a regular file, but must be one, because it is read again and"
                    " again",
                )
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise TokenFileError(path, f"{{file}} cannot be read: {error.strerror}") from error
    if status.st_mode & 0o077:
        raise TokenFileError(
            path,
            "Other users of this machine can read or change the tokens in {file}. Make it private:"
            " chmod 600 {file}",
        )
    if len(content) > MOST_FILE_BYTES:
        raise TokenFileError(path, "{file} is larger than 1 MiB; is it a token file?")
    return content


def check_not_served(path: Path, root: Path) -> None:
    """Raise an error if the service would serve the token file.

    Raises:
        StartError: The file is below the data root, and not hidden.
    """
    resolved, root = path.resolve(), root.resolve()
    if resolved.is_relative_to(root):
        below_root = resolved.relative_to(root)
        if not any(part.startswith(".") for part in below_root.parts):
            raise StartError(
                f"The token file {path} lies below the data root {root}, where it would be served"
                " like any other file. Move it out of the data root."
            )


SHORTEST = 16
LONGEST = 256
RANDOM_BYTES = 32

NAME = re.compile(r"[\w.@+-]{1,64}")
# The characters that need no percent-encoding in a URL.
_SECRET = re.compile(r"[A-Za-z0-9._~-]*")
FORM = "expected name:rw:token or name:ro:token, as 'neurotrale token --name NAME' prints it"


@dataclass(frozen=True, slots=True)
class Token:
    """One line of a token file.

    Attributes:
        name: The holder's name; recorded in the journal and in the access log.
        may_write: Whether the token allows changes.
        digest: SHA-256 of the token; the token itself is not stored.
    """

    name: str
    may_write: bool
    digest: bytes = field(repr=False)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a token, which is compared in its place."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_token_line(name: str, *, may_write: bool) -> str:
    """Return a line of a token file, with a new random token.

    Raises:
        ValueError: The name is not valid.
    """
    if NAME.fullmatch(name) is None:
        raise ValueError(
            "a name has 1 to 64 letters, digits, or characters of '.', '_', '-', '@' and '+'"
        )
    return f"{name}:{'rw' if may_write else 'ro'}:{secrets.token_urlsafe(RANDOM_BYTES)}\n"


def parse_tokens(content: bytes, path: PurePath) -> tuple[Token, ...]:
    """Parse lines of the form ``name:rw|ro:token``; skip blank lines and comments (``#``).

    Args:
        content: The lines, as UTF-8.
        path: The path of the file, for messages.

    Raises:
        TokenFileError: A line is malformed, or a name or a token appears twice.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        # Not chained: the error holds the whole content.
        raise TokenFileError(path, f"{{file}}:{number}: not UTF-8; {FORM}") from None
    tokens: list[Token] = []
    lines: dict[str | bytes, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = _parse_line(line.strip())
            for key, kind in ((token.name, "name"), (token.digest, "token")):
                first = lines.setdefault(key, number)
                if first != number:
                    raise ValueError(
                        f"the same {kind} as in line {first}; every holder needs a different one"
                    )
        except ValueError as error:
            raise TokenFileError(path, f"{{file}}:{number}: {error}") from None
        tokens.append(token)
    return tuple(tokens)


def _parse_line(line: str) -> Token:
    name, colon_1, rest = line.partition(":")
    access, colon_2, secret = rest.partition(":")
    if not (colon_1 and colon_2) or access not in ("rw", "ro") or NAME.fullmatch(name) is None:
        raise ValueError(FORM)
    if _SECRET.fullmatch(secret) is None:
        raise ValueError(
            "a token consists of letters, digits, '-', '.', '_' and '~'; 'neurotrale token' makes"
            " one"
        )
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ValueError(
            f"a token has {SHORTEST} to {LONGEST} characters; 'neurotrale token' makes one"
        )
    return Token(name, access == "rw", digest_of(secret))


@dataclass(frozen=True, slots=True)
class TokenList:
    """The content of a token file.

    Attributes:
        tokens: The valid tokens; without any, every request is refused.
        notes: Problems that the operator should know of, a sentence each.
    """

    tokens: tuple[Token, ...]
    notes: tuple[str, ...] = ()

    def find(self, secret: str) -> Token | None:
        """Return the matching token; takes as long when there is none."""
        digest = digest_of(secret)
        match = None
        for token in self.tokens:
            if compare_digest(token.digest, digest):
                match = token
        return match


def parse_list(content: bytes, path: PurePath) -> TokenList:
    """Parse the content of a token file.

    A last line without a newline is ignored, whatever it holds: when a file is still being written,
    or could not be written completely, that line may be the beginning of a longer token.

    Args:
        content: The whole content.
        path: The path of the file, for messages.

    Returns:
        The tokens, perhaps none; the notes have ``{file}`` in place of the file.

    Raises:
        TokenFileError: A line is malformed, or a name or a token appears twice.
    """
    lines, newline, rest = content.removeprefix(codecs.BOM_UTF8).rpartition(b"\n")
    tokens = parse_tokens(lines + newline, path)
    notes = []
    if rest.strip() and not rest.lstrip().startswith(b"#"):
        notes.append(UNFINISHED)
    if not tokens:
        notes.append(EMPTY)
    return TokenList(tokens, tuple(notes))
