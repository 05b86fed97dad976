"""The commands of a page of the documentation, run as a reader would: in order, as they stand.

- `sh` is a block of commands that end with exit code 0;
- `sh serves` is a command that serves at the page's address until it is stopped, with exit code 0.
  It goes on to the next such block, or to the end of its section;
- `console` shows commands (`$ ...`) and what they say, where `...` stands for anything.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.machine import BUILD_PATIENCE_S, eventually, run
from tests.processes import REPOSITORY

BLOCK = re.compile(r"^```(sh serves|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def sections(name: str) -> dict[str, list[tuple[str, str]]]:
    """The blocks of a page by the title of their section: what kind, and their text."""
    _, *parts = re.split(r"^## ", (REPOSITORY / "docs" / name).read_text(), flags=re.MULTILINE)
    return {
        part.partition("\n")[0]: [(match[1], match[2]) for match in BLOCK.finditer(part)]
        for part in parts
    }


@dataclass
class Reader:
    """Somebody who follows a page.

    Attributes:
        directory: Where the reader works: a checkout.
        prefix: What runs a shell as the reader.
        env: The reader's environment.
        instead: What stands for the names and numbers of the page.
        answers: Whether the service that the page is about answers.
    """

    directory: Path
    prefix: Sequence[str]
    env: Mapping[str, str]
    instead: Mapping[str, str]
    answers: Callable[[], bool]
    _serving: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, name: str) -> None:
        """Do all that a page says."""
        for title, blocks in sections(name).items():
            try:
                for kind, text in blocks:
                    self._do(kind, text, title)
                self._stop()
            finally:
                for process in self._serving:
                    process.kill()

    def _do(self, kind: str, text: str, title: str) -> None:
        for original, other in self.instead.items():
            text = text.replace(original, other)
        if kind == "sh":
            self._run(text)
        elif kind == "sh serves":
            self._stop()
            self._serve(text, title)
        else:
            for command, expected in EXAMPLE.findall(text):
                said = self._run(command).strip()
                pattern = ".*".join(map(re.escape, expected.strip().split("...")))
                assert re.fullmatch(pattern, said, re.DOTALL), f"{title}: {command}\n{said}"

    def _shell(self, text: str) -> list[str]:
        return [*self.prefix, "bash", "-euo", "pipefail", "-c", text]

    def _run(self, text: str) -> str:
        done = run(self._shell(text), env=self.env, cwd=self.directory, timeout_s=BUILD_PATIENCE_S)
        return done.stdout

    def _serve(self, text: str, title: str) -> None:
        log = self.directory / "serves.log"
        with log.open("wb") as output:
            # A group of its own, as in a terminal: Ctrl-C goes to all of it.
            process = subprocess.Popen(
                self._shell(text),
                env=dict(self.env),
                cwd=self.directory,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._serving.append(process)

        def up() -> bool:
            assert process.poll() is None, f"{title}: {text}\n{log.read_text()}"
            return self.answers()

        eventually(up, f"{title}: {text}")

    def _stop(self) -> None:
        while self._serving:
            process = self._serving[-1]
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(60)
            self._serving.pop()
            said = (self.directory / "serves.log").read_text()
            assert code == 0, said
            assert "killing" not in said, said
